"""The coordinates that a meta-gradient is a sum over."""

import math
from typing import Any, NamedTuple

import tensorflow as tf

from keras_l2l.execution.partition import BLOCK_SIZE
from keras_l2l.rules import RuleState


class Coordinates(NamedTuple):
    """Some coordinates of some optimizees.

    Attributes:
        optimizee_ids: Integer tensor `[n]`, which optimizee each is of; `None`
            if there is only one.
        importance_weights: Tensor `[n]`, the number of coordinates that each
            stands for; `None` if that is 1.
    """

    optimizee_ids: Any = None
    importance_weights: Any = None

    def scale(self, gradient, weight):
        """A gradient times the weight of its loss.

        Args:
            gradient: Tensor `[n]`; of any shape if both attributes are `None`.
            weight: Scalar tensor, or `[K]` for `K` optimizees.

        Returns:
            Tensor like `gradient`, zero where that is not finite.
        """
        weight = tf.cast(weight, gradient.dtype)
        if self.optimizee_ids is not None:
            weight = tf.gather(weight, self.optimizee_ids)
        if self.importance_weights is not None:
            weight *= tf.cast(self.importance_weights, gradient.dtype)
        return tf.where(
            tf.math.is_finite(gradient),
            weight * gradient,
            tf.zeros_like(gradient),
        )


class Part(NamedTuple):
    """A part of an optimizee, whose steps a rule is to repeat.

    Attributes:
        gradients: List of tensors `[T + 1, …]`, those at θ_0 … θ_T: of the
            inner loss, which the rule sees, and of the outer loss, if that is
            another one.
        parameter: Tensor, θ_0.
        state: A `RuleState`, before the first step.
        coordinates: A `Coordinates`.
    """

    gradients: Any
    parameter: Any
    state: RuleState
    coordinates: Coordinates

    def gather(self, rows, coordinates):
        """Some coordinates of a part that is a vector of them.

        Args:
            rows: Integer tensor `[m]`.
            coordinates: Their `Coordinates`.

        Returns:
            A `Part`.
        """
        local = tf.nest.map_structure(
            lambda leaf: tf.gather(leaf, rows), self.state.local
        )
        return Part(
            [tf.gather(g, rows, axis=1) for g in self.gradients],
            tf.gather(self.parameter, rows),
            self.state._replace(local=local),
            coordinates,
        )


def all_coordinates(parameter, optimizees):
    """All coordinates of a block, those of one optimizee after another's.

    Args:
        parameter: Tensor, one of a `Carry`.
        optimizees: Integer, `K`.

    Returns:
        A `Coordinates`.
    """
    if optimizees == 1:
        return Coordinates()
    length = parameter.shape.num_elements() // optimizees
    return Coordinates(tf.repeat(tf.range(optimizees), length))


def sample_coordinates(size, share, seeds, block, padding=0):
    """Draws a random share of a block's coordinates, without replacement.

    Args:
        size: Integer. Coordinates of each optimizee in the block.
        share: Float in (0, 1).
        seeds: Integer tensor `[K, 2]`, one for each optimizee.
        block: Integer, folded into the seeds.
        padding: Integer. The last coordinates, which are no optimizee's.
            Defaults to `0`.

    Returns:
        Tuple `(rows, coordinates)`: integer tensor `[m]`, and a `Coordinates`.
        The sum of the importance weights of each optimizee is the number of
        its coordinates.
    """
    optimizees, drawn = seeds.shape[0], math.ceil(share * size)

    def draw(seed):
        seed = tf.random.fold_in(seed, block)
        return tf.random.stateless_uniform([size - padding], seed)

    lots = tf.map_fn(draw, seeds, fn_output_signature=tf.float32)
    # Padding is drawn when nothing else is left.
    lots = tf.pad(lots, [[0, 0], [0, padding]], constant_values=-1.0)
    lots, columns = tf.math.top_k(lots, drawn, sorted=False)
    ids = tf.repeat(tf.range(optimizees), drawn)
    rows = ids * size + tf.reshape(columns, [-1])
    stands_for = (size - padding) / min(drawn, size - padding)
    weights = tf.where(lots < 0.0, 0.0, stands_for)
    return rows, Coordinates(
        ids if optimizees > 1 else None, tf.reshape(weights, [-1])
    )


def join_small(parts):
    """Joins parts that are vectors of coordinates, as far as a block has room.

    Args:
        parts: List of `Part`s of one size.

    Returns:
        List of `Part`s.
    """
    count = max(1, BLOCK_SIZE // parts[0].parameter.shape[0])
    return [
        _concatenate(parts[index : index + count])
        for index in range(0, len(parts), count)
    ]


def slice_part(part, index, slices):
    """One of some equal slices of a part that is a vector of coordinates.

    Args:
        part: A `Part`.
        index: Scalar integer tensor. Which slice.
        slices: Integer.

    Returns:
        A `Part`. What the last slice has too few of is repeated, with an
        importance weight of zero.
    """
    size = part.parameter.shape[0]
    length = math.ceil(size / slices)
    rows = index * length + tf.range(length)
    weights = tf.cast(rows < size, tf.float32)
    rows = tf.minimum(rows, size - 1)
    ids, importance_weights = part.coordinates
    if importance_weights is not None:
        weights *= tf.gather(importance_weights, rows)
    if ids is not None:
        ids = tf.gather(ids, rows)
    return part.gather(rows, Coordinates(ids, weights))


def _concatenate(parts):
    """One part of all coordinates of some."""
    first = parts[0]
    if len(parts) == 1:
        return first
    local = tf.nest.map_structure(
        lambda *leaves: tf.concat(leaves, 0),
        *(part.state.local for part in parts),
    )
    return Part(
        [
            tf.concat(columns, 1)
            for columns in zip(*(part.gradients for part in parts))
        ],
        tf.concat([part.parameter for part in parts], 0),
        first.state._replace(local=local),
        Coordinates(
            *(
                None if columns[0] is None else tf.concat(columns, 0)
                for columns in zip(*(part.coordinates for part in parts))
            )
        ),
    )
