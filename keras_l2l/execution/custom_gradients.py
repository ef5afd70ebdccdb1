"""Custom gradients, left out where nothing is differentiated.

TensorFlow registers each custom gradient that it traces for ever, and with it
the graph around it. A process that trains many models would keep the graphs of
all of them.
"""

import contextlib
import threading

from keras import ops

_local = threading.local()


def custom_gradient(function):
    """`keras.ops.custom_gradient`, without a gradient in `forward_only`.

    Args:
        function: Function from tensors to a tuple of its value and of a
            function from the cotangents of the value to those of the tensors.

    Returns:
        Function from tensors to the value.
    """
    differentiable = ops.custom_gradient(function)

    def call(*tensors):
        if getattr(_local, "is_forward_only", False):
            value, _ = function(*tensors)
            return value
        return differentiable(*tensors)

    return call


@contextlib.contextmanager
def forward_only():
    """Inside the block, functions with custom gradients have none."""
    before = getattr(_local, "is_forward_only", False)
    _local.is_forward_only = True
    try:
        yield
    finally:
        _local.is_forward_only = before
