"""Estimators that perturb the meta-parameters and differentiate nothing."""

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.inner_loop.batched_task import BatchedTask
from keras_l2l.inner_loop.episode import count_coordinates, start
from keras_l2l.inner_loop.side_by_side import stack, unroll_side_by_side
from keras_l2l.inner_loop.unroll import unroll
from keras_l2l.meta_gradients.base import Estimate, MetaGradientEstimator

# Coordinates that are trained side by side at most.
_MOST_COORDINATES = 2**20

# Bound of the log loss: an unroll that diverged has e times its first loss.
_WORST = 1.0


class Pair(NamedTuple):
    """Two particles: one optimizee, trained under φ + ξ and under φ - ξ.

    Attributes:
        carries: Tuple of two `Carry`s; or a `Carry` of tensors `[2, …]`, of
            particles that are trained side by side.
        perturbation: List of tensors shaped as the meta-parameters: the sum
            of the perturbations since the episode began.
    """

    carries: Any
    perturbation: list[Any]


class _Antithetic(MetaGradientEstimator):
    """Base of the estimators that compare φ + ε with φ - ε.

    Both see the same initialisation and the same batches, so that most of
    what is random cancels.
    """

    learns_from_divergence = True

    def __init__(
        self,
        stddev: float = 0.01,
        jit_compile: bool = True,
        vectorize: bool = False,
        meta_parameters: Sequence[str] | None = None,
    ):
        checks.positive_numbers(stddev=stddev)
        self.stddev = float(stddev)
        self.jit_compile = bool(jit_compile)
        self.vectorize = bool(vectorize)
        self.meta_parameters = meta_parameters and list(meta_parameters)
        # The functions of a rule live as long as the rule.
        self._functions: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def capacity(self, rule, task, steps):
        if not self.vectorize:
            return 1
        return max(1, _MOST_COORDINATES // (2 * count_coordinates(task)))

    def start(self, rule, task, seed):
        if isinstance(task, BatchedTask):
            return stack([self._start(rule, task.task, one) for one in seed])
        return self._start(rule, task, seed)

    def _start(self, rule, task, seed):
        """The carry of one optimizee."""
        return start(rule, task, seed)

    def _draw(self, rule, seed):
        """Perturbations of each of the meta-parameters.

        Those of `K` optimizees are `[K, …]`: each draws by its own seed, so
        that it matters to none which others are in its batch.
        """
        if seed.shape.rank == 2:
            specs = [
                tf.TensorSpec(v.shape, v.dtype)
                for v in rule.trainable_variables
            ]
            return tf.map_fn(
                lambda one: self._draw(rule, one),
                seed,
                fn_output_signature=specs,
            )
        names = [v.name for v in rule.trainable_variables]
        chosen = names if self.meta_parameters is None else self.meta_parameters
        if unknown := sorted(set(chosen) - set(names)):
            raise ValueError(
                "Argument `meta_parameters` must hold names of the rule's "
                f"trainable variables, {names}. Received: {unknown}"
            )
        # Folded in, as a sum would be the seed of a neighbouring slot.
        return [
            tf.random.stateless_normal(
                v.shape,
                tf.random.fold_in(seed, index),
                0.0,
                self.stddev,
                v.dtype,
            )
            if v.name in chosen
            else tf.zeros(v.shape, v.dtype)
            for index, v in enumerate(rule.trainable_variables)
        ]

    def _train(self, rule, task, carries, meta_loss, perturbations):
        """Unrolls under perturbed meta-parameters.

        Args:
            rule: An `UpdateRule`.
            task: A `Task`, or a `BatchedTask`.
            carries: List of carries, one for each of `perturbations`. If
                particles are vectorised, one structure of them, `[P, …]`, or
                `[K, P, …]` for `K` optimizees.
            meta_loss: A `MetaLoss`.
            perturbations: List of `P` lists of tensors.

        Returns:
            Tuple of the next carries, and of a list with the losses of each.
        """
        if not self.vectorize:
            train = self._function(rule, task, meta_loss)
            # On several cores, they are trained in parallel.
            carries, losses = zip(
                *(
                    train(_perturbed(rule, signed), carry)
                    for carry, signed in zip(carries, perturbations)
                )
            )
            return carries, losses
        is_batched = isinstance(task, BatchedTask)
        train = self._function(
            rule, task.task if is_batched else task, meta_loss
        )
        axis = 1 if is_batched else 0
        values = [
            tf.stack(columns, axis)
            for columns in zip(*(_perturbed(rule, p) for p in perturbations))
        ]
        carries, losses = train(values, carries)
        return carries, tf.unstack(losses, axis=axis + 1)

    def _function(self, rule, task, meta_loss):
        """From values and a carry to the next carry and losses."""
        functions = self._functions.setdefault(rule, {})
        steps, held_out = meta_loss.steps, meta_loss.held_out
        if (task, steps, held_out) not in functions:
            # The function must not keep its own key alive.
            proxy = weakref.proxy(rule)

            @tf.function(autograph=False, jit_compile=self.jit_compile)
            def train(values, carry):
                if self.vectorize:
                    return unroll_side_by_side(
                        proxy, task, carry, steps, held_out, values
                    )
                mapping = list(zip(proxy.trainable_variables, values))
                with keras.StatelessScope(state_mapping=mapping):
                    carry, trajectory = unroll(
                        proxy, task, carry, steps, held_out=held_out
                    )
                return carry, trajectory.losses

            functions[task, steps, held_out] = train
        return functions[task, steps, held_out]

    def _estimate(self, meta_loss, losses, perturbation):
        """ξ (L₊ - L₋) / 2σ², and the mean of both particles' losses."""
        plus, minus = [self._bounded(meta_loss, one) for one in losses]
        slope = (plus - minus) / (2.0 * self.stddev**2)
        gradients = [
            tf.tensordot(tf.cast(slope, p.dtype), p, slope.shape.rank)
            for p in perturbation
        ]
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
            meta_loss.weights * tf.cast(values, meta_loss.weights.dtype), 0
        )


def _perturbed(rule, perturbation):
    """The meta-parameters plus a perturbation of each."""
    return [v.value + p for v, p in zip(rule.trainable_variables, perturbation)]


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
        vectorize: Boolean. Whether all particles of a task are trained side
            by side, as one program (`tf.vectorized_map`), and so are the
            optimizees of the validation. Faster where optimizees are small
            and many, and rounded otherwise. Defaults to `False`.
        meta_parameters: List of strings, the names of the meta-parameters
            that are perturbed and so trained. The noise of the estimate grows
            with their number. Defaults to `None`, all of them.

    Raises:
        ValueError: If `stddev` is not a positive number, or the rule has no
            meta-parameter of a name.

    Example:

    ```python
    trainer = MetaTrainer(rules.SGD(), task, estimator=AntitheticES())
    ```

    Reference:
        [Metz et al., 2019](https://arxiv.org/abs/1810.10180)
    """

    @tf.autograph.experimental.do_not_convert
    def __call__(self, rule, task, carry, meta_loss, seed):
        perturbation = self._draw(rule, seed)
        zeros = [tf.zeros_like(p) for p in perturbation]
        # The last particle is the optimizee that goes on.
        particles = [carry] * 3
        axis = 1 if isinstance(task, BatchedTask) else 0
        if self.vectorize:
            particles = tf.nest.map_structure(
                lambda leaf: tf.stack([leaf] * 3, axis), carry
            )
        particles, losses = self._train(
            rule,
            task,
            particles,
            meta_loss,
            [perturbation, [-p for p in perturbation], zeros],
        )
        if self.vectorize:
            carry = tf.nest.map_structure(
                lambda leaf: tf.gather(leaf, 2, axis=axis), particles
            )
        else:
            carry = particles[2]
        _, gradients = self._estimate(meta_loss, losses[:2], perturbation)
        return Estimate(losses[2], gradients, carry)


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
        jit_compile: As for `AntitheticES`.
        vectorize: As for `AntitheticES`.
        meta_parameters: As for `AntitheticES`.

    Raises:
        ValueError: If `stddev` is not a positive number, or the rule has no
            meta-parameter of a name.

    Example:

    ```python
    trainer = MetaTrainer(
        rules.Hierarchical(), task, unroll=20, estimator=PersistentES()
    )
    ```

    Reference:
        [Vicol et al., 2021](https://arxiv.org/abs/2112.13835)
    """

    def _start(self, rule, task, seed):
        carry = start(rule, task, seed)
        zeros = [tf.zeros_like(v.value) for v in rule.trainable_variables]
        pair = (carry, carry)
        return Pair(stack(pair) if self.vectorize else pair, zeros)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, rule, task, carry, meta_loss, seed):
        drawn = self._draw(rule, seed)
        carries, losses = self._train(
            rule, task, carry.carries, meta_loss, [drawn, [-p for p in drawn]]
        )
        perturbation = [a + b for a, b in zip(carry.perturbation, drawn)]
        losses, gradients = self._estimate(meta_loss, losses, perturbation)
        return Estimate(losses, gradients, Pair(carries, perturbation))
