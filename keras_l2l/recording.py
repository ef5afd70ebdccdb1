"""Structures of tensors that a loop writes down and another one reads."""

import tensorflow as tf


def arrays(like, size):
    """Tensor arrays, one for each leaf of a structure.

    Args:
        like: Structure of tensors of static shapes.
        size: Integer, or scalar integer tensor. How many will be written.

    Returns:
        List of `tf.TensorArray`s, to be read any number of times.
    """
    return [
        tf.TensorArray(
            leaf.dtype,
            size=size,
            element_shape=leaf.shape,
            clear_after_read=False,
        )
        for leaf in tf.nest.flatten(like)
    ]


def write(arrays, index, structure):
    """Writes the leaves of a structure at an index; returns the arrays."""
    leaves = tf.nest.flatten(structure)
    return [array.write(index, leaf) for array, leaf in zip(arrays, leaves)]


def read(arrays, index, like):
    """Reads what was written at an index, as a structure like another."""
    leaves = [array.read(index) for array in arrays]
    return tf.nest.pack_sequence_as(like, leaves)


def floating(structure):
    """The leaves that have derivatives."""
    return [x for x in tf.nest.flatten(structure) if x.dtype.is_floating]


def count_bytes(structure):
    """How many bytes the leaves have in all."""
    return sum(
        leaf.shape.num_elements() * leaf.dtype.size
        for leaf in tf.nest.flatten(structure)
    )
