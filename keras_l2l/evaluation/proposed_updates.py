"""The update that a rule proposes, as a function of the gradient."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.inner_loop.episode import start, unpack
from keras_l2l.inner_loop.unroll import inner_step
from keras_l2l.rules import UpdateRule
from keras_l2l.tasks import Task

_GRID_SIZE = 101
_MARGIN = 1.5  # of the grid, beyond the largest gradient that was seen


class Proposals(NamedTuple):
    """Updates that some rules propose for single coordinates.

    Attributes:
        rules: Tuple of `R` names, that of the learned rule first.
        coordinates: Tuple of `C` pairs: which parameter, and which of its
            coordinates.
        steps: Tuple of `T` integers: inner steps done before.
        gradients: Array `[C, G]`, which replace that of each coordinate.
        updates: Array `[R, C, T, G]`.
        seen: Array `[C, T]`, the gradients that training had there.
    """

    rules: tuple[str, ...]
    coordinates: tuple[tuple[int, int], ...]
    steps: tuple[int, ...]
    gradients: np.ndarray
    updates: np.ndarray
    seen: np.ndarray


class UpdateHistory(NamedTuple):
    """Updates of single coordinates along the training of an optimizee.

    Attributes:
        rules: Tuple of `R` names, that of the rule that trained it first.
        coordinates: Tuple of `C` pairs, as in `Proposals`.
        gradients: Array `[C, T]`, of each step.
        updates: Array `[R, C, T]`.
        losses: Array `[T]`, before each update.
    """

    rules: tuple[str, ...]
    coordinates: tuple[tuple[int, int], ...]
    gradients: np.ndarray
    updates: np.ndarray
    losses: np.ndarray


class _Moment(NamedTuple):
    """What the rules saw at a step, the hidden state of each, its updates."""

    gradients: Any
    parameters: Any
    states: Any
    updates: Any
    loss: Any


def proposed_updates(
    rules: dict[str, UpdateRule],
    task: Task,
    coordinates: Sequence[tuple[int, int]],
    steps: Sequence[int],
    gradients: Sequence[float] | None = None,
    seed: int = 0,
) -> Proposals:
    """Computes the updates that rules propose after a real history.

    The first rule trains an optimizee. The others see the same gradients, so
    that all hidden states come from one history. Then, at some steps, the
    gradient of a single coordinate is replaced by one value after another,
    all else being as it was.

    Args:
        rules: Dict from names to `UpdateRule`s, the learned one first.
        task: A `Task`.
        coordinates: Sequence of pairs of integers: the index of a parameter,
            and that of a coordinate in it, as if it were flat.
        steps: Sequence of integers, not negative: the numbers of inner steps
            that come before.
        gradients: Sequence of floats that replace the gradient. Defaults to
            `None`: for each coordinate 101 values around zero, beyond all
            gradients that training had there.
        seed: Integer in [0, 2³¹), of the optimizee and its batches.
            Defaults to `0`.

    Returns:
        A `Proposals`.

    Raises:
        TypeError: If a rule is none.
        ValueError: If a coordinate does not exist, or a step is negative.

    Example:

    >>> proposals = proposed_updates(
    ...     {"lstm": rule, "SGD": keras_l2l.rules.SGD(0.02)},
    ...     task,
    ...     coordinates=[(0, 0), (0, 2)],
    ...     steps=[1, 5],
    ... )
    >>> proposals.updates.shape
    (2, 2, 2, 101)

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        appendix.
    """
    _check(rules, task, coordinates, steps)
    coordinates = tuple((int(i), int(j)) for i, j in coordinates)
    moments = _history(rules, task, steps, seed)
    seen = np.array(
        [
            [np.ravel(moment.gradients[i])[j] for moment in moments]
            for i, j in coordinates
        ]
    )
    if gradients is None:
        bounds = _MARGIN * np.abs(seen).max(1)
        grid = np.linspace(-bounds, bounds, _GRID_SIZE, axis=1)
    else:
        grid = np.tile(gradients, (len(coordinates), 1))
    grid = grid.astype(seen.dtype)
    updates = []
    for index, rule in enumerate(rules.values()):
        propose = _proposer(rule, coordinates, grid)
        at_moments = [
            propose(moment.gradients, moment.parameters, moment.states[index])
            for moment in moments
        ]
        updates.append(np.stack(at_moments, axis=1))  # [C, T, G]
    return Proposals(
        rules=tuple(rules),
        coordinates=coordinates,
        steps=tuple(steps),
        gradients=grid,
        updates=np.stack(updates),
        seen=seen,
    )


def update_history(
    rules: dict[str, UpdateRule],
    task: Task,
    coordinates: Sequence[tuple[int, int]],
    steps: int,
    seed: int = 0,
) -> UpdateHistory:
    """Computes the updates of single coordinates, step by step, by rules.

    The first rule trains an optimizee. The others see the same gradients, so
    that all answer one history.

    Args:
        rules: Dict from names to `UpdateRule`s, the learned one first.
        task: A `Task`.
        coordinates: Sequence of pairs of integers, as in `proposed_updates`.
        steps: Integer. Inner steps.
        seed: Integer in [0, 2³¹), of the optimizee and its batches.
            Defaults to `0`.

    Returns:
        An `UpdateHistory`.

    Raises:
        TypeError: If a rule is none.
        ValueError: If a coordinate does not exist, or `steps` is not positive.

    Example:

    >>> history = update_history(
    ...     {"lstm": rule, "SGD": keras_l2l.rules.SGD(0.02)},
    ...     task,
    ...     coordinates=[(0, 0), (0, 2)],
    ...     steps=5,
    ... )
    >>> history.updates.shape
    (2, 2, 5)

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        appendix.
    """
    steps = checks.positive_integer(steps=steps)
    _check(rules, task, coordinates, [steps])
    coordinates = tuple((int(i), int(j)) for i, j in coordinates)
    moments = _history(rules, task, range(steps), seed)

    def of_coordinates(tensors):
        return [np.ravel(tensors[i])[j] for i, j in coordinates]

    return UpdateHistory(
        rules=tuple(rules),
        coordinates=coordinates,
        gradients=np.stack([of_coordinates(m.gradients) for m in moments], -1),
        updates=np.stack(
            [[of_coordinates(u) for u in m.updates] for m in moments], -1
        ),
        losses=np.array([float(moment.loss) for moment in moments]),
    )


def _check(rules, task, coordinates, steps):
    if not (isinstance(rules, dict) and rules) or not all(
        isinstance(rule, UpdateRule) for rule in rules.values()
    ):
        raise TypeError(
            "Argument `rules` must be a dict from names to `UpdateRule`s. "
            f"Received: rules={rules!r}"
        )
    sizes = [spec.shape.num_elements() for spec in task.parameter_specs]
    for i, j in coordinates:
        if not (0 <= i < len(sizes) and 0 <= j < sizes[i]):
            raise ValueError(
                "Argument `coordinates` must have pairs of the index of a "
                "parameter and of a coordinate in it; the parameters have "
                f"{sizes} coordinates. Received: {(i, j)}"
            )
    if not len(steps) or min(map(operator.index, steps)) < 0:
        raise ValueError(
            "Argument `steps` must have integers that are not negative. "
            f"Received: steps={steps}"
        )


def _history(rules, task, steps, seed):
    """List of `_Moment`s, one for each of the steps."""
    learned = next(iter(rules.values()))

    @tf.function(autograph=False)
    def step(carry, states):
        after, loss, gradients = inner_step(learned, task, carry)
        seen = [
            unpack(learned, task, tensors)
            for tensors in (gradients, carry.parameters)
        ]
        updates, after_states = zip(
            *(rule(*seen, state) for rule, state in zip(rules.values(), states))
        )
        moment = _Moment(seen[0], seen[1], states, list(updates), loss)
        return after, list(after_states), moment

    carry = start(learned, task, seed)
    parameters = unpack(learned, task, carry.parameters)
    states = [
        rule.named_initial_state(parameters, task.parameter_paths)
        for rule in rules.values()
    ]
    moments = {}
    for index in range(max(steps) + 1):
        carry, states, moment = step(carry, states)
        if index in steps:
            moments[index] = moment
    return [moments[index] for index in steps]


def _proposer(rule, coordinates, values):
    """Function from a moment to the updates `[C, G]` of some coordinates."""

    @tf.function(autograph=False)
    def propose(gradients, parameters, state):
        seen = gradients, parameters, state
        return tf.stack(
            [
                _propose(rule, coordinate, of_one, *seen)
                for coordinate, of_one in zip(coordinates, values)
            ]
        )

    return propose


def _propose(rule, coordinate, values, gradients, parameters, state):
    """The updates `[G]` of one coordinate."""
    i, j = coordinate
    flat = [tf.reshape(gradient, [-1]) for gradient in gradients]
    if rule.granularity == "coordinate":  # It is enough to run on one.
        parameters = [tf.reshape(parameters[i], [-1])[j : j + 1]]
        local = tf.nest.map_structure(lambda s: s[j : j + 1], state.local[i])
        state = state._replace(local=[local])
        flat, i, j = [flat[i][j : j + 1]], 0, 0

    def propose_at(value):
        changed = list(flat)
        changed[i] = tf.tensor_scatter_nd_update(flat[i], [[j]], [value])
        changed = [tf.reshape(g, p.shape) for g, p in zip(changed, parameters)]
        updates, _ = rule(changed, parameters, state)
        return tf.reshape(updates[i], [-1])[j]

    return tf.map_fn(propose_at, tf.constant(values, flat[i].dtype))
