"""What `MetaTrainer.fit` does between epochs, as Keras callbacks."""

import math
import warnings

import keras

from keras_l2l.meta_training.moving_average import averaged, reset_weights

_ADVICE = (
    "Begin with a rule that takes smaller steps (`output_scale`, "
    "`learning_rate`), with shorter episodes (`horizon`), or with a higher "
    "`divergence_limit`. If training went well at first, lower the "
    "`learning_rate` of the meta-optimizer or set its `global_clipnorm`."
)


class Validate(keras.callbacks.Callback):
    """Adds `val_loss` to the logs: the meta-loss on the validation tasks.

    And `val_loss_standard_error`, if there are several optimizees of a task.
    With `use_ema=True` it is the loss of the averaged meta-parameters, which
    are those that the rule ends with.

    Args:
        tasks: List of `Task`.
        episodes: Integer. Optimizees of each task.
        frequency: Integer. Epochs from one validation to the next.
        horizon: Integer, inner steps; or `None`, those of the schedule.
        schedule: A `HorizonSchedule`.
        held_out: Float, the weight of the held-out loss.
    """

    def __init__(self, tasks, episodes, frequency, horizon, schedule, held_out):
        super().__init__()
        self._tasks = tasks
        self._episodes = episodes
        self._horizon = horizon
        self._frequency = frequency
        self._schedule = schedule
        self._held_out = held_out

    def meta_loss(self):
        """The `ValidationLoss` of the rule as it is now."""
        horizon = self._horizon or self._schedule.validation_horizon
        with averaged(self.model.rule, self.model.optimizer):
            return self.model.validation_loss(
                self._tasks, self._episodes, horizon, self._held_out
            )

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self._frequency == 0:
            loss = self.meta_loss()
            logs["val_loss"] = loss.mean
            if not math.isnan(loss.standard_error):
                logs["val_loss_standard_error"] = loss.standard_error


class KeepBest(keras.callbacks.Callback):
    """Keeps the meta-parameters of the lowest `val_loss`.

    Args:
        restore: Boolean. Whether the rule goes back to them at the end, and
            at the end of each stage of a curriculum.

    Attributes:
        loss: Float. The lowest `val_loss` so far.
        weights: List of arrays, the meta-parameters at that loss; `None`
            before the first finite one.
        improved: Boolean. Whether this epoch's `val_loss` is the lowest;
            `None` if there is none.
    """

    def __init__(self, restore):
        super().__init__()
        self._restore = restore
        self.forget()

    def forget(self):
        """Begins anew, as losses compare only within one horizon."""
        self.loss, self.weights, self.improved = math.inf, None, None

    def update_if_better(self, loss):
        """Keeps the current meta-parameters if their loss is the lowest."""
        self.improved = loss < self.loss
        if self.improved:
            with averaged(self.model.rule, self.model.optimizer):
                self.loss, self.weights = loss, self.model.rule.get_weights()

    def go_back(self):
        """Gives the rule the best meta-parameters, if it is to have them."""
        if self._restore and self.weights is not None:
            reset_weights(self.model.rule, self.model.optimizer, self.weights)

    def on_epoch_end(self, epoch, logs=None):
        self.improved = None
        if "val_loss" in logs:
            self.update_if_better(logs["val_loss"])

    def on_train_end(self, logs=None):
        self.go_back()


class AdvanceCurriculum(keras.callbacks.Callback):
    """Moves a curriculum on when its validation loss no longer falls.

    Args:
        schedule: A `HorizonSchedule`.
        validate: A `Validate`.
        best: A `KeepBest`, which runs before.
    """

    def __init__(self, schedule, validate, best):
        super().__init__()
        self._schedule = schedule
        self._validate = validate
        self._best = best

    def on_epoch_end(self, epoch, logs=None):
        # While all diverge, longer episodes would teach the rule nothing.
        if self._best.improved is None or self._best.weights is None:
            return
        if self._schedule.moves_on(self._best.improved):
            self._best.go_back()
            self._best.forget()
            self._best.update_if_better(self._validate.meta_loss().mean)


class AgreeToStop(keras.callbacks.Callback):
    """Ends the run in all processes if a callback of one wants to.

    Args:
        replicas: A `Replicas`.
    """

    def __init__(self, replicas):
        super().__init__()
        self._replicas = replicas

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = self._replicas.any(self.model.stop_training)


class CheckDivergence(keras.callbacks.Callback):
    """Warns after the first epoch in which every unroll diverged."""

    def __init__(self):
        super().__init__()
        self._has_warned = False

    def on_epoch_end(self, epoch, logs=None):
        # The loss is a mean over the unrolls that did not.
        if math.isnan(logs["loss"]) and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"Every episode of epoch {epoch + 1} diverged. {_ADVICE}",
                RuntimeWarning,
                stacklevel=2,
            )

    def raise_if_all_diverged(self):
        """Raises an error if no epoch had an unroll that did not diverge.

        Raises:
            RuntimeError: If the history has no loss but NaN.
        """
        if all(math.isnan(x) for x in self.model.history.history["loss"]):
            raise RuntimeError(
                "Every episode of this run diverged, so the rule has learned "
                f"nothing that it can be used for. {_ADVICE}"
            )


# Callbacks of Keras that cannot do their work here → what does it.
_REFUSED = {
    keras.callbacks.BackupAndRestore: (
        "does not know the optimizees in training. Remove it from `callbacks` "
        "and pass `fit(backup_dir=…)` instead"
    ),
    keras.callbacks.SwapEMAWeights: (
        "is not needed. Remove it from `callbacks`: validation, the best rule "
        "and the rule at the end are those of the average anyway"
    ),
}


def check_callbacks(callbacks):
    """Refuses callbacks of Keras that would harm the run.

    Args:
        callbacks: Structure of callbacks, or `None`.

    Raises:
        ValueError: If there is one.
    """
    for callback in keras.tree.flatten(callbacks):
        for refused, reason in _REFUSED.items():
            if isinstance(callback, refused):
                raise ValueError(
                    f"`keras.callbacks.{refused.__name__}` {reason}. "
                    f"Received: callbacks={callbacks!r}"
                )
