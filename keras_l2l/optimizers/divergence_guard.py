"""What keeps a learned rule from ruining a training."""

from typing import Any, NamedTuple

import tensorflow as tf

# A gradient so many times as large as the largest of late is an explosion.
_EXPLOSION = 1e3
# How fast the largest is forgotten, a step.
_FORGETTING = 0.999
# Bad gradients in a row after which it is not the batch that is bad.
_PATIENCE = 3
# Steps between two snapshots of the variables.
_SNAPSHOT_EVERY = 100
# What a step back does to the size of the steps, and how fast they recover.
_DAMPING = 0.25
_RECOVERY = 1.01


class Guard(NamedTuple):
    """The variables of a guard.

    A step whose gradient is not finite, or a thousand times as large as the
    largest of late, is left out: neither the variables nor the hidden state
    see it. After three in a row, it is the variables that are bad: they go
    back to the last snapshot, which is at most some hundred steps old, and
    the steps are a quarter as large from then on, until they have recovered
    by a hundredth a step.

    Attributes:
        snapshots: List of variables, one for each trainable variable; `None`
            for those that take no part.
        scale: Scalar variable that multiplies the updates.
        peak: Scalar variable, the largest norm of a gradient of late.
        streak: Integer variable, bad gradients in a row.
        age: Integer variable, good steps since the snapshot.
        skipped: Integer variable, steps that were left out.
        rewound: Integer variable, how often the variables went back.
    """

    snapshots: list[Any]
    scale: Any
    peak: Any
    streak: Any
    age: Any
    skipped: Any
    rewound: Any

    def run(self, gradients, variables, step):
        """A step, if the gradients are good.

        Args:
            gradients: List of tensors, the same on all replicas.
            variables: List of `tf.Variable`, as the snapshots.
            step: Function of a scale that updates the variables.
        """
        norm = tf.linalg.global_norm(
            [tf.cast(gradient, tf.float32) for gradient in gradients]
        )
        explosion = _EXPLOSION * self.peak
        # A norm that is no number is not below it either.
        is_good = tf.math.is_finite(norm) & (
            (norm <= explosion) | tf.equal(self.peak, 0.0)
        )
        tf.cond(
            is_good,
            lambda: self._go_on(norm, variables, step),
            lambda: self._leave_out(variables),
        )

    def _go_on(self, norm, variables, step):
        def take_snapshot():
            for snapshot, variable in zip(self.snapshots, variables):
                snapshot.assign(variable)
            return self.age.assign(0)

        # Before the step: these are the variables of the good gradient.
        is_due = tf.equal(self.age % _SNAPSHOT_EVERY, 0)
        with tf.control_dependencies(
            [tf.cond(is_due, take_snapshot, lambda: tf.identity(self.age))]
        ):
            self.age.assign_add(1)
            step(tf.identity(self.scale))
        self.scale.assign(tf.minimum(self.scale * _RECOVERY, 1.0))
        self.peak.assign(tf.maximum(norm, _FORGETTING * self.peak))
        self.streak.assign(0)
        return tf.constant(True)

    def _leave_out(self, variables):
        def rewind():
            for snapshot, variable in zip(self.snapshots, variables):
                variable.assign(snapshot)
            self.scale.assign(self.scale * _DAMPING)
            self.rewound.assign_add(1)
            # Whatever explodes from here is new.
            self.age.assign(0)
            return self.streak.assign(0)

        self.skipped.assign_add(1)
        streak = self.streak.assign_add(1)
        # Without a snapshot there is nothing to go back to.
        is_enough = (streak >= _PATIENCE) & (self.age > 0)
        tf.cond(is_enough, rewind, lambda: tf.identity(streak))
        return tf.constant(False)
