"""SOAP equals the algorithm of its authors, written out in NumPy."""

import numpy as np
import pytest
from keras import ops

from keras_l2l import rules

# At most one row more than columns: the eigenvectors of the first gradient are
# unique but for their signs.
SHAPES = [(5, 4), (2, 2, 3), (5,), ()]
RATE, BETA_1, BETA_2, EPSILON = 0.02, 0.9, 0.95, 1e-8


class Reference:
    """One matrix, as in https://github.com/nikhilvyas/SOAP.

    The first moment is kept in the eigenbasis, and turned with it.
    """

    def __init__(self, shape, frequency, max_size):
        self.frequency = frequency
        self.sides = [i for i in (0, 1) if shape[i] <= max_size]
        self.squares = [np.zeros((n, n)) for n in shape]
        self.bases = [np.eye(n) for n in shape]
        self.first, self.second = np.zeros(shape), np.zeros(shape)
        self.step = -1

    def project(self, matrix):
        return self.bases[0].T @ matrix @ self.bases[1]

    def project_back(self, matrix):
        return self.bases[0] @ matrix @ self.bases[1].T

    def update(self, gradient):
        self.step += 1
        update = np.zeros_like(gradient)
        if self.step:
            turned = self.project(gradient)
            self.first += (1 - BETA_1) * (turned - self.first)
            self.second += (1 - BETA_2) * (turned**2 - self.second)
            size = RATE * np.sqrt(1 - BETA_2**self.step)
            size /= 1 - BETA_1**self.step
            direction = self.first / (np.sqrt(self.second) + EPSILON)
            update = -size * self.project_back(direction)
        first = self.project_back(self.first)
        for side in self.sides:
            factor = gradient if side == 0 else gradient.T
            square = self.squares[side]
            square += (1 - BETA_2) * (factor @ factor.T - square)
            if not self.step:
                _, vectors = np.linalg.eigh(square)
                self.bases[side] = vectors[:, ::-1]
            elif self.step % self.frequency == 0:
                basis = self.bases[side]
                order = np.argsort(-np.diag(basis.T @ square @ basis))
                self.second = np.take(self.second, order, side)
                self.bases[side], _ = np.linalg.qr(square @ basis[:, order])
        self.first = self.project(first)
        return update


def _values(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in SHAPES]


@pytest.mark.parametrize(("frequency", "max_size"), [(1, 9), (3, 9), (2, 4)])
def test_equals_the_authors_step_for_step(frequency, max_size):
    rule = rules.SOAP(
        *(RATE, BETA_1, BETA_2, EPSILON, frequency, max_size), dtype="float64"
    )
    ours = [ops.convert_to_tensor(v) for v in _values(0)]
    theirs = _values(0)
    state = rule.initial_state(ours)
    matrices = [(5, 4), (4, 3), (5, 1), (1, 1)]
    references = [
        Reference(shape, frequency, max_size if index < 2 else 0)
        for index, shape in enumerate(matrices)
    ]
    for step in range(12):
        gradients = [
            p - target + 0.3 * noise
            for p, target, noise in zip(theirs, _values(1), _values(2 + step))
        ]
        updates, state = rule(
            [ops.convert_to_tensor(g) for g in gradients], ours, state
        )
        ours = [p + u for p, u in zip(ours, updates)]
        theirs = [
            p + reference.update(g.reshape(shape)).reshape(p.shape)
            for p, g, shape, reference in zip(
                theirs, gradients, matrices, references
            )
        ]
        for one, two in zip(ours, theirs):
            np.testing.assert_allclose(one, two, 1e-7, 1e-9)
    assert np.abs(np.asarray(ours[0]) - _values(0)[0]).max() > 0.1
