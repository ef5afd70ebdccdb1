"""Structures of tensors that one loop writes and another loop reads."""

from typing import Any, NamedTuple

import tensorflow as tf


class StackedArrays(NamedTuple):
    """A `tf.TensorArray` for each leaf of a structure of tensors.

    Attributes:
        arrays: Structure of `tf.TensorArray`s. It may be a loop variable.
    """

    arrays: Any

    @classmethod
    def like(cls, structure, size):
        """Empty arrays.

        Args:
            structure: Structure of tensors of static shapes: one entry.
            size: Integer, or scalar integer tensor. The number of entries.

        Returns:
            A `StackedArrays`, whose entries can be read any number of times.
        """
        return cls(
            tf.nest.map_structure(
                lambda leaf: tf.TensorArray(
                    leaf.dtype,
                    size=size,
                    element_shape=leaf.shape,
                    clear_after_read=False,
                ),
                structure,
            )
        )

    def write(self, index, structure):
        """Writes the entry at an index.

        Args:
            index: Integer, or scalar integer tensor.
            structure: Structure of tensors.

        Returns:
            The `StackedArrays` to be used from now on.
        """
        tf.nest.assert_same_structure(self.arrays, structure)
        return StackedArrays(
            tf.nest.map_structure(
                lambda array, leaf: array.write(index, leaf),
                self.arrays,
                structure,
            )
        )

    def read(self, index):
        """Reads the entry at an index.

        Args:
            index: Integer, or scalar integer tensor.

        Returns:
            A structure of tensors.
        """
        return tf.nest.map_structure(
            lambda array: array.read(index), self.arrays
        )


def floating(structure):
    """The leaves of a structure that have derivatives.

    Args:
        structure: Structure of tensors.

    Returns:
        List of tensors.
    """
    return [x for x in tf.nest.flatten(structure) if x.dtype.is_floating]


def count_bytes(structure):
    """The size of all leaves of a structure, in bytes.

    Args:
        structure: Structure of tensors of static shapes.

    Returns:
        An integer.
    """
    return sum(
        leaf.shape.num_elements() * leaf.dtype.size
        for leaf in tf.nest.flatten(structure)
    )
