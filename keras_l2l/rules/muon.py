"""Muon: momentum orthogonalised by a Newton-Schulz iteration."""

import math

import keras
from keras import ops

from keras_l2l import checks
from keras_l2l.rules import preprocessing
from keras_l2l.rules.base import RuleState
from keras_l2l.rules.learning_rate import LearningRateRule
from keras_l2l.rules.orthogonalization import as_matrix, matrix_shape

_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_ITERATIONS = 5


@keras.saving.register_keras_serializable(package="keras_l2l")
class Muon(LearningRateRule):
    """Orthogonalised momentum for hidden kernels, Adam for everything else.

    Equal to `optax.contrib.muon`. Adam, with Nesterov momentum, updates
    vectors, embeddings (known by their path) and the head, which is the last
    matrix of a model. The updates of kernels are scaled to the root mean
    square of Adam's, so that one learning rate serves both.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.001`.
        momentum: Float in [0, 1). Decay of the momentum of kernels.
            Defaults to `0.95`.
        update_size: Float > 0. Root mean square of an update of a kernel over
            the learning rate. Defaults to `0.2`.
        beta_1: Float in [0, 1). Decay of Adam's first moment.
            Defaults to `0.9`.
        beta_2: Float in [0, 1). Decay of Adam's second moment.
            Defaults to `0.999`.
        epsilon: Float, added to norms and to the root of the second moment.
            Defaults to `1e-8`.
        adam_head: Boolean. Whether Adam updates the head. Defaults to `True`.
        name: String. The name of the rule.
        dtype: The dtype of the computation. Defaults to `"float32"`.

    Reference:
        - [Jordan et al., 2024](https://kellerjordan.github.io/posts/muon/)
        - [Liu et al., 2025](https://arxiv.org/abs/2502.16982), the scale.
    """

    def __init__(
        self,
        learning_rate=0.001,
        momentum=0.95,
        update_size=0.2,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        adam_head=True,
        **kwargs,
    ):
        super().__init__(learning_rate, **kwargs)
        checks.fractions(momentum=momentum, beta_1=beta_1, beta_2=beta_2)
        checks.positive_numbers(update_size=update_size, epsilon=epsilon)
        self.momentum = float(momentum)
        self.update_size = float(update_size)
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)
        self.adam_head = bool(adam_head)

    @property
    def granularity(self):
        # Which matrix is the head depends on all others.
        return "model" if self.adam_head else "tensor"

    @property
    def reads_paths(self):
        return True

    def initial_state(self, parameters):
        return self.named_initial_state(parameters, None)

    def named_initial_state(self, parameters, paths):
        matrices = [i for i, p in enumerate(parameters) if len(p.shape) > 1]
        kernels = set(matrices[:-1] if self.adam_head else matrices)
        if paths is not None:
            kernels -= {i for i in kernels if "embedding" in paths[i].lower()}

        def local(index, parameter):
            zeros = ops.zeros(ops.shape(parameter), self.compute_dtype)
            # The keys of the state say who updates a parameter from now on.
            if index in kernels:
                return {"momentum": zeros}
            return {"first_moment": zeros, "second_moment": zeros}

        return RuleState(
            local=[local(i, p) for i, p in enumerate(parameters)],
            shared={"step": ops.zeros((), self.compute_dtype)},
        )

    def call(self, gradients, parameters, state):
        step = state.shared["step"] + 1.0
        updates, local = [], []
        for raw, parameter, old in zip(gradients, parameters, state.local):
            gradient = preprocessing.finite(ops.cast(raw, self.compute_dtype))
            update = self._muon if "momentum" in old else self._adam
            direction, new = update(gradient, old, step)
            updates.append(
                ops.cast(-self.learning_rate * direction, parameter.dtype)
            )
            local.append(new)
        return updates, RuleState(local, {"step": step})

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "update_size": self.update_size,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "adam_head": self.adam_head,
        }

    def _muon(self, gradient, old, step):
        momentum = _average(old["momentum"], gradient, self.momentum)
        ahead = _nesterov(momentum, gradient, self.momentum, step)
        matrix = _newton_schulz(as_matrix(ahead), self.epsilon)
        scale = self.update_size * math.sqrt(max(matrix_shape(gradient.shape)))
        direction = ops.reshape(scale * matrix, ops.shape(gradient))
        return direction, {"momentum": momentum}

    def _adam(self, gradient, old, step):
        first = _average(old["first_moment"], gradient, self.beta_1)
        second = _average(
            old["second_moment"], ops.square(gradient), self.beta_2
        )
        ahead = _nesterov(first, gradient, self.beta_1, step)
        root = ops.sqrt(second / (1.0 - self.beta_2**step)) + self.epsilon
        return ahead / root, {"first_moment": first, "second_moment": second}


def _average(old, new, decay):
    return decay * old + (1.0 - decay) * new


def _nesterov(average, gradient, decay, step):
    """The average a step ahead, both parts without bias."""
    return decay * average / (1.0 - decay ** (step + 1.0)) + (
        1.0 - decay
    ) * gradient / (1.0 - decay**step)


def _newton_schulz(matrix, epsilon):
    """Brings the singular values of a matrix `[n, m]` to about one."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    if is_tall:
        matrix = ops.transpose(matrix)
    # The root has a derivative at a matrix of zeros, too.
    squares = ops.maximum(ops.sum(ops.square(matrix)), 1e-30)
    matrix = matrix / (ops.sqrt(squares) + epsilon)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = ops.matmul(matrix, ops.transpose(matrix))
        factor = b * gram + c * ops.matmul(gram, gram)
        matrix = a * matrix + ops.matmul(factor, matrix)
    return ops.transpose(matrix) if is_tall else matrix
