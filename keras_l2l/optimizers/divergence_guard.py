"""A guard that keeps bad batches and diverged variables from ruin.

A gradient that is not finite is left out of a step. An *explosion*, a
gradient a thousand times as large as the running maximum of the norms, is
clipped to that maximum, which grows with each explosion: nothing is left out
for being large, and a change of scale that lasts is soon accepted.

Variables go back to a snapshot only if they are to blame themselves. A batch
that is bad shows nothing about them. What does is that a variable is not
finite, or that the gradients are not at the variables but are at the
snapshot, which a *trial* finds out after a number of bad steps in a row: the
model takes the snapshot for one batch. If the gradient is bad there, too, the
data are to blame. If it is good, the variables come back for one batch; they
are kept if the gradient is good now, and given up if it is bad again.

Reference:
    [Wang et al., 2025](https://arxiv.org/abs/2502.11034), gradients of single
    parameters clipped relative to a running average of their norms.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

# A norm above this multiple of the running maximum is an explosion.
_EXPLOSION = 1e3
# Decay of the running maximum, a step, and what an explosion does to it. It
# forgets 1e9 in 400 steps. A gradient that stays 1e4 times as large is accepted
# after 24; explosions of less than a third of the steps do not raise it.
_DECAY, _GROWTH = 0.95, 1.1
# Steps in a row that are left out before a trial, and between two trials.
_PATIENCE = 16
# Good steps between two snapshots.
_SNAPSHOT_EVERY = 100
# What a rewind does to the size of the steps, how fast they recover, and how
# small they can become.
_DAMPING, _RECOVERY, _SMALLEST_SCALE = 0.25, 1.01, 1e-3
# Values of the streak in a trial: the model holds the snapshot; the variables
# are back, and their next gradient decides.
_AT_SNAPSHOT, _BACK_AGAIN = -1, -2


class Judgement(NamedTuple):
    """What a guard makes of the gradients of a step.

    Attributes:
        is_good: Boolean tensor, `[K]`: which variables are to be updated.
        gradient_scale: Float tensor, `[K]`, that multiplies the gradients.
        update_scale: Scalar float tensor that multiplies the updates.
    """

    is_good: Any
    gradient_scale: Any
    update_scale: Any


class Guard(NamedTuple):
    """The state of a guard, and what it does before a step.

    Attributes:
        snapshots: List of variables, shaped as the trainable variables;
            `None` for those that are not updated. NaN until they are taken.
        scale: Scalar float variable that multiplies the updates.
        peak: Scalar float variable, the running maximum of the norms of the
            gradients of single variables. Zero before the first.
        streak: Scalar integer variable, the steps in a row that were left
            out whole, or one of the two values of a trial.
        age: Scalar integer variable, good steps since the last snapshot.
        skipped: Scalar integer variable, the steps of which something was
            left out or clipped.
        rewound: Scalar integer variable, how often variables went back.
    """

    snapshots: list[Any]
    scale: Any
    peak: Any
    streak: Any
    age: Any
    skipped: Any
    rewound: Any

    def of(self, indices):
        """The guard of some of the variables."""
        return self._replace(snapshots=[self.snapshots[i] for i in indices])

    def left_out(self):
        """Whether the last step was left out whole: a scalar boolean tensor."""
        streak = tf.convert_to_tensor(self.streak)
        return tf.not_equal(streak, 0) & (streak <= _PATIENCE)

    def check(self, gradients, variables, averages):
        """Judges the gradients of a step; may move the variables back.

        Where some variables have a finite gradient, so is the loss, and the
        fault lies in the others and not in the batch. What is finite of their
        gradients is then used, as without a guard. So it is where nothing
        else has come for long.

        Args:
            gradients: List of tensors, the same on all replicas.
            variables: List of `tf.Variable`, shaped as the snapshots.
            averages: List of `tf.Variable`, the moving averages of the
                variables, or an empty list.

        Returns:
            A `Judgement`. A rule has to expect NaN in good gradients.
        """
        norms = tf.stack([tf.norm(tf.cast(g, tf.float32)) for g in gradients])
        is_finite = tf.math.is_finite(norms)
        has_part = tf.cond(
            tf.reduce_all(is_finite),
            lambda: tf.zeros_like(is_finite),
            lambda: self._restore_lost(
                gradients, variables, averages, is_finite
            ),
        )
        streak = tf.convert_to_tensor(self.streak)
        any_finite = tf.reduce_any(is_finite)
        is_good = is_finite | (has_part & (any_finite | (streak > _PATIENCE)))
        self._go_on_with_trial(
            _next_streak(streak, any_finite, tf.reduce_any(is_good)),
            any_finite,
            variables,
            averages,
        )
        is_good &= tf.not_equal(streak, _AT_SNAPSHOT)
        # A rewind has set it to zero.
        peak = tf.convert_to_tensor(self.peak)
        is_explosion = is_finite & (peak > 0.0) & (norms > _EXPLOSION * peak)
        is_usual = is_finite & is_good & ~is_explosion
        judgement = Judgement(
            is_good,
            _gradient_scale(norms, peak, is_explosion),
            tf.identity(self.scale),
        )
        self._take_snapshot(norms, peak, is_usual, variables)
        self._next_peak(norms, peak, is_explosion, is_usual)
        self._count(is_good, is_usual)
        return judgement

    def _restore_lost(self, gradients, variables, averages, is_finite):
        """Restores variables that are not finite from their snapshots.

        Returns:
            Boolean tensor `[K]`: the gradient is not finite, a part of it is,
            and is not zero, and the variable was.
        """
        lost, parts = [], []
        for i, variable in enumerate(variables):
            snapshot, gradient = self.snapshots[i], gradients[i]
            is_taken = tf.math.is_finite(snapshot)
            is_lost = tf.reduce_any(is_taken & ~tf.math.is_finite(variable))
            variable.assign(tf.where(is_taken & is_lost, snapshot, variable))
            lost.append(is_lost)
            parts.append(
                tf.reduce_any(
                    tf.math.is_finite(gradient) & tf.not_equal(gradient, 0)
                )
            )
        self._restart(averages, variables, lost)
        self._damp(tf.reduce_any(lost))
        return ~is_finite & tf.stack(parts) & ~tf.stack(lost)

    def _go_on_with_trial(self, streak, any_finite, variables, averages):
        """Assigns the next streak; exchanges variables and snapshots."""
        is_given_up = tf.equal(self.streak, _BACK_AGAIN) & ~any_finite
        is_exchange = (
            is_given_up
            | tf.equal(self.streak, _AT_SNAPSHOT)
            | tf.equal(streak, _AT_SNAPSHOT)
        )

        def exchange():
            for variable, snapshot in zip(variables, self.snapshots):
                value, other = tf.identity(variable), tf.identity(snapshot)
                is_taken = tf.math.is_finite(other)
                variable.assign(tf.where(is_taken, other, value))
                # What is given up is no snapshot to go back to.
                is_kept = is_taken & ~is_given_up
                snapshot.assign(tf.where(is_kept, value, other))
            is_moved = [is_given_up] * len(averages)
            self._restart(averages, variables, is_moved)
            return tf.constant(True)

        tf.cond(is_exchange, exchange, lambda: tf.constant(False))
        self.streak.assign(streak)
        self._damp(is_given_up)

    def _take_snapshot(self, norms, peak, is_good, variables):
        """Keeps the variables, unless their gradients grow."""
        is_first = tf.equal(peak, 0.0)
        # Norms that grow may be about to explode.
        is_calm = tf.reduce_any(is_good) & (
            is_first | tf.reduce_all((norms <= peak) | ~is_good)
        )
        # Of a variable that was frozen there is none yet.
        first = [tf.reshape(s, [-1])[:1] for s in self.snapshots]
        is_missing = tf.stack([tf.reduce_any(tf.math.is_nan(f)) for f in first])
        is_due = is_calm & (
            (self.age >= _SNAPSHOT_EVERY) | tf.reduce_any(is_missing & is_good)
        )

        def take():
            for i, (snapshot, variable) in enumerate(
                zip(self.snapshots, variables)
            ):
                snapshot.assign(tf.where(is_good[i], variable, snapshot))
            return self.age.assign(0)

        tf.cond(is_due, take, lambda: tf.identity(self.age))

    def _next_peak(self, norms, peak, is_explosion, is_usual):
        largest = tf.reduce_max(tf.where(is_usual, norms, 0.0))
        # A gradient of zero shows no scale.
        decayed = tf.where(largest > 0.0, _DECAY * peak, peak)
        decayed = tf.maximum(largest, decayed)
        self.peak.assign(
            tf.where(tf.reduce_any(is_explosion), _GROWTH * peak, decayed)
        )

    def _count(self, is_good, is_usual):
        """Counts the step, and what was left out of it or clipped."""
        is_step = tf.reduce_any(is_good)
        self.age.assign_add(tf.cast(is_step, self.age.dtype))
        is_cut = ~tf.reduce_all(is_usual)
        self.skipped.assign_add(tf.cast(is_cut, self.skipped.dtype))
        recovered = tf.minimum(self.scale * _RECOVERY, 1.0)
        self.scale.assign(tf.where(is_step, recovered, self.scale))

    def _restart(self, averages, variables, which):
        """Lets averages begin anew where their variables went back."""
        for average, variable, is_moved in zip(averages, variables, which):
            average.assign(tf.where(is_moved, variable, average))

    def _damp(self, is_rewound):
        self.rewound.assign_add(tf.cast(is_rewound, self.rewound.dtype))
        damped = tf.maximum(_DAMPING * self.scale, _SMALLEST_SCALE)
        self.scale.assign(tf.where(is_rewound, damped, self.scale))
        # What is an explosion is not known by what has exploded.
        self.peak.assign(tf.where(is_rewound, 0.0, self.peak))


def _gradient_scale(norms, peak, is_explosion):
    """One factor for all that exploded, which keeps their proportions."""
    largest = tf.reduce_max(tf.where(is_explosion, norms, 0.0))
    return tf.where(is_explosion, peak / largest, 1.0)


def _next_streak(streak, any_finite, any_good):
    """The streak after a step, without the variables' coming and going.

    Args:
        streak: Scalar integer tensor.
        any_finite: Scalar boolean tensor, whether some gradient is finite.
        any_good: Scalar boolean tensor, whether some part of one is used.
    """
    is_over = tf.equal((streak + 1) % _PATIENCE, 0)
    longer = tf.where(is_over, _AT_SNAPSHOT, streak + 1)
    # Parts of gradients do not end a streak, as none is good as a whole.
    in_a_row = tf.where(any_finite, 0, tf.where(any_good, streak, longer))
    after_snapshot = tf.where(any_finite, _BACK_AGAIN, _PATIENCE + 1)
    return tf.where(
        tf.equal(streak, _AT_SNAPSHOT),
        after_snapshot,
        tf.where(tf.equal(streak, _BACK_AGAIN), 0, in_a_row),
    )


def describe(name, counts):
    """A warning of interventions: what happened, and where to look.

    Args:
        name: String, the name of the optimizer.
        counts: Dict, its `interventions`.

    Returns:
        A string.
    """
    return (
        f"The guard of `{name}` has left out or clipped something of "
        f"{counts['skipped']} steps, whose gradients were not finite or "
        f"exploded, and moved variables back {counts['rewound']} times. Look "
        "for NaN, infinity and outliers in the data and in the loss; "
        "`interventions` counts on. No optimizer sees the moving statistics "
        "of `BatchNormalization`: if such a batch made them NaN, the model "
        "trains, but evaluates to NaN."
    )


def create_guard(optimizer, variables, indices):
    """Creates the variables of a guard in an optimizer.

    Args:
        optimizer: A `keras.optimizers.Optimizer`.
        variables: List of variables that it updates.
        indices: List of integers, those of them that the guard protects.

    Returns:
        A `Guard`.
    """

    def add(name, dtype, value=0):
        return optimizer.add_variable(
            shape=(),
            dtype=dtype,
            initializer=keras.initializers.Constant(value),
            name=f"guard_{name}",
        )

    snapshots = [None] * len(variables)
    for i in indices:
        snapshots[i] = optimizer.add_variable_from_reference(
            variables[i],
            name="guard_snapshot",
            initializer=keras.initializers.Constant(float("nan")),
        )
    return Guard(
        snapshots=snapshots,
        scale=add("scale", "float32", 1.0),
        peak=add("peak", "float32"),
        streak=add("streak", "int32"),
        age=add("age", "int32"),
        skipped=add("skipped", "int32"),
        rewound=add("rewound", "int32"),
    )
