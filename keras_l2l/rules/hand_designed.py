"""Hand-designed rules that equal an optimizer of Keras, step for step."""

from typing import Any

import keras
from keras import ops

from keras_l2l import checks
from keras_l2l.rules.base import CoordinatewiseRule
from keras_l2l.rules.learning_rate import LearningRateRule, cosine_decay


class _HandDesigned(LearningRateRule, CoordinatewiseRule):
    """Base class of coordinatewise rules with a learning rate to learn."""


@keras.saving.register_keras_serializable(package="keras_l2l")
class SGD(_HandDesigned):
    """Stochastic gradient descent, equal to `keras.optimizers.SGD`.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.01`.
        name: String. The name of the rule.
        dtype: As for `UpdateRule`. Defaults to `"float32"`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> optimizer = keras_l2l.L2LOptimizer(keras_l2l.rules.SGD(0.1))
    """

    def __init__(self, learning_rate: float = 0.01, **kwargs: Any):
        super().__init__(learning_rate, **kwargs)

    def initial_coordinate_state(self, count):
        return {}

    def update_coordinates(self, gradient, parameter, state, shared):
        return -self.learning_rate * gradient, state, shared


@keras.saving.register_keras_serializable(package="keras_l2l")
class Momentum(_HandDesigned):
    """Gradient descent with momentum, equal to `keras.optimizers.SGD`.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.01`.
        momentum: Float in [0, 1). Decay of the velocity. Defaults to `0.9`.
        nesterov: Boolean. Whether to use Nesterov momentum.
            Defaults to `False`.
        name: String. The name of the rule.
        dtype: As for `UpdateRule`. Defaults to `"float32"`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> rule = keras_l2l.rules.Momentum(0.1, nesterov=True)
    >>> optimizer = keras_l2l.L2LOptimizer(rule)
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        checks.fractions(momentum=momentum)
        self.momentum = float(momentum)
        self.nesterov = bool(nesterov)

    def initial_coordinate_state(self, count):
        return {"velocity": ops.zeros((count,), self.compute_dtype)}

    def update_coordinates(self, gradient, parameter, state, shared):
        step = -self.learning_rate * gradient
        velocity = self.momentum * state["velocity"] + step
        update = self.momentum * velocity + step if self.nesterov else velocity
        return update, {"velocity": velocity}, shared

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
        }


@keras.saving.register_keras_serializable(package="keras_l2l")
class RMSprop(_HandDesigned):
    """RMSprop, equal to `keras.optimizers.RMSprop`.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.001`.
        rho: Float in [0, 1). Decay of the second moment. Defaults to `0.9`.
        epsilon: Float, added to the second moment. Defaults to `1e-7`.
        name: String. The name of the rule.
        dtype: As for `UpdateRule`. Defaults to `"float32"`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> optimizer = keras_l2l.L2LOptimizer(keras_l2l.rules.RMSprop(0.01))
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        rho: float = 0.9,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        checks.fractions(rho=rho)
        self.rho = float(rho)
        self.epsilon = float(epsilon)

    def initial_coordinate_state(self, count):
        return {"second_moment": ops.zeros((count,), self.compute_dtype)}

    def update_coordinates(self, gradient, parameter, state, shared):
        second = self.rho * state["second_moment"] + (
            1.0 - self.rho
        ) * ops.square(gradient)
        update = (
            -self.learning_rate * gradient * ops.rsqrt(second + self.epsilon)
        )
        return update, {"second_moment": second}, shared

    def get_config(self):
        return {
            **super().get_config(),
            "rho": self.rho,
            "epsilon": self.epsilon,
        }


class _AdamRule(_HandDesigned):
    """Base class of rules with the two moments of Adam.

    Args:
        learning_rate: Float > 0.
        beta_1: Float in [0, 1). Decay of the first moment.
        beta_2: Float in [0, 1). Decay of the second moment.
        epsilon: Float, added to the root of the second moment.
        **kwargs: As for `UpdateRule`.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        checks.fractions(beta_1=beta_1, beta_2=beta_2)
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)

    def initial_coordinate_state(self, count):
        zeros = ops.zeros((count,), self.compute_dtype)
        return {"first_moment": zeros, "second_moment": zeros}

    def initial_shared_state(self):
        return {"step": ops.zeros((), self.compute_dtype)}

    def get_config(self):
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }

    def _next_moments(self, gradient, state):
        """Updates the exponential averages of the gradient and its square."""
        first, second = state["first_moment"], state["second_moment"]
        square = ops.square(gradient)
        return {
            "first_moment": first + (gradient - first) * (1.0 - self.beta_1),
            "second_moment": second + (square - second) * (1.0 - self.beta_2),
        }

    def _adam_update(self, rate, moments, step):
        """The update of Adam at some learning rate, `[N]`."""
        # Both bias corrections in one scalar.
        rate = (
            rate * ops.sqrt(1.0 - self.beta_2**step) / (1.0 - self.beta_1**step)
        )
        root = ops.sqrt(moments["second_moment"])
        return -rate * moments["first_moment"] / (root + self.epsilon)


@keras.saving.register_keras_serializable(package="keras_l2l")
class Adam(_AdamRule):
    """Adam, equal to `keras.optimizers.Adam`.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.001`.
        beta_1: Float in [0, 1). Decay of the first moment.
            Defaults to `0.9`.
        beta_2: Float in [0, 1). Decay of the second moment.
            Defaults to `0.999`.
        epsilon: Float, added to the root of the second moment.
            Defaults to `1e-7`.
        name: String. The name of the rule.
        dtype: As for `UpdateRule`. Defaults to `"float32"`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> optimizer = keras_l2l.L2LOptimizer(keras_l2l.rules.Adam(0.01))

    Reference:
        [Kingma et al., 2014](https://arxiv.org/abs/1412.6980)
    """

    def update_coordinates(self, gradient, parameter, state, shared):
        step = shared["step"] + 1.0
        moments = self._next_moments(gradient, state)
        update = self._adam_update(self.learning_rate, moments, step)
        return update, moments, {"step": step}


@keras.saving.register_keras_serializable(package="keras_l2l")
class AdamW(_AdamRule):
    """Adam with decoupled weight decay, equal to `keras.optimizers.AdamW`.

    With `decay_steps` the learning rate falls along a cosine to zero, as with
    `keras.optimizers.schedules.CosineDecay`.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.001`.
        weight_decay: Float >= 0. Multiplied by the learning rate.
            Defaults to `0.004`.
        decay_steps: Integer. Length of the cosine in steps. Defaults to
            `None`, a constant learning rate.
        **kwargs: As for `Adam`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> rule = keras_l2l.rules.AdamW(0.01, decay_steps=1000)
    >>> optimizer = keras_l2l.L2LOptimizer(rule)

    Reference:
        [Loshchilov et al., 2019](https://arxiv.org/abs/1711.05101)
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        weight_decay: float = 0.004,
        decay_steps: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        if decay_steps is not None:
            decay_steps = checks.positive_integer(decay_steps=decay_steps)
        self.weight_decay = float(weight_decay)
        self.decay_steps = decay_steps

    def update_coordinates(self, gradient, parameter, state, shared):
        step = shared["step"] + 1.0
        moments = self._next_moments(gradient, state)
        rate = self.learning_rate * cosine_decay(step, self.decay_steps)
        update = self._adam_update(rate, moments, step)
        update -= rate * self.weight_decay * parameter
        return update, moments, {"step": step}

    def get_config(self):
        return {
            **super().get_config(),
            "weight_decay": self.weight_decay,
            "decay_steps": self.decay_steps,
        }


@keras.saving.register_keras_serializable(package="keras_l2l")
class Nadam(_AdamRule):
    """Adam with Nesterov momentum, equal to `keras.optimizers.Nadam`.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.001`.
        beta_1: As for `Adam`.
        beta_2: As for `Adam`.
        epsilon: As for `Adam`.
        name: String. The name of the rule.
        dtype: As for `UpdateRule`. Defaults to `"float32"`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> optimizer = keras_l2l.L2LOptimizer(keras_l2l.rules.Nadam(0.01))

    Reference:
        [Dozat, 2015](http://cs229.stanford.edu/proj2015/054_report.pdf)
    """

    def initial_shared_state(self):
        return {
            **super().initial_shared_state(),
            "product": ops.ones((), self.compute_dtype),
        }

    def update_coordinates(self, gradient, parameter, state, shared):
        step = shared["step"] + 1.0
        # The warm-up of the momentum.
        now, later = (
            self.beta_1 * (1.0 - 0.5 * 0.96**t) for t in (step, step + 1.0)
        )
        product = shared["product"] * now
        moments = self._next_moments(gradient, state)
        direction = later * moments["first_moment"] / (1.0 - product * later)
        direction += (1.0 - now) * gradient / (1.0 - product)
        root = ops.sqrt(moments["second_moment"] / (1.0 - self.beta_2**step))
        update = -self.learning_rate * direction / (root + self.epsilon)
        return update, moments, {"step": step, "product": product}
