"""Estimators that perturb the meta-parameters and differentiate nothing."""

import weakref
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.inner_loop.episode import Carry, start
from keras_l2l.inner_loop.unroll import unroll
from keras_l2l.meta_gradients.base import Estimate, MetaGradientEstimator
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.rules.base import UpdateRule
from keras_l2l.tasks.base import Task

# Bound of the log loss: an unroll that diverged has e times its first loss.
_WORST = 1.0


class Pair(NamedTuple):
    """Two particles: one optimizee, trained under φ + ξ and under φ - ξ.

    Attributes:
        carries: Tuple of two `Carry`s.
        perturbation: List of tensors shaped as the meta-parameters: the sum
            of the perturbations since the episode began.
    """

    carries: tuple[Carry, Carry]
    perturbation: list[Any]


class _Antithetic(MetaGradientEstimator):
    """Base of the estimators that compare φ + ε with φ - ε.

    Both see the same initialisation and the same batches, so that most of
    what is random cancels.
    """

    learns_from_divergence = True

    def __init__(self, stddev: float = 0.01, jit_compile: bool = True):
        checks.positive_numbers(stddev=stddev)
        self.stddev = float(stddev)
        self.jit_compile = bool(jit_compile)
        # The functions of a rule live as long as the rule.
        self._functions: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def _draw(self, rule, seed):
        """A perturbation of each of the meta-parameters."""
        # Folded in, as a sum would be the seed of a neighbouring group.
        return [
            tf.random.stateless_normal(
                v.shape,
                tf.random.fold_in(seed, index),
                0.0,
                self.stddev,
                v.dtype,
            )
            for index, v in enumerate(rule.trainable_variables)
        ]

    def _train(self, rule, task, carry, steps, perturbation):
        """An unroll under perturbed meta-parameters: carry and losses."""
        values = [
            v.value + p for v, p in zip(rule.trainable_variables, perturbation)
        ]
        return self._function(rule, task, steps)(values, carry)

    def _function(self, rule, task, steps):
        functions = self._functions.setdefault(rule, {})
        if (task, steps) not in functions:
            # The function must not keep its own key alive.
            proxy = weakref.proxy(rule)

            @tf.function(autograph=False, jit_compile=self.jit_compile)
            def train(values, carry):
                mapping = list(zip(proxy.trainable_variables, values))
                with keras.StatelessScope(state_mapping=mapping):
                    carry, trajectory = unroll(proxy, task, carry, steps)
                return carry, trajectory.losses

            functions[task, steps] = train
        return functions[task, steps]

    def _estimate(self, meta_loss, losses, perturbation):
        """ξ (L₊ - L₋) / 2σ², and the mean of both particles' losses."""
        plus, minus = [self._bounded(meta_loss, one) for one in losses]
        slope = (plus - minus) / (2.0 * self.stddev**2)
        gradients = [tf.cast(slope, p.dtype) * p for p in perturbation]
        return (losses[0] + losses[1]) / 2.0, gradients

    @staticmethod
    def _bounded(meta_loss, losses):
        """The meta-loss, with each transformed loss bounded by `_WORST`."""
        values = meta_loss.values(losses)
        if meta_loss.transform == "identity":
            worst = meta_loss.first_loss(losses) * tf.exp(_WORST)
        else:
            worst = tf.cast(_WORST, values.dtype)
        # A NaN is not below the bound either.
        values = tf.where(values <= worst, values, worst)
        return tf.reduce_mean(
            meta_loss.weights * tf.cast(values, meta_loss.weights.dtype)
        )


class AntitheticES(_Antithetic):
    """Antithetic evolution strategies over one unroll.

    An estimate of the gradient of the meta-loss, smoothed by a Gaussian of
    deviation σ, from unrolls under φ + ε and φ - ε that begin with the same
    optimizee. Like truncated backpropagation it sees no further than an
    unroll, but it needs neither derivatives nor a smooth meta-loss. The cost
    is three unrolls, the third of which trains the optimizee under φ.

    Args:
        stddev: Float. σ, the standard deviation of the perturbation of each
            meta-parameter. Defaults to `0.01`.
        jit_compile: Boolean. Whether XLA compiles the unroll. Turn it off
            for optimizees with operations that XLA lacks.
            Defaults to `True`.

    Raises:
        ValueError: If `stddev` is not a positive number.

    Example:

    ```python
    trainer = MetaTrainer(rules.SGD(), task, estimator=AntitheticES())
    ```

    Reference:
        [Metz et al., 2019](https://arxiv.org/abs/1810.10180)
    """

    @tf.autograph.experimental.do_not_convert
    def __call__(
        self,
        rule: UpdateRule,
        task: Task,
        carry: Any,
        meta_loss: MetaLoss,
        seed: Any,
    ) -> Estimate:
        perturbation = self._draw(rule, seed)
        losses = [
            self._train(rule, task, carry, meta_loss.steps, signed)[1]
            for signed in (perturbation, [-p for p in perturbation])
        ]
        _, gradients = self._estimate(meta_loss, losses, perturbation)
        carry, losses = self._train(
            rule,
            task,
            carry,
            meta_loss.steps,
            [tf.zeros_like(p) for p in perturbation],
        )
        return Estimate(losses, gradients, carry)


class PersistentES(_Antithetic):
    """Persistent evolution strategies (PES), antithetic.

    Unlike in `AntitheticES`, each of the two particles trains its own
    optimizee from unroll to unroll, and the loss of an unroll is attributed
    to all perturbations since the episode began. So the estimate is unbiased
    over whole episodes, however short the unrolls: the rule learns how its
    early steps change the final loss.

    It is meant for rules of at most some thousand meta-parameters, as the
    noise grows with their number.

    Args:
        stddev: Float. σ, the standard deviation of the perturbation of each
            meta-parameter at each unroll. Defaults to `0.01`.
        jit_compile: Boolean. Whether XLA compiles the unroll. Turn it off
            for optimizees with operations that XLA lacks.
            Defaults to `True`.

    Raises:
        ValueError: If `stddev` is not a positive number.

    Example:

    ```python
    trainer = MetaTrainer(
        rules.Hierarchical(), task, unroll=20, estimator=PersistentES()
    )
    ```

    Reference:
        [Vicol et al., 2021](https://arxiv.org/abs/2112.13835)
    """

    def start(self, rule: UpdateRule, task: Task, seed: Any) -> Pair:
        carry = start(rule, task, seed)
        zeros = [tf.zeros_like(v.value) for v in rule.trainable_variables]
        return Pair((carry, carry), zeros)

    @tf.autograph.experimental.do_not_convert
    def __call__(
        self,
        rule: UpdateRule,
        task: Task,
        carry: Any,
        meta_loss: MetaLoss,
        seed: Any,
    ) -> Estimate:
        drawn = self._draw(rule, seed)
        # On two cores, both are trained in parallel.
        carries, losses = zip(
            *(
                self._train(rule, task, one, meta_loss.steps, signed)
                for one, signed in zip(
                    carry.carries, (drawn, [-p for p in drawn])
                )
            )
        )
        perturbation = [a + b for a, b in zip(carry.perturbation, drawn)]
        losses, gradients = self._estimate(meta_loss, losses, perturbation)
        return Estimate(losses, gradients, Pair(carries, perturbation))
