"""The process `keras-l2l`, or `python -m keras_l2l.cli`."""

import os
import sys

from keras_l2l.cli import main, streams


def run() -> None:
    """Runs the command line in a process that has no other purpose."""
    # TensorFlow's own allocator keeps its memory, where malloc hands that of an
    # outer step back to the system, to get it again page by page. It is chosen
    # for the process at TensorFlow's first operation.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    streams.install()
    status = main()
    error = streams.output_error()
    if error is not None and not status:
        print(
            "keras-l2l: error: standard output cannot be written: "
            f"{error.strerror}. What was written to files is complete.",
            file=sys.stderr,
        )
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    run()
