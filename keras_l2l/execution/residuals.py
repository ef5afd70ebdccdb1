"""Residuals: forward values that the backward pass reuses.

A rule wraps what is expensive to compute and small to store:

```python
gates = residuals.save_residual(lambda: ops.tanh(ops.matmul(x, kernel) + bias))
```

The caller of the step decides. Alone, `save_residual` calls the function.
Within `saving_residuals` it also stores the value, and within
`restoring_residuals` it returns the stored value and calls nothing.
"""

import contextlib
import threading

_local = threading.local()


def save_residual(function):
    """Returns `function()`, or the value that was stored in the forward pass.

    It has no derivative: use it inside a `custom_gradient`.

    Args:
        function: Function without arguments that returns a tensor.

    Returns:
        A tensor.
    """
    restored = getattr(_local, "restored", None)
    if restored is not None:
        return next(restored)
    value = function()
    saved = getattr(_local, "saved", None)
    if saved is not None:
        saved.append(value)
    return value


@contextlib.contextmanager
def saving_residuals():
    """Yields the list to which `save_residual` appends inside the block."""
    _local.saved = []
    try:
        yield _local.saved
    finally:
        _local.saved = None


@contextlib.contextmanager
def restoring_residuals(values):
    """Inside the block, `save_residual` returns these values in order.

    Args:
        values: List of tensors, from the forward pass of the same step. If it
            is empty, `save_residual` calls its function.
    """
    _local.restored = iter(values) if values else None
    try:
        yield
    finally:
        _local.restored = None
