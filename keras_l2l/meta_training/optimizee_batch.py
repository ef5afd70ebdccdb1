"""Slots for episodes, and batches of them that are trained together."""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_l2l.inner_loop.batched_task import BatchedTask
from keras_l2l.meta_training.replicas import replica_of


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

    def begin(self, length):
        """Begins the next episode."""
        self.length, self.position = length, 0
        self.first_loss, self.running = math.nan, True
        self.episodes += 1


@dataclasses.dataclass
class OptimizeeBatch:
    """`K` optimizees of one task that are trained together.

    Attributes:
        task_index: Integer. Index of their task.
        task: A `Task`, or a `BatchedTask` of the `K` optimizees.
        slots: List of `K` `EpisodeSlot`.
        numbers: List of `K` integers, the slots' numbers among those of all
            batches.
        carry: The estimator's carry for all optimizees; `None` while no slot
            is running.
    """

    task_index: int
    task: Any
    slots: list[EpisodeSlot]
    numbers: list[int]
    carry: Any = None

    @property
    def is_batched(self):
        """Whether tensors have the axis `[K]`."""
        return isinstance(self.task, BatchedTask)

    @property
    def is_running(self):
        """Whether any slot has an optimizee."""
        return any(slot.running for slot in self.slots)

    def share(self, replica, replicas):
        """The part of the batch that one of several replicas trains.

        Args:
            replica: Integer, the index of the replica.
            replicas: Integer, the number of replicas.

        Returns:
            An `OptimizeeBatch` with some of the same slots, perhaps none,
            and with the carry of these.
        """
        rows = [
            row
            for row, number in enumerate(self.numbers)
            if replica_of(number, replicas) == replica
        ]
        if len(rows) == len(self.slots):
            return self
        task = self.task
        if self.is_batched:
            # In the same blocks of coordinates, however few there are.
            task = BatchedTask(task.task, len(rows), task.largest_count)
        share = OptimizeeBatch(
            self.task_index,
            task,
            [self.slots[row] for row in rows],
            [self.numbers[row] for row in rows],
        )
        if self.carry is not None and share.is_running:
            share.carry = tf.nest.map_structure(
                lambda leaf: _take_rows(leaf, rows, len(self.slots)),
                self.carry,
            )
        return share

    def start(self, estimator, rule, seeds):
        """Puts fresh optimizees into some slots.

        Args:
            estimator: A `MetaGradientEstimator`.
            rule: An `UpdateRule`.
            seeds: Dict from numbers of slots, in any batches, to the seeds of
                the episodes that begin there.
        """
        rows = [row for row, n in enumerate(self.numbers) if n in seeds]
        seeds = [seeds[self.numbers[row]] for row in rows]
        if not rows:
            return
        if not self.is_batched:
            self.carry = estimator.start(rule, self.task, seeds[0])
            return
        task = BatchedTask(self.task.task, len(rows), self.task.largest_count)
        fresh = estimator.start(rule, task, seeds)
        if self.carry is None:
            self.carry = fresh
        else:
            self.carry = _with_rows(self.carry, rows, fresh, len(self.slots))

    def release(self):
        """Drops the carry if no slot is running."""
        if not self.is_running:
            self.carry = None

    def carry_specs(self, estimator, rule):
        """The shapes of a carry.

        Args:
            estimator: A `MetaGradientEstimator`.
            rule: An `UpdateRule`.

        Returns:
            List of `tf.TensorSpec`, in the order of `tf.nest.flatten`.
        """
        dummy_seeds = [0] * len(self.slots) if self.is_batched else 0
        carry = estimator.start(rule, self.task, dummy_seeds)
        return [
            tf.TensorSpec(leaf.shape, leaf.dtype)
            for leaf in tf.nest.flatten(carry)
        ]

    def gather(self, shares, specs):
        """The carry of the whole batch, of those of its shares.

        Args:
            shares: List of `OptimizeeBatch`, from `share`.
            specs: From `carry_specs`.

        Returns:
            List of arrays, zero in the slots of other shares.
        """
        count, arrays = len(self.slots), []
        for spec in specs:
            columns = spec.shape.num_elements() // count
            arrays.append(np.zeros([count, columns], spec.dtype.as_numpy_dtype))
        for share in shares:
            rows = [self.numbers.index(number) for number in share.numbers]
            if share.carry is not None:
                for array, leaf in zip(arrays, tf.nest.flatten(share.carry)):
                    array[rows] = np.reshape(leaf, [len(rows), -1])
        return [np.reshape(a, s.shape) for a, s in zip(arrays, specs)]

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
        dummy_seeds = [0] * len(self.slots) if self.is_batched else 0

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

    def seeds(self, step):
        """What an estimator draws by: it depends on step and slot alone.

        Args:
            step: Integer, the number of the outer step.

        Returns:
            Integer tensor `[K, 2]`; `[2]` without the axis of optimizees.
        """
        seeds = [[step, number] for number in self.numbers]
        return tf.constant(seeds if self.is_batched else seeds[0])

    def weights(self, loss_weights, unroll):
        """The weights of the losses of the next unroll.

        Args:
            loss_weights: Array `[horizon]`.
            unroll: Integer.

        Returns:
            Tensor `[unroll, K]`; `[unroll]` without the axis of optimizees.
        """
        columns = [
            loss_weights[slot.position : slot.position + unroll]
            for slot in self.slots
        ]
        return self._like_losses(np.transpose(columns))

    def first_losses(self):
        """The first losses: a tensor `[K]`; a scalar without that axis."""
        return self._like_losses([slot.first_loss for slot in self.slots])

    def advance(self, unroll, first_losses, diverged):
        """Updates the slots after an unroll; ends episodes that are over.

        Args:
            unroll: Integer.
            first_losses: Array `[K]`.
            diverged: Array of booleans `[K]`.
        """
        for slot, first_loss, has_diverged in zip(
            self.slots, first_losses, diverged
        ):
            slot.first_loss = float(first_loss)
            slot.position += unroll
            if has_diverged or slot.position >= slot.length:
                slot.running = False

    def _like_losses(self, values):
        """A tensor, without the last axis `[K]` unless batched."""
        values = np.asarray(values, "float32")
        return tf.constant(values if self.is_batched else values[..., 0])


def _take_rows(leaf, rows, count):
    """Some rows of a tensor of the carry of `count` optimizees."""
    taken = tf.gather(tf.reshape(leaf, [count, -1]), rows)
    first = leaf.shape[0] // count * len(rows)
    return tf.reshape(taken, [first, *leaf.shape[1:]])


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
