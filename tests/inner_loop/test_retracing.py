"""TensorFlow does not warn of too many traces where there is one a function."""

import logging

import pytest
from tensorflow.python.eager.polymorphic_function import polymorphic_function

from keras_l2l import MetaTrainer, rules, tasks
from tests import components

COUNT = 5  # TensorFlow warns from so many on.


@pytest.fixture
def warnings_of_tensorflow(caplog, monkeypatch):
    # Else only the first two of a process, which other tests may have seen.
    monkeypatch.setattr(
        polymorphic_function,
        "FREQUENT_TRACING_WARNING_MAX_WARNING_PER_DETECTOR",
        1_000,
    )
    caplog.set_level(logging.WARNING, "tensorflow")
    return caplog


@pytest.mark.slow
def test_meta_training_on_many_tasks(warnings_of_tensorflow):
    mixture = [tasks.Quadratic(2) for _ in range(COUNT)]
    trainer = MetaTrainer(rules.SGD(), mixture, horizon=2, unroll=2)
    trainer.compile("sgd")
    trainer.fit(
        steps_per_epoch=1,
        validation_task=mixture,
        validation_episodes=1,
        verbose=0,
    )
    assert "retracing" not in warnings_of_tensorflow.text


def test_held_out_data_of_many_tasks(warnings_of_tensorflow):
    for _ in range(COUNT):
        task = components.TASKS["KerasTask-mlp"]()
        task.test_loss(*task.initial_parameters(1))
    assert "retracing" not in warnings_of_tensorflow.text
