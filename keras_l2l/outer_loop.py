"""The outer loop's state: optimizees in training, one unroll at a time."""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_l2l.side_by_side import SideBySide
from keras_l2l.tasks.base import episode_seed
from keras_l2l.unroll import start


@dataclasses.dataclass
class _Place:
    """Where one optimizee after another is trained.

    Attributes:
        length: Inner steps of the current episode.
        position: Inner steps done in this episode.
        limit: The loss beyond which this episode has diverged; infinite
            until its first loss is known.
        running: Whether there is an optimizee, in the midst of its episode.
    """

    length: int
    position: int = 0
    limit: float = math.inf
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


class OuterLoop:
    """Runs an unroll of every optimizee and collects the meta-gradients.

    Args:
        rule: An `UpdateRule`.
        tasks: List of `Task`.
        horizon: Integer. Inner steps in an episode.
        unroll: Integer. Inner steps in an outer step.
        optimizees: Integer. Optimizees of each task, which are trained side
            by side as far as the estimator can.
        loss_weights: Array `[horizon]`, the weights of the meta-loss.
        estimator: A `MetaGradientEstimator`.
        divergence_limit: Float, see `MetaTrainer`.
        clipnorm: Float or `None`, see `MetaTrainer`.
        seed: Integer.
    """

    def __init__(
        self,
        rule,
        tasks,
        horizon,
        unroll,
        optimizees,
        loss_weights,
        estimator,
        divergence_limit,
        clipnorm,
        seed,
    ):
        self.rule = rule
        self.tasks = tasks
        self.horizon = horizon
        self.unroll = unroll
        self.loss_weights = loss_weights
        self.estimator = estimator
        self.divergence_limit = divergence_limit
        self.clipnorm = clipnorm
        self.seed = seed
        self._episodes = 0
        self._steps = 0
        # The first episodes have different lengths, so that the optimizees
        # are spread over the horizon from then on.
        unrolls = horizon // unroll
        lengths = [
            horizon - k * unrolls // optimizees * unroll
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
        """Optimizees in an outer step, over all tasks."""
        return sum(len(group.places) for group in self._groups)

    @property
    def inner_steps(self):
        """Inner steps in an outer step, over all optimizees."""
        return self.optimizees * self.unroll

    def step(self):
        """One unroll of every optimizee.

        Returns:
            Tuple `(meta_losses, gradients)`: a list of floats, of the
            optimizees that did not diverge, and the mean of their
            meta-gradients (`None` if all diverged).
        """
        losses, gradients = [], []
        for index, group in enumerate(self._groups):
            self._start_episodes(group)
            meta_losses, gradient, group.carry, limits, diverged = (
                self._function(group)(
                    group.carry,
                    self._like_losses(group, [p.limit for p in group.places]),
                    self._weights(group),
                    tf.constant([self._steps, index]),
                )
            )
            diverged = np.atleast_1d(diverged)
            for place, limit, is_lost in zip(
                group.places, np.atleast_1d(limits), diverged
            ):
                place.limit = float(limit)
                place.position += self.unroll
                if is_lost or place.position >= place.length:
                    place.running = False
            losses += np.atleast_1d(meta_losses)[~diverged].tolist()
            if not diverged.all():
                gradients.append(gradient)
            if not any(place.running for place in group.places):
                group.carry = None
        self._steps += 1
        mean = [sum(parts) / len(losses) for parts in zip(*gradients)]
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
            "horizon": self.horizon,
            "unroll": self.unroll,
            "optimizees": [len(group.places) for group in self._groups],
            "loss_weights": self.loss_weights.tolist(),
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
                like = start(self.rule, group.task, self._seeds_of(group))
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
                place.length = self.horizon
            place.position, place.limit, place.running = 0, math.inf, True
            seeds.append(episode_seed(self.seed, "train", self._episodes))
            self._episodes += 1
        if len(group.places) == 1:
            group.carry = start(self.rule, group.task, seeds[0])
            return
        task = SideBySide(self.tasks[group.task_index], len(rows))
        fresh = start(self.rule, task, seeds)
        if group.carry is None:
            group.carry = fresh
        else:
            group.carry = _with_rows(
                group.carry, rows, fresh, len(group.places)
            )

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
            self._functions[key] = self._unroll_function(group.task)
        return self._functions[key]

    def _unroll_function(self, task):
        # As in Keras's own training: no conversion of Python control flow.
        @tf.function(autograph=False)
        def unroll_once(carry, limits, weights, seed):
            def limits_after(losses):
                first = self.divergence_limit * (1.0 + tf.abs(losses[0]))
                return tf.where(tf.math.is_inf(limits), first, limits)

            def are_healthy(losses):
                # A NaN is not below the limit either.
                losses = tf.cast(losses, tf.float32)
                return tf.reduce_all(losses <= limits_after(losses), 0)

            losses, gradients, carry = self.estimator(
                self.rule, task, carry, weights, seed, are_healthy
            )
            losses = tf.cast(losses, tf.float32)
            healthy = are_healthy(losses)
            for gradient in gradients:
                healthy &= tf.reduce_all(tf.math.is_finite(gradient))
            if self.clipnorm is not None:
                gradients, _ = tf.clip_by_global_norm(gradients, self.clipnorm)
            meta_losses = tf.reduce_mean(weights * losses[1:], 0)
            return meta_losses, gradients, carry, limits_after(losses), ~healthy

        return unroll_once


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
