"""The process `keras-l2l`, or `python -m keras_l2l.cli`."""

import os
import sys

from keras_l2l.cli import main


def run():
    """Runs the command line in a process that has no other purpose."""
    # TensorFlow's own allocator keeps its memory, where malloc hands that of an
    # outer step back to the system, to get it again page by page. It is chosen
    # for the process at TensorFlow's first operation.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    sys.exit(main())


if __name__ == "__main__":
    run()
