"""`python -m keras_l2l.cli`."""

import sys

from keras_l2l.cli import main

sys.exit(main())
