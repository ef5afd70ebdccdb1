"""Optimizees in training, in groups that are trained side by side."""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_l2l.inner_loop.batched_task import BatchedTask


@dataclasses.dataclass
class EpisodeSlot:
    """Where one optimizee after another is trained.

    Attributes:
        length: Inner steps of the current episode.
        position: Inner steps done in this episode.
        first_loss: The first loss of this episode; NaN until it is known.
        running: Whether there is an optimizee, in the midst of its episode.
    """

    length: int
    position: int = 0
    first_loss: float = math.nan
    running: bool = False


@dataclasses.dataclass
class OptimizeeBatch:
    """Optimizees of one task that are trained side by side.

    Attributes:
        task_index: Which task the optimizees are of.
        task: A `Task`; a `BatchedTask` if there are several places.
        places: List of `EpisodeSlot`.
        carry: What the estimator carries of all of them, or `None` before
            fresh episodes.
    """

    task_index: int
    task: Any
    places: list[EpisodeSlot]
    carry: Any = None

    @property
    def empty_rows(self):
        """Indices of the places that have no optimizee."""
        return [i for i, place in enumerate(self.places) if not place.running]

    @property
    def is_running(self):
        """Whether any place has an optimizee."""
        return any(place.running for place in self.places)

    @property
    def dummy_seeds(self):
        """Any seed, or one for each of several places."""
        return [0] * len(self.places) if len(self.places) > 1 else 0

    def start(self, estimator, rule, rows, seeds):
        """Puts fresh optimizees into some places.

        Args:
            estimator: A `MetaGradientEstimator`.
            rule: An `UpdateRule`.
            rows: List of integers, the places.
            seeds: List of integers, one for each.
        """
        if len(self.places) == 1:
            self.carry = estimator.start(rule, self.task, seeds[0])
            return
        task = BatchedTask(self.task.task, len(rows))
        fresh = estimator.start(rule, task, seeds)
        if self.carry is None:
            self.carry = fresh
        else:
            self.carry = _with_rows(self.carry, rows, fresh, len(self.places))

    def weights(self, loss_weights, unroll):
        """The weights of the losses to come.

        Args:
            loss_weights: Array `[horizon]`.
            unroll: Integer.

        Returns:
            Tensor `[unroll]`, or `[unroll, K]` of `K` places.
        """
        columns = [
            loss_weights[place.position : place.position + unroll]
            for place in self.places
        ]
        return self._like_losses(np.transpose(columns))

    def first_losses(self):
        """The first losses: a scalar, or a tensor `[K]` of `K` places."""
        return self._like_losses([place.first_loss for place in self.places])

    def advance(self, unroll, first_losses, diverged):
        """Takes down what an unroll gave, and ends the episodes that are over.

        Args:
            unroll: Integer.
            first_losses: Tensor like `first_losses()`.
            diverged: Array of booleans `[K]`.
        """
        for place, first_loss, is_lost in zip(
            self.places, np.atleast_1d(first_losses), diverged
        ):
            place.first_loss = float(first_loss)
            place.position += unroll
            if is_lost or place.position >= place.length:
                place.running = False
        if not self.is_running:
            self.carry = None

    def _like_losses(self, values):
        """The last axis, of optimizees, goes where there is but one."""
        values = np.asarray(values, "float32")
        return tf.constant(values if len(self.places) > 1 else values[..., 0])


def _with_rows(carry, rows, fresh, count):
    """The carry of `count` optimizees, some replaced by fresh ones."""
    indices = [[row] for row in rows]

    def put(old, new):
        updated = tf.tensor_scatter_nd_update(
            tf.reshape(old, [count, -1]),
            indices,
            tf.reshape(new, [len(rows), -1]),
        )
        return tf.reshape(updated, old.shape)

    return tf.nest.map_structure(put, carry, fresh)
