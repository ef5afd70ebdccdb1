"""What the validation of a meta-training is seen beside."""

from typing import Any, NamedTuple

import keras
import numpy as np

from keras_l2l import evaluation
from keras_l2l.evaluation.learning_rate_sweep import sweep
from keras_l2l.meta_training.trainer import MetaTrainer
from keras_l2l.tasks import Task


class ValidationSet(NamedTuple):
    """The optimizees by which a rule is validated.

    Attributes:
        task: A `Task` or a list of them.
        episodes: Integer. Optimizees of each task.
        horizon: Integer, inner steps, or `None`.
        loss: As in `MetaTrainer.evaluate`.
    """

    task: Task | list[Task]
    episodes: int
    horizon: int | None
    loss: str | float | None

    def evaluate(
        self, trainer: MetaTrainer, weights: list[Any] | None = None
    ) -> float:
        """The meta-loss of the rule of a trainer.

        Args:
            trainer: A `MetaTrainer`.
            weights: List of arrays, meta-parameters to try in place of those
                of the rule, which it has again afterwards. Defaults to
                `None`, its own.
        """
        own = trainer.rule.get_weights()
        if weights is not None:
            trainer.rule.set_weights(weights)
        loss = trainer.evaluate(*self)
        trainer.rule.set_weights(own)
        return loss


def tuned_adam(trainer: MetaTrainer, validation: ValidationSet) -> float:
    """The validation loss of Adam at the best learning rate for it.

    Args:
        trainer: A compiled `MetaTrainer` whose rule is `Adam`.
        validation: A `ValidationSet`.

    Returns:
        A float.
    """
    rates = evaluation.OPTIMIZERS["Adam"].learning_rates
    return min(
        sweep(
            "Adam",
            rates,
            lambda rate: validation.evaluate(trainer, [np.asarray(rate)]),
        ).scores
    )


class ShowBaselines(keras.callbacks.Callback):
    """Adds the losses of baselines to the logs, wherever there is `val_loss`.

    Args:
        losses: Dict from the names in the logs to floats.
    """

    def __init__(self, losses: dict[str, float]):
        super().__init__()
        self._losses = losses

    def on_epoch_end(self, epoch, logs=None):
        if "val_loss" in logs:
            logs.update(self._losses)
