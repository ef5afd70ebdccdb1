"""Truncated backpropagation through the updates of an unroll."""

import tensorflow as tf

from keras_l2l import checks
from keras_l2l.execution.stacked_arrays import count_bytes
from keras_l2l.inner_loop.batched_task import BatchedTask
from keras_l2l.inner_loop.episode import (
    count_coordinates,
    is_packed,
    is_stackable,
    start,
)
from keras_l2l.inner_loop.side_by_side import stack
from keras_l2l.meta_gradients.base import Estimate, MetaGradientEstimator
from keras_l2l.meta_gradients.first_order import (
    gradient_in_one_pass,
    gradient_in_two_passes,
)
from keras_l2l.meta_gradients.recorded_steps import recorded_bytes
from keras_l2l.meta_gradients.second_order import backpropagate

# Recorded bytes up to which optimizees are trained side by side. More would
# save few calls and no longer fit into the processor's caches.
_CACHE_BYTES = 3 * 2**25


class TruncatedBackpropagation(MetaGradientEstimator):
    """Backpropagation through the updates of one unroll.

    The gradients of the optimizee are constants to the rule, as in the paper
    (∂∇f/∂φ = 0). Then

        dL/dφ = Σ_t w_t ⟨∇f(θ_t), dθ_t/dφ⟩,

    and each ∇f(θ_t) is a gradient that the inner loop computes anyway. So the
    backward pass goes through the *rule alone*: nothing is differentiated
    twice, and no activation of the optimizee is recorded. The rule's state is
    recorded at each step. Where that exceeds the memory budget, only the
    gradients are, and the rule's steps are repeated on some coordinates after
    others.

    Args:
        second_derivatives: Boolean. Whether the gradients of the optimizee
            depend on its parameters for the meta-gradient, too. This takes a
            backward pass through the whole unroll, and second derivatives of
            the optimizee. Without them a long unroll does not see that a
            smaller step now leads to other gradients later. See
            `derivative_smoothing` of `CoordinatewiseLSTM`. Defaults to `False`.
        coordinate_share: Float in (0, 1]. The meta-gradient of a rule with
            independent coordinates is a sum over coordinates. With less than
            1 it is estimated, without bias, from a random share of them, and
            the backward pass costs that share. Defaults to `1.0`.
        memory_budget: Integer. Bytes that may be recorded for the backward
            pass, roughly. Where that is exceeded, the steps of the rule are
            repeated: on one slice of the coordinates after another if they
            are independent, else on one tensor after another. With second
            derivatives, the unroll is recorded in segments, and the optimizee
            trained twice. Defaults to 1 GiB.
        vectorize: Boolean, with second derivatives. Whether the optimizees of
            a task are trained side by side, as one program
            (`tf.vectorized_map`). Faster where they are small and many, and
            rounded otherwise. Defaults to `False`.
        jit_compile: Boolean, with second derivatives. Whether XLA compiles
            the unroll and its backward pass. Defaults to `False`.
        clipnorm: Float, with second derivatives. If set, the meta-gradient of
            each optimizee is scaled down to this norm, and left out where it
            is not finite, so that none outweighs the others. Here it works
            side by side, too, where that of `MetaTrainer` trains optimizees
            one by one. Defaults to `None`.

    Raises:
        ValueError: If `coordinate_share` is not in (0, 1], or less than 1
            with `second_derivatives=True`, which `vectorize`, `jit_compile`
            and `clipnorm` need, or if `clipnorm` or `memory_budget` is not
            positive.

    Example:

    ```python
    trainer = MetaTrainer(
        rules.CoordinatewiseLSTM(),
        tasks.mnist_mlp(),
        estimator=TruncatedBackpropagation(coordinate_share=0.1),
    )
    ```

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 2.
    """

    def __init__(
        self,
        second_derivatives: bool = False,
        coordinate_share: float = 1.0,
        memory_budget: int = 2**30,
        vectorize: bool = False,
        jit_compile: bool = False,
        clipnorm: float | None = None,
    ):
        if not 0.0 < coordinate_share <= 1.0:
            raise ValueError(
                "Argument `coordinate_share` must be in the range (0, 1]. "
                f"Received: coordinate_share={coordinate_share}"
            )
        if second_derivatives and coordinate_share < 1.0:
            raise ValueError(
                "Argument `coordinate_share` must be 1.0 with "
                "`second_derivatives=True`, which couple the coordinates. "
                f"Received: coordinate_share={coordinate_share}"
            )
        needing = vectorize or jit_compile or clipnorm is not None
        if needing and not second_derivatives:
            raise ValueError(
                "Arguments `vectorize`, `jit_compile` and `clipnorm` need "
                f"`second_derivatives=True`. Received: vectorize={vectorize}, "
                f"jit_compile={jit_compile}, clipnorm={clipnorm}"
            )
        if clipnorm is not None:
            checks.positive_numbers(clipnorm=clipnorm)
        self.vectorize = bool(vectorize)
        self.jit_compile = bool(jit_compile)
        self.clipnorm = None if clipnorm is None else float(clipnorm)
        self.second_derivatives = bool(second_derivatives)
        self.coordinate_share = float(coordinate_share)
        self.memory_budget = checks.positive_integer(
            memory_budget=memory_budget
        )

    def capacity(self, rule, task, steps):
        if self.vectorize:
            # The parameters and, at most, as many numbers for the rule.
            size = 4 * 4 * count_coordinates(task) * steps
            return max(1, self.memory_budget // size)
        if self.second_derivatives:
            return 1
        if not (is_stackable(rule) and is_packed(rule, task)):
            return 1
        room = min(self.memory_budget, _CACHE_BYTES)
        room //= recorded_bytes(rule, steps) * self.coordinate_share
        return max(1, int(room // count_coordinates(task)))

    def start(self, rule, task, seed):
        if self.vectorize and isinstance(task, BatchedTask):
            return stack([start(rule, task.task, one) for one in seed])
        return super().start(rule, task, seed)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, rule, task, carry, meta_loss, seed):
        if self.coordinate_share < 1.0 and rule.granularity != "coordinate":
            raise ValueError(
                "Argument `coordinate_share` must be 1.0 for a rule whose "
                f"coordinates are not independent. Received: rule={rule}, "
                f"coordinate_share={self.coordinate_share}"
            )
        if self.second_derivatives:
            return self._through_everything(rule, task, carry, meta_loss)
        if rule.granularity == "coordinate":
            size = recorded_bytes(rule, meta_loss.steps)
            size *= sum(p.shape.num_elements() for p in carry.parameters)
        else:
            size = meta_loss.steps * count_bytes(
                [carry.parameters, carry.parameters, carry.rule_state]
            )
        is_small = size <= self.memory_budget and self.coordinate_share == 1.0
        if rule.granularity == "model" or is_small:
            return Estimate(*gradient_in_one_pass(rule, task, carry, meta_loss))
        return Estimate(
            *gradient_in_two_passes(
                rule,
                task,
                carry,
                meta_loss,
                self.coordinate_share,
                seed,
                self.memory_budget,
            )
        )

    def _through_everything(self, rule, task, carry, meta_loss):
        if self.vectorize and isinstance(task, BatchedTask):
            task = task.task

        def run(carry):
            return backpropagate(
                *(rule, task, carry, meta_loss),
                *(self.memory_budget, self.clipnorm),
            )

        if self.jit_compile:
            run = tf.function(run, autograph=False, jit_compile=True)
        return Estimate(*run(carry))
