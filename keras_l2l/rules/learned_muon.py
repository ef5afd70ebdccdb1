"""Orthogonalised momentum, whose steps are steered tensor by tensor."""

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_l2l import checks
from keras_l2l.rules import preprocessing, step_sizes, tensor_features
from keras_l2l.rules.base import RuleState, UpdateRule
from keras_l2l.rules.orthogonalization import matrix_shape, orthogonalize
from keras_l2l.rules.stacking import ShapeStacks
from keras_l2l.rules.steering import LinearSteering, RecurrentSteering

_BETA_MOMENTUM, _BETA_SQUARE = 0.9, 0.99

# What the rule does while its steering puts out zero.
_NOMINAL_STEP = 0.05
_NOMINAL_NESTEROV = math.log(9.0)
_NOMINAL_GATE = 3.0
# By version of the rule.
_NOMINAL_DECAYS = {1: 0.1, 2: 0.05, 3: 0.05}
# The power of the vanishing gradient with which the decay falls.
_DECAY_POWER = 0.25
_NOMINAL_GROWTH = 0.2
_NOMINAL_THRESHOLD = 0.1

_BLOCK_WIDTH = 64
_OUTPUTS = 7
_UNITS = 8
_EPSILON = 1e-12
# Stands for the size of a tensor before its first update.
_UNKNOWN_SIZE = -1.0


@keras.saving.register_keras_serializable(package="keras_l2l")
class LearnedMuon(UpdateRule):
    """Orthogonalised momentum whose steps are learned.

    Nesterov momentum is divided by the root of the second moment, and that of
    a matrix orthogonalised, so that all of its directions are learned at one
    speed. The update has a size relative to that of the parameters, in root
    mean squares. It falls as 1/√t and with the gradient, as in AdaGrad; and
    it grows while successive gradients point the same way, which shows that
    steps are too short. A weak weight decay keeps matrices from growing: since
    the second version it hardly falls with the gradient and does not grow, so
    that it still acts where the data are fitted.

    What is learned sees, for each tensor, how much of the gradient is signal,
    whether it goes on as before, how far it has vanished, how the tensor has
    grown, its shape and the time. It corrects all of the above: the size of
    the step, the power with which it falls with the gradient, the pace of its
    growth, the look-ahead of the momentum, the weight decay, and how much of
    the direction is orthogonalised. With zero at its output, as it starts, the
    rule is a hand-designed one that trains well already. In the first two
    versions it is a GRU cell, in the third a linear function of what is seen
    now and of what was seen in the mean of the last fifty steps.

    Nothing depends on the scale of the gradients, and no number of steps need
    be known. 8 bytes of state a coordinate, as in Adam.

    Args:
        units: Integer. Units of the GRU, which the third version has not.
            Defaults to `None`, which are eight.
        seed: Integer. Of the initial meta-parameters of the GRU.
            Defaults to `0`.
        version: `1`, that of files which name none, `2` or `3`.
            Defaults to `1`.
        name: String. The name of the rule.
        dtype: The dtype of the computation. Defaults to `"float32"`.

    Example:

    >>> rule = keras_l2l.rules.LearnedMuon(version=3)
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

    def __init__(self, units=None, seed=0, version=1, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        if version not in _NOMINAL_DECAYS:
            raise ValueError(
                f"Argument `version` must be one of {list(_NOMINAL_DECAYS)}. "
                f"Received: version={version!r}"
            )
        self.version = int(version)
        self.seed = None if seed is None else checks.seed(seed)
        if self.version < 3:
            units = _UNITS if units is None else units
            (units,) = checks.positive_integers(units=units)
            self._steering: Any = RecurrentSteering(self, units, _OUTPUTS, seed)
        elif units is None:
            self._steering = LinearSteering(self, _OUTPUTS)
        else:
            raise ValueError(
                "Argument `units` must be `None` in version 3, which has no "
                f"GRU. Received: units={units!r}"
            )
        self.units = units

    @property
    def granularity(self):
        return "tensor"

    @property
    def is_scale_invariant(self):
        return True

    def initial_state(self, parameters):
        dtype = self.compute_dtype
        memory = [0.0] * self._steering.memory_size
        first_summary = [_UNKNOWN_SIZE, 0.0, 0.0, *memory]
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
        shares = _shares(step)
        moments = [
            _next_moments(gradient, value, momentum, square, shares)
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
        updates = _updates(moments, stacks, controls)
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
        share_of_momentum, share_of_square = _shares(step)
        scaled = state["momentum"] * _scale(state["square"], share_of_square)
        scaled = scaled / share_of_momentum
        found = {
            "signal": ops.sqrt(ops.mean(ops.square(scaled))),
            "growth": ops.exp(state["summary"][2]),
        }
        if len(shape) > 1:
            memory = ops.expand_dims(state["summary"][3:], 0)
            context = tensor_features.time_and_shape_features(
                [shape], step, "float32"
            )
            # Of what is averaged there are the averages alone.
            outputs = self._steering.outputs(memory, context, memory)
            found["orthogonalized"] = _gate(outputs[0, 4])
        return {name: float(value) for name, value in found.items()}

    def get_config(self):
        return {
            **super().get_config(),
            **({} if self.version == 3 else {"units": self.units}),
            "seed": self.seed,
            # Files older than the argument have none.
            **({} if self.version == 1 else {"version": self.version}),
        }

    def _steer(self, moments, shapes, summary, step):
        """What the steering does to the K tensors.

        Args:
            moments: List of `_Moments`, of each stack.
            shapes: List of K shapes.
            summary: Tensor `[K, 3 + memory_size]`: the size before the first
                update, the mean square of all gradients, the logarithm by
                which steps have grown, and the memory of the steering.
            step: Scalar, counted from 1.

        Returns:
            Tuple of the next `summary` and the `_Controls`.
        """
        mean_squares, squares, products, product_sizes, signals = (
            ops.concatenate(values)
            for values in zip(*(moment.means for moment in moments))
        )
        sizes, signals = step_sizes.sizes(squares), step_sizes.sizes(signals)
        alignments = step_sizes.alignments(products, product_sizes)
        first_sizes, mean_square, growth, *memory = ops.unstack(
            summary, axis=-1
        )
        # The size of a tensor before its first update, taken at that update.
        first_sizes = ops.where(first_sizes < 0.0, sizes, first_sizes)
        ratios, mean_square = step_sizes.gradient_ratios(
            mean_squares, mean_square, step
        )
        features = (
            tensor_features.training_features(
                *(signals, alignments, growth),
                *(ratios, sizes, first_sizes),
            ),
            tensor_features.time_and_shape_features(shapes, step, sizes.dtype),
        )
        memory = self._steering.next_memory(
            *features, ops.stack(memory, axis=-1), step
        )
        outputs = self._steering.outputs(*features, memory)
        outputs = ops.unstack(outputs, axis=-1)
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
        if self.version > 1:
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
        return ops.concatenate([numbers, memory], axis=-1), controls


class _Moments(NamedTuple):
    """What a step makes of k tensors of one shape, before it is steered.

    Attributes:
        momentum: Tensor `[k, n]`, the next one.
        square: Tensor `[k, n]`, the next second moment.
        gradient: Tensor `[k, n]`, over the root of the second moment.
        direction: Tensor `[k, n]`, the momentum over the same root, without
            the bias of averages that begin at zero.
        value: Tensor `[k, n]`, the parameters.
        means: Tuple of tensors `[k]`, means over the coordinates: of the
            squares of the gradient and of the parameters, of the products of
            gradient and momentum and of their absolute values, and of the
            squares of the direction.
    """

    momentum: Any
    square: Any
    gradient: Any
    direction: Any
    value: Any
    means: tuple


class _Controls(NamedTuple):
    """What the steering decides for the K tensors.

    Attributes:
        step_size: Tensor `[K]`, the sizes that updates are to have.
        decay: Tensor `[K]`, the weight decay of this step.
        nesterov: Tensor `[K]`, the weight of the momentum; the gradient has
            the rest.
        gate: Tensor `[K]`, how much of a direction is orthogonalised.
    """

    step_size: Any
    decay: Any
    nesterov: Any
    gate: Any


def _next_moments(gradient, value, momentum, square, shares):
    """The `_Moments` of k tensors: stacks `[k, n]`, and two scalars."""
    gradient = preprocessing.finite(gradient)
    squares = ops.square(gradient)
    # Squares of 1e18 are finite, and so are sums of some of them.
    products = gradient * momentum
    momentum = momentum + (gradient - momentum) * (1.0 - _BETA_MOMENTUM)
    square = square + (squares - square) * (1.0 - _BETA_SQUARE)
    share_of_momentum, share_of_square = shares
    scale = _scale(square, share_of_square)
    direction = momentum * scale / share_of_momentum
    measured = (
        *(squares, ops.square(value), products, ops.abs(products)),
        ops.square(direction),
    )
    means = tuple(ops.mean(values, axis=-1) for values in measured)
    scaled = gradient * scale
    return _Moments(momentum, square, scaled, direction, value, means)


def _updates(moments, stacks, controls):
    """The updates of all K tensors: a list of stacks `[k, n]`.

    What is one number for a tensor is computed side by side for all tensors.
    """
    weights = stacks.split(ops.expand_dims(controls.nesterov, 1))
    directions = [
        moment.gradient + weight * (moment.direction - moment.gradient)
        for moment, weight in zip(moments, weights)
    ]
    matrices = [
        _orthogonalized(direction, shape) if len(shape) > 1 else None
        for direction, shape in zip(directions, stacks.shapes)
    ]
    squares = [_mean_squares(direction) for direction in directions]
    of_direction, of_matrix = _coefficients(
        controls,
        ops.concatenate(squares),
        # A vector has none, and the weight of what it has not is zero.
        ops.concatenate(
            [
                square if matrix is None else _mean_squares(matrix)
                for square, matrix in zip(squares, matrices)
            ]
        ),
        stacks.repeat([matrix is not None for matrix in matrices]),
    )
    coefficients = ops.stack([of_direction, of_matrix, controls.decay], axis=1)
    return [
        _update(direction, matrix, moment.value, shape, coefficient)
        for direction, matrix, moment, shape, coefficient in zip(
            *(directions, matrices, moments, stacks.shapes),
            stacks.split(ops.expand_dims(coefficients, 2)),
        )
    ]


def _coefficients(controls, direction_squares, matrix_squares, is_matrix):
    """What directions and orthogonalised matrices are multiplied by.

    Args:
        controls: The `_Controls`.
        direction_squares: Tensor `[K]`, mean squares of the directions.
        matrix_squares: Tensor `[K]`, those of the orthogonalised matrices.
        is_matrix: List of K booleans.

    Returns:
        Tuple of two tensors `[K]`.
    """
    gate = ops.where(ops.array(is_matrix, "bool"), controls.gate, 0.0)
    weight = controls.step_size / ops.maximum(
        1.0, step_sizes.sizes(direction_squares)
    )
    of_matrix = gate * controls.step_size
    return (gate - 1.0) * weight, of_matrix / step_sizes.divisors(
        matrix_squares
    )


def _update(direction, matrix, value, shape, coefficients):
    """The updates of k tensors of one shape: `[k, n]`."""
    of_direction, of_matrix, decay = ops.unstack(coefficients, 3, axis=1)
    update = of_direction * direction
    if matrix is None:
        return update
    update = update - of_matrix * matrix
    return update if step_sizes.is_vector(shape) else update - decay * value


def _orthogonalized(direction, shape):
    """A stack `[k, n]` of k tensors of one shape, orthogonalised."""
    matrices = ops.reshape(direction, (-1, *matrix_shape(shape)))
    matrices = orthogonalize(matrices, _BLOCK_WIDTH)
    return ops.reshape(matrices, (direction.shape[0], -1))


def _mean_squares(stack):
    """`[k, n]` → `[k]`."""
    return ops.mean(ops.square(stack), axis=-1)


def _gate(outputs):
    """The share of a direction that is orthogonalised, in [0, 1]."""
    return ops.sigmoid(_NOMINAL_GATE + 2.0 * outputs)


def _shares(step):
    """The weights that averages which begin at zero have by now: scalars."""
    return 1.0 - _BETA_MOMENTUM**step, 1.0 - _BETA_SQUARE**step


def _scale(square, share):
    """One over the root of the second moment without bias."""
    return ops.rsqrt(square / share + _EPSILON**2)
