"""Blocks of coordinates, worked on one after the other in lanes.

A lane is a loop over blocks; lanes run beside each other, on a core each.
"""

import math
import os
from typing import NamedTuple

import tensorflow as tf

from keras_l2l.meta_gradients.coordinates import Block, part

# Each lane takes time to trace, and XLA divides large products among the other
# cores itself.
_MOST_LANES = 4


class Division(NamedTuple):
    """Coordinates in blocks of one size, for which a step is compiled once.

    The last block repeats what it has too few of from the block before it.

    Attributes:
        total: Integer. How many coordinates there are.
        size: Integer. Coordinates of a block.
        blocks: Integer. The number of blocks.
    """

    total: int
    size: int
    blocks: int

    def block(self, number):
        """A `Block`, by its number: an integer or an integer tensor."""
        start, last = number * self.size, self.total - self.size
        within = (
            min(start, last)
            if isinstance(number, int)
            else tf.minimum(start, last)
        )
        return Block(within, self.size, start - within)

    def split(self, tensor, axis=0):
        """List of the blocks of a tensor."""
        return [
            self.block(number).of(tensor, axis) for number in range(self.blocks)
        ]

    def join(self, tensors, axis=0):
        """The inverse of `split`."""
        *others, last = tensors
        repeated = self.block(self.blocks - 1).repeated
        last = part(last, repeated, self.size - repeated, axis)
        return tf.concat([*others, last], axis)


def divide(size, block_size, lanes):
    """Divides coordinates into as many blocks in each lane.

    Args:
        size: Integer. How many coordinates there are.
        block_size: Integer. The most coordinates of a block.
        lanes: Integer.

    Returns:
        A `Division`.
    """
    blocks = math.ceil(size / block_size)
    lanes = min(lanes, blocks)
    blocks = min(size, lanes * math.ceil(blocks / lanes))
    # A multiple of the vectors' length, where that is not too many.
    even = math.ceil(size / blocks)
    block_size = min(block_size, size, 16 * math.ceil(even / 16))
    return Division(size, block_size, math.ceil(size / block_size))


def add_up(function, blocks, lanes, zeros):
    """Sums a function of a block's number, in loops beside each other.

    Args:
        function: Function from the number of a block, an integer or a scalar
            integer tensor, to a list of tensors.
        blocks: Integer.
        lanes: Integer.
        zeros: List of tensors, what a sum starts from.

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
            (tf.constant(index), zeros),
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
