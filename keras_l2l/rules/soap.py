"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

import keras
from keras import ops

from keras_l2l import checks
from keras_l2l.rules import preprocessing
from keras_l2l.rules.base import RuleState
from keras_l2l.rules.learning_rate import LearningRateRule
from keras_l2l.rules.orthogonalization import as_matrix, matrix_shape

_LARGEST = 1e36  # of a sum of squares


@keras.saving.register_keras_serializable(package="keras_l2l")
class SOAP(LearningRateRule):
    """Adam in the eigenbasis of Shampoo's preconditioner.

    For a matrix G of gradients, averages of G Gᵀ and Gᵀ G are kept, and their
    eigenvectors, which a step of the power iteration follows. Adam runs on
    the gradient in that basis. As in the authors' code the first gradient
    starts the averages and updates nothing, vectors are updated by Adam, and
    a side longer than `max_size` keeps the identity as its basis.

    Args:
        learning_rate: Float > 0. The initial value of the one meta-parameter.
            Defaults to `0.003`.
        beta_1: Float in [0, 1). Decay of the first moment.
            Defaults to `0.95`.
        beta_2: Float in [0, 1). Decay of the second moment, and of the
            averages of G Gᵀ and Gᵀ G. Defaults to `0.95`.
        epsilon: Float, added to the root of the second moment.
            Defaults to `1e-8`.
        frequency: Integer. The basis is updated each time this number of
            steps is done. Defaults to `10`.
        max_size: Integer. Rows or columns up to which a side of a matrix has
            a basis of its own. Defaults to `1024`.
        name: String. The name of the rule.
        dtype: The dtype of the computation. Defaults to `"float32"`.

    Reference:
        [Vyas et al., 2024](https://arxiv.org/abs/2409.11321)
    """

    def __init__(
        self,
        learning_rate=0.003,
        beta_1=0.95,
        beta_2=0.95,
        epsilon=1e-8,
        frequency=10,
        max_size=1024,
        **kwargs,
    ):
        super().__init__(learning_rate, **kwargs)
        checks.fractions(beta_1=beta_1, beta_2=beta_2)
        self.frequency, self.max_size = checks.positive_integers(
            frequency=frequency, max_size=max_size
        )
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)

    @property
    def granularity(self):
        return "tensor"

    def initial_state(self, parameters):
        dtype = self.compute_dtype

        def local(parameter):
            zeros = ops.zeros(ops.shape(parameter), dtype)
            state = {"first_moment": zeros, "second_moment": zeros}
            for side, size in self._sides(parameter):
                state[f"{side}_average"] = ops.zeros((size, size), dtype)
                state[f"{side}_basis"] = ops.eye(size, dtype=dtype)
            return state

        return RuleState(
            local=[local(parameter) for parameter in parameters],
            shared={"step": ops.zeros((), dtype)},
        )

    def call(self, gradients, parameters, state):
        # Gradients seen before: the first one makes no update.
        step = state.shared["step"]
        updates, local = [], []
        for raw, parameter, old in zip(gradients, parameters, state.local):
            gradient = preprocessing.finite(ops.cast(raw, self.compute_dtype))
            direction, new = self._adam(gradient, old, step)
            new = self._next_bases(gradient, parameter, new, step)
            updates.append(
                ops.cast(-self.learning_rate * direction, parameter.dtype)
            )
            local.append(new)
        return updates, RuleState(local, {"step": step + 1.0})

    def get_config(self):
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "frequency": self.frequency,
            "max_size": self.max_size,
        }

    def _sides(self, parameter):
        """Those sides of a parameter that have a basis, with their sizes."""
        if len(parameter.shape) < 2:
            return []
        sizes = zip(("row", "column"), matrix_shape(parameter.shape))
        return [(side, size) for side, size in sizes if size <= self.max_size]

    def _adam(self, gradient, old, step):
        """The direction and the next moments; neither at the first step."""
        begun = ops.cast(step > 0.0, gradient.dtype)
        first = old["first_moment"]
        first += begun * (1.0 - self.beta_1) * (gradient - first)
        second, count = old["second_moment"], ops.maximum(step, 1.0)
        turned = _turn(gradient, old)
        second += begun * (1.0 - self.beta_2) * (ops.square(turned) - second)
        direction = _turn(first, old) / (ops.sqrt(second) + self.epsilon)
        correction = ops.sqrt(1.0 - self.beta_2**count)
        correction /= 1.0 - self.beta_1**count
        direction = begun * correction * _turn(direction, old, back=True)
        return direction, {
            **old,
            "first_moment": first,
            "second_moment": second,
        }

    def _next_bases(self, gradient, parameter, state, step):
        sides = self._sides(parameter)
        if not sides:
            return state
        matrix = as_matrix(gradient)
        for side, _ in sides:
            factor = matrix if side == "row" else ops.transpose(matrix)
            square = ops.nan_to_num(
                ops.matmul(factor, ops.transpose(factor)),
                posinf=_LARGEST,
                neginf=-_LARGEST,
            )
            average = state[f"{side}_average"]
            average += (1.0 - self.beta_2) * (square - average)
            state = {**state, f"{side}_average": average}
        names = [f"{side}_basis" for side, _ in sides]
        is_due = ops.equal(step % self.frequency, 0.0)
        bases = ops.cond(
            is_due,
            lambda: self._new_bases(state, sides, step),
            lambda: [*(state[n] for n in names), state["second_moment"]],
        )
        bases = [ops.stop_gradient(value) for value in bases]
        return {**state, **dict(zip([*names, "second_moment"], bases))}

    def _new_bases(self, state, sides, step):
        """The bases, and the second moment in the order of their columns."""
        shape = ops.shape(state["second_moment"])
        second, bases = as_matrix(state["second_moment"]), []
        for side, _ in sides:
            average = state[f"{side}_average"]
            # Eigenvectors do not depend on the scale.
            largest = ops.maximum(ops.max(ops.abs(average)), 1e-30)
            basis, order = ops.cond(
                ops.equal(step, 0.0),
                lambda average=average / largest: _eigenvectors(average),
                lambda average=average / largest, side=side: _power_iteration(
                    average, state[f"{side}_basis"]
                ),
            )
            bases.append(basis)
            second = ops.take(second, order, axis=0 if side == "row" else 1)
        return [*bases, ops.reshape(second, shape)]


def _turn(tensor, state, back=False):
    """A tensor in the bases of its sides, or from there back."""
    row, column = state.get("row_basis"), state.get("column_basis")
    if row is None and column is None:
        return tensor
    matrix = as_matrix(tensor)
    if row is not None:
        matrix = ops.matmul(row if back else ops.transpose(row), matrix)
    if column is not None:
        matrix = ops.matmul(matrix, ops.transpose(column) if back else column)
    return ops.reshape(matrix, ops.shape(tensor))


def _eigenvectors(matrix):
    """Columns in descending order of the eigenvalues."""
    _, vectors = ops.eigh(matrix)
    size = matrix.shape[0]
    return ops.flip(vectors, axis=1), ops.arange(size, dtype="int32")


def _power_iteration(matrix, basis):
    """A step towards the eigenvectors, and the order of the old ones."""
    values = ops.sum(basis * ops.matmul(matrix, basis), axis=0)
    order = ops.cast(ops.argsort(-values), "int32")
    basis, _ = ops.qr(ops.matmul(matrix, ops.take(basis, order, axis=1)))
    return basis, order
