"""The outer loop's state: optimizees in training, one unroll at a time."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_l2l.meta_loss import MetaLoss
from keras_l2l.side_by_side import SideBySide
from keras_l2l.tasks.base import episode_seed


@dataclasses.dataclass
class _Place:
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
class _Group:
    """Optimizees of one task that are trained side by side.

    Attributes:
        task_index: Which task the optimizees are of.
        task: A `Task`; a `SideBySide` if there are several places.
        places: List of `_Place`.
        carry: The `Carry` of all of them, or `None` before fresh episodes.
    """

    task_index: int
    task: Any
    places: list[_Place]
    carry: Any = None


class _Outcome(NamedTuple):
    """What an unroll of a group gave: of each optimizee, and of all."""

    meta_losses: Any
    gradients: Any
    carry: Any
    first_losses: Any
    diverged: Any
    contributes: Any


# Streams of random numbers of the outer loop itself.
_LENGTHS, _TASKS = 1, 2


class OuterLoop:
    """Runs an unroll of every optimizee and collects the meta-gradients.

    Args:
        rule: An `UpdateRule`.
        tasks: List of `Task`.
        horizons: Pair of integers, the shortest and the longest. Inner steps
            in an episode.
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
        self.shortest_horizon, self.horizon = horizons
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
        unrolls = self.horizon // unroll
        lengths = [
            self.horizon - k * unrolls // optimizees * unroll
            for k in range(optimizees)
        ]
        self._groups = [
            _Group(
                task_index,
                SideBySide(task, len(part)) if len(part) > 1 else task,
                [_Place(int(length)) for length in part],
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
                self._like_losses(group, [p.first_loss for p in group.places]),
                self._weights(group),
                tf.constant([self._steps, index]),
            )
            group.carry = outcome.carry
            diverged = np.atleast_1d(outcome.diverged)
            for place, first_loss, is_lost in zip(
                group.places, np.atleast_1d(outcome.first_losses), diverged
            ):
                place.first_loss = float(first_loss)
                place.position += self.unroll
                if is_lost or place.position >= place.length:
                    place.running = False
            losses += np.atleast_1d(outcome.meta_losses)[~diverged].tolist()
            contributes = np.atleast_1d(outcome.contributes)
            if contributes.any():
                gradients.append(outcome.gradients)
                contributors += int(contributes.sum())
            if not any(place.running for place in group.places):
                group.carry = None
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
            "horizon": [self.shortest_horizon, self.horizon],
            "unroll": self.unroll,
            "optimizees": [len(group.places) for group in self._groups],
            "tasks_per_step": self._tasks_per_step,
            "loss_weights": self.loss_weights.tolist(),
            "loss_transform": self.loss_transform,
            "estimator": {
                "class_name": type(self.estimator).__name__,
                **{
                    name: value
                    for name, value in vars(self.estimator).items()
                    if isinstance(value, bool | int | float | str)
                },
            },
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
            group.places = [_Place(**place) for place in places]
            group.carry = None
            if any(place.running for place in group.places):
                like = self.estimator.start(
                    self.rule, group.task, self._seeds_of(group)
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
        rows = [i for i, place in enumerate(group.places) if not place.running]
        if not rows:
            return
        seeds = []
        for row in rows:
            place = group.places[row]
            if place.position:
                place.length = self._length()
            place.position, place.first_loss = 0, math.nan
            place.running = True
            seeds.append(episode_seed(self.seed, "train", self._episodes))
            self._episodes += 1
        if len(group.places) == 1:
            group.carry = self.estimator.start(self.rule, group.task, seeds[0])
            return
        task = SideBySide(self.tasks[group.task_index], len(rows))
        fresh = self.estimator.start(self.rule, task, seeds)
        if group.carry is None:
            group.carry = fresh
        else:
            group.carry = _with_rows(
                group.carry, rows, fresh, len(group.places)
            )

    def _length(self):
        """Inner steps of the next episode: log-uniform, whole unrolls."""
        if self.shortest_horizon == self.horizon:
            return self.horizon
        share = self._generator(_LENGTHS, self._episodes).uniform()
        ratio = self.shortest_horizon / self.horizon
        unrolls = self.horizon * ratio**share / self.unroll
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

    def _seeds_of(self, group):
        return [0] * len(group.places) if len(group.places) > 1 else 0

    def _weights(self, group):
        """Tensor `[unroll]`, or `[unroll, K]`, of the losses to come."""
        columns = [
            self.loss_weights[place.position : place.position + self.unroll]
            for place in group.places
        ]
        return self._like_losses(group, np.transpose(columns))

    @staticmethod
    def _like_losses(group, values):
        """The last axis, of optimizees, goes where there is but one."""
        values = np.asarray(values, "float32")
        return tf.constant(values if len(group.places) > 1 else values[..., 0])

    def _function(self, group):
        key = (group.task_index, len(group.places))
        if key not in self._functions:
            # As in Keras's own training: no conversion of Python control flow.
            # Partial, or TensorFlow would add up the traces of all groups and
            # warn of too many.
            self._functions[key] = tf.function(
                functools.partial(self._unroll_once, group.task),
                autograph=False,
            )
        return self._functions[key]

    def _unroll_once(self, task, carry, first_loss, weights, seed):
        """One unroll of a group, and the meta-gradient."""
        meta_loss = MetaLoss(
            weights, first_loss, self.loss_transform, self.divergence_limit
        )
        losses, gradients, carry = self.estimator(
            self.rule, task, carry, meta_loss, seed
        )
        losses = tf.cast(losses, tf.float32)
        diverged = meta_loss.has_diverged(losses)
        usable = tf.reduce_all(
            [tf.reduce_all(tf.math.is_finite(g)) for g in gradients]
        )
        if self.clipnorm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clipnorm)
        contributes = tf.fill(tf.shape(diverged), usable)
        if not self.estimator.learns_from_divergence:
            contributes &= ~diverged
        return _Outcome(
            meta_losses=meta_loss(losses),
            gradients=gradients,
            carry=carry,
            first_losses=meta_loss.first_loss(losses),
            diverged=diverged | ~usable,
            contributes=contributes,
        )


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
