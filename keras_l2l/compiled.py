"""A rule's step, and the way back through it, as XLA computations."""

import platform
import weakref

import tensorflow as tf

from keras_l2l import kept, layout, recording, traced

_steps: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_recorded_steps: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_steps_back: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def compile_rule(rule):
    """A rule's step as one XLA computation.

    XLA fuses the elementwise operations, which TensorFlow runs one by one,
    each of them through memory. Compiled once for each list of shapes, which
    takes longer than it saves unless there are many steps: so for the
    meta-gradient. `L2LOptimizer` leaves it to Keras's `jit_compile`.

    Args:
        rule: An `UpdateRule`.

    Returns:
        Function with the arguments and the results of `rule`, differentiable.
        The rule itself where there is no XLA.
    """
    if not _has_xla():
        return rule
    return traced.once(_steps, rule, traced.step, jit_compile=True)


def compile_recorded(rule):
    """`compile_rule`, with what the step keeps for the way back.

    Args:
        rule: An `UpdateRule`.

    Returns:
        Function with the arguments of `rule` to its results and a list of
        tensors (see `kept`). Not differentiable.
    """

    def step(rule, gradients, parameters, state):
        with kept.recording() as values:
            updates, state = _call_transposed(
                rule, gradients, parameters, state
            )
        # What is kept of several tensors cannot be told apart.
        if rule.independent != "coordinates" or len(parameters) > 1:
            values = []
        return (updates, state), values

    return traced.once(_recorded_steps, rule, step, jit_compile=_has_xla())


def compile_backward(rule):
    """The way back through a rule's step, which is computed again.

    Args:
        rule: An `UpdateRule`.

    Returns:
        Function from `(gradients, parameters, state, values, d_parameters,
        d_state)`, to `(d_parameters, d_state, d_variables)`. `values` is what
        the step has kept, or an empty list. The cotangents that go in are of
        the moved parameters and of the next state's leaves that have
        derivatives; those that come out are of the parameters and the state
        before the step, and of `rule.trainable_variables`.
    """

    def step_back(
        rule,
        gradients,
        parameters,
        state,
        values,
        d_parameters,
        d_state,
    ):
        inputs = [*parameters, *recording.floating(state)]
        with tf.GradientTape() as tape, kept.replaying(values):
            tape.watch(inputs)
            updates, state = _call_transposed(
                rule, gradients, parameters, state
            )
            moved = [p + u for p, u in zip(parameters, updates)]
        cotangents = tape.gradient(
            [*moved, *recording.floating(state)],
            [*inputs, *(v.value for v in rule.trainable_variables)],
            output_gradients=[*d_parameters, *d_state],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        first, second = len(parameters), len(inputs)
        return (
            cotangents[:first],
            cotangents[first:second],
            cotangents[second:],
        )

    return traced.once(_steps_back, rule, step_back, jit_compile=_has_xla())


def transposed(rule, state):
    """A rule's state with the coordinates along the last axis, and back.

    Args:
        rule: An `UpdateRule`. If its coordinates are not independent, its
            state stays as it is.
        state: A `RuleState`.

    Returns:
        A `RuleState`. Transposed twice it is as before.
    """
    if rule.independent != "coordinates":
        return state
    return state._replace(
        local=tf.nest.map_structure(tf.transpose, state.local)
    )


def _call_transposed(rule, gradients, parameters, state):
    """A call of a rule that takes and returns a transposed state."""
    # Of other rules the state is not, and to transpose it within costs time.
    if rule.independent != "coordinates":
        return rule(gradients, parameters, state)
    with layout.coordinates_last():
        updates, state = rule(gradients, parameters, transposed(rule, state))
    return updates, transposed(rule, state)


def _has_xla():
    """As Keras decides: not on the GPU of a Mac."""
    is_mac = platform.system() == "Darwin" and platform.machine() == "arm64"
    return not (is_mac and tf.config.list_physical_devices("GPU"))
