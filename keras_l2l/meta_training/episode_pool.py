"""The outer loop's state: optimizees in training, one unroll at a time."""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from keras_l2l.inner_loop.batched_task import BatchedTask
from keras_l2l.meta_gradients.base import MetaGradientEstimator
from keras_l2l.meta_training.optimizee_batch import EpisodeSlot, OptimizeeBatch
from keras_l2l.meta_training.outer_step import compile_outer_step
from keras_l2l.rules.base import UpdateRule
from keras_l2l.tasks.base import episode_seed

# Streams of random numbers of the outer loop itself.
_LENGTHS, _TASKS = 1, 2


class EpisodePool:
    """Runs an unroll of every optimizee and collects the meta-gradients.

    Args:
        rule: An `UpdateRule`.
        tasks: List of `Task`.
        horizons: Pair of integers, the shortest and the longest. Inner steps
            in an episode; may be set anew, for the episodes to come.
        unroll: Integer. Inner steps in an outer step.
        optimizees: Integer. Optimizees of each task, which are trained side
            by side as far as the estimator can.
        tasks_per_step: Integer or `None`, see `MetaTrainer`.
        loss_weights: Array `[horizon]`, the weights of the meta-loss.
        loss_transform: String, see `MetaTrainer`.
        estimator: A `MetaGradientEstimator`.
        divergence_limit: Float, see `MetaTrainer`.
        clipnorm: Float or `None`, see `MetaTrainer`.
        seed: Integer.
    """

    def __init__(
        self,
        rule,
        tasks,
        horizons,
        unroll,
        optimizees,
        tasks_per_step,
        loss_weights,
        loss_transform,
        estimator,
        divergence_limit,
        clipnorm,
        seed,
    ):
        self.rule = rule
        self.tasks = tasks
        self.horizons = horizons
        self.unroll = unroll
        self.loss_weights = loss_weights
        self.loss_transform = loss_transform
        self._tasks_per_step = tasks_per_step or len(tasks)
        self.estimator = estimator
        self.divergence_limit = divergence_limit
        self.clipnorm = clipnorm
        self.seed = seed
        self._episodes = 0
        self._steps = 0
        self._optimizees_of_task = optimizees
        # The first episodes have different lengths, so that the optimizees
        # are spread over the horizon from then on.
        unrolls = horizons[1] // unroll
        lengths = [
            horizons[1] - k * unrolls // optimizees * unroll
            for k in range(optimizees)
        ]
        self._groups = [
            OptimizeeBatch(
                task_index,
                BatchedTask(task, len(part)) if len(part) > 1 else task,
                [EpisodeSlot(int(length)) for length in part],
            )
            for task_index, task in enumerate(tasks)
            for part in np.array_split(lengths, self._groups_of(task, lengths))
        ]
        self._functions = {}

    @property
    def optimizees(self):
        """Optimizees in an outer step, over all tasks of the step."""
        return self._optimizees_of_task * self._tasks_per_step

    @property
    def inner_steps(self):
        """Inner steps in an outer step, over all optimizees."""
        return self.optimizees * self.unroll

    def step(self):
        """One unroll of every optimizee of the tasks of this step.

        Returns:
            Tuple `(meta_losses, gradients)`: a list of floats, of the
            optimizees that did not diverge, and the mean meta-gradient of
            those that contribute (`None` if there are none).
        """
        losses, gradients, contributors = [], [], 0
        tasks = self._tasks_of_step()
        for index, group in enumerate(self._groups):
            if group.task_index not in tasks:
                continue
            self._start_episodes(group)
            outcome = self._function(group)(
                group.carry,
                group.first_losses(),
                group.weights(self.loss_weights, self.unroll),
                tf.constant([self._steps, index]),
            )
            group.carry = outcome.carry
            diverged = np.atleast_1d(outcome.diverged)
            group.advance(self.unroll, outcome.first_losses, diverged)
            losses += np.atleast_1d(outcome.meta_losses)[~diverged].tolist()
            contributes = np.atleast_1d(outcome.contributes)
            if contributes.any():
                gradients.append(outcome.gradients)
                contributors += int(contributes.sum())
        self._steps += 1
        mean = [sum(parts) / contributors for parts in zip(*gradients)]
        return losses, mean or None

    def state(self):
        """All that changes from step to step, as `(arrays, document)`."""
        carries = [group.carry for group in self._groups]
        document = {
            "episodes": self._episodes,
            "steps": self._steps,
            "groups": [
                [dataclasses.asdict(place) for place in group.places]
                for group in self._groups
            ],
        }
        leaves = tf.nest.flatten([c for c in carries if c is not None])
        return [leaf.numpy() for leaf in leaves], document

    def settings(self):
        """What a state that is restored must agree with."""
        return {
            "parameters": [
                [list(spec.shape) for spec in task.parameter_specs]
                for task in self.tasks
            ],
            "unroll": self.unroll,
            "optimizees": [len(group.places) for group in self._groups],
            "tasks_per_step": self._tasks_per_step,
            "loss_weights": self.loss_weights.tolist(),
            "loss_transform": self.loss_transform,
            "estimator": _described(self.estimator),
            "divergence_limit": self.divergence_limit,
            "clipnorm": self.clipnorm,
            "seed": self.seed,
        }

    def restore(self, arrays, document):
        """Goes back to what `state` returned."""
        self._episodes = document["episodes"]
        self._steps = document["steps"]
        arrays = iter(arrays)
        for group, places in zip(self._groups, document["groups"]):
            group.places = [EpisodeSlot(**place) for place in places]
            group.carry = None
            if group.is_running:
                like = self.estimator.start(
                    self.rule, group.task, group.dummy_seeds
                )
                group.carry = tf.nest.map_structure(
                    lambda leaf: tf.constant(next(arrays), leaf.dtype), like
                )

    def _groups_of(self, task, lengths):
        """In how many groups the optimizees of a task are trained."""
        # To clip the meta-gradient of each needs them one by one.
        capacity = 1
        if self.clipnorm is None:
            capacity = self.estimator.capacity(self.rule, task, self.unroll)
        return math.ceil(len(lengths) / capacity)

    def _start_episodes(self, group):
        """A fresh optimizee wherever there is none."""
        rows = group.empty_rows
        if not rows:
            return
        seeds = []
        for row in rows:
            place = group.places[row]
            length = self._length() if place.position else place.length
            group.places[row] = EpisodeSlot(length, running=True)
            seeds.append(episode_seed(self.seed, "train", self._episodes))
            self._episodes += 1
        group.start(self.estimator, self.rule, rows, seeds)

    def _length(self):
        """Inner steps of the next episode: log-uniform, whole unrolls."""
        shortest, longest = self.horizons
        if shortest == longest:
            return longest
        share = self._generator(_LENGTHS, self._episodes).uniform()
        unrolls = longest * (shortest / longest) ** share / self.unroll
        return max(1, round(unrolls)) * self.unroll

    def _tasks_of_step(self):
        """Indices of the tasks that take part in this step."""
        if self._tasks_per_step == len(self.tasks):
            return range(len(self.tasks))
        return self._generator(_TASKS, self._steps).choice(
            len(self.tasks), self._tasks_per_step, replace=False
        )

    def _generator(self, stream, index):
        return np.random.default_rng([self.seed, stream, index])

    def _function(self, group):
        key = (group.task_index, len(group.places))
        if key not in self._functions:
            self._functions[key] = compile_outer_step(
                self.rule,
                group.task,
                self.estimator,
                self.loss_transform,
                self.divergence_limit,
                self.clipnorm,
            )
        return self._functions[key]


def _described(value):
    """An estimator, and what it is made of, as JSON has it."""
    if isinstance(value, UpdateRule):
        config = value.get_config()
        del config["name"]  # Keras counts it up within a process.
        return config
    if not isinstance(value, MetaGradientEstimator):
        return value
    parts = {
        name: _described(part)
        for name, part in vars(value).items()
        if isinstance(
            part,
            bool | int | float | str | MetaGradientEstimator | UpdateRule,
        )
    }
    return {"class_name": type(value).__name__, **parts}
