"""A recipe is carried out as it says."""

import dataclasses
import re

import keras
import numpy as np
import pytest

from keras_l2l import load_rule, rules, tasks
from keras_l2l.meta_training import MetaTrainer
from keras_l2l.reproduction import recipe_files, runner
from keras_l2l.reproduction.recipe import Stage
from keras_l2l.serialization import saved_model


def test_a_recipe_names_tasks_and_augmentations():
    recipe = dataclasses.replace(
        recipe_files.load("lstm-digits"),
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
    recipe = recipe_files.load("lstm-digits")
    stage = Stage(curriculum=(20, 40), imitation_rate=0.3, teacher_rate=0.05)
    trainer = runner._make_trainer(
        rules.SGD(), tasks.Quadratic(), recipe, stage
    )
    config = trainer._config
    assert config.horizon.horizons == (20, 40)
    assert len(config.loss_weights) == 40
    assert config.estimator.rate == 0.3
    assert float(config.estimator.teacher.learning_rate) == np.float32(0.05)


def test_a_stage_has_a_held_out_meta_loss_and_an_average():
    recipe = recipe_files.load("lstm-digits")
    stage = Stage(
        estimator="PersistentES",
        jit_compile=False,
        vectorize=True,
        meta_loss=0.75,
        ema_momentum=0.9,
    )
    trainer = runner._make_trainer(
        rules.SGD(), tasks.Quadratic(), recipe, stage
    )
    assert trainer._config.held_out == 0.75
    assert trainer._config.estimator.vectorize
    assert not trainer._config.estimator.jit_compile
    assert trainer.optimizer.use_ema
    assert trainer.optimizer.ema_momentum == 0.9
    plain = runner._make_trainer(
        rules.SGD(), tasks.Quadratic(), recipe, Stage()
    )
    assert plain._config.held_out == 0.0
    assert not plain.optimizer.use_ema


@pytest.mark.slow
def test_a_recipe_runs_resumes_and_scores(tmp_path):
    recipe = dataclasses.replace(
        recipe_files.load("lstm-digits"),
        task_arguments={"units": 3, "batch_size": 16},
        horizon=20,
        stages=(Stage(unroll=5), Stage(unroll=10)),
        score_steps=(10, 20),
    )
    path = runner.run(recipe, tmp_path, 1, steps_per_epoch=2, verbose=0)
    first = load_rule(path)
    assert path == tmp_path / "lstm-digits"
    assert (tmp_path / "meta-training-2.csv").exists()
    scores = saved_model.read_manifest(path)["scores"]
    assert [len(v) for v in scores["test_loss"].values()] == [10, 10]
    # Nothing is left to do: the same command exports the same rule.
    runner.run(recipe, tmp_path, 1, steps_per_epoch=2, verbose=0)
    for a, b in zip(first.get_weights(), load_rule(path).get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rate", [1e-3, 1e3])
def test_a_run_never_ends_worse_than_it_began(tmp_path, rate):
    rule = rules.SGD(0.01)
    recipe = dataclasses.replace(
        recipe_files.load("lstm-digits"),
        horizon=20,
        validation_episodes=2,
        stages=(Stage(unroll=5, learning_rate=rate, decay_epochs=1000),),
        score_steps=(10,),
    )
    runner.run(
        recipe,
        tmp_path,
        epochs=1,
        steps_per_epoch=4,
        verbose=0,
        rule=rule,
        task=tasks.Quadratic(dimensions=3),
    )
    is_first = float(rule.learning_rate) == pytest.approx(0.01, rel=1e-6)
    assert is_first == (rate == 1e3)


def test_a_run_ends_with_a_page(tmp_path):
    recipe = dataclasses.replace(
        recipe_files.load("lstm-digits"),
        horizon=20,
        validation_episodes=2,
        stages=(Stage(unroll=5), Stage(unroll=10, validation_freq=0)),
        score_steps=(10,),
    )
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(dict(logs))
    )
    runner.run(
        recipe,
        tmp_path,
        epochs=2,
        steps_per_epoch=2,
        verbose=0,
        callbacks=[callback],
        rule=rules.SGD(0.01),
        task=tasks.Quadratic(dimensions=3),
    )
    # Live: the validation beside its baselines, where there is one.
    assert ["val_nominal" in logs for logs in seen] == [True] * 2 + [False] * 2
    assert seen[0]["val_adam"] < seen[0]["val_nominal"]
    assert seen[0]["val_nominal"] == seen[1]["val_nominal"]
    page = (tmp_path / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2
    assert "http" not in re.sub('base64,[^"]*', "", page)
    for text in (
        "Meta-training of lstm-digits",
        f"<td>{seen[0]['val_adam']:.4g}</td>",
        "held-out loss after 10 steps",
        "[[stages]]\nunroll = 5",
        f"<td>keras</td><td>{keras.__version__}</td>",
    ):
        assert text in page
    # The rule was no SGD at a rate of zero: the baseline left it alone.
    nominal = runner.ValidationSet(tasks.Quadratic(3), 2, None, None)
    trainer = runner._make_trainer(
        rules.SGD(0.01), tasks.Quadratic(3), recipe, recipe.stages[0]
    )
    assert nominal.evaluate(trainer) == pytest.approx(seen[0]["val_nominal"])


def test_a_trial_of_other_weights_leaves_the_rule_as_it_was():
    recipe = recipe_files.load("lstm-digits")
    trainer = runner._make_trainer(
        rules.SGD(0.01), tasks.Quadratic(3), recipe, Stage()
    )
    validation = runner.ValidationSet(tasks.Quadratic(3), 1, 5, None)
    own, other = (
        validation.evaluate(trainer, weights)
        for weights in (None, [np.float32(0.0)])
    )
    assert own < other
    assert validation.evaluate(trainer) == own


def test_the_last_stage_is_checked_before_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(MetaTrainer, "fit", None)
    stages = (Stage(), Stage(unroll=30))  # the horizon is no multiple of 30
    recipe = dataclasses.replace(
        recipe_files.load("lstm-digits"), stages=stages
    )
    with pytest.raises(ValueError, match="multiple of `unroll`"):
        runner.run(recipe, tmp_path)


def test_a_rule_without_a_seed():
    recipe = dataclasses.replace(
        recipe_files.load("lstm-digits"), rule="SGD", rule_arguments={}
    )
    assert isinstance(runner.make_rule(recipe), rules.SGD)
