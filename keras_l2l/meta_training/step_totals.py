"""What an outer step sums over optimizees and replicas."""

import numpy as np
import tensorflow as tf

# For each slot: its meta-loss, its first loss, whether it diverged.
_FIGURES = 3


class StepTotals:
    """Meta-gradients, their number and the losses, as one message.

    The sum is one of float64, whose rounding is far below that of the
    meta-parameters: it does not depend on which replica trained what.

    Args:
        rule: An `UpdateRule`.
        numbers: List of integers, the slots of this step.
    """

    def __init__(self, rule, numbers):
        self._variables = rule.trainable_variables
        self._rows = {number: row for row, number in enumerate(numbers)}
        sizes = [int(np.prod(v.shape)) for v in self._variables]
        self._ends = np.cumsum(sizes)
        size = 1 + sum(sizes) + _FIGURES * len(numbers)
        self._message = np.zeros(size, "float64")

    def add(self, numbers, result):
        """Adds the result of a batch.

        Args:
            numbers: List of integers, its slots.
            result: An `OuterStepResult`.
        """
        figures = (result.meta_losses, result.first_losses, result.diverged)
        for column, values in enumerate(figures):
            rows = [self._rows[number] for number in numbers]
            self._figures[rows, column] = np.atleast_1d(values)
        contributors = int(np.sum(result.contributes))
        if contributors:
            self._message[0] += contributors
            for total, gradient in zip(self._gradients, result.gradients):
                np.add(total, np.ravel(gradient), out=total)

    def reduce(self, replicas):
        """Sums over all processes.

        Args:
            replicas: A `Replicas`.
        """
        self._message = replicas.sum(self._message)

    def figures(self, numbers):
        """The figures of some slots.

        Args:
            numbers: List of `K` integers.

        Returns:
            Tuple `(meta_losses, first_losses, diverged)` of arrays `[K]`.
        """
        rows = [self._rows[number] for number in numbers]
        meta_losses, first_losses, diverged = self._figures[rows].T
        return meta_losses, first_losses, diverged.astype(bool)

    def mean_gradients(self):
        """The mean meta-gradient: a list of tensors, `None` without any."""
        contributors = self._message[0]
        if not contributors:
            return None
        return [
            tf.constant(
                np.reshape(total / contributors, variable.shape),
                variable.dtype,
            )
            for total, variable in zip(self._gradients, self._variables)
        ]

    @property
    def _gradients(self):
        """Views of the message, a vector for each of the variables."""
        return np.split(self._message[1 : 1 + self._ends[-1]], self._ends[:-1])

    @property
    def _figures(self):
        """A view of the message, a row for each slot."""
        return np.reshape(self._message[1 + self._ends[-1] :], [-1, _FIGURES])
