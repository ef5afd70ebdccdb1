"""Data layout inside a compiled step: `[N, H]` or `[H, N]`.

Between steps a hidden state is `[N, H]`. In that layout the slices that hold
one gate of a layer have few numbers each. Where XLA compiles a step, `[4H, N]`
is faster, as each gate is contiguous.
"""

import contextlib
import threading

_local = threading.local()


@contextlib.contextmanager
def coordinates_last():
    """Inside the block, networks may compute in the layout `[H, N]`.

    Their arguments and results stay `[N, H]`. If the caller transposes them as
    well, XLA removes both transpositions.
    """
    _local.last = True
    try:
        yield
    finally:
        _local.last = False


def is_coordinates_last():
    """Whether networks should compute in the layout `[H, N]`."""
    return getattr(_local, "last", False)
