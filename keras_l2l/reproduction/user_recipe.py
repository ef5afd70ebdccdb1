"""The recipe for a model of a user's own: a trained rule, trained further."""

from typing import Any

from keras_l2l.reproduction.recipe import Recipe, Stage
from keras_l2l.rules import UpdateRule
from keras_l2l.tasks import Task

EPOCHS, STEPS_PER_EPOCH = 10, 20
HORIZON, UNROLL = 200, 20


def user_recipe(
    rule: UpdateRule,
    rule_name: str,
    task: Task,
    sources: dict[str, Any],
    horizon: int = HORIZON,
) -> Recipe:
    """Makes the recipe that trains a rule further on one task.

    Evolution strategies need no derivative of a rule, so that any can be
    trained. It ends with the meta-parameters of the lowest validation loss.

    Args:
        rule: The `UpdateRule` to begin with, for `runner.run(rule=…)`.
        rule_name: String, what it is called.
        task: The `Task`, for `runner.run(task=…)`.
        sources: Dict, what the task was made of, for the manifest.
        horizon: Integer, a multiple of 20. Inner steps in an episode.
            Defaults to `200`.

    Returns:
        A `Recipe`, named after the task.
    """
    config = rule.get_config()
    return Recipe(
        name=task.name,
        description=f"The rule {rule_name}, trained further on {task.name}.",
        rule=type(rule).__name__,
        rule_arguments={"begins_with": rule_name, **_plain(config)},
        task="KerasTask",
        task_arguments=sources,
        horizon=horizon,
        validation_episodes=4,
        jit_compile=True,
        score_steps=(horizon,),
        stages=(
            Stage(
                unroll=UNROLL,
                estimator="PersistentES",
                stddev=0.02,
                optimizees=2,
                loss_transform="log",
                loss_weights="linear",
                epochs=EPOCHS,
                steps_per_epoch=STEPS_PER_EPOCH,
                learning_rate=0.002,
                beta_2=0.99,
                decay_epochs=EPOCHS,
                final_rate=0.1,
            ),
        ),
    )


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """What a manifest can hold of a configuration: numbers and texts."""
    kinds = (bool, int, float, str)
    return {
        key: value
        for key, value in config.items()
        if isinstance(value, kinds) and key not in ("name", "trainable")
    }
