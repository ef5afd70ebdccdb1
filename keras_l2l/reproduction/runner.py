"""How a recipe is carried out: meta-training, export, scores."""

import dataclasses
import functools
import math
import pathlib

import keras
import numpy as np

from keras_l2l import evaluation, rules, tasks
from keras_l2l.meta_gradients.evolution_strategies import (
    AntitheticES,
    PersistentES,
)
from keras_l2l.meta_gradients.imitation import Imitation
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)
from keras_l2l.meta_training.curriculum import Curriculum
from keras_l2l.meta_training.trainer import MetaTrainer
from keras_l2l.tasks.base import episode_seed

_SCORE_SEEDS = 10


def run(
    recipe,
    output_dir,
    epochs=None,
    steps_per_epoch=None,
    seed=None,
    callbacks=None,
    verbose="auto",
):
    """Meta-trains a rule by a recipe and exports it.

    A run that was stopped goes on from its last epoch when it is started
    again with the same arguments.

    Args:
        recipe: A `Recipe`.
        output_dir: Directory for the backup and the exported rule.
        epochs: Integer. Defaults to `None`, that of the recipe.
        steps_per_epoch: Integer. Defaults to `None`, that of the recipe.
        seed: Integer. Defaults to `None`, that of the recipe.
        callbacks: List of `keras.callbacks.Callback`.
        verbose: As in `MetaTrainer.fit`.

    Returns:
        The `pathlib.Path` of the exported rule, `output_dir/NAME`.
    """
    recipe = _changed(recipe, epochs, steps_per_epoch, seed)
    output_dir = pathlib.Path(output_dir)
    rule = make_rule(recipe)
    task = make_task(recipe)
    # By default fresh optimizees on the training data: the test data stay
    # unseen.
    validation_task = (
        _make(recipe.validation_task, recipe.validation_arguments) or task
    )
    # Before the training, which would be in vain if its data were missing.
    score_task = _make_score_task(recipe)
    losses = []
    for index, stage in enumerate(recipe.stages):
        trainer = _make_trainer(rule, task, recipe, stage)
        history = trainer.fit(
            epochs=stage.epochs,
            steps_per_epoch=stage.steps_per_epoch,
            validation_task=validation_task if stage.validation_freq else None,
            validation_episodes=recipe.validation_episodes,
            validation_horizon=recipe.validation_horizon,
            validation_freq=stage.validation_freq or 1,
            callbacks=callbacks,
            verbose=verbose,
            backup_dir=output_dir / f"backup-{index + 1}",
        )
        losses += history.history.get("val_loss", [])
    scores = _score(rule, recipe, score_task, _SCORE_SEEDS)
    if losses:
        scores["validation_loss"] = min(losses)
    path = output_dir / recipe.name
    rule.export(
        path,
        metadata={
            "description": recipe.description,
            "recipe": dataclasses.asdict(recipe),
            "seed": recipe.seed,
            "scores": scores,
        },
    )
    return path


def score(rule, recipe, seeds=_SCORE_SEEDS):
    """How good a rule is at the task of its recipe, on held-out data.

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
    return _score(rule, recipe, _make_score_task(recipe), seeds)


def make_rule(recipe):
    """The rule that a recipe trains, as it is at first.

    Args:
        recipe: A `Recipe`.

    Returns:
        An `UpdateRule`.
    """
    return _make_rule(recipe.rule, recipe.rule_arguments, recipe.seed)


def make_task(recipe):
    """The task that a recipe trains on, augmented.

    Args:
        recipe: A `Recipe`.

    Returns:
        A `Task`, or a list of them.
    """
    made = _make(recipe.task, recipe.task_arguments)
    for name, arguments in recipe.augmentations.items():
        augment = functools.partial(getattr(tasks, name), **arguments)
        is_list = isinstance(made, list)
        made = [augment(task) for task in made] if is_list else augment(made)
    return made


def _make_rule(name, arguments, seed):
    if "rules" not in arguments:
        return getattr(rules, name)(**arguments, seed=seed)
    # Each of a group has weights of its own.
    made = {
        key: _make_rule(of_one["rule"], of_one["arguments"], seed + 1000 * i)
        for i, (key, of_one) in enumerate(arguments["rules"].items())
    }
    return getattr(rules, name)(**{**arguments, "rules": made})


def _make_score_task(recipe):
    """The task of a recipe's score: by default that of training, as it is."""
    if recipe.score_task is None:
        return _make(recipe.task, recipe.task_arguments)
    return _make(recipe.score_task, recipe.score_arguments)


def _score(rule, recipe, task, seeds):
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


def _make(names, arguments):
    """What functions or classes of `keras_l2l.tasks` make; `None` of `None`."""
    if names is None:
        return None
    if isinstance(names, str):
        return getattr(tasks, names)(**arguments)
    made = [_make(*pair) for pair in zip(names, arguments, strict=True)]
    # Some make lists of tasks themselves.
    return keras.tree.flatten(made)


def _changed(recipe, epochs, steps_per_epoch, seed):
    """The recipe with what the user asked for, where that is not `None`."""
    changes = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    changes = {k: v for k, v in changes.items() if v is not None}
    return dataclasses.replace(
        recipe,
        stages=tuple(dataclasses.replace(s, **changes) for s in recipe.stages),
        seed=recipe.seed if seed is None else seed,
    )


def _make_trainer(rule, task, recipe, stage):
    horizon = stage.horizon or recipe.horizon
    weights = _loss_weights(stage.curriculum or horizon, stage)
    if stage.curriculum:
        horizon = Curriculum(stage.curriculum)
    estimator = _ESTIMATORS[stage.estimator](stage)
    if stage.imitation_rate:
        teacher = rules.Adam(stage.teacher_rate)
        estimator = Imitation(estimator, teacher, stage.imitation_rate)
    trainer = MetaTrainer(
        rule,
        task,
        horizon=horizon,
        unroll=stage.unroll,
        optimizees=stage.optimizees,
        tasks_per_step=stage.tasks_per_step,
        loss_weights=weights,
        loss_transform=stage.loss_transform,
        estimator=estimator,
        clipnorm=stage.clipnorm,
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
            global_clipnorm=recipe.global_clipnorm,
        ),
        jit_compile=recipe.jit_compile,
    )
    return trainer


_ESTIMATORS = {
    "TruncatedBackpropagation": lambda stage: TruncatedBackpropagation(
        second_derivatives=stage.second_derivatives,
        coordinate_share=stage.coordinate_share,
    ),
    "PersistentES": lambda stage: PersistentES(stage.stddev),
    "AntitheticES": lambda stage: AntitheticES(stage.stddev),
}


def _loss_weights(horizon, stage):
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
