"""The episodes of a meta-training, advanced by one unroll at a time."""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from keras_l2l.inner_loop.batched_task import BatchedTask
from keras_l2l.meta_training.optimizee_batch import EpisodeSlot, OptimizeeBatch
from keras_l2l.meta_training.outer_step import compile_outer_step
from keras_l2l.tasks.base import episode_seed

# Streams of random numbers of the outer loop itself.
_LENGTHS, _TASKS = 1, 2


class EpisodePool:
    """Batches of optimizees, whose meta-gradients make one outer step.

    The seed and the length of an episode depend on its slot and on how many
    episodes began there before, not on the order in which slots become idle.

    Args:
        config: A `MetaTrainingConfig`.
        schedule: A `HorizonSchedule`: the lengths of the episodes that begin.

    Attributes:
        batches: List of `OptimizeeBatch`.
    """

    def __init__(self, config, schedule):
        self._config = config
        self._schedule = schedule
        self._steps = 0
        # Counts the episodes of all slots, in a run that an earlier version
        # began: there the seed depended on the order.
        self._episodes_in_order = None
        self._functions = {}
        self.batches = self._make_batches()

    @property
    def optimizees(self):
        """Optimizees in an outer step, over all tasks of the step."""
        return self._config.optimizees * self._config.tasks_per_step

    @property
    def inner_steps(self):
        """Inner steps in an outer step, over all optimizees."""
        return self.optimizees * self._config.unroll

    def step(self):
        """Unrolls every optimizee of the tasks of this step once.

        Returns:
            Tuple `(meta_losses, gradients)`: a list of floats, of the
            optimizees that did not diverge, and the mean meta-gradient of
            those that contribute (`None` if there are none).
        """
        losses, gradients, contributors = [], [], 0
        tasks = self._tasks_of_step()
        for index, batch in enumerate(self.batches):
            if batch.task_index not in tasks:
                continue
            self._start_episodes(batch)
            result = self._function(batch)(
                batch.carry,
                batch.first_losses(),
                batch.weights(self._config.loss_weights, self._config.unroll),
                tf.constant([self._steps, index]),
            )
            batch.carry = result.carry
            diverged = np.atleast_1d(result.diverged)
            batch.advance(self._config.unroll, result.first_losses, diverged)
            losses += np.atleast_1d(result.meta_losses)[~diverged].tolist()
            contributes = np.atleast_1d(result.contributes)
            if contributes.any():
                gradients.append(result.gradients)
                contributors += int(contributes.sum())
        self._steps += 1
        mean = [sum(parts) / contributors for parts in zip(*gradients)]
        return losses, mean or None

    def state(self):
        """Everything that changes from step to step.

        Returns:
            Tuple `(arrays, document)`: a list of arrays, and a dict for JSON.
        """
        document = {
            "steps": self._steps,
            "groups": [
                [dataclasses.asdict(slot) for slot in batch.slots]
                for batch in self.batches
            ],
        }
        if self._episodes_in_order is not None:
            document["episodes"] = self._episodes_in_order
        carries = [b.carry for b in self.batches if b.carry is not None]
        return [leaf.numpy() for leaf in tf.nest.flatten(carries)], document

    def restore(self, arrays, document):
        """Restores what `state` returned; changes nothing if it raises.

        Args:
            arrays: Iterator of arrays.
            document: Dict.
        """
        config, restored = self._config, []
        for old, slots in zip(self.batches, document["groups"], strict=True):
            batch = dataclasses.replace(
                old, slots=[EpisodeSlot(**slot) for slot in slots], carry=None
            )
            if batch.is_running:
                batch.carry = batch.carry_like(
                    config.estimator, config.rule, arrays
                )
            restored.append(batch)
        self._steps = document["steps"]
        self._episodes_in_order = document.get("episodes")
        self.batches = restored

    def _make_batches(self):
        # The first episodes have different lengths, so that the optimizees
        # are spread over the horizon from then on.
        config, longest = self._config, self._schedule.horizons[1]
        unrolls = longest // config.unroll
        lengths = [
            longest - k * unrolls // config.optimizees * config.unroll
            for k in range(config.optimizees)
        ]
        batches, first_slot = [], 0
        for task_index, task in enumerate(config.tasks):
            for part in np.array_split(lengths, self._batch_count(task)):
                batches.append(
                    OptimizeeBatch(
                        task_index,
                        BatchedTask(task, len(part)) if len(part) > 1 else task,
                        [EpisodeSlot(int(length)) for length in part],
                        first_slot,
                    )
                )
                first_slot += len(part)
        return batches

    def _batch_count(self, task):
        """In how many batches the optimizees of a task are trained."""
        config, capacity = self._config, 1
        # To clip the meta-gradient of each optimizee needs them one by one.
        if config.clipnorm is None:
            capacity = config.estimator.capacity(
                config.rule, task, config.unroll
            )
        return math.ceil(config.optimizees / capacity)

    def _start_episodes(self, batch):
        """Begins an episode in each idle slot."""
        rows, seeds = batch.idle_rows, []
        if not rows:
            return
        for row in rows:
            slot = batch.slots[row]
            index = self._episode_index(batch.first_slot + row, slot)
            # The length of the first one is known.
            length = self._length(index) if slot.position else slot.length
            batch.slots[row] = EpisodeSlot(
                length, running=True, episodes=slot.episodes + 1
            )
            seeds.append(episode_seed(self._config.seed, "train", index))
        batch.start(self._config.estimator, self._config.rule, rows, seeds)

    def _episode_index(self, number, slot):
        """The index of a slot's next episode among all episodes."""
        if self._episodes_in_order is None:
            slots = self._config.optimizees * len(self._config.tasks)
            return slot.episodes * slots + number
        self._episodes_in_order += 1
        return self._episodes_in_order - 1

    def _length(self, index):
        """Inner steps of an episode: log-uniform, in whole unrolls."""
        shortest, longest = self._schedule.horizons
        if shortest == longest:
            return longest
        share = self._generator(_LENGTHS, index).uniform()
        unroll = self._config.unroll
        unrolls = longest * (shortest / longest) ** share / unroll
        return max(1, round(unrolls)) * unroll

    def _tasks_of_step(self):
        """Indices of the tasks that take part in this step."""
        count = len(self._config.tasks)
        if self._config.tasks_per_step == count:
            return range(count)
        return self._generator(_TASKS, self._steps).choice(
            count, self._config.tasks_per_step, replace=False
        )

    def _generator(self, stream, index):
        return np.random.default_rng([self._config.seed, stream, index])

    def _function(self, batch):
        key = (batch.task_index, len(batch.slots))
        if key not in self._functions:
            self._functions[key] = compile_outer_step(self._config, batch.task)
        return self._functions[key]
