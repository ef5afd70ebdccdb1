"""The episodes of a meta-training, advanced by one unroll at a time."""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from keras_l2l.inner_loop.batched_task import BatchedTask
from keras_l2l.meta_training.optimizee_batch import EpisodeSlot, OptimizeeBatch
from keras_l2l.meta_training.outer_step import compile_outer_step
from keras_l2l.meta_training.step_totals import StepTotals
from keras_l2l.tasks.base import episode_seed

# Streams of random numbers of the outer loop itself.
_LENGTHS, _TASKS = 1, 2


class EpisodePool:
    """Batches of optimizees, whose meta-gradients make one outer step.

    The seed and the length of an episode depend on its slot and on how many
    episodes began there before, not on the order in which slots become idle.

    The optimizees are dealt to the replicas of a strategy. Every process knows
    the slots of all of them, and the carries of its own.

    Args:
        config: A `MetaTrainingConfig`.
        schedule: A `HorizonSchedule`: the lengths of the episodes that begin.
        replicas: A `Replicas`.

    Attributes:
        batches: List of `OptimizeeBatch`, of all replicas.
    """

    def __init__(self, config, schedule, replicas):
        self._config = config
        self._schedule = schedule
        self._replicas = replicas
        self._steps = 0
        # Counts the episodes of all slots, in a run that an earlier version
        # began: there the seed depended on the order.
        self._episodes_in_order = None
        self._functions = {}
        self._specs = {}
        self._set_batches(self._make_batches())

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
        tasks = self._tasks_of_step()
        indices = [
            i for i, b in enumerate(self.batches) if b.task_index in tasks
        ]
        batches, seeds = [self.batches[i] for i in indices], {}
        for batch in batches:
            seeds.update(self._begin_episodes(batch))
        totals = StepTotals(
            self._config.rule, [n for batch in batches for n in batch.numbers]
        )
        for results in self._replicas.run(
            lambda replica: self._unroll(replica, indices, seeds)
        ):
            for numbers, result in results:
                totals.add(numbers, result)
        totals.reduce(self._replicas)
        losses = []
        for batch in batches:
            meta_losses, first_losses, diverged = totals.figures(batch.numbers)
            batch.advance(self._config.unroll, first_losses, diverged)
            losses += meta_losses[~diverged].tolist()
        for shares in self._shares.values():
            for share in shares:
                share.release()
        self._steps += 1
        return losses, totals.mean_gradients()

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
        arrays = []
        for index, batch in enumerate(self.batches):
            if batch.is_running:
                arrays += self._replicas.sum_bits(self._arrays(index))
        return arrays, document

    def restore(self, arrays, document):
        """Restores what `state` returned; changes nothing if it raises.

        Args:
            arrays: Iterator of arrays, of all replicas.
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
        self._set_batches(restored)

    def _make_batches(self):
        # The first episodes have different lengths, so that the optimizees
        # are spread over the horizon from then on.
        config, longest = self._config, self._schedule.horizons[1]
        unrolls = longest // config.unroll
        lengths = [
            longest - k * unrolls // config.optimizees * config.unroll
            for k in range(config.optimizees)
        ]
        batches, slots = [], 0
        for task_index, task in enumerate(config.tasks):
            for part in np.array_split(lengths, self._batch_count(task)):
                batches.append(
                    OptimizeeBatch(
                        task_index,
                        BatchedTask(task, len(part)) if len(part) > 1 else task,
                        [EpisodeSlot(int(length)) for length in part],
                        list(range(slots, slots + len(part))),
                    )
                )
                slots += len(part)
        return batches

    def _set_batches(self, batches):
        self.batches = batches
        # For each replica of this process, its share of each batch.
        self._shares = {
            replica.index: [
                batch.share(replica.index, self._replicas.count)
                for batch in batches
            ]
            for replica in self._replicas.local
        }
        for batch, *shares in zip(batches, *self._shares.values()):
            if not any(share is batch for share in shares):
                batch.carry = None

    def _batch_count(self, task):
        """In how many batches the optimizees of a task are trained."""
        config, capacity = self._config, 1
        # To clip the meta-gradient of each optimizee needs them one by one.
        if config.clipnorm is None:
            capacity = config.estimator.capacity(
                config.rule, task, config.unroll
            )
        return math.ceil(config.optimizees / capacity)

    def _begin_episodes(self, batch):
        """Begins an episode in each idle slot: a dict from slots to seeds."""
        seeds = {}
        for number, slot in zip(batch.numbers, batch.slots):
            if not slot.running:
                index = self._episode_index(number, slot)
                # The length of the first one is known.
                slot.begin(
                    self._length(index) if slot.position else slot.length
                )
                seeds[number] = episode_seed(self._config.seed, "train", index)
        return seeds

    def _unroll(self, replica, indices, seeds):
        """Unrolls a replica's share of some batches.

        Args:
            replica: A `Replica`.
            indices: List of integers, which batches.
            seeds: Dict from the numbers of slots to the seeds of the episodes
                that begin in this step.

        Returns:
            List of pairs: the numbers of the slots, an `OuterStepResult`.
        """
        results = []
        for index in indices:
            share = self._shares[replica.index][index]
            if not share.slots:
                continue
            with self._replicas.lock:
                share.start(self._config.estimator, replica.rule, seeds)
            result = self._replicas.call_cached(
                self._functions,
                (replica.index, share.task_index, len(share.slots)),
                functools.partial(
                    compile_outer_step, self._config, share.task, replica.rule
                ),
                share.carry,
                share.first_losses(),
                share.weights(self._config.loss_weights, self._config.unroll),
                share.seeds(self._steps),
            )
            share.carry = result.carry
            results.append((share.numbers, result))
        return results

    def _arrays(self, index):
        """The carry of a batch, zero where other processes train it."""
        config, batch = self._config, self.batches[index]
        shares = [shares[index] for shares in self._shares.values()]
        if any(share is batch for share in shares):
            return [leaf.numpy() for leaf in tf.nest.flatten(batch.carry)]
        key = batch.task_index, len(batch.slots)
        if key not in self._specs:
            self._specs[key] = batch.carry_specs(config.estimator, config.rule)
        return batch.gather(shares, self._specs[key])

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
