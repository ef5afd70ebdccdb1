"""Structures of tensors that a loop writes down and another one reads."""

import math

import tensorflow as tf


def arrays(like, size):
    """Tensor arrays, one for each dtype of a structure's leaves.

    The leaves go in joined end to end. That copies them, with which the step
    that made them writes to the same near memory each time, and far memory is
    written by a plain copy, which need not read it before.

    Args:
        like: Structure of tensors of static shapes.
        size: Integer, or scalar integer tensor. How many will be written.

    Returns:
        List of `tf.TensorArray`s, to be read any number of times.
    """
    return [
        tf.TensorArray(
            dtype,
            size=size,
            element_shape=_joined_shape(leaves),
            clear_after_read=False,
        )
        for dtype, leaves in _by_dtype(like).items()
    ]


def write(arrays, index, structure):
    """Writes the leaves of a structure at an index; returns the arrays."""
    result = []
    for array, leaves in zip(arrays, _by_dtype(structure).values()):
        _, width = _joined_shape(leaves)
        rows = [tf.reshape(leaf, [-1, width]) for leaf in leaves]
        result.append(array.write(index, tf.concat(rows, 0)))
    return result


def read(arrays, index, like):
    """Reads what was written at an index, as a structure like another."""
    found = {}
    for array, (dtype, leaves) in zip(arrays, _by_dtype(like).items()):
        _, width = _joined_shape(leaves)
        sizes = [leaf.shape.num_elements() // width for leaf in leaves]
        parts = tf.split(array.read(index), sizes)
        found[dtype] = iter(
            [tf.reshape(x, leaf.shape) for x, leaf in zip(parts, leaves)]
        )
    leaves = [next(found[leaf.dtype]) for leaf in tf.nest.flatten(like)]
    return tf.nest.pack_sequence_as(like, leaves)


def _joined_shape(leaves):
    """Shape of the matrix in which leaves are joined.

    TensorFlow splits one without a copy if its rows are aligned, to 64 bytes.
    """
    sizes = [leaf.shape.num_elements() for leaf in leaves]
    width = math.gcd(16, *sizes)
    return [sum(sizes) // width, width]


def _by_dtype(structure):
    """Dict from dtype to the list of a structure's leaves that have it."""
    groups: dict = {}
    for leaf in tf.nest.flatten(structure):
        groups.setdefault(leaf.dtype, []).append(leaf)
    return groups


def floating(structure):
    """The leaves that have derivatives."""
    return [x for x in tf.nest.flatten(structure) if x.dtype.is_floating]


def count_bytes(structure):
    """How many bytes the leaves have in all."""
    return sum(
        leaf.shape.num_elements() * leaf.dtype.size
        for leaf in tf.nest.flatten(structure)
    )
