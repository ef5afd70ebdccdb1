import hypothesis
import numpy as np
import tensorflow as tf
from hypothesis import strategies

from keras_l2l import rules
from keras_l2l.execution import partition
from tests import components


@hypothesis.given(strategies.integers(1, 10**7), strategies.integers(1, 600))
def test_equal_blocks_cover_each_coordinate(size, optimizees):
    blocks, length = partition.partition(size, optimizees)
    assert 1 <= blocks <= partition.MOST_BLOCKS
    assert blocks * length >= size
    # The last block is not all padding.
    assert (blocks - 1) * length < size
    # A step on a block pays, and its temporaries fit into the cache.
    if optimizees == 1 and blocks > 1:
        assert length >= partition.BLOCK_SIZE / 1.5
        if blocks < partition.MOST_BLOCKS:
            assert length <= partition.BLOCK_SIZE * 1.5


def test_parts_are_what_the_granularity_says():
    tensors = [tf.ones([3]), tf.ones([2])]
    for name, count in (
        ("Adam", 2),
        ("Hierarchical", 2),
        ("NTMBFGS", 1),
    ):
        rule = components.RULES[name]()
        state = rule.initial_state(tensors)
        parts = partition.split_parts(rule, tensors, tensors, state)
        assert len(parts) == count
        updates, joined = partition.join_parts(
            [(part.gradients, part.state) for part in parts]
        )
        tf.nest.map_structure(
            np.testing.assert_array_equal, (updates, joined), (tensors, state)
        )


def test_a_step_by_blocks_is_the_step():
    rule = rules.Adam(0.1)
    tensors = [tf.constant([1.0, -2.0]), tf.constant([3.0, 0.5])]
    state = rule.initial_state(tensors)
    expected = rule(tensors, tensors, state)
    step = partition.by_blocks(rule, rule)
    for received in (
        step(tensors, tensors, state),
        tf.function(step, autograph=False)(tensors, tensors, state),
    ):
        tf.nest.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
            received,
            expected,
        )
