"""Values that a step keeps for the way back, which else computes them again.

A rule wraps what is dear to compute and small to keep:

```python
gates = kept.keep(lambda: ops.tanh(ops.matmul(joined, kernel) + bias))
```

Whoever runs the step decides: by itself `keep` calls the function and is done.
Within `recording` it writes the value down as well, and within `replaying` it
returns what was written down in place of calling the function.
"""

import contextlib
import threading

_local = threading.local()


def keep(function):
    """Returns `function()`, or what it returned when the step was recorded.

    No derivative goes through it: it is for use in a `custom_gradient`.

    Args:
        function: Function without arguments, to a tensor.

    Returns:
        A tensor.
    """
    replayed = getattr(_local, "replayed", None)
    if replayed is not None:
        return next(replayed)
    value = function()
    recorded = getattr(_local, "recorded", None)
    if recorded is not None:
        recorded.append(value)
    return value


@contextlib.contextmanager
def recording():
    """Yields the list to which `keep` appends within it."""
    _local.recorded = []
    try:
        yield _local.recorded
    finally:
        _local.recorded = None


@contextlib.contextmanager
def replaying(values):
    """Within it, `keep` returns these values one after the other.

    Args:
        values: List of tensors, of the same step. Of an empty one, `keep`
            calls its function.
    """
    _local.replayed = iter(values) if values else None
    try:
        yield
    finally:
        _local.replayed = None
