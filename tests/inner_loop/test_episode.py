import types
from unittest import mock

import hypothesis
import numpy as np
import tensorflow as tf
from hypothesis import strategies

from keras_l2l import rules
from keras_l2l.execution import partition
from keras_l2l.inner_loop.batched_task import BatchedTask
from keras_l2l.inner_loop.episode import (
    count_coordinates,
    initial_rule_state,
    pack,
    unpack,
)

_SHAPES = strategies.lists(
    strategies.lists(strategies.integers(1, 5), max_size=3),
    min_size=1,
    max_size=4,
)


def _task(shapes, optimizees):
    task = types.SimpleNamespace(
        parameter_specs=[tf.TensorSpec(shape, tf.float32) for shape in shapes]
    )
    return BatchedTask(task, optimizees) if optimizees > 1 else task


@hypothesis.given(_SHAPES, strategies.integers(1, 4), strategies.integers(1, 9))
def test_unpack_is_the_inverse_of_pack(shapes, optimizees, block_size):
    task, rule = _task(shapes, optimizees), rules.SGD()
    generator = np.random.default_rng(0)
    parameters = [
        tf.constant(generator.normal(size=spec.shape), tf.float32)
        for spec in task.parameter_specs
    ]
    with mock.patch.object(partition, "BLOCK_SIZE", block_size):
        packed = pack(rule, task, parameters)
    assert len({block.shape for block in packed}) == 1
    for one, other in zip(unpack(rule, task, packed), parameters, strict=True):
        np.testing.assert_array_equal(one, other)
    # What is left over is zero.
    size = optimizees * count_coordinates(task)
    values = np.concatenate(packed)
    assert np.count_nonzero(values) == size


def test_a_rule_of_tensors_sees_the_tensors():
    task, rule = _task([[2, 3], [3]], 1), rules.Hierarchical(units=2)
    parameters = [tf.zeros([2, 3]), tf.zeros([3])]
    packed = pack(rule, task, parameters)
    assert [p.shape for p in packed] == [(2, 3), (3,)]
    task.parameter_paths = ["a", "b"]
    assert len(initial_rule_state(rule, task, packed).local) == 2
