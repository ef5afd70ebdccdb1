"""A guard that keeps bad batches and diverged variables from ruin.

A gradient that is not finite is left out of a step. An *explosion*, a
gradient a thousand times as large as the running maximum of the norms, is
clipped to that maximum, which grows with each explosion: nothing is left out
for being large, and a change of scale that lasts is soon accepted. Of a rule
whose steps do not depend on the scale of gradients, which clipping does not
shorten, the step itself is shortened.

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
from keras import ops

from keras_l2l.optimizers.backends import backend
from keras_l2l.rules.stacking import ShapeStacks

# A norm above this multiple of the running maximum is an explosion.
_EXPLOSION = 1e3
# Decay of the running maximum, a step, and what an explosion does to it. It
# forgets 1e9 in 400 steps. A gradient that stays 1e4 times as large is accepted
# after 24; explosions of less than a third of the steps do not raise it.
_DECAY, _GROWTH = 0.95, 1.1
# The share of a step along gradients that were clipped, for rules whose steps
# clipping does not shorten.
_SHORT_STEP = 0.2
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

    def with_short_step(self, is_explosion):
        """A short step where something exploded, as its size is not known."""
        short = ops.where(ops.any(is_explosion), _SHORT_STEP, 1.0)
        return self._replace(update_scale=short * self.update_scale)


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
        streak = backend.read(self.streak)
        return ops.not_equal(streak, 0) & (streak <= _PATIENCE)

    def check(self, gradients, variables, averages, is_scale_invariant=False):
        """Judges the gradients of a step; may move the variables back.

        Where some variables have a finite gradient, so is the loss, and the
        fault lies in the others and not in the batch. What is finite of their
        gradients is then used, as without a guard. So it is where nothing
        else has come for long.

        Args:
            gradients: List of tensors, the same on all replicas.
            variables: List of variables, shaped as the snapshots.
            averages: List of variables, the moving averages of the
                variables, or an empty list.
            is_scale_invariant: Boolean, whether clipping does not shorten the
                steps of the rule. Defaults to `False`.

        Returns:
            A `Judgement`. A rule has to expect NaN in good gradients.
        """
        norms = backend.norms(gradients)
        is_finite = ops.isfinite(norms)
        none = ops.zeros_like(is_finite)
        is_lost, has_part = backend.cond(
            ops.all(is_finite),
            lambda: (none, none),
            lambda: self._faults(gradients, variables, is_finite),
        )
        streak = backend.read(self.streak)
        any_finite = ops.any(is_finite)
        is_good = is_finite | (has_part & (any_finite | (streak > _PATIENCE)))
        self._move(
            _next_streak(streak, any_finite, ops.any(is_good)),
            any_finite,
            is_lost,
            variables,
            averages,
        )
        is_good = is_good & ops.not_equal(streak, _AT_SNAPSHOT)
        # A rewind has set it to zero.
        peak = backend.read(self.peak)
        is_explosion = is_finite & (peak > 0.0) & (norms > _EXPLOSION * peak)
        is_usual = is_finite & is_good & ~is_explosion
        judgement = Judgement(
            is_good,
            _gradient_scale(norms, peak, is_explosion),
            backend.read(self.scale),
        )
        if is_scale_invariant:
            judgement = judgement.with_short_step(is_explosion)
        self._take_snapshot(norms, peak, is_usual, variables)
        self._next_peak(norms, peak, is_explosion, is_usual)
        self._count(is_good, is_usual)
        return judgement

    def _faults(self, gradients, variables, is_finite):
        """Finds out what is left of a step whose gradients are not finite.

        Returns:
            Tuple of boolean tensors `[K]`: whether the variable is lost, which
            is not finite where its snapshot is; whether it is not lost, and
            its gradient is not finite, but a part of that is, and not zero.
        """
        stacks = ShapeStacks(variables)
        lost, parts = [], []
        for value, snapshot, gradient in zip(
            _read(stacks, variables),
            _read(stacks, self.snapshots),
            stacks.stack(gradients),
        ):
            is_lost = ops.isfinite(snapshot) & ~ops.isfinite(value)
            lost.append(ops.any(is_lost, axis=-1))
            is_part = ops.isfinite(gradient) & ops.not_equal(gradient, 0.0)
            parts.append(ops.any(is_part, axis=-1))
        is_lost = stacks.from_stacks(lost)
        return is_lost, ~is_finite & stacks.from_stacks(parts) & ~is_lost

    def _move(self, streak, any_finite, is_lost, variables, averages):
        """Assigns the next streak; restores or exchanges the variables.

        What is lost comes back from its snapshot. Where a trial begins or
        ends, variables and snapshots change places.
        """
        before = backend.read(self.streak)
        is_given_up = ops.equal(before, _BACK_AGAIN) & ~any_finite
        is_exchange = (
            is_given_up
            | ops.equal(before, _AT_SNAPSHOT)
            | ops.equal(streak, _AT_SNAPSHOT)
        )

        # What is lost or given up is no snapshot to go back to; averages begin
        # anew where their variables went back.
        is_new = is_lost | is_given_up
        masks_of_tensors = [
            is_lost | is_exchange,
            is_exchange & ~is_new,
            is_new,
        ]

        def moved():
            stacks = ShapeStacks(variables)
            masks = [
                ops.unstack(mask, 3, axis=1)
                for mask in stacks.to_stacks(
                    ops.expand_dims(ops.stack(masks_of_tensors, axis=1), 2)
                )
            ]
            values, snapshots = [], []
            for (is_back, is_kept, _), value, snapshot in zip(
                masks,
                _read(stacks, variables),
                _read(stacks, self.snapshots),
            ):
                is_taken = ops.isfinite(snapshot)
                values.append(ops.where(is_back & is_taken, snapshot, value))
                snapshots.append(ops.where(is_kept & is_taken, value, snapshot))
            assigned = [*stacks.unstack(values), *stacks.unstack(snapshots)]
            if not averages:
                return assigned
            restarted = [
                ops.where(is_restarted, value, average)
                for (_, _, is_restarted), value, average in zip(
                    masks, values, _read(stacks, averages)
                )
            ]
            return [*assigned, *stacks.unstack(restarted)]

        is_rewound = ops.any(is_lost) | is_given_up
        backend.assign_if(
            is_rewound | is_exchange,
            moved,
            [*variables, *self.snapshots, *averages],
        )
        backend.assign(self.streak, streak)
        self._damp(is_rewound)

    def _take_snapshot(self, norms, peak, is_good, variables):
        """Keeps the variables, unless their gradients grow."""
        is_first = ops.equal(peak, 0.0)
        # Norms that grow may be about to explode.
        is_calm = ops.any(is_good) & (
            is_first | ops.all((norms <= peak) | ~is_good)
        )
        # Of a variable that was frozen there is none yet.
        is_missing = ops.isnan(backend.first_elements(self.snapshots))
        age = backend.read(self.age)
        is_due = is_calm & (
            (age >= _SNAPSHOT_EVERY) | ops.any(is_missing & is_good)
        )

        def taken():
            snapshots = [
                backend.select(
                    one, backend.read(variable), backend.read(snapshot)
                )
                for one, variable, snapshot in zip(
                    ops.unstack(is_good), variables, self.snapshots
                )
            ]
            return [ops.zeros_like(age), *snapshots]

        backend.assign_if(is_due, taken, [self.age, *self.snapshots])

    def _next_peak(self, norms, peak, is_explosion, is_usual):
        largest = ops.max(ops.where(is_usual, norms, 0.0))
        # A gradient of zero shows no scale.
        decayed = ops.where(largest > 0.0, _DECAY * peak, peak)
        decayed = ops.maximum(largest, decayed)
        grown = ops.where(ops.any(is_explosion), _GROWTH * peak, decayed)
        backend.assign(self.peak, grown)

    def _count(self, is_good, is_usual):
        """Counts the step, and what was left out of it or clipped."""
        is_step, is_cut = ops.any(is_good), ~ops.all(is_usual)
        self.age.assign_add(ops.cast(is_step, "int32"))
        self.skipped.assign_add(ops.cast(is_cut, "int32"))
        scale = backend.read(self.scale)
        recovered = ops.minimum(scale * _RECOVERY, 1.0)
        backend.assign(self.scale, ops.where(is_step, recovered, scale))

    def _damp(self, is_rewound):
        self.rewound.assign_add(ops.cast(is_rewound, "int32"))
        scale, peak = backend.read(self.scale), backend.read(self.peak)
        damped = ops.maximum(_DAMPING * scale, _SMALLEST_SCALE)
        backend.assign(self.scale, ops.where(is_rewound, damped, scale))
        # What is an explosion is not known by what has exploded.
        backend.assign(self.peak, ops.where(is_rewound, 0.0, peak))


def _read(stacks, variables):
    """Stacks of the values of variables."""
    return stacks.stack([backend.read(variable) for variable in variables])


def _gradient_scale(norms, peak, is_explosion):
    """One factor for all that exploded, which keeps their proportions."""
    largest = ops.max(ops.where(is_explosion, norms, 0.0))
    return ops.where(is_explosion, peak / largest, 1.0)


def _next_streak(streak, any_finite, any_good):
    """The streak after a step, without the variables' coming and going.

    Args:
        streak: Scalar integer tensor.
        any_finite: Scalar boolean tensor, whether some gradient is finite.
        any_good: Scalar boolean tensor, whether some part of one is used.
    """
    is_over = ops.equal((streak + 1) % _PATIENCE, 0)
    longer = ops.where(is_over, _AT_SNAPSHOT, streak + 1)
    # Parts of gradients do not end a streak, as none is good as a whole.
    in_a_row = ops.where(any_finite, 0, ops.where(any_good, streak, longer))
    after_snapshot = ops.where(any_finite, _BACK_AGAIN, _PATIENCE + 1)
    return ops.where(
        ops.equal(streak, _AT_SNAPSHOT),
        after_snapshot,
        ops.where(ops.equal(streak, _BACK_AGAIN), 0, in_a_row),
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
