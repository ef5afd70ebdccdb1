"""An LSTM on every coordinate that begins as Adam and learns corrections."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_l2l import checks
from keras_l2l.rules.learning_rate import cosine_decay
from keras_l2l.rules.lstm import LSTMRule
from keras_l2l.rules.normalized_gradient import initial_moments, normalize

# A step is at most exp(±4) times that of Adam: 1/55 to 55 times.
_LARGEST_LOG_FACTOR = 4.0

# Arguments of `LSTMRule` that are about gradients of any scale.
_UNUSED = ("output_scale", "preprocessing", "p", "derivative_smoothing")


@keras.saving.register_keras_serializable(package="keras_l2l")
class AdamLSTM(LSTMRule):
    """A coordinatewise LSTM whose outputs correct Adam.

    With the unbiased first and second moment of the gradient, m̂ and v̂, the
    network sees the size of the momentum, abs(m̂)/√v̂, the gradient along
    it, g sign(m̂)/√v̂, and the time. A linear layer on its hidden state and on
    its inputs emits a logarithm s and a weight w for each coordinate:

        update = -rate · exp(4 tanh(s/4)) · (m̂ + w g)/√v̂,

    where the rate is the learning rate, constant or falling along a cosine.

    The layer starts at zero, so that an untrained rule is Adam, and training
    begins with what works: it learns by how much a step is longer or shorter
    at a time, in a kind of layer, and where gradients agree. Where all
    gradients change their sign, so do all updates. It is a rule to train on
    one's own task, by backpropagation, or by evolution strategies on the
    output layer: `PersistentES(meta_parameters=AdamLSTM.OUTPUT_LAYER)`.

    Args:
        learning_rate: Float > 0. Adam's learning rate at the start of the
            training. Defaults to `0.001`.
        beta_1: Float in [0, 1). Decay of the first moment.
            Defaults to `0.9`.
        beta_2: Float in [0, 1). Decay of the second moment.
            Defaults to `0.999`.
        decay_steps: Integer. Length of a cosine in steps, along which the
            rate falls to zero. Defaults to `None`, a constant rate.
        time_scales: Floats > 0. For each of them, τ, the network sees
            tanh(t/τ - 1) of the number t of steps, which tells times from
            about τ/3 to 3τ apart. The rule sees no time for the empty tuple.
            Defaults to `(10, 100, 1000, 10000)`.
        units: Integer. Units of each LSTM layer. Defaults to `20`.
        layers: Integer. Number of LSTM layers. Defaults to `2`.
        **kwargs: As for `CoordinatewiseLSTM`, without `output_scale` and
            those that preprocess the gradient.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> rule = keras_l2l.rules.AdamLSTM(0.003, seed=0)
    >>> parameters = [keras.ops.zeros((784, 20)), keras.ops.zeros((20,))]
    >>> state = rule.initial_state(parameters)
    >>> gradients = [keras.ops.ones_like(p) for p in parameters]
    >>> updates, state = rule(gradients, parameters, state)
    >>> round(float(updates[1][0]), 4)
    -0.003

    Reference:
        - [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474)
        - [Lv et al., 2017](https://arxiv.org/abs/1703.03633), the inputs
        - [Metz et al., 2020](https://arxiv.org/abs/2009.11243), the time
    """

    OUTPUT_LAYER = ("output_kernel", "output_bias", "skip_kernel")

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        decay_steps: int | None = None,
        time_scales: Sequence[float] = (10.0, 100.0, 1000.0, 10000.0),
        units: int = 20,
        layers: int = 2,
        **kwargs: Any,
    ):
        for name in _UNUSED:
            if name in kwargs:
                raise ValueError(
                    f"`AdamLSTM` has no argument `{name}`, as its gradients "
                    f"are normalised. Received: {name}={kwargs[name]!r}"
                )
        checks.positive_numbers(learning_rate=learning_rate)
        checks.fractions(beta_1=beta_1, beta_2=beta_2)
        if decay_steps is not None:
            decay_steps = checks.positive_integer(decay_steps=decay_steps)
        if not isinstance(time_scales, list | tuple):
            raise ValueError(
                "Argument `time_scales` must be a list or tuple of positive "
                f"numbers. Received: time_scales={time_scales!r}"
            )
        for scale in time_scales:
            checks.positive_numbers(time_scales=scale)
        time_scales = [float(scale) for scale in time_scales]
        kwargs.setdefault("output_initializer", "zeros")
        super().__init__(
            extra_inputs=1 + len(time_scales),
            outputs=2,
            units=units,
            layers=layers,
            preprocessing="raw",
            **kwargs,
        )
        self.learning_rate = float(learning_rate)
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.decay_steps = decay_steps
        self.time_scales = time_scales
        self._skip_kernel = self.add_weight(
            shape=(2 + len(time_scales), 2),
            initializer="zeros",
            name="skip_kernel",
        )

    def initial_coordinate_state(self, count):
        return {
            **initial_moments(count, self.compute_dtype),
            **super().initial_coordinate_state(count),
        }

    def initial_shared_state(self):
        return {"step": ops.zeros((), self.compute_dtype)}

    def update_coordinates(self, gradient, parameter, state, shared):
        step = shared["step"] + 1.0
        moments, momentum, normalized = normalize(
            gradient, state, step, self.beta_1, self.beta_2
        )
        along = normalized * ops.sign(momentum)
        others = ops.stack(  # [N, 1 + T]
            [ops.abs(momentum), *self._time(step, momentum)], axis=-1
        )
        outputs, network = self.run_network(along, state, others)
        inputs = ops.concatenate([along[:, None], others], -1)
        outputs = outputs + ops.matmul(inputs, self._skip_kernel)
        log_factor, weight = outputs[:, 0], outputs[:, 1]
        factor = ops.exp(
            _LARGEST_LOG_FACTOR * ops.tanh(log_factor / _LARGEST_LOG_FACTOR)
        )
        direction = momentum + weight * normalized
        rate = self.learning_rate * cosine_decay(step, self.decay_steps)
        return (
            -rate * factor * direction,
            {**moments, **network},
            {"step": step},
        )

    def _time(self, step, like):
        """Features of the time, one for each time scale, each `[N]`."""
        return [
            ops.broadcast_to(ops.tanh(step / scale - 1.0), ops.shape(like))
            for scale in self.time_scales
        ]

    def get_config(self):
        config = super().get_config()
        for name in _UNUSED:
            del config[name]
        return {
            **config,
            "learning_rate": self.learning_rate,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "decay_steps": self.decay_steps,
            "time_scales": self.time_scales,
        }
