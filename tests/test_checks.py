"""Integers of NumPy as arguments: JSON, so a configuration, has none."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from keras_l2l import MetaTrainer, rules, tasks
from keras_l2l.evaluation.comparison import Plan
from keras_l2l.meta_gradients import TruncatedBackpropagation
from keras_l2l.meta_training import Curriculum
from keras_l2l.reproduction.recipe import Recipe, Stage
from tests import components


def _of_numpy(arguments):
    return {
        name: np.int64(value) if type(value) is int else value
        for name, value in arguments.items()
    }


@pytest.mark.parametrize("name", components.RULES)
def test_a_rule_has_a_config_for_json(name):
    rule = components.RULES[name]()
    config = rule.get_config()
    twin = type(rule).from_config(_of_numpy(config))
    assert json.dumps(twin.get_config()) == json.dumps(config)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (tasks.Quadratic, {"dimensions": 3, "functions": 2}),
        (
            lambda dimensions: tasks.Analytic("sphere", dimensions),
            {"dimensions": 3},
        ),
        (
            lambda batch_size: tasks.KerasTask(
                components.mlp,
                (np.ones((4, 5)), np.ones((4, 3))),
                "mse",
                batch_size,
            ),
            {"batch_size": 2},
        ),
        (
            lambda low: tasks.RandomBatchSize(
                components.TASKS["KerasTask-mlp"](), low
            ),
            {"low": 2},
        ),
        (TruncatedBackpropagation, {"memory_budget": 2**20}),
    ],
    ids=["Quadratic", "Analytic", "KerasTask", "RandomBatchSize", "estimator"],
)
def test_tasks_and_estimators_hold_python_integers(make, arguments):
    made = make(**_of_numpy(arguments))
    held = {name: getattr(made, name) for name in arguments}
    assert json.dumps(held) == json.dumps(arguments)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Plan, {"steps": 3, "seeds": 2, "sweep_seeds": 1, "test_every": 2}),
        (Curriculum, {"horizons": (2, 4), "patience": 3}),
        (Stage, {"unroll": 2, "optimizees": 3, "epochs": 4}),
        (
            Recipe,
            {
                **{"name": "a", "description": "A.", "rule": "SGD"},
                **{"task": "Quadratic", "validation_horizon": 5},
            },
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_dataclasses_hold_python_integers(kind, arguments):
    expected = dataclasses.asdict(kind(**arguments))
    received = dataclasses.asdict(kind(**_of_numpy(arguments)))
    assert json.dumps(received) == json.dumps(expected)


def test_a_backup_of_numpy_integers_resumes_with_python_integers(tmp_path):
    def train(arguments, epochs):
        budget = arguments.pop("memory_budget")
        trainer = MetaTrainer(
            rules.SGD(0.02),
            tasks.Quadratic(3),
            estimator=TruncatedBackpropagation(memory_budget=budget),
            **arguments,
        )
        trainer.compile(keras.optimizers.SGD(1e-6))
        return trainer.fit(
            epochs=epochs, steps_per_epoch=1, backup_dir=tmp_path, verbose=0
        )

    arguments = {
        **{"horizon": 4, "unroll": 2, "optimizees": 2, "tasks_per_step": 1},
        **{"seed": 3, "memory_budget": 2**20},
    }
    train(_of_numpy(arguments), 1)
    assert train(arguments, 2).epoch == [0, 1]
