"""Which coordinates the meta-gradient is taken over."""

import math
from typing import Any, NamedTuple

import tensorflow as tf


class Coordinates(NamedTuple):
    """Some coordinates of each parameter.

    Attributes:
        rows: List of integer tensors `[M]`, or of `None` for all of them.
        owners: List of integer tensors `[M]`: whose they are, of the
            optimizees side by side.
        scales: List of tensors `[M]`: how many coordinates each stands for.
    """

    rows: Any
    owners: Any
    scales: Any

    def pick(self, tensors):
        """These coordinates of tensors shaped as the parameters."""
        return [
            tensor if rows is None else tf.gather(flat(tensor), rows)
            for tensor, rows in zip(tensors, self.rows)
        ]

    def pick_local(self, local):
        """These coordinates of the local part of a rule's state."""
        return [
            state
            if rows is None
            else tf.nest.map_structure(lambda s: tf.gather(s, rows), state)  # noqa: B023
            for state, rows in zip(local, self.rows)
        ]


class Block(NamedTuple):
    """`count` coordinates of a parameter from `start`; `None`: all of it.

    The first `repeated` of them are those of another block, too, which counts
    them.
    """

    start: Any = None
    count: Any = None
    repeated: Any = 0

    def of(self, tensor, axis=0):
        """These coordinates of a tensor that has all of them along an axis."""
        if self.count is None:
            return tensor
        return part(tensor, self.start, self.count, axis)

    def of_structure(self, structure):
        """These coordinates of tensors that have them on the last axis."""
        return tf.nest.map_structure(lambda s: self.of(s, axis=-1), structure)

    def of_coordinates(self, chosen, index):
        """`Coordinates` of this block of the parameter at an index alone."""
        scales = self.of(chosen.scales[index])
        if self.count is not None:
            new = tf.range(self.count) >= self.repeated
            scales = tf.where(new, scales, tf.zeros_like(scales))
        return Coordinates([None], [self.of(chosen.owners[index])], [scales])


def choose(parameters, optimizees, share, seed):
    """All coordinates, or a random share, drawn without replacement.

    Args:
        parameters: List of tensors, those of a `Carry`.
        optimizees: Integer. How many are side by side.
        share: Float in (0, 1].
        seed: Integer tensor `[2]`. Not read if `share` is 1.

    Returns:
        `Coordinates`.
    """
    rows, owners, scales = [], [], []
    for index, parameter in enumerate(parameters):
        size = parameter.shape.num_elements() // optimizees
        kept = math.ceil(share * size)
        if share == 1.0:
            chosen = tf.range(optimizees * size)
        else:
            lots = tf.random.stateless_uniform([optimizees, size], seed + index)
            _, chosen = tf.math.top_k(lots, kept, sorted=False)
            # The coordinates of one optimizee stand after those of another.
            chosen += size * tf.range(optimizees)[:, None]
            chosen = flat(chosen)
        rows.append(None if share == 1.0 else chosen)
        owners.append(chosen // size)
        scales.append(
            tf.fill([optimizees * kept], tf.cast(size / kept, parameter.dtype))
        )
    return Coordinates(rows, owners, scales)


def part(tensor, start, count, axis=0):
    """`count` rows from `start`; the shape is static, which XLA asks for."""
    sizes = tensor.shape.as_list()
    begin = [0] * len(sizes)
    begin[axis], sizes[axis] = start, count
    return tf.slice(tensor, begin, sizes)


def flat(tensor):
    """A tensor as a vector."""
    return tf.reshape(tensor, [-1])
