"""An estimator by which a rule also learns to imitate a teacher."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_l2l.execution.compiled_step import (
    compile_forward,
    to_coordinates_last,
)
from keras_l2l.execution.partition import by_blocks, join_parts, split_parts
from keras_l2l.execution.stacked_arrays import StackedArrays
from keras_l2l.inner_loop.episode import (
    initial_rule_state,
    loss_dtype,
    pack,
    start,
    unpack,
)
from keras_l2l.inner_loop.outer_loss import outer_loss
from keras_l2l.inner_loop.unroll import inner_step, loss_and_gradients
from keras_l2l.meta_gradients.base import Estimate, MetaGradientEstimator
from keras_l2l.meta_gradients.recorded_steps import (
    backpropagate,
    empty_records,
    record_step,
)
from keras_l2l.rules.base import UpdateRule

# Keeps the random numbers apart from those that a task draws by one seed.
_STREAM = 2**16


class Lesson(NamedTuple):
    """The state of an episode, which the teacher trains or the rule.

    Attributes:
        is_taught: Boolean tensor. Whether the teacher trains the optimizee.
        learner_carry: The carry of the other estimator; it stays as it began
            if `is_taught`.
        teacher_carry: The teacher's `Carry`; it stays as it began unless
            `is_taught`.
        learner_state: The rule's `RuleState`, after the teacher's steps.
    """

    is_taught: Any
    learner_carry: Any
    teacher_carry: Any
    learner_state: Any


class Imitation(MetaGradientEstimator):
    """Another estimator, with the imitation of a teacher in some episodes.

    In a random share of the episodes a hand-designed rule, the teacher,
    trains the optimizee. The learned rule sees the same gradients, and the
    meta-loss of an unroll is the relative squared distance of its updates u_t
    from those of the teacher, ū_t:

        Σ_t ‖u_t - ū_t‖² / Σ_t ‖ū_t‖².

    So the rule sees the late steps of a successful training before its own
    trainings succeed. The logged `loss` counts the teacher's optimizees, too.
    A held-out meta-loss is that of the other episodes; the distance from the
    teacher is one of updates, whatever the data.

    Episodes are trained one by one, and an unroll of the teacher records the
    rule's state at each step, whatever the memory budget.

    Args:
        estimator: A `MetaGradientEstimator`, for all other episodes.
        teacher: An `UpdateRule`, with its final learning rate.
        rate: Float in [0, 1]. Share of the episodes that are imitated.
            Defaults to `0.2`.

    Raises:
        TypeError: If `estimator` is not a `MetaGradientEstimator`, or
            `teacher` not an `UpdateRule`.
        ValueError: If `rate` is not in [0, 1].

    Example:

    ```python
    trainer = MetaTrainer(
        rule,
        task,
        estimator=Imitation(TruncatedBackpropagation(), rules.Adam(0.01)),
    )
    ```

    Reference:
        [Chen et al., 2020](https://arxiv.org/abs/2010.09089), section 3.2.
    """

    def __init__(
        self,
        estimator: MetaGradientEstimator,
        teacher: UpdateRule,
        rate: float = 0.2,
    ):
        if not isinstance(estimator, MetaGradientEstimator):
            raise TypeError(
                "Argument `estimator` must be a `MetaGradientEstimator`. "
                f"Received: estimator={estimator!r}"
            )
        if not isinstance(teacher, UpdateRule):
            raise TypeError(
                "Argument `teacher` must be a `keras_l2l.rules.UpdateRule`. "
                f"Received: teacher={teacher!r}"
            )
        if not 0.0 <= rate <= 1.0:
            raise ValueError(
                "Argument `rate` must be in the range [0, 1]. "
                f"Received: rate={rate}"
            )
        self.estimator = estimator
        self.teacher = teacher
        self.rate = float(rate)
        self.learns_from_divergence = estimator.learns_from_divergence

    def start(self, rule, task, seed):
        draw = np.random.default_rng([seed, _STREAM]).uniform()
        teacher_carry = start(self.teacher, task, seed)
        parameters = _repack(self.teacher, rule, task, teacher_carry.parameters)
        return Lesson(
            is_taught=tf.constant(draw < self.rate),
            learner_carry=self.estimator.start(rule, task, seed),
            teacher_carry=teacher_carry,
            learner_state=initial_rule_state(rule, task, parameters),
        )

    @tf.autograph.experimental.do_not_convert
    def __call__(self, rule, task, carry, meta_loss, seed):
        def learn():
            estimate = self.estimator(
                rule, task, carry.learner_carry, meta_loss, seed
            )
            return estimate._replace(
                carry=carry._replace(learner_carry=estimate.carry)
            )

        def imitate():
            return _imitate(rule, self.teacher, task, carry, meta_loss)

        return tf.cond(carry.is_taught, imitate, learn)


def _imitate(rule, teacher, task, lesson, meta_loss):
    """An unroll of the teacher, and the gradient of the rule's distance.

    Args:
        rule: An `UpdateRule`.
        teacher: An `UpdateRule`.
        task: A `Task`.
        lesson: A `Lesson`.
        meta_loss: A `MetaLoss`, for the number of steps and for the losses
            that are logged.

    Returns:
        An `Estimate`, with the teacher's losses.
    """
    steps = meta_loss.steps
    step = compile_forward(rule)

    def body(t, carry, state, losses, size, records, gaps):
        before = carry
        parts, targets, carry, loss = _teach(rule, teacher, task, carry, state)
        loss = outer_loss(teacher, task, before, loss, meta_loss.held_out)
        results, records = record_step(step, records, t, parts)
        updates, state = join_parts(results)
        gaps = gaps.write(t, _gaps(rule, task, updates, targets))
        size += tf.add_n(
            [tf.cast(tf.reduce_sum(u**2), size.dtype) for u in targets]
        )
        return t + 1, carry, state, losses.write(t, loss), size, records, gaps

    carry = lesson.teacher_carry
    state = to_coordinates_last(rule, lesson.learner_state)
    dtype = loss_dtype(carry)
    parameters = _repack(teacher, rule, task, carry.parameters)
    parts = split_parts(rule, parameters, parameters, state)
    _, carry, state, losses, size, records, gaps = tf.while_loop(
        lambda t, *_: t < steps,
        body,
        (
            tf.constant(0),
            carry,
            state,
            tf.TensorArray(dtype, size=steps + 1, element_shape=()),
            tf.zeros([], dtype),
            empty_records(step, parts, steps),
            StackedArrays.like(parameters, steps),
        ),
        parallel_iterations=1,
    )
    loss, *_ = loss_and_gradients(teacher, task, carry)
    loss = outer_loss(teacher, task, carry, loss, meta_loss.held_out)
    slope = tf.math.divide_no_nan(tf.cast(2.0, dtype), size)
    gradients = [
        tf.cast(slope, gradient.dtype) * gradient
        for gradient in _backpropagate_gaps(rule, records, gaps, steps)
    ]
    return Estimate(
        losses.write(steps, loss).stack(),
        gradients,
        lesson._replace(
            teacher_carry=carry, learner_state=to_coordinates_last(rule, state)
        ),
    )


def _teach(rule, teacher, task, carry, state):
    """A step of the teacher, and what the rule sees of it.

    Returns:
        Tuple `(parts, targets, carry, loss)`: the rule's `StepInputs`, the
        teacher's updates in the task's own shapes, its next `Carry`, and the
        loss before the step.
    """
    before = carry
    carry, loss, gradients = inner_step(teacher, task, before)
    # The updates themselves: the difference of parameters would be rounded.
    targets, _ = by_blocks(teacher, teacher)(
        gradients, before.parameters, before.rule_state
    )
    parts = split_parts(
        rule,
        _repack(teacher, rule, task, gradients),
        _repack(teacher, rule, task, before.parameters),
        state,
    )
    return parts, unpack(teacher, task, targets), carry, loss


def _gaps(rule, task, updates, targets):
    """Updates minus targets, as a `Carry` has them: zero where it is padded."""
    updates = unpack(rule, task, updates)
    return pack(rule, task, [u - v for u, v in zip(updates, targets)])


def _backpropagate_gaps(rule, records, gaps, steps):
    """Σ_t ⟨u_t - ū_t, du_t/dφ⟩."""

    def cotangents(t):
        tensors = gaps.read(t)
        if rule.granularity == "model":
            return [tensors]
        return [[tensor] for tensor in tensors]

    def replace_cotangents(index, t, inputs, d_parameters):
        # The next parameters are the teacher's, whatever the rule does.
        return cotangents(tf.maximum(t - 1, 0))[index]

    return backpropagate(
        rule, records, steps, cotangents(steps - 1), replace_cotangents
    )


def _repack(teacher, rule, task, tensors):
    """Tensors shaped as the teacher's parameters, as the rule sees them."""
    return pack(rule, task, unpack(teacher, task, tensors))
