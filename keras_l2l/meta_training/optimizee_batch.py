"""Slots for episodes, and batches of them that are trained together."""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_l2l.inner_loop.batched_task import BatchedTask


@dataclasses.dataclass
class EpisodeSlot:
    """A slot of a batch and its current episode.

    Attributes:
        length: Integer. Inner steps of the episode.
        position: Integer. Inner steps done in this episode.
        first_loss: Float. The first loss of this episode; NaN until known.
        running: Boolean. Whether an optimizee is in the midst of its episode.
        episodes: Integer. Episodes that have begun in this slot.
    """

    length: int
    position: int = 0
    first_loss: float = math.nan
    running: bool = False
    episodes: int = 0


@dataclasses.dataclass
class OptimizeeBatch:
    """`K` optimizees of one task that are trained together.

    Attributes:
        task_index: Integer. Index of their task.
        task: A `Task`; a `BatchedTask` if there are several slots.
        slots: List of `K` `EpisodeSlot`.
        first_slot: Integer. Number of the first slot among those of all
            batches.
        carry: The estimator's carry for all optimizees; `None` while no slot
            is running.
    """

    task_index: int
    task: Any
    slots: list[EpisodeSlot]
    first_slot: int
    carry: Any = None

    @property
    def idle_rows(self):
        """Indices of the slots that have no optimizee."""
        return [i for i, slot in enumerate(self.slots) if not slot.running]

    @property
    def is_running(self):
        """Whether any slot has an optimizee."""
        return any(slot.running for slot in self.slots)

    def start(self, estimator, rule, rows, seeds):
        """Puts fresh optimizees into some slots.

        Args:
            estimator: A `MetaGradientEstimator`.
            rule: An `UpdateRule`.
            rows: List of integers, the slots' indices in this batch.
            seeds: List of integers, one for each of `rows`.
        """
        if len(self.slots) == 1:
            self.carry = estimator.start(rule, self.task, seeds[0])
            return
        task = BatchedTask(self.task.task, len(rows), self.task.count)
        fresh = estimator.start(rule, task, seeds)
        if self.carry is None:
            self.carry = fresh
        else:
            self.carry = _with_rows(self.carry, rows, fresh, len(self.slots))

    def carry_like(self, estimator, rule, arrays):
        """The carry that arrays hold, in the order of `tf.nest.flatten`.

        Args:
            estimator: A `MetaGradientEstimator`.
            rule: An `UpdateRule`.
            arrays: Iterator of arrays, from which the carry takes its own.

        Returns:
            A structure of tensors, as `carry`.

        Raises:
            ValueError: If an array has another shape than its tensor.
        """
        dummy_seeds = [0] * len(self.slots) if len(self.slots) > 1 else 0

        def restored(leaf):
            array = next(arrays)
            if array.shape != leaf.shape:
                raise ValueError(
                    f"expected an array of shape {tuple(leaf.shape)}, "
                    f"received one of shape {array.shape}"
                )
            return tf.constant(array, leaf.dtype)

        return tf.nest.map_structure(
            restored, estimator.start(rule, self.task, dummy_seeds)
        )

    def weights(self, loss_weights, unroll):
        """The weights of the losses of the next unroll.

        Args:
            loss_weights: Array `[horizon]`.
            unroll: Integer.

        Returns:
            Tensor `[unroll, K]`; `[unroll]` if there is one slot.
        """
        columns = [
            loss_weights[slot.position : slot.position + unroll]
            for slot in self.slots
        ]
        return self._like_losses(np.transpose(columns))

    def first_losses(self):
        """The first losses: a tensor `[K]`; a scalar if there is one slot."""
        return self._like_losses([slot.first_loss for slot in self.slots])

    def advance(self, unroll, first_losses, diverged):
        """Updates the slots after an unroll; ends episodes that are over.

        Args:
            unroll: Integer.
            first_losses: Tensor like `first_losses()`.
            diverged: Array of booleans `[K]`.
        """
        for slot, first_loss, has_diverged in zip(
            self.slots, np.atleast_1d(first_losses), diverged
        ):
            slot.first_loss = float(first_loss)
            slot.position += unroll
            if has_diverged or slot.position >= slot.length:
                slot.running = False
        if not self.is_running:
            self.carry = None

    def _like_losses(self, values):
        """A tensor without the last axis `[K]` if there is one slot."""
        values = np.asarray(values, "float32")
        return tf.constant(values if len(self.slots) > 1 else values[..., 0])


def _with_rows(carry, rows, fresh, count):
    """The carry of `count` optimizees with some of them replaced."""
    indices = [[row] for row in rows]

    def put(old, new):
        updated = tf.tensor_scatter_nd_update(
            tf.reshape(old, [count, -1]),
            indices,
            tf.reshape(new, [len(rows), -1]),
        )
        return tf.reshape(updated, old.shape)

    return tf.nest.map_structure(put, carry, fresh)
