"""A rule's step as one XLA computation."""

import platform
import weakref

import tensorflow as tf

_compiled: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def compile_rule(rule):
    """A rule's step as one XLA computation.

    XLA fuses the elementwise operations, which TensorFlow runs one by one,
    each of them through memory. Compiled once for each list of shapes.

    Args:
        rule: An `UpdateRule`.

    Returns:
        Function with the arguments and the results of `rule`, differentiable.
        The rule itself where there is no XLA, and in the replicas of a
        `tf.distribute` strategy, which cannot hold such a computation.
    """
    if not _has_xla() or tf.distribute.has_strategy():
        return rule
    if rule not in _compiled:
        # The function must not keep its own key alive.
        reference = weakref.ref(rule)

        @tf.function(autograph=False, jit_compile=True)
        def step(gradients, parameters, state):
            return reference()(gradients, parameters, state)

        _compiled[rule] = step
    return _compiled[rule]


def _has_xla():
    """As Keras decides: not on the GPU of a Mac."""
    is_mac = platform.system() == "Darwin" and platform.machine() == "arm64"
    return not (is_mac and tf.config.list_physical_devices("GPU"))
