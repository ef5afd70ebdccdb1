"""The validation loss of a rule: whole episodes of fresh optimizees."""

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_l2l.inner_loop.episode import loss_dtype, start
from keras_l2l.inner_loop.side_by_side import stack, unroll_side_by_side
from keras_l2l.inner_loop.unroll import compile_unroll
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.tasks.base import episode_seed


class ValidationLoss(NamedTuple):
    """A mean over tasks and optimizees.

    Attributes:
        mean: Float; infinity if an optimizee diverged.
        standard_error: Float, that of the mean over other optimizees of the
            same tasks. NaN with one optimizee a task, or if one diverged.
    """

    mean: float
    standard_error: float


class Validation:
    """The meta-loss over whole episodes that are never trained on.

    Args:
        config: A `MetaTrainingConfig`.
        replicas: A `Replicas`, to which the optimizees are dealt.
        jit_compile: Boolean, see `MetaTrainer.compile`. Defaults to `False`.
    """

    def __init__(self, config, replicas, jit_compile=False):
        self._config = config
        self._replicas = replicas
        self._jit_compile = jit_compile
        self._functions = {}

    def meta_loss(self, tasks, episodes, weights, held_out):
        """The mean meta-loss.

        Args:
            tasks: List of `Task`.
            episodes: Integer. Optimizees of each task.
            weights: Array `[horizon]`, the weights w_t of the losses.
            held_out: Float, the weight of the held-out loss.

        Returns:
            A `ValidationLoss`.
        """
        seeds = [
            episode_seed(self._config.seed, "validation", index)
            for index in range(episodes)
        ]
        count = self._replicas.count
        losses = np.zeros([len(tasks), episodes])

        def train(replica):
            rows = slice(replica.index, None, count)
            for losses_of_task, task in zip(losses, tasks):
                if seeds[rows]:
                    losses_of_task[rows] = self._losses(
                        replica, task, seeds[rows], weights, held_out
                    )

        self._replicas.run(train)
        losses = self._replicas.sum(losses)
        mean = float(losses.mean())
        if not math.isfinite(mean):
            return ValidationLoss(math.inf, math.nan)
        if episodes == 1:
            return ValidationLoss(mean, math.nan)
        # The tasks are always the same; what is random is the optimizees.
        variance = losses.var(axis=1, ddof=1).sum() / episodes
        return ValidationLoss(mean, float(variance**0.5) / len(tasks))

    def _losses(self, replica, task, seeds, weights, held_out):
        """The meta-losses of some optimizees of a task, an array."""
        with self._replicas.lock:
            carries = [start(replica.rule, task, seed) for seed in seeds]
        if self._config.estimator.vectorize:
            carries, weights = [stack(carries)], weights[:, np.newaxis]
        meta_loss = MetaLoss(
            tf.constant(weights, loss_dtype(carries[0])),
            transform=self._config.loss_transform,
            log_floor=self._config.log_floor,
        )
        train = functools.partial(
            self._replicas.call_cached,
            self._functions,
            (replica.index, task, held_out),
            functools.partial(self._compile, replica.rule, task, held_out),
        )
        return np.ravel(
            [meta_loss(train(carry, len(weights))) for carry in carries]
        )

    def _compile(self, rule, task, held_out):
        """A function from a carry and a number of inner steps to losses."""
        if not self._config.estimator.vectorize:
            run = compile_unroll(rule, task, self._jit_compile, held_out)
            return lambda carry, steps: run(carry, steps)[1].losses
        run = tf.function(
            functools.partial(unroll_side_by_side, rule, task),
            autograph=False,
            jit_compile=self._jit_compile,
        )
        return lambda carry, steps: run(carry, steps, held_out)[1]
