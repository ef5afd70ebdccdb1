"""A rule's step as one XLA computation."""

import platform
import weakref

import tensorflow as tf

_compiled: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def compile_rule(rule):
    """A rule's step as one XLA computation.

    XLA fuses the elementwise operations, which TensorFlow runs one by one,
    each of them through memory. Compiled once for each list of shapes, which
    takes longer than it saves unless there are many steps: so in meta-training
    always, and in `L2LOptimizer` as Keras's `jit_compile` says.

    Args:
        rule: An `UpdateRule`.

    Returns:
        Function with the arguments and the results of `rule`, differentiable.
        The rule itself where there is no XLA.
    """
    if not _has_xla():
        return rule
    if rule not in _compiled:
        # The function must not keep its own key alive.
        proxy = weakref.proxy(rule)

        @tf.function(autograph=False, jit_compile=True)
        def step(gradients, parameters, state):
            return proxy(gradients, parameters, state)

        _compiled[rule] = step
    return _compiled[rule]


def _has_xla():
    """As Keras decides: not on the GPU of a Mac."""
    is_mac = platform.system() == "Darwin" and platform.machine() == "arm64"
    return not (is_mac and tf.config.list_physical_devices("GPU"))
