"""Carries out a recipe: meta-training, export, scores."""

import dataclasses
import importlib.util
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_l2l import evaluation
from keras_l2l.meta_training import replicas
from keras_l2l.meta_training.curriculum import Curriculum
from keras_l2l.meta_training.epoch_log import EpochLog
from keras_l2l.meta_training.trainer import MetaTrainer
from keras_l2l.reproduction import components, recipe_files
from keras_l2l.reproduction.recipe import Recipe, Stage
from keras_l2l.reproduction.validation_baselines import (
    ShowBaselines,
    ValidationSet,
    tuned_adam,
)
from keras_l2l.rules import Adam, UpdateRule
from keras_l2l.serialization import read_manifest
from keras_l2l.tasks import Task
from keras_l2l.tasks.base import episode_seed

# The page about a run, in its directory.
REPORT = "report.html"

_SCORE_SEEDS = 10


def run(
    recipe: Recipe,
    output_dir: str | pathlib.Path,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    seed: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] | None = None,
    verbose: str | int = "auto",
    rule: UpdateRule | None = None,
    task: Task | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> pathlib.Path:
    """Meta-trains a rule by a recipe and exports it.

    A run that was stopped goes on from its last epoch when it is started
    again with the same arguments. With a validation, the rule ends with the
    meta-parameters that it began with, if those that it learned are no better.

    Args:
        recipe: A `Recipe`.
        output_dir: Directory for the backup and the exported rule, for a file
            `meta-training-N.csv` of the epochs of each stage, and for a page
            about the run, `report.html`, if matplotlib is installed.
        epochs: Integer. Defaults to `None`, that of the recipe.
        steps_per_epoch: Integer. Defaults to `None`, that of the recipe.
        seed: Integer. Defaults to `None`, that of the recipe.
        callbacks: List of `keras.callbacks.Callback`.
        verbose: As in `MetaTrainer.fit`.
        rule: An `UpdateRule` to begin with, trained in place. Defaults to
            `None`, a new one, as the recipe says.
        task: A `Task` to train on and to be scored at. Defaults to `None`,
            those of the recipe.
        strategy: A `tf.distribute.Strategy`, to whose replicas the optimizees
            are dealt. One process of several, the chief, writes and returns
            when the rule is exported; so do the others. A given `rule` must
            be created in its scope. Defaults to `None`.

    Returns:
        The `pathlib.Path` of the exported rule, `output_dir/NAME`.

    Raises:
        ValueError: If the recipe cannot be carried out. All of it is checked
            before the first stage begins.

    Example:

    ```python
    recipe = recipe_files.load("lstm-digits")
    path = runner.run(recipe, "runs/lstm-digits")
    rule = keras_l2l.load_rule(path)
    ```
    """
    recipe = _changed(recipe, epochs, steps_per_epoch, seed)
    output_dir = pathlib.Path(output_dir)
    is_chief = replicas.is_chief(strategy)
    if rule is None:
        with replicas.scope(strategy):
            rule = make_rule(recipe)
    # Before the training, which would be in vain if the data of the score
    # were missing, or an argument of the last stage wrong.
    score_task = make_score_task(recipe) if task is None else task
    training_task = make_task(recipe) if task is None else task
    for stage in recipe.stages:
        _make_trainer(rule, training_task, recipe, stage, strategy)
    validation = ValidationSet(
        _make_validation_task(recipe, training_task),
        recipe.validation_episodes,
        recipe.validation_horizon,
        recipe.validation_loss,
    )
    first_weights, losses = rule.get_weights(), []
    logs = []
    for index, stage in enumerate(recipe.stages):
        trainer = _make_trainer(rule, training_task, recipe, stage, strategy)
        logs.append(output_dir / f"meta-training-{index + 1}.csv")
        own = [EpochLog(logs[-1])] if is_chief else []
        baselines = _baselines(
            trainer, recipe, stage, validation, first_weights, strategy
        )
        history = trainer.fit(
            epochs=stage.epochs,
            steps_per_epoch=stage.steps_per_epoch,
            validation_task=validation.task if stage.validation_freq else None,
            validation_episodes=validation.episodes,
            validation_horizon=validation.horizon,
            validation_freq=stage.validation_freq or 1,
            validation_loss=validation.loss,
            callbacks=[ShowBaselines(baselines), *(callbacks or []), *own],
            verbose=verbose,
            backup_dir=output_dir / f"backup-{index + 1}",
        )
        losses += history.history.get("val_loss", [])
    path = output_dir / recipe.name
    better = _keep_better(trainer, validation, first_weights) if losses else {}
    if is_chief:
        scores = _score(rule, recipe, score_task, _SCORE_SEEDS)
        _export(rule, path, recipe, {**scores, **better})
        _write_report(output_dir / REPORT, path, logs, recipe)
    # A process that left early would look to the others like a lost one.
    replicas.Replicas(strategy, rule).wait()
    return path


def _make_validation_task(recipe, training_task):
    """By default that of the training: the test data stay unseen."""
    if recipe.validation_task is None:
        return training_task
    return components.make_tasks(
        "validation_task", recipe.validation_task, recipe.validation_arguments
    )


def _keep_better(trainer, validation, first_weights):
    """Gives a rule its first weights again, if they are as good as its own.

    Args:
        trainer: The `MetaTrainer` of the last stage, whose rule is changed.
        validation: A `ValidationSet`.
        first_weights: List of arrays.

    Returns:
        Dict of one score, the loss of the weights that the rule ends with.
    """
    loss = validation.evaluate(trainer)
    first_loss = validation.evaluate(trainer, first_weights)
    if first_loss <= loss:
        trainer.rule.set_weights(first_weights)
    return {"validation_loss": min(first_loss, loss)}


def _baselines(trainer, recipe, stage, validation, first_weights, strategy):
    """What is known to see the validation of a stage beside, for the logs.

    Adam is tuned on it if it is of one task, as that takes several times as
    long as a validation.
    """
    moves = stage.curriculum and validation.horizon is None
    if not stage.validation_freq or moves:
        return {}
    losses = {"val_nominal": validation.evaluate(trainer, first_weights)}
    if isinstance(validation.task, Task) or len(validation.task) == 1:
        with replicas.scope(strategy):
            adam = Adam()
        stage = dataclasses.replace(stage, meta_parameters=())
        losses["val_adam"] = tuned_adam(
            _make_trainer(adam, validation.task, recipe, stage, strategy),
            validation,
        )
    return losses


def _write_report(path, exported, logs, recipe):
    """Writes the page about the run, if there is what draws its figures."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    from keras_l2l.reports import write_meta_training_report

    write_meta_training_report(
        path,
        recipe.name,
        read_manifest(exported),
        logs,
        recipe_files.to_toml(recipe),
    )


def score(
    rule: UpdateRule, recipe: Recipe, seeds: int = _SCORE_SEEDS
) -> dict[str, Any]:
    """Scores a rule at the task of its recipe, on held-out data.

    Args:
        rule: An `UpdateRule`.
        recipe: A `Recipe`.
        seeds: Integer. How many optimizees are trained, none of which is
            seen in meta-training. Defaults to `10`.

    Returns:
        Dict: `task`, a string; `seeds`, a list of integers; `test_loss`, a
        dict from the steps (as strings) to a list with the loss on the test
        data for each seed.
    """
    return _score(rule, recipe, make_score_task(recipe), seeds)


def make_rule(recipe: Recipe) -> UpdateRule:
    """Makes the rule that a recipe trains, as it is at first.

    Args:
        recipe: A `Recipe`.

    Returns:
        An `UpdateRule`.
    """
    return components.make_rule(recipe.rule, recipe.rule_arguments, recipe.seed)


def make_task(recipe: Recipe) -> Task | list[Task]:
    """Makes the task that a recipe trains on, augmented.

    Args:
        recipe: A `Recipe`.

    Returns:
        A `Task`, or a list of them.
    """
    made = components.make_tasks("task", recipe.task, recipe.task_arguments)
    return components.augment(made, recipe.augmentations)


def make_score_task(recipe: Recipe) -> Task:
    """Makes the task that the rule of a recipe is scored at.

    Args:
        recipe: A `Recipe`.

    Returns:
        A `Task`: by default that of training, without its augmentations.
    """
    if recipe.score_task is None:
        return components.make_tasks("task", recipe.task, recipe.task_arguments)
    return components.make_tasks(
        "score_task", recipe.score_task, recipe.score_arguments
    )


def _export(
    rule: UpdateRule,
    path: pathlib.Path,
    recipe: Recipe,
    scores: dict[str, Any],
) -> None:
    rule.export(
        path,
        metadata={
            "description": recipe.description,
            "recipe": dataclasses.asdict(recipe),
            "seed": recipe.seed,
            "scores": scores,
        },
    )


def _score(
    rule: UpdateRule, recipe: Recipe, task: Task, seeds: int
) -> dict[str, Any]:
    episodes = [
        episode_seed(recipe.seed, "test", index) for index in range(seeds)
    ]
    last, every = max(recipe.score_steps), math.gcd(*recipe.score_steps)
    curves = evaluation.learning_curves(rule, task, episodes, last, every)
    columns = evaluation.recorded_steps(last, every)
    return {
        "task": task.name,
        "seeds": episodes,
        "test_loss": {
            str(step): curves.test_losses[:, columns.index(step)].tolist()
            for step in recipe.score_steps
        },
    }


def _changed(
    recipe: Recipe,
    epochs: int | None,
    steps_per_epoch: int | None,
    seed: int | None,
) -> Recipe:
    """The recipe with these in place of its own, where not `None`."""
    asked = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    changes: dict[str, Any] = {k: v for k, v in asked.items() if v is not None}
    return dataclasses.replace(
        recipe,
        stages=tuple(dataclasses.replace(s, **changes) for s in recipe.stages),
        seed=recipe.seed if seed is None else seed,
    )


def _make_trainer(
    rule: UpdateRule,
    task: Task | list[Task],
    recipe: Recipe,
    stage: Stage,
    strategy: tf.distribute.Strategy | None = None,
) -> MetaTrainer:
    with replicas.scope(strategy):
        return _make_trainer_in_scope(rule, task, recipe, stage)


def _make_trainer_in_scope(
    rule: UpdateRule, task: Task | list[Task], recipe: Recipe, stage: Stage
) -> MetaTrainer:
    horizon: Any = stage.horizon or recipe.horizon
    weights = _loss_weights(stage.curriculum or horizon, stage)
    if stage.curriculum:
        horizon = Curriculum(stage.curriculum)
    # By its estimator, optimizee by optimizee, though they are side by side.
    is_clipped = stage.vectorize and stage.second_derivatives
    trainer = MetaTrainer(
        rule,
        task,
        horizon=horizon,
        unroll=stage.unroll,
        optimizees=stage.optimizees,
        tasks_per_step=stage.tasks_per_step,
        loss_weights=weights,
        loss_transform=stage.loss_transform,
        log_floor=stage.log_floor,
        meta_loss=stage.meta_loss,
        estimator=components.make_estimator(stage),
        clipnorm=None if is_clipped else stage.clipnorm,
        seed=recipe.seed + stage.seed,
    )
    rate = keras.optimizers.schedules.CosineDecay(
        stage.learning_rate,
        stage.decay_epochs * stage.steps_per_epoch,
        alpha=stage.final_rate,
    )
    trainer.compile(
        keras.optimizers.Adam(
            rate,
            beta_2=stage.beta_2,
            use_ema=stage.ema_momentum > 0.0,
            ema_momentum=stage.ema_momentum or 0.99,
            global_clipnorm=recipe.global_clipnorm,
        ),
        jit_compile=recipe.jit_compile,
    )
    return trainer


def _loss_weights(horizon: int | tuple[int, ...], stage: Stage) -> np.ndarray:
    """Array `[horizon]` of mean one."""
    step = np.arange(np.max(horizon))
    if stage.loss_weights == "ends":
        unroll, position = np.divmod(step, stage.unroll)
        weights = ((position + 1) / stage.unroll) ** 3 * (1 + unroll / 2)
    else:
        power = {"equal": 0, "root": 0.5, "linear": 1, "quadratic": 2}[
            stage.loss_weights
        ]
        weights = (step + 1.0) ** power
    return weights / weights.mean()
