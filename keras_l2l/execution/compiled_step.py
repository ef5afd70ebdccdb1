"""A rule's step and its VJP as XLA computations."""

import platform
import weakref

import tensorflow as tf

from keras_l2l.execution import data_layout, residuals, stacked_arrays
from keras_l2l.execution.function_cache import cached_function, call_rule

_steps: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_forward_steps: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_vjps: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def compile_rule(rule):
    """A rule's step as one XLA computation.

    XLA fuses the elementwise operations, which TensorFlow runs one by one,
    each through memory. It compiles once per list of shapes, which pays only
    over many steps, as in meta-training. `L2LOptimizer` leaves the choice to
    Keras's `jit_compile`.

    Args:
        rule: An `UpdateRule`.

    Returns:
        Function with the arguments and the results of `rule`, differentiable.
        The rule itself where there is no XLA.
    """
    if not _has_xla():
        return rule
    return cached_function(_steps, rule, call_rule, jit_compile=True)


def compile_forward(rule):
    """The forward pass of a step: `compile_rule`, and its residuals.

    Args:
        rule: An `UpdateRule`.

    Returns:
        Function with the arguments of `rule`. It returns the results of
        `rule` and the list of residuals, and is not differentiable.
    """

    def step(rule, gradients, parameters, state):
        with residuals.saving_residuals() as values:
            updates, state = _call_coordinates_last(
                rule, gradients, parameters, state
            )
        # The residuals of several tensors cannot be told apart.
        if rule.granularity != "coordinate" or len(parameters) > 1:
            values = []
        return (updates, state), values

    return cached_function(_forward_steps, rule, step, jit_compile=_has_xla())


def compile_vjp(rule):
    """The VJP of a step, with rematerialisation of all but its residuals.

    Args:
        rule: An `UpdateRule`.

    Returns:
        Function from `(gradients, parameters, state, residuals,
        d_parameters, d_state)` to `(d_parameters, d_state, d_variables)`.
        `residuals` come from the forward pass, or are an empty list. The
        cotangents that go in are those of the updated parameters and of the
        floating-point leaves of the next state. Those that come out are of
        the parameters and the state before the step, and of
        `rule.trainable_variables`.
    """

    def vjp(rule, gradients, parameters, state, values, d_parameters, d_state):
        inputs = [*parameters, *stacked_arrays.floating(state)]
        with tf.GradientTape() as tape, residuals.restoring_residuals(values):
            tape.watch(inputs)
            updates, state = _call_coordinates_last(
                rule, gradients, parameters, state
            )
            updated = [p + u for p, u in zip(parameters, updates)]
        cotangents = tape.gradient(
            [*updated, *stacked_arrays.floating(state)],
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

    return cached_function(_vjps, rule, vjp, jit_compile=_has_xla())


def to_coordinates_last(rule, state):
    """The hidden state in the other layout: `[N, …, H]` ↔ `[H, …, N]`.

    Args:
        rule: An `UpdateRule`. Unless its granularity is the coordinate, its
            state stays as it is.
        state: A `RuleState`.

    Returns:
        A `RuleState`. Applied twice, it is the identity.
    """
    if rule.granularity != "coordinate":
        return state
    return state._replace(
        local=tf.nest.map_structure(tf.transpose, state.local)
    )


def _call_coordinates_last(rule, gradients, parameters, state):
    """A call of a rule whose state is in the layout `[H, N]`."""
    # Other rules have no such layout, and transposing inside costs time.
    if rule.granularity != "coordinate":
        return rule(gradients, parameters, state)
    with data_layout.coordinates_last():
        updates, state = rule(
            gradients, parameters, to_coordinates_last(rule, state)
        )
    return updates, to_coordinates_last(rule, state)


def _has_xla():
    """As Keras decides: not on the GPU of a Mac."""
    is_mac = platform.system() == "Darwin" and platform.machine() == "arm64"
    return not (is_mac and tf.config.list_physical_devices("GPU"))
