"""The outer loop's state: optimizees in training, one unroll at a time."""

import dataclasses
import math
from typing import Any

import tensorflow as tf

from keras_l2l.tasks.base import episode_seed
from keras_l2l.unroll import start


@dataclasses.dataclass
class _Slot:
    """A place where one optimizee after another is trained.

    Attributes:
        task_index: Which task the optimizees are of.
        length: Inner steps of the current episode.
        carry: The `Carry`, or `None` before a fresh episode.
        position: Inner steps done in this episode.
        limit: The loss beyond which this episode has diverged; infinite
            until its first loss is known.
    """

    task_index: int
    length: int
    carry: Any = None
    position: int = 0
    limit: float = math.inf


class OuterLoop:
    """Runs an unroll of every optimizee and collects the meta-gradients.

    Args:
        rule: An `UpdateRule`.
        tasks: List of `Task`.
        horizon: Integer. Inner steps in an episode.
        unroll: Integer. Inner steps in an outer step.
        optimizees: Integer. Optimizees of each task.
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
        self._slots = [
            _Slot(task_index, horizon - k * unrolls // optimizees * unroll)
            for task_index in range(len(tasks))
            for k in range(optimizees)
        ]
        self._functions = [self._unroll_function(task) for task in tasks]

    @property
    def optimizees(self):
        """Optimizees in an outer step, over all tasks."""
        return len(self._slots)

    @property
    def inner_steps(self):
        """Inner steps in an outer step, over all optimizees."""
        return len(self._slots) * self.unroll

    def step(self):
        """One unroll of every optimizee.

        Returns:
            Tuple `(meta_losses, gradients)`: a list of floats, of the
            optimizees that did not diverge, and the mean of their
            meta-gradients (`None` if all diverged).
        """
        losses, gradients = [], []
        for index, slot in enumerate(self._slots):
            if slot.carry is None:
                self._start_episode(slot)
            begin, end = slot.position, slot.position + self.unroll
            meta_loss, gradient, carry, limit, diverged = self._functions[
                slot.task_index
            ](
                slot.carry,
                tf.constant(slot.limit, tf.float32),
                tf.constant(self.loss_weights[begin:end]),
                tf.constant([self._steps, index]),
            )
            slot.carry, slot.limit, slot.position = carry, float(limit), end
            if not diverged:
                losses.append(float(meta_loss))
                gradients.append(gradient)
            if diverged or slot.position >= slot.length:
                slot.carry, slot.length = None, self.horizon
        self._steps += 1
        mean = [sum(parts) / len(losses) for parts in zip(*gradients)]
        return losses, mean or None

    def state(self):
        """All that changes from step to step, as `(arrays, document)`."""
        carries = [slot.carry for slot in self._slots]
        document = {
            "episodes": self._episodes,
            "steps": self._steps,
            "slots": [
                {
                    "length": slot.length,
                    "position": slot.position,
                    "limit": slot.limit,
                    "running": slot.carry is not None,
                }
                for slot in self._slots
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
            "optimizees": self.optimizees,
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
        for slot, saved in zip(self._slots, document["slots"]):
            slot.length = saved["length"]
            slot.position = saved["position"]
            slot.limit = saved["limit"]
            slot.carry = None
            if saved["running"]:
                like = start(self.rule, self.tasks[slot.task_index], 0)
                slot.carry = tf.nest.map_structure(
                    lambda leaf: tf.constant(next(arrays), leaf.dtype), like
                )

    def _start_episode(self, slot):
        seed = episode_seed(self.seed, "train", self._episodes)
        self._episodes += 1
        slot.carry = start(self.rule, self.tasks[slot.task_index], seed)
        slot.position, slot.limit = 0, math.inf

    def _unroll_function(self, task):
        # As in Keras's own training: no conversion of Python control flow.
        @tf.function(autograph=False)
        def unroll_once(carry, limit, weights, seed):
            losses, gradients, carry = self.estimator(
                self.rule, task, carry, weights, seed
            )
            losses = tf.cast(losses, tf.float32)
            first = self.divergence_limit * (1.0 + tf.abs(losses[0]))
            limit = tf.where(tf.math.is_inf(limit), first, limit)
            # A NaN is not below the limit either.
            healthy = tf.reduce_all(losses <= limit)
            for gradient in gradients:
                healthy &= tf.reduce_all(tf.math.is_finite(gradient))
            if self.clipnorm is not None:
                gradients, _ = tf.clip_by_global_norm(gradients, self.clipnorm)
            meta_loss = tf.reduce_mean(weights * losses[1:])
            return meta_loss, gradients, carry, limit, ~healthy

        return unroll_once
