"""A recurrent cell for each tensor over a small network for each coordinate."""

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

# Decays of the two momenta and of the second moment.
_BETAS = {"fast": 0.9, "slow": 0.99, "square": 0.99}

# What the rule does while its networks put out zero: Nesterov momentum, steps
# of this share of a tensor's size (by version), which fall with the root of
# the time.
_NOMINAL_STEPS = {1: 0.035, 2: 0.07}
_NOMINAL_WEIGHTS = (0.1, 0.9, 0.0)
_NOMINAL_GATE = 3.0
_NOMINAL_DECAY = 0.1

# Columns of the blocks in which matrices are orthogonalised, by version.
_BLOCK_WIDTHS = {1: 128, 2: 64}
# Outputs of the GRU for each tensor, by version.
_TENSOR_OUTPUTS = {1: 5, 2: 7}
_COORDINATE_INPUTS = 4
_EPSILON = 1e-12
# Stands for the size of a tensor before its first update.
_UNKNOWN_SIZE = -1.0


@keras.saving.register_keras_serializable(package="keras_l2l")
class Hierarchical(UpdateRule):
    """A GRU for each tensor that steers a small network for each coordinate.

    Of each coordinate the rule keeps two momenta (0.9 and 0.99) and a second
    moment. They enter, divided by the root of the second moment, a weighted
    sum and a network of one hidden layer. Of a matrix, what comes out is
    orthogonalised, so that all of its directions are learned at one speed.
    The update has a size relative to that of the parameters, in root mean
    squares, which falls as 1/√t.

    A GRU cell for each tensor sees how much of the gradient is signal, how
    the tensor has grown, its shape and the time. It corrects the step size,
    the weights of the sum, the biases of the network, and how much of the
    direction is orthogonalised. With zero at its output, as it starts, the
    rule is a hand-designed one that trains well already.

    Nothing depends on the scale of the gradients, and no number of steps
    need be known. 12 bytes of state a coordinate.

    The second version knows when the gradient vanishes. The step of a tensor
    is multiplied by the ratio of its gradient to the root mean square of all
    before, as in AdaGrad, to a learned power. So a zero gradient changes
    nothing, and weights stop growing once the data are fitted. Steps of
    matrices are relative to the size at the start, with a weak weight decay,
    learned too; those of vectors are relative to the size now, so that a bias
    reaches targets of any size.

    Args:
        units: Integer. Units of the GRU. Defaults to `16`.
        coordinate_units: Integer. Hidden units of the network for each
            coordinate. Defaults to `8`.
        seed: Integer. Of the initial meta-parameters. Defaults to `0`.
        version: `1` or `2`. Defaults to `1`, that of files which name none.
        name: String. The name of the rule.
        dtype: The dtype of the computation. Defaults to `"float32"`.

    Reference:
        - [Wichrowska et al., 2017](https://arxiv.org/abs/1703.04813), a
          hierarchy of recurrent cells.
        - [Harrison et al., 2022](https://arxiv.org/abs/2209.11208), a nominal
          term that the network corrects.
        - [Jordan et al., 2024](https://kellerjordan.github.io/posts/muon/),
          orthogonalised momentum.
    """

    def __init__(
        self,
        units=16,
        coordinate_units=8,
        seed=0,
        version=1,
        name=None,
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if version not in _TENSOR_OUTPUTS:
            raise ValueError(
                f"Argument `version` must be one of {list(_TENSOR_OUTPUTS)}. "
                f"Received: version={version!r}"
            )
        units, coordinate_units = checks.positive_integers(
            units=units, coordinate_units=coordinate_units
        )
        self.units = units
        self.coordinate_units = coordinate_units
        self.seed = None if seed is None else checks.seed(seed)
        self.version = int(version)
        seeds = iter(np.random.SeedSequence(seed).generate_state(3).tolist())

        def add(name, shape, is_random=True):
            initializer = (
                keras.initializers.VarianceScaling(seed=next(seeds))
                if is_random
                else "zeros"
            )
            return self.add_weight(
                shape=shape, initializer=initializer, name=name
            )

        # Update gate, reset gate and candidate side by side, as in Keras.
        features = tensor_features.COUNTS[version]
        self.kernel = add("kernel", (features, 3 * units))
        self.recurrent_kernel = add("recurrent_kernel", (units, 3 * units))
        self.bias = add("bias", (3 * units,), False)
        outputs = _TENSOR_OUTPUTS[version]
        self.tensor_output = add("tensor_output", (units, outputs), False)
        self.tensor_output_bias = add("tensor_output_bias", (outputs,), False)
        self.coordinate_kernel = add(
            "coordinate_kernel", (_COORDINATE_INPUTS, coordinate_units)
        )
        self.coordinate_bias = add(
            "coordinate_bias", (units, coordinate_units), False
        )
        self.coordinate_output = add(
            "coordinate_output", (coordinate_units,), False
        )

    @property
    def granularity(self):
        return "tensor"

    @property
    def is_scale_invariant(self):
        return True

    def initial_state(self, parameters):
        dtype = self.compute_dtype
        added = (
            {"mean_square": ops.zeros((), dtype)} if self.version == 2 else {}
        )
        return RuleState(
            local=[
                {
                    "fast": ops.zeros(ops.shape(p), dtype),
                    "slow": ops.zeros(ops.shape(p), dtype),
                    "square": ops.zeros(ops.shape(p), dtype),
                    "first_size": ops.full((), _UNKNOWN_SIZE, dtype),
                    "cell": ops.zeros((self.units,), dtype),
                    **added,
                }
                for p in parameters
            ],
            shared={"step": ops.zeros((), dtype)},
        )

    def call(self, gradients, parameters, state):
        step = state.shared["step"] + 1.0
        stacks = ShapeStacks(parameters, self.compute_dtype)
        values = stacks.stack(parameters)
        gradients = [preprocessing.finite(g) for g in stacks.stack(gradients)]
        moments, inputs = _next_moments(
            gradients,
            {
                name: stacks.stack([local[name] for local in state.local])
                for name in _BETAS
            },
            step,
        )
        # Scalars of all tensors are computed side by side, `[K]` each.
        scalars, controls = self._steer(
            gradients,
            inputs,
            values,
            stacks,
            {
                name: stacks.stack_scalars([loc[name] for loc in state.local])
                for name in state.local[0]
                if name not in _BETAS
            },
            step,
        )
        updates = [
            self._update(x, value, shape, _Controls(*control))
            for x, value, shape, *control in zip(
                inputs, values, stacks.shapes, *map(stacks.split, controls)
            )
        ]
        local = {
            **{name: stacks.unstack(value) for name, value in moments.items()},
            **{
                name: stacks.unstack_scalars(value)
                for name, value in scalars.items()
            },
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
            Dict of floats in [0, 1]: `"signal"`, the mean size of the slow
            momentum over the root of the second moment, 1 where gradients
            are all alike and about 0.07 where they are noise; and of a matrix
            `"orthogonalized"`, the share of its direction that is.
        """
        state = {name: ops.cast(x, "float32") for name, x in state.items()}
        step = ops.cast(shared["step"], "float32")
        share = 1.0 - _BETAS["slow"] ** step
        scale = ops.sqrt(state["square"] * share) + _EPSILON
        found = {
            "signal": ops.mean(ops.minimum(ops.abs(state["slow"]) / scale, 1.0))
        }
        if len(shape) > 1:
            outputs = ops.matmul(state["cell"], self.tensor_output)
            found["orthogonalized"] = _gate(
                outputs[4] + self.tensor_output_bias[4]
            )
        return {name: float(value) for name, value in found.items()}

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "coordinate_units": self.coordinate_units,
            "seed": self.seed,
            # Files older than the argument have none.
            **({} if self.version == 1 else {"version": self.version}),
        }

    def _steer(self, gradients, inputs, values, stacks, scalars, step):
        """What the GRU does to the K tensors.

        Args:
            gradients: List of stacks `[k, n]`.
            inputs: List of stacks `[k, 3, n]`, from `_next_moments`.
            values: List of stacks `[k, n]`, the parameters.
            stacks: The `ShapeStacks`.
            scalars: Dict of tensors `[K, …]`, the hidden state of the tensors.
            step: Scalar, counted from 1.

        Returns:
            Tuple of the next `scalars`, and of `_Controls` of all K tensors.
        """
        shapes = stacks.repeat(stacks.shapes)
        sizes = _sizes(values)
        # The size of a tensor before its first update, taken at that update.
        first_sizes = ops.where(
            scalars["first_size"] < 0.0, sizes, scalars["first_size"]
        )
        scalars = {**scalars, "first_size": first_sizes}
        features = tensor_features.tensor_features(
            gradients, inputs, shapes, sizes, first_sizes, step
        )
        if self.version == 2:
            ratios, scalars["mean_square"] = step_sizes.gradient_ratios(
                ops.concatenate(
                    [ops.mean(ops.square(g), axis=-1) for g in gradients]
                ),
                scalars["mean_square"],
                step,
            )
            features = ops.concatenate(
                [features, tensor_features.ratio_features(ratios)[:, None]],
                axis=-1,
            )
        scalars["cell"] = cell = next_cell(
            features,
            scalars["cell"],
            self.kernel,
            self.recurrent_kernel,
            self.bias,
        )
        outputs = ops.matmul(cell, self.tensor_output) + self.tensor_output_bias
        steps = step_sizes.relative_steps(
            outputs[:, 0], step, _NOMINAL_STEPS[self.version]
        )
        if self.version == 2:
            steps = steps * step_sizes.powers_of_ratios(
                ratios, step_sizes.corrected_powers(outputs[:, 5])
            )
            scales = step_sizes.robust_scales(shapes, sizes, first_sizes)
            decays = steps * _NOMINAL_DECAY
            decays = decays * ops.exp(3.0 * ops.tanh(outputs[:, 6]))
        else:
            scales = step_sizes.mean_scales(shapes, sizes, first_sizes)
            decays = ops.zeros_like(steps)
        weights = ops.array(_NOMINAL_WEIGHTS, outputs.dtype) + outputs[:, 1:4]
        return scalars, _Controls(
            size=ops.expand_dims(sizes, 1),
            step_size=ops.expand_dims(steps * scales, 1),
            decay=ops.expand_dims(decays, 1),
            weights=ops.expand_dims(weights, 1),
            gate=_gate(outputs[:, 4:5]),
            bias=ops.expand_dims(ops.matmul(cell, self.coordinate_bias), 2),
        )

    def _update(self, inputs, value, shape, controls):
        """The updates of k tensors of one shape, n coordinates each.

        Args:
            inputs: Tensor `[k, 3, n]`, from `_next_moments`.
            value: Tensor `[k, n]`, the parameters.
            shape: Tuple, the shape of each of them.
            controls: The `_Controls` of these tensors.

        Returns:
            Tensor `[k, n]`.
        """
        hidden = self._hidden(inputs, value / controls.size, controls.bias)
        output = ops.expand_dims(self.coordinate_output, 0)
        direction = ops.squeeze(
            ops.matmul(controls.weights, inputs) + ops.matmul(output, hidden), 1
        )
        plain = direction / ops.maximum(1.0, step_sizes.row_sizes(direction))
        if len(shape) > 1:
            matrix = orthogonalize(
                ops.reshape(direction, (-1, *matrix_shape(shape))),
                _BLOCK_WIDTHS[self.version],
            )
            matrix = ops.reshape(matrix, ops.shape(direction))
            gate = controls.gate
            plain = (gate / step_sizes.row_divisors(matrix)) * matrix + (
                1.0 - gate
            ) * plain
        update = controls.step_size * plain
        if self.version == 2 and not step_sizes.is_vector(shape):
            update = update + controls.decay * value
        return -update

    def _hidden(self, inputs, value, bias):
        """The hidden layer on every coordinate: `[k, coordinate_units, n]`."""
        inputs = ops.concatenate([inputs, ops.expand_dims(value, 1)], axis=1)
        # Bounded: a rare gradient is many times the root of its moment.
        inputs = inputs / (1.0 + 0.3 * ops.abs(inputs))
        kernel = ops.transpose(self.coordinate_kernel)
        return ops.relu(ops.matmul(kernel, inputs) + bias)


class _Controls(NamedTuple):
    """What the GRU decides for k tensors of one shape.

    Attributes:
        size: Tensor `[k, 1]`, the sizes of the tensors.
        step_size: Tensor `[k, 1]`, the sizes that updates are to have.
        decay: Tensor `[k, 1]`, the weight decay of this step.
        weights: Tensor `[k, 1, 3]`, of the three inputs.
        gate: Tensor `[k, 1]`, how much of a direction is orthogonalised.
        bias: Tensor `[k, coordinate_units, 1]`, of the coordinate network.
    """

    size: Any
    step_size: Any
    decay: Any
    weights: Any
    gate: Any
    bias: Any


def _gate(outputs):
    """The share of a direction that is orthogonalised, in [0, 1]."""
    return ops.sigmoid(_NOMINAL_GATE + 2.0 * outputs)


def _next_moments(gradients, moments, step):
    """The next moments, and what the networks see of them.

    Args:
        gradients: List of tensors `[k, n]`, finite.
        moments: Dict from names to lists of tensors `[k, n]`.
        step: Scalar, counted from 1.

    Returns:
        Tuple of a dict as `moments`, and of a list of tensors `[k, 3, n]`: the
        gradients and both momenta over the root of the second moment, without
        the bias of averages that begin at zero.
    """
    news = {
        "fast": gradients,
        "slow": gradients,
        "square": [ops.square(g) for g in gradients],
    }
    moments = {
        name: [
            old + (new - old) * (1.0 - beta)
            for old, new in zip(moments[name], news[name])
        ]
        for name, beta in _BETAS.items()
    }
    share = {name: 1.0 - beta**step for name, beta in _BETAS.items()}
    inputs = []
    for gradient, fast, slow, square in zip(gradients, *moments.values()):
        scale = 1.0 / (ops.sqrt(square / share["square"]) + _EPSILON)
        inputs.append(
            ops.stack(
                [
                    gradient * scale,
                    fast * (scale / share["fast"]),
                    slow * (scale / share["slow"]),
                ],
                axis=1,
            )
        )
    return moments, inputs


def _sizes(stacks):
    """Root mean squares of K tensors: list of `[k, n]` → `[K]`, not zero."""
    return ops.concatenate([step_sizes.row_sizes(stack) for stack in stacks])[
        :, 0
    ]
