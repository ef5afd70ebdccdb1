"""Hand-designed rules that `keras.optimizers` has, too: baselines, oracles."""

import math

import keras
from keras import ops

from keras_l2l import checks
from keras_l2l.rules.base import CoordinatewiseRule
from keras_l2l.rules.learning_rate import LearningRateRule


class _HandDesigned(LearningRateRule, CoordinatewiseRule):
    """A rule for coordinates whose only meta-parameter is its rate."""


@keras.saving.register_keras_serializable(package="keras_l2l")
class SGD(_HandDesigned):
    """Stochastic gradient descent, equal to `keras.optimizers.SGD`.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.01`.
        name: String. The name of the rule.
        dtype: The dtype of the computation. Defaults to `"float32"`.
    """

    def __init__(self, learning_rate=0.01, **kwargs):
        super().__init__(learning_rate, **kwargs)

    def initial_coordinate_state(self, count):
        return {}

    def update_coordinates(self, gradient, parameter, state, shared):
        return -self.learning_rate * gradient, state, shared


@keras.saving.register_keras_serializable(package="keras_l2l")
class Momentum(_HandDesigned):
    """Gradient descent with (Nesterov) momentum, as `keras.optimizers.SGD`.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.01`.
        momentum: Float in [0, 1). Defaults to `0.9`.
        nesterov: Boolean. Nesterov's accelerated gradient (NAG).
            Defaults to `False`.
        name: String. The name of the rule.
        dtype: The dtype of the computation. Defaults to `"float32"`.
    """

    def __init__(
        self, learning_rate=0.01, momentum=0.9, nesterov=False, **kwargs
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
        dtype: The dtype of the computation. Defaults to `"float32"`.
    """

    def __init__(self, learning_rate=0.001, rho=0.9, epsilon=1e-7, **kwargs):
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


@keras.saving.register_keras_serializable(package="keras_l2l")
class Adam(_HandDesigned):
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
        dtype: The dtype of the computation. Defaults to `"float32"`.

    Reference:
        [Kingma et al., 2014](https://arxiv.org/abs/1412.6980)
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        **kwargs,
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

    def update_coordinates(self, gradient, parameter, state, shared):
        step = shared["step"] + 1.0
        # Both bias corrections in one scalar.
        rate = (
            self._rate(step)
            * ops.sqrt(1.0 - self.beta_2**step)
            / (1.0 - self.beta_1**step)
        )
        first = state["first_moment"]
        first = first + (gradient - first) * (1.0 - self.beta_1)
        second = state["second_moment"]
        second = second + (ops.square(gradient) - second) * (1.0 - self.beta_2)
        update = -rate * first / (ops.sqrt(second) + self.epsilon)
        state = {"first_moment": first, "second_moment": second}
        return update, state, {"step": step}

    def _rate(self, step):
        """The learning rate of a step, counted from 1."""
        return self.learning_rate

    def get_config(self):
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable(package="keras_l2l")
class AdamW(Adam):
    """Adam with decoupled weight decay, equal to `keras.optimizers.AdamW`.

    With `decay_steps` the learning rate falls along a cosine to zero, as with
    `keras.optimizers.schedules.CosineDecay`.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.001`.
        weight_decay: Float >= 0. Defaults to `0.004`.
        decay_steps: Integer. Length of the cosine. Defaults to `None`, a
            constant learning rate.
        **kwargs: As for `Adam`.

    Reference:
        [Loshchilov et al., 2019](https://arxiv.org/abs/1711.05101)
    """

    def __init__(
        self,
        learning_rate=0.001,
        weight_decay=0.004,
        decay_steps=None,
        **kwargs,
    ):
        super().__init__(learning_rate, **kwargs)
        if decay_steps is not None:
            checks.positive_integers(decay_steps=decay_steps)
        self.weight_decay = float(weight_decay)
        self.decay_steps = decay_steps

    def update_coordinates(self, gradient, parameter, state, shared):
        update, state, shared = super().update_coordinates(
            gradient, parameter, state, shared
        )
        rate = self._rate(shared["step"])
        return update - rate * self.weight_decay * parameter, state, shared

    def _rate(self, step):
        if self.decay_steps is None:
            return self.learning_rate
        done = ops.minimum((step - 1.0) / self.decay_steps, 1.0)
        return self.learning_rate * 0.5 * (1.0 + ops.cos(math.pi * done))

    def get_config(self):
        return {
            **super().get_config(),
            "weight_decay": self.weight_decay,
            "decay_steps": self.decay_steps,
        }


@keras.saving.register_keras_serializable(package="keras_l2l")
class Nadam(Adam):
    """Adam with Nesterov momentum, equal to `keras.optimizers.Nadam`.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.001`.
        **kwargs: As for `Adam`.

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
        first = state["first_moment"]
        first = first + (gradient - first) * (1.0 - self.beta_1)
        second = state["second_moment"]
        second = second + (ops.square(gradient) - second) * (1.0 - self.beta_2)
        direction = later * first / (1.0 - product * later)
        direction += (1.0 - now) * gradient / (1.0 - product)
        root = ops.sqrt(second / (1.0 - self.beta_2**step))
        update = -self.learning_rate * direction / (root + self.epsilon)
        state = {"first_moment": first, "second_moment": second}
        return update, state, {"step": step, "product": product}
