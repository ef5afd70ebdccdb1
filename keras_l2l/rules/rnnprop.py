"""RNNprop: an LSTM on Adam-like inputs, with a bounded update."""

import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_l2l import checks
from keras_l2l.rules.base import CoordinatewiseRule
from keras_l2l.rules.lstm_cell import LSTMStack, forget_gate_open
from keras_l2l.rules.normalized_gradient import initial_moments, normalize


@keras.saving.register_keras_serializable(package="keras_l2l")
class RNNprop(CoordinatewiseRule):
    """A coordinatewise LSTM on gradients that are normalised as in Adam.

    With the unbiased first and second moment of the gradient, m̂ and v̂, the
    inputs are m̂/√v̂ and g/√v̂, which do not depend on the scale of the
    gradient. A dense layer with ELU and the LSTM layers follow, and
    `-output_scale * tanh(…)` bounds the update. It thus generalises to cases
    in which the LSTM of 2016 diverges: other activations, deeper networks,
    more steps.

    Args:
        units: Integer. Units of the dense layer and of each LSTM layer.
            Defaults to `20`.
        layers: Integer. Number of LSTM layers. Defaults to `2`.
        output_scale: Float > 0. The largest update. Defaults to `0.1`.
        beta: Float in [0, 1). Decay of both moments. Defaults to `0.95`.
        seed: Integer. Seeds the initial meta-parameters. Defaults to `None`,
            a new seed each time.
        name: String. The name of the rule.
        dtype: As for `UpdateRule`. Defaults to `"float32"`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> rule = keras_l2l.rules.RNNprop(seed=0)
    >>> parameters = [keras.ops.zeros((784, 20)), keras.ops.zeros((20,))]
    >>> state = rule.initial_state(parameters)
    >>> gradients = [keras.ops.ones_like(p) for p in parameters]
    >>> updates, state = rule(gradients, parameters, state)

    Reference:
        [Lv et al., 2017](https://arxiv.org/abs/1703.03633)
    """

    def __init__(
        self,
        units: int = 20,
        layers: int = 2,
        output_scale: float = 0.1,
        beta: float = 0.95,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        units, layers = checks.positive_integers(units=units, layers=layers)
        self.units, self.layers = units, layers
        checks.positive_numbers(output_scale=output_scale)
        checks.fractions(beta=beta)
        self.output_scale = float(output_scale)
        self.beta = float(beta)
        self.seed = None if seed is None else checks.seed(seed)
        sequence, count = np.random.SeedSequence(seed), itertools.count(1)

        def add(name, *shape):
            # Not all seeds at once: in a file, `layers` can be any number.
            weight_seed = sequence.generate_state(next(count))[-1]
            return self.add_weight(
                shape=shape,
                initializer=keras.initializers.GlorotUniform(int(weight_seed)),
                name=name,
            )

        self._input_kernel = add("input_kernel", 2, units)
        self._input_bias = self.add_weight(
            shape=(units,), initializer="zeros", name="input_bias"
        )
        kernels = [
            add(f"kernel_{layer}", 2 * units, 4 * units)
            for layer in range(layers)
        ]
        biases = [
            self.add_weight(
                shape=(4 * units,),
                initializer=forget_gate_open,
                name=f"bias_{layer}",
            )
            for layer in range(layers)
        ]
        self._stack = LSTMStack(kernels, biases)
        self._output_kernel = add("output_kernel", units, 1)
        self._output_bias = self.add_weight(
            shape=(1,), initializer="zeros", name="output_bias"
        )

    def initial_coordinate_state(self, count):
        return {
            **initial_moments(count, self.compute_dtype),
            **self._stack.initial_state(count),
        }

    def initial_shared_state(self):
        return {"step": ops.zeros((), self.compute_dtype)}

    def update_coordinates(self, gradient, parameter, state, shared):
        step = shared["step"] + 1.0
        moments, momentum, normalized = normalize(
            gradient, state, step, self.beta, self.beta
        )
        inputs = ops.stack([momentum, normalized], axis=-1)  # [N, 2]
        output = ops.elu(
            ops.matmul(inputs, self._input_kernel) + self._input_bias
        )
        output, stack_state = self._stack(output, state)
        output = ops.matmul(output, self._output_kernel) + self._output_bias
        update = -self.output_scale * ops.tanh(ops.squeeze(output, -1))
        return update, {**moments, **stack_state}, {"step": step}

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "layers": self.layers,
            "output_scale": self.output_scale,
            "beta": self.beta,
            "seed": self.seed,
        }
