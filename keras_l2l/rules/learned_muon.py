"""Orthogonalised momentum, steered by a recurrent cell for each tensor."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_l2l import checks
from keras_l2l.rules import preprocessing, step_sizes, tensor_features
from keras_l2l.rules.base import RuleState, UpdateRule
from keras_l2l.rules.gru_cell import next_cell
from keras_l2l.rules.orthogonalization import matrix_shape, orthogonalize
from keras_l2l.rules.stacking import ShapeStacks

_BETA_MOMENTUM, _BETA_SQUARE = 0.9, 0.99

# What the rule does while its network puts out zero.
_NOMINAL_STEP = 0.05
_NOMINAL_NESTEROV = math.log(9.0)
_NOMINAL_GATE = 3.0
# By version of the rule.
_NOMINAL_DECAYS = {1: 0.1, 2: 0.05}
# The power of the vanishing gradient with which the decay falls.
_DECAY_POWER = 0.25
_NOMINAL_GROWTH = 0.2
_NOMINAL_THRESHOLD = 0.1

_BLOCK_WIDTH = 64
_FEATURES, _OUTPUTS = 14, 7
_EPSILON = 1e-12
# Stands for the size of a tensor before its first update.
_UNKNOWN_SIZE = -1.0


@keras.saving.register_keras_serializable(package="keras_l2l")
class LearnedMuon(UpdateRule):
    """Orthogonalised momentum whose steps a network decides.

    Nesterov momentum is divided by the root of the second moment, and that of
    a matrix orthogonalised, so that all of its directions are learned at one
    speed. The update has a size relative to that of the parameters, in root
    mean squares. It falls as 1/√t and with the gradient, as in AdaGrad; and
    it grows while successive gradients point the same way, which shows that
    steps are too short. A weak weight decay keeps matrices from growing: in
    the second version it hardly falls with the gradient and does not grow, so
    that it still acts where the data are fitted.

    A GRU cell for each tensor sees how much of the gradient is signal,
    whether it goes on as before, how far it has vanished, how the tensor has
    grown, its shape and the time. It corrects all of the above: the size of
    the step, the power with which it falls with the gradient, the pace of its
    growth, the look-ahead of the momentum, the weight decay, and how much of
    the direction is orthogonalised. With zero at its output, as it starts, the
    rule is a hand-designed one that trains well already.

    Nothing depends on the scale of the gradients, and no number of steps need
    be known. 8 bytes of state a coordinate, as in Adam.

    Args:
        units: Integer. Units of the GRU. Defaults to `8`.
        seed: Integer. Of the initial meta-parameters. Defaults to `0`.
        version: `1`, that of files which name none, or `2`.
            Defaults to `1`.
        name: String. The name of the rule.
        dtype: The dtype of the computation. Defaults to `"float32"`.

    Example:

    >>> rule = keras_l2l.rules.LearnedMuon(version=2)
    >>> optimizer = keras_l2l.L2LOptimizer(rule)

    Reference:
        - [Jordan et al., 2024](https://kellerjordan.github.io/posts/muon/),
          orthogonalised momentum.
        - [Wichrowska et al., 2017](https://arxiv.org/abs/1703.04813), a
          recurrent cell for each tensor.
        - [Harrison et al., 2022](https://arxiv.org/abs/2209.11208), a nominal
          term that the network corrects.
        - [Loshchilov and Hutter, 2019](https://arxiv.org/abs/1711.05101),
          weight decay apart from the gradient.
    """

    def __init__(self, units=8, seed=0, version=1, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        if version not in _NOMINAL_DECAYS:
            raise ValueError(
                f"Argument `version` must be one of {list(_NOMINAL_DECAYS)}. "
                f"Received: version={version!r}"
            )
        (units,) = checks.positive_integers(units=units)
        self.units = units
        self.seed = None if seed is None else checks.seed(seed)
        self.version = int(version)
        seeds = np.random.SeedSequence(seed).generate_state(2).tolist()

        def add(name, shape, seed=None):
            initializer = (
                "zeros"
                if seed is None
                else keras.initializers.VarianceScaling(seed=seed)
            )
            return self.add_weight(
                shape=shape, initializer=initializer, name=name
            )

        # Update gate, reset gate and candidate side by side, as in Keras.
        self.kernel = add("kernel", (_FEATURES, 3 * units), seeds[0])
        self.recurrent_kernel = add(
            "recurrent_kernel", (units, 3 * units), seeds[1]
        )
        self.bias = add("bias", (3 * units,))
        self.tensor_output = add("tensor_output", (units, _OUTPUTS))
        self.tensor_output_bias = add("tensor_output_bias", (_OUTPUTS,))

    @property
    def granularity(self):
        return "tensor"

    @property
    def is_scale_invariant(self):
        return True

    def initial_state(self, parameters):
        dtype = self.compute_dtype
        first_summary = [_UNKNOWN_SIZE] + [0.0] * (self.units + 2)
        return RuleState(
            local=[
                {
                    "momentum": ops.zeros(ops.shape(p), dtype),
                    "square": ops.zeros(ops.shape(p), dtype),
                    "summary": ops.convert_to_tensor(first_summary, dtype),
                }
                for p in parameters
            ],
            shared={"step": ops.zeros((), dtype)},
        )

    def call(self, gradients, parameters, state):
        step = state.shared["step"] + 1.0
        stacks = ShapeStacks(parameters, self.compute_dtype)
        momenta, squares = (
            stacks.stack([local[name] for local in state.local])
            for name in ("momentum", "square")
        )
        moments = [
            _next_moments(gradient, value, momentum, square, step)
            for gradient, value, momentum, square in zip(
                stacks.stack(gradients),
                stacks.stack(parameters),
                momenta,
                squares,
            )
        ]
        summary, controls = self._steer(
            moments,
            stacks.repeat(stacks.shapes),
            stacks.stack_scalars([local["summary"] for local in state.local]),
            step,
        )
        updates = [
            _update(moment, shape, _Controls(*control))
            for moment, shape, *control in zip(
                moments, stacks.shapes, *map(stacks.split, controls)
            )
        ]
        local = {
            "momentum": stacks.unstack([m.momentum for m in moments]),
            "square": stacks.unstack([m.square for m in moments]),
            "summary": stacks.unstack_scalars(summary),
        }
        states = [dict(zip(local, values)) for values in zip(*local.values())]
        return stacks.unstack_updates(updates), RuleState(
            states, {"step": step}
        )

    def diagnostics(self, state, shared, shape):
        """Reads what steers the steps of one tensor.

        Args:
            state: The local hidden state of the tensor, after a step.
            shared: The shared hidden state after that step.
            shape: Tuple of integers, the shape of the tensor.

        Returns:
            Dict of floats: `"signal"`, the size of the momentum over the root
            of the second moment, 1 where gradients are all alike and about
            0.23 where they are noise; `"growth"`, the factor by which steps
            have grown, from 1 to 20; and of a matrix `"orthogonalized"`, the
            share of its direction that is.
        """
        state = {name: ops.cast(x, "float32") for name, x in state.items()}
        step = ops.cast(shared["step"], "float32")
        scaled = state["momentum"] * _scale(state["square"], step)
        scaled = scaled / (1.0 - _BETA_MOMENTUM**step)
        found = {
            "signal": ops.sqrt(ops.mean(ops.square(scaled))),
            "growth": ops.exp(state["summary"][2]),
        }
        if len(shape) > 1:
            found["orthogonalized"] = _gate(
                self._outputs(state["summary"][3:])[4]
            )
        return {name: float(value) for name, value in found.items()}

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "seed": self.seed,
            # Files older than the argument have none.
            **({} if self.version == 1 else {"version": self.version}),
        }

    def _steer(self, moments, shapes, summary, step):
        """What the GRU does to the K tensors.

        Args:
            moments: List of `_Moments`, of each stack.
            shapes: List of K shapes.
            summary: Tensor `[K, 3 + units]`: the size before the first
                update, the mean square of all gradients, the logarithm by
                which steps have grown, and the cell.
            step: Scalar, counted from 1.

        Returns:
            Tuple of the next `summary`, and of `_Controls` of all K tensors.
        """
        sizes, mean_squares, alignments, signals = (
            ops.concatenate(values)
            for values in zip(*(moment.of_tensors for moment in moments))
        )
        first_sizes, mean_square, growth = (summary[:, i] for i in range(3))
        # The size of a tensor before its first update, taken at that update.
        first_sizes = ops.where(first_sizes < 0.0, sizes, first_sizes)
        ratios, mean_square = step_sizes.gradient_ratios(
            mean_squares, mean_square, step
        )
        features = [
            tensor_features.training_features(
                *(signals, alignments, growth),
                *(ratios, sizes, first_sizes),
            ),
            tensor_features.time_and_shape_features(shapes, step, sizes.dtype),
        ]
        cell = next_cell(
            ops.concatenate(features, axis=-1),
            summary[:, 3:],
            self.kernel,
            self.recurrent_kernel,
            self.bias,
        )
        outputs = ops.unstack(self._outputs(cell), axis=-1)
        growth = step_sizes.grown(
            growth,
            alignments,
            ratios,
            _NOMINAL_GROWTH * ops.exp(2.0 * ops.tanh(outputs[5])),
            _NOMINAL_THRESHOLD + 0.3 * ops.tanh(outputs[6]),
        )
        relative = step_sizes.relative_steps(outputs[0], step, _NOMINAL_STEP)
        steps = relative * step_sizes.powers_of_ratios(
            ratios, step_sizes.corrected_powers(outputs[1])
        )
        steps = steps * ops.exp(growth)
        decays = steps
        if self.version == 2:
            decays = relative * step_sizes.powers_of_ratios(
                ratios, _DECAY_POWER
            )
        controls = _Controls(
            step_size=steps
            * step_sizes.robust_scales(shapes, sizes, first_sizes),
            decay=decays
            * _NOMINAL_DECAYS[self.version]
            * ops.exp(3.0 * ops.tanh(outputs[2])),
            nesterov=ops.sigmoid(_NOMINAL_NESTEROV + outputs[3]),
            gate=_gate(outputs[4]),
        )
        numbers = ops.stack([first_sizes, mean_square, growth], axis=-1)
        return (
            ops.concatenate([numbers, cell], axis=-1),
            _Controls(*(ops.expand_dims(value, 1) for value in controls)),
        )

    def _outputs(self, cell):
        return ops.matmul(cell, self.tensor_output) + self.tensor_output_bias


class _Moments(NamedTuple):
    """What a step makes of k tensors of one shape, before it is steered.

    Attributes:
        momentum: Tensor `[k, n]`, the next one.
        square: Tensor `[k, n]`, the next second moment.
        gradient: Tensor `[k, n]`, over the root of the second moment.
        direction: Tensor `[k, n]`, the momentum over the same root, without
            the bias of averages that begin at zero.
        value: Tensor `[k, n]`, the parameters.
        of_tensors: Tuple of tensors `[k]`: sizes, mean squares of the
            gradients, alignments and signals.
    """

    momentum: Any
    square: Any
    gradient: Any
    direction: Any
    value: Any
    of_tensors: tuple


class _Controls(NamedTuple):
    """What the GRU decides for k tensors of one shape.

    Attributes:
        step_size: Tensor `[k, 1]`, the sizes that updates are to have.
        decay: Tensor `[k, 1]`, the weight decay of this step.
        nesterov: Tensor `[k, 1]`, the weight of the momentum; the gradient
            has the rest.
        gate: Tensor `[k, 1]`, how much of a direction is orthogonalised.
    """

    step_size: Any
    decay: Any
    nesterov: Any
    gate: Any


def _next_moments(gradient, value, momentum, square, step):
    """The `_Moments` of k tensors; all but `step` are of shape `[k, n]`."""
    gradient = preprocessing.finite(gradient)
    squares = ops.square(gradient)
    alignment = step_sizes.alignment(gradient, momentum)
    momentum = momentum + (gradient - momentum) * (1.0 - _BETA_MOMENTUM)
    square = square + (squares - square) * (1.0 - _BETA_SQUARE)
    scale = _scale(square, step)
    direction = momentum * scale / (1.0 - _BETA_MOMENTUM**step)
    return _Moments(
        *(momentum, square, gradient * scale, direction, value),
        (
            step_sizes.row_sizes(value)[:, 0],
            ops.mean(squares, axis=-1),
            alignment,
            step_sizes.row_sizes(direction)[:, 0],
        ),
    )


def _update(moments, shape, controls):
    """The updates of k tensors of one shape: `[k, n]`."""
    gradient, nesterov = moments.gradient, controls.nesterov
    direction = gradient + nesterov * (moments.direction - gradient)
    weight = controls.step_size / ops.maximum(
        1.0, step_sizes.row_sizes(direction)
    )
    if len(shape) < 2:
        return -weight * direction
    matrix = orthogonalize(
        ops.reshape(direction, (-1, *matrix_shape(shape))), _BLOCK_WIDTH
    )
    matrix = ops.reshape(matrix, ops.shape(direction))
    gate = controls.gate
    of_matrix = gate * controls.step_size / step_sizes.row_divisors(matrix)
    update = (gate - 1.0) * weight * direction - of_matrix * matrix
    if step_sizes.is_vector(shape):
        return update
    return update - controls.decay * moments.value


def _gate(outputs):
    """The share of a direction that is orthogonalised, in [0, 1]."""
    return ops.sigmoid(_NOMINAL_GATE + 2.0 * outputs)


def _scale(square, step):
    """One over the root of the second moment without bias."""
    return ops.rsqrt(square / (1.0 - _BETA_SQUARE**step) + _EPSILON**2)
