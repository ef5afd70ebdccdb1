"""Blocks of coordinates, worked on one after the other in lanes.

A lane is a loop over blocks; lanes run beside each other, on a core each.
"""

import math
import os
from typing import NamedTuple

import tensorflow as tf

from keras_l2l.coordinates import Block

# Each lane takes time to trace, and XLA divides large products among the other
# cores itself.
_MOST_LANES = 4


class Division(NamedTuple):
    """Coordinates in blocks that are alike but for the first, the odd one.

    Attributes:
        first: Integer. Coordinates of the first block.
        size: Integer. Coordinates of each of the others.
        blocks: Integer. The number of blocks.
    """

    first: int
    size: int
    blocks: int

    @property
    def sizes(self):
        """Coordinates of each block, a list."""
        return [self.first] + [self.size] * (self.blocks - 1)

    def block(self, number):
        """A `Block`, by its number: an integer, or a tensor above 0."""
        if isinstance(number, int) and number == 0:
            return Block(0, self.first)
        return Block(self.first + (number - 1) * self.size, self.size)


def divide(size, block_size, lanes):
    """Divides coordinates into as many blocks in each lane.

    Args:
        size: Integer. How many coordinates there are.
        block_size: Integer. The most coordinates of a block but the first,
            which also has what is left over.
        lanes: Integer.

    Returns:
        A `Division`.
    """
    blocks = math.ceil(size / block_size)
    lanes = min(lanes, blocks)
    blocks = min(size, lanes * math.ceil(blocks / lanes))
    block_size = size // blocks
    # A multiple of the vectors' length, where it is longer than one.
    block_size -= block_size % min(16, block_size)
    return Division(size - (blocks - 1) * block_size, block_size, blocks)


def add_up(function, blocks, lanes):
    """Sums a function of a block's number, in loops beside each other.

    Args:
        function: Function from the number of a block, an integer or a scalar
            integer tensor above 0, to a list of tensors.
        blocks: Integer.
        lanes: Integer.

    Returns:
        List of tensors.
    """
    lanes = min(lanes, blocks)

    def lane(index):
        def body(number, totals):
            totals = [a + b for a, b in zip(totals, function(number))]
            return number + lanes, totals

        if index + lanes >= blocks:
            return function(index)
        _, totals = tf.while_loop(
            lambda number, _: number < blocks,
            body,
            (tf.constant(index + lanes), function(index)),
            parallel_iterations=1,
        )
        return totals

    parts = [lane(index) for index in range(lanes)]
    return [tf.add_n(tensors) for tensors in zip(*parts)]


def count():
    """How many lanes there are: one for each operation that runs at once."""
    return min(_MOST_LANES, _concurrency())


def _concurrency():
    threads = tf.config.threading.get_inter_op_parallelism_threads()
    if threads:
        return threads
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Not on every system.
        return os.cpu_count() or 1
