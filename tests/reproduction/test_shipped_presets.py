"""The shipped presets: what their manifests claim, they do."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import evaluation, load_rule, presets, rules, tasks
from keras_l2l.reproduction import recipes, runner
from keras_l2l.reproduction.recipe import Recipe, Stage
from keras_l2l.serialization import saved_model
from tests import components

NAMES = [
    pytest.param(name, marks=[components.needs_mnist, components.needs_cifar])
    for name in presets.names()
]


def test_the_default_is_shipped():
    assert presets.DEFAULT in presets.names()


@pytest.mark.parametrize("name", presets.names())
def test_the_manifest_tells_where_it_comes_from(name):
    manifest = saved_model.read_manifest(presets.path(name))
    recipe = recipes.get(name)
    assert recipe == _recipe_of(manifest)
    assert manifest["seed"] == recipe.seed
    assert manifest["description"] == recipe.description
    assert {"keras_l2l", "keras", "tensorflow"} <= set(manifest["versions"])


@pytest.mark.parametrize("name", NAMES)
def test_a_score_of_the_manifest_is_reproduced(name):
    manifest = saved_model.read_manifest(presets.path(name))
    claimed = manifest["scores"]
    recipe = recipes.get(name)
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


def test_recipes_are_plain_data():
    for name in recipes.names():
        recipe = recipes.get(name)
        assert recipe.name == name
        document = json.loads(json.dumps(dataclasses.asdict(recipe)))
        assert _recipe_of({"recipe": document}) == recipe
        assert not any(
            np.any(np.mod(s.horizon or recipe.horizon, s.unroll))
            for s in recipe.stages
        )
    with pytest.raises(ValueError, match="Did you mean 'lstm-digits'"):
        recipes.get("lstm-digit")


def test_a_recipe_names_tasks_and_augmentations():
    recipe = dataclasses.replace(
        recipes.get("lstm-digits"),
        task=("Quadratic", "digits_mlp"),
        task_arguments=({"dimensions": 3}, {"units": 4}),
        augmentations={
            "RandomBatchSize": {"low": 8},
            "RandomScaling": {"spread": 2.0},
        },
    )
    with pytest.raises(ValueError, match="common first axis"):
        runner.make_task(recipe)
    recipe.augmentations.pop("RandomBatchSize")
    first, second = runner.make_task(recipe)
    assert (first.spread, second.spread) == (2.0, 2.0)
    assert first.task.dimensions == 3
    assert second.task.name == "digits-mlp-4x1-sigmoid"
    alone = dataclasses.replace(recipe, task="Quadratic", task_arguments={})
    assert isinstance(runner.make_task(alone), tasks.RandomScaling)


def test_a_stage_has_a_curriculum_and_a_teacher():
    recipe = recipes.get("lstm-digits")
    stage = Stage(curriculum=(20, 40), imitation_rate=0.3, teacher_rate=0.05)
    trainer = runner._make_trainer(
        rules.SGD(), tasks.Quadratic(), recipe, stage
    )
    settings = trainer._settings()
    assert settings["horizon"]["stages"] == [[20, 20], [40, 40]]
    assert len(settings["loss_weights"]) == 40
    assert settings["estimator"]["rate"] == 0.3
    assert settings["estimator"]["teacher"]["learning_rate"] == 0.05


def test_a_recipe_runs_resumes_and_scores(tmp_path):
    recipe = dataclasses.replace(
        recipes.get("lstm-digits"),
        task_arguments={"units": 3, "batch_size": 16},
        horizon=20,
        stages=(Stage(unroll=5), Stage(unroll=10)),
        score_steps=(10, 20),
    )
    path = runner.run(recipe, tmp_path, 1, steps_per_epoch=2, verbose=0)
    first = load_rule(path)
    assert path == tmp_path / "lstm-digits"
    scores = saved_model.read_manifest(path)["scores"]
    assert [len(v) for v in scores["test_loss"].values()] == [10, 10]
    # Nothing is left to do: the same command exports the same rule.
    runner.run(recipe, tmp_path, 1, steps_per_epoch=2, verbose=0)
    for a, b in zip(first.get_weights(), load_rule(path).get_weights()):
        np.testing.assert_array_equal(a, b)


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
