"""An estimator by which a rule also learns to imitate another one."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_l2l.execution import stacked_arrays
from keras_l2l.execution.compiled_step import (
    compile_forward,
    compile_vjp,
    to_coordinates_last,
)
from keras_l2l.inner_loop.unroll import (
    initial_rule_state,
    inner_step,
    loss_and_gradients,
    loss_dtype,
    pack,
    start,
    unpack,
)
from keras_l2l.meta_gradients.base import Estimate, MetaGradientEstimator
from keras_l2l.rules.base import UpdateRule

# Of random numbers, apart from those that a task draws from the same seed.
_STREAM = 2**16


class Lesson(NamedTuple):
    """An episode, of which the teacher or the rule trains the optimizee.

    Attributes:
        is_taught: Boolean tensor. Whether it is the teacher.
        learner_carry: The carry of the other estimator; unchanged in an
            episode of the teacher.
        teacher_carry: The teacher's `Carry`; as it began unless `is_taught`.
        learner_state: The rule's `RuleState` after it saw what the teacher did.
    """

    is_taught: Any
    learner_carry: Any
    teacher_carry: Any
    learner_state: Any


class Imitation(MetaGradientEstimator):
    """Another estimator, and now and then the imitation of a teacher.

    In a random share of the episodes a hand-designed rule, the teacher,
    trains the optimizee. The rule that learns sees the same gradients, and
    the meta-loss of an unroll is, in place of the losses, how far its
    updates u_t are from those of the teacher, ū_t,

        Σ_t ‖u_t - ū_t‖² / Σ_t ‖ū_t‖².

    So it sees the late steps of a training that goes well before it can bring
    one about itself. The logs' `loss` counts the teacher's optimizees, too.

    All episodes are trained one by one, and an imitated unroll keeps the
    rule's state at each step.

    Args:
        estimator: A `MetaGradientEstimator`, for all other episodes.
        teacher: An `UpdateRule`, with the learning rate that it is to have.
        rate: Float in [0, 1]. Share of the episodes that are imitated.
            Defaults to `0.2`.

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

    def __init__(self, estimator, teacher, rate=0.2):
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
            return _imitate(rule, self.teacher, task, carry, meta_loss.steps)

        return tf.cond(carry.is_taught, imitate, learn)


def _imitate(rule, teacher, task, lesson, steps):
    """An unroll of the teacher's, and how the rule should have followed it.

    Args:
        rule: An `UpdateRule`.
        teacher: An `UpdateRule`.
        task: A `Task`.
        lesson: A `Lesson`.
        steps: Integer.

    Returns:
        An `Estimate`, with the teacher's losses.
    """
    follow = compile_forward(rule)
    learner_state = to_coordinates_last(rule, lesson.learner_state)
    dtype = loss_dtype(lesson.teacher_carry)

    def body(t, carry, state, losses, size, arrays):
        before = carry
        carry, loss, gradients = inner_step(teacher, task, before)
        # What that step has added: the difference would be rounded.
        targets, _ = teacher(gradients, before.parameters, before.rule_state)
        gradients, parameters, targets = (
            _repack(teacher, rule, task, tensors)
            for tensors in (gradients, before.parameters, targets)
        )
        (updates, next_state), _ = follow(gradients, parameters, state)
        gaps = [u - target for u, target in zip(updates, targets)]
        seen = (gradients, parameters, state, gaps)
        size += tf.add_n(
            [tf.cast(tf.reduce_sum(target**2), dtype) for target in targets]
        )
        return (
            t + 1,
            carry,
            next_state,
            losses.write(t, loss),
            size,
            stacked_arrays.write(arrays, t, seen),
        )

    parameters = _repack(teacher, rule, task, lesson.teacher_carry.parameters)
    like = (parameters, parameters, learner_state, parameters)
    losses = tf.TensorArray(dtype, size=steps + 1, element_shape=())
    _, teacher_carry, learner_state, losses, size, arrays = tf.while_loop(
        lambda t, *_: t < steps,
        body,
        (
            tf.constant(0),
            lesson.teacher_carry,
            learner_state,
            losses,
            tf.zeros([], dtype),
            stacked_arrays.arrays(like, steps),
        ),
        parallel_iterations=1,
    )
    loss, *_ = loss_and_gradients(teacher, task, teacher_carry)
    slope = tf.math.divide_no_nan(tf.cast(2.0, dtype), size)
    gradients = [
        tf.cast(slope, gradient.dtype) * gradient
        for gradient in _backward(rule, arrays, like, steps)
    ]
    return Estimate(
        losses.write(steps, loss).stack(),
        gradients,
        lesson._replace(
            teacher_carry=teacher_carry,
            learner_state=to_coordinates_last(rule, learner_state),
        ),
    )


def _backward(rule, arrays, like, steps):
    """Σ_t ⟨u_t - ū_t, du_t/dφ⟩, step by step, each computed again."""
    step_back = compile_vjp(rule)

    def body(t, d_state, totals):
        *seen, gaps = stacked_arrays.read(arrays, t, like)
        # Where the teacher goes does not depend on the rule.
        _, d_state, gradients = step_back(*seen, [], gaps, d_state)
        return t - 1, d_state, [a + b for a, b in zip(totals, gradients)]

    d_state = [tf.zeros_like(leaf) for leaf in stacked_arrays.floating(like[2])]
    totals = [tf.zeros_like(v) for v in rule.trainable_variables]
    *_, totals = tf.while_loop(
        lambda t, *_: t >= 0,
        body,
        (tf.constant(steps - 1), d_state, totals),
        parallel_iterations=1,
    )
    return totals


def _repack(teacher, rule, task, tensors):
    """Tensors shaped as the teacher's parameters, as the rule sees them."""
    return pack(rule, task, unpack(teacher, task, tensors))
