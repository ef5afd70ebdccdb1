"""Which axis of a rule's network the coordinates run along, within a step.

Between steps a hidden state is `[N, H]`. The gates of a layer, slices of a few
numbers each, are then cut short for the processor's vectors; where XLA
compiles a step, coordinates along the last axis are faster, as slices of
`[4 * H, N]` are contiguous.
"""

import contextlib
import threading

_local = threading.local()


@contextlib.contextmanager
def coordinates_last():
    """Within it, networks may work on transposed tensors.

    What they take and return is `[N, …]` as ever. Who calls transposes it,
    too, and XLA drops both.
    """
    _local.last = True
    try:
        yield
    finally:
        _local.last = False


def is_coordinates_last():
    """Whether networks should work on transposed tensors."""
    return getattr(_local, "last", False)
