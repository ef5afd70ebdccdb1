"""The shipped presets: what their manifests claim, they do."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import evaluation, presets, tasks
from keras_l2l.reproduction import recipe_files, runner
from keras_l2l.reproduction.recipe import Recipe, Stage
from keras_l2l.serialization import saved_model
from tests import components

NAMES = [
    pytest.param(
        name,
        marks=[
            components.needs_mnist,
            components.needs_cifar,
            pytest.mark.slow,
        ],
    )
    for name in presets.names()
]


def test_the_default_is_shipped():
    assert presets.DEFAULT in presets.names()


@pytest.mark.parametrize("name", presets.names())
def test_the_manifest_tells_where_it_comes_from(name):
    manifest = saved_model.read_manifest(presets.path(name))
    recipe = recipe_files.load(name)
    assert recipe == _recipe_of(manifest)
    # The rules of a group are seeded in this order.
    document = json.dumps(recipe.rule_arguments)
    assert document == json.dumps(manifest["recipe"]["rule_arguments"])
    assert manifest["seed"] == recipe.seed
    assert manifest["description"] == recipe.description
    assert {"keras_l2l", "keras", "tensorflow"} <= set(manifest["versions"])


@pytest.mark.parametrize("name", NAMES)
def test_a_score_of_the_manifest_is_reproduced(name):
    manifest = saved_model.read_manifest(presets.path(name))
    claimed = manifest["scores"]
    recipe = recipe_files.load(name)
    recipe = dataclasses.replace(recipe, score_steps=recipe.score_steps[:1])
    received = runner.score(presets.load(name), recipe, seeds=2)
    assert received["task"] == claimed["task"]
    assert received["seeds"] == claimed["seeds"][:2]
    for step, losses in received["test_loss"].items():
        np.testing.assert_allclose(
            losses, claimed["test_loss"][step][:2], rtol=1e-2
        )


@pytest.mark.parametrize("name", presets.names())
def test_the_graph_does_what_the_rule_does(name):
    rule = presets.load(name)
    graph = saved_model.load_graph_unsafe(presets.path(name))
    parameter = tf.constant([1.0, -2.0, 0.5, 0.1])
    gradient = tf.constant([0.3, -0.1, 2.0, 1e-3])
    expected, received = [parameter], parameter
    state, graph_state = rule.initial_state(expected), graph.initial_state(4)
    for _ in range(3):
        updates, state = rule([gradient], expected, state)
        expected = [expected[0] + updates[0]]
        update, graph_state = graph.update(gradient, received, graph_state)
        received += update
        np.testing.assert_allclose(received, expected[0], rtol=1e-5, atol=1e-6)


def _recipe_of(manifest):
    fields = _with_tuples(manifest["recipe"])
    fields["stages"] = tuple(Stage(**_with_tuples(s)) for s in fields["stages"])
    return Recipe(**fields)


def _with_tuples(fields):
    """JSON has lists alone."""
    return {
        k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
    }


@pytest.mark.large
@components.needs_mnist
@pytest.mark.parametrize("steps", [100, 200])
def test_lstm_mnist_beats_every_tuned_baseline(steps):
    """On held-out images, by more than two standard errors, 10 seeds."""
    comparison = evaluation.compare(
        presets.load("lstm-mnist"),
        tasks.mnist_mlp(),
        steps=steps,
        seeds=10,
        seed=1,
    )
    _, *baselines = comparison.summaries()
    assert {b.optimizer for b in baselines} == set(evaluation.BASELINES)
    for baseline in baselines:
        gap = baseline.test_loss_differences[steps]
        assert gap.in_paired_standard_errors > 2, baseline
        assert gap.in_unpaired_standard_errors > 2, baseline
