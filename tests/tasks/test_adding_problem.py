"""The adding problem: what is added, and from where training starts."""

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import tasks


def test_the_target_is_the_sum_of_two_marked_numbers():
    task = tasks.adding_problem(length=7, units=2, batch_size=5)
    inputs, targets = task.sample_batch(tf.constant([1, 2]))
    numbers, marks = np.moveaxis(inputs.numpy(), -1, 0)
    assert inputs.shape == (5, 7, 2)
    np.testing.assert_array_equal(marks[:, :3].sum(1), 1.0)
    np.testing.assert_array_equal(marks[:, 3:].sum(1), 1.0)
    np.testing.assert_allclose(
        (numbers * marks).sum(1), targets[:, 0], rtol=1e-6
    )
    assert 0.0 <= numbers.min() < numbers.max() <= 1.0


def test_the_recurrent_kernel_is_orthogonal_but_for_its_scale():
    task = tasks.adding_problem(length=3, units=4, recurrent_scale=2.0)
    parameters, _ = task.initial_parameters(0)
    (index,) = [
        index
        for index, path in enumerate(task.parameter_paths)
        if "recurrent_kernel" in path
    ]
    values = np.linalg.svd(parameters[index], compute_uv=False)
    np.testing.assert_allclose(values, 2.0, rtol=1e-5)


def test_refuses_a_sequence_of_one():
    with pytest.raises(ValueError, match="`length` must be at least 2"):
        tasks.adding_problem(length=1)
