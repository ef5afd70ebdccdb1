"""The outer loop: meta-training of an update rule."""

import functools
import math
import os
import pathlib
import time
from collections.abc import Sequence
from typing import NoReturn

import keras
import numpy as np
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.meta_gradients.base import MetaGradientEstimator
from keras_l2l.meta_gradients.meta_loss import DEFAULT_LOG_FLOOR
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)
from keras_l2l.meta_training import callbacks as own_callbacks
from keras_l2l.meta_training.backup import Backup
from keras_l2l.meta_training.config import (
    MetaTrainingConfig,
    check_held_out_data,
    held_out_weight,
    task_list,
)
from keras_l2l.meta_training.curriculum import Curriculum
from keras_l2l.meta_training.episode_pool import EpisodePool
from keras_l2l.meta_training.moving_average import write_average
from keras_l2l.meta_training.replicas import Replicas
from keras_l2l.meta_training.validation import Validation, ValidationLoss
from keras_l2l.rules.base import UpdateRule
from keras_l2l.tasks.base import Task

_BACKUP_NAME = "backup.npz"


class MetaTrainer(keras.Model):
    """Learns the meta-parameters of a rule from the training of optimizees.

    Optimizees are trained by the rule from fresh initialisations, in episodes
    of `horizon` inner steps. After each `unroll` of them the meta-parameters
    are updated, by any Keras optimizer, along the gradient of the meta-loss:
    the mean of the optimizee's losses along the unroll. Parameters and hidden
    state are carried over to the next unroll.

    An episode that diverges (a loss that is not finite, or beyond
    `divergence_limit` times one plus the first loss) is cut, counted in the
    logs as `diverged`, and contributes nothing. If all episodes of an epoch
    diverge, `fit` warns; if all episodes of the run do, it raises an error.

    The seed and the length of an episode belong to its slot (one of
    `optimizees` for each task) and do not depend on other slots.

    If rule, trainer and optimizer are created in the scope of a
    `tf.distribute.MirroredStrategy` or `MultiWorkerMirroredStrategy`, the
    optimizees are dealt to its replicas, and the numbers are the same for any
    number of them. `fit` and `evaluate` are called outside the scope, in every
    process. A callback that ends the training of several processes ends it
    with the epoch.

    Args:
        rule: An `UpdateRule`. Trained in place.
        task: A `Task`, or a list of tasks, each of which takes part in every
            outer step.
        horizon: Integer, a multiple of `unroll`. Inner steps in an episode.
            Or a pair of them, the shortest and the longest: the lengths are
            drawn between the two, log-uniformly. Or a `Curriculum`, whose
            horizons grow. Defaults to `100`.
        unroll: Integer. Inner steps in an outer step. Defaults to `20`.
        optimizees: Integer. Optimizees of each task in an outer step; they
            are spread over the horizon, so that each outer step sees early
            and late training. Defaults to `1`.
        tasks_per_step: Integer. If set, each outer step takes that number of
            tasks, drawn at random; the others pause. Defaults to `None`, all.
        loss_weights: The weights w_t of the meta-loss: a sequence of
            `horizon` floats (the longest), for the losses after inner step
            1 … `horizon`. Defaults to `None`, all one.
        loss_transform: `"identity"` or `"log"`. With `"log"` the meta-loss is
            of log(loss / first loss of the episode), in which tasks with
            losses of all sizes count alike. Defaults to `"identity"`.
        estimator: A `MetaGradientEstimator`. Defaults to `None`,
            `TruncatedBackpropagation()`.
        divergence_limit: Float > 1. Defaults to `1e3`.
        clipnorm: Float. If set, the meta-gradient of each optimizee is scaled
            down to this norm before their mean is taken, so that none of
            them outweighs the others. (That of the meta-optimizer clips the
            mean.) Defaults to `None`.
        seed: Integer, zero or greater. Seeds all episodes. Defaults to `0`.
        name: String. The name of the model.
        meta_loss: Which losses of an optimizee the meta-loss is made of:
            `"training"`, of the batches that it is trained on; `"held_out"`,
            of the task's held-out data, in inference mode, so that the rule
            learns what generalises; or a number in [0, 1], the weight of the
            held-out loss beside the training loss. The optimizee itself is
            trained on its training data alone. Defaults to `"training"`.
        log_floor: Positive float. The share of the first loss below which
            that logarithm hardly falls, so that an optimizee that has
            memorised its data does not outweigh all others. A held-out loss,
            or targets far from zero, of which the first loss is large, may
            need a smaller one. Defaults to `0.01`.

    Raises:
        TypeError: If `rule`, `task` or `estimator` is of another class.
        ValueError: If another argument is out of its range.

    Example:

    ```python
    rule = rules.CoordinatewiseLSTM(units=20, layers=2)
    trainer = MetaTrainer(rule, tasks.mnist_mlp(), horizon=100, unroll=20)
    trainer.compile(keras.optimizers.Adam(1e-3))
    trainer.fit(epochs=50, steps_per_epoch=100)
    rule.export("my_rule")
    ```

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474)
    """

    def __init__(
        self,
        rule: UpdateRule,
        task: Task | list[Task],
        horizon: int | tuple[int, int] | Curriculum = 100,
        unroll: int = 20,
        optimizees: int = 1,
        tasks_per_step: int | None = None,
        loss_weights: Sequence[float] | np.ndarray | None = None,
        loss_transform: str = "identity",
        estimator: MetaGradientEstimator | None = None,
        divergence_limit: float = 1e3,
        clipnorm: float | None = None,
        seed: int = 0,
        name: str | None = None,
        meta_loss: str | float = "training",
        log_floor: float = DEFAULT_LOG_FLOOR,
    ):
        super().__init__(name=name)
        tasks = task_list("task", task)
        if tasks_per_step is None:
            tasks_per_step = len(tasks)
        if estimator is None:
            estimator = TruncatedBackpropagation()
        self._config = MetaTrainingConfig(
            rule=rule,
            tasks=tasks,
            horizon=horizon,
            unroll=unroll,
            optimizees=optimizees,
            tasks_per_step=tasks_per_step,
            loss_weights=loss_weights,
            loss_transform=loss_transform,
            log_floor=log_floor,
            meta_loss=meta_loss,
            estimator=estimator,
            divergence_limit=float(divergence_limit),
            clipnorm=clipnorm,
            seed=seed,
        )
        self._schedule = self._config.horizon_schedule()
        strategy = tf.distribute.get_strategy()
        self._replicas = Replicas(
            strategy if tf.distribute.has_strategy() else None, rule
        )
        self._pool = EpisodePool(self._config, self._schedule, self._replicas)
        self._validation = Validation(self._config, self._replicas)
        self.rule = rule
        self.horizon = self._schedule.longest_horizon
        self.built = True

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        jit_compile: bool = False,
    ) -> None:
        """Sets the meta-optimizer.

        With `use_ema=True`, validation sees the average of the
        meta-parameters, and the rule ends with it. A loss scale
        (`loss_scale_factor`, `LossScaleOptimizer`) multiplies the
        meta-gradient before the optimizer divides by it; none is added under
        a policy of mixed precision.

        Args:
            optimizer: A `keras.optimizers.Optimizer`, or the name of one.
                Defaults to `"adam"`.
            jit_compile: Boolean. Whether XLA compiles the training of the
                validation's optimizees: seconds to compile for each task,
                several times faster from then on. Defaults to `False`.
        """
        # The meta-gradient is of float32 whatever Keras's dtype policy, so it
        # needs no loss scale. One that the user asks for is applied.
        super().compile(
            optimizer=optimizer, jit_compile=jit_compile, auto_scale_loss=False
        )
        self._validation = Validation(
            self._config, self._replicas, bool(jit_compile)
        )
        self.optimizer.build(self.rule.trainable_variables)
        # A partial, because TensorFlow counts the traces of one Python
        # function over all trainers and warns.
        self._apply_function = tf.function(
            functools.partial(self._apply), autograph=False
        )

    def fit(
        self,
        epochs: int = 1,
        steps_per_epoch: int = 100,
        validation_task: Task | list[Task] | None = None,
        validation_episodes: int = 8,
        validation_freq: int = 1,
        validation_horizon: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        verbose: str | int = "auto",
        backup_dir: str | os.PathLike | None = None,
        restore_best: bool = True,
        validation_loss: str | float | None = None,
    ) -> keras.callbacks.History:
        """Meta-trains the rule.

        The logs that callbacks, the progress bar and the history see are
        `loss` (the meta-loss), `inner_steps_per_second`, `diverged`
        (episodes cut in this epoch), `val_loss` (the meta-loss of the
        validation task, over whole episodes) and, with several
        `validation_episodes`, `val_loss_standard_error`.

        Args:
            epochs: Integer. Defaults to `1`.
            steps_per_epoch: Integer. Outer steps in an epoch: each is one
                unroll and one update of the rule. Defaults to `100`.
            validation_task: A `Task` or a list of tasks. At the end of an
                epoch the rule trains fresh optimizees of each, always the
                same ones, which no training episode sees.
                Defaults to `None`.
            validation_episodes: Integer. Optimizees of each validation task.
                Defaults to `8`.
            validation_freq: Integer. Epochs from one validation to the next.
                Defaults to `1`.
            validation_horizon: Integer. Inner steps of a validation episode.
                Defaults to `None`, the longest of training; of a curriculum,
                the next.
            callbacks: List of `keras.callbacks.Callback`.
            verbose: `"auto"`, 0, 1 or 2, as in `keras.Model.fit`.
            backup_dir: Directory. After each epoch, everything that the run
                needs is written there. A run that was killed resumes from it
                when it is started again with the same arguments, and ends
                with the same numbers. The state of `callbacks` is not kept.
                Defaults to `None`.
            restore_best: Boolean. With a validation task, whether the rule
                ends with the meta-parameters of its lowest `val_loss`.
                Defaults to `True`.
            validation_loss: `"training"`, `"held_out"` or a number, as
                `meta_loss`: by which loss of the validation's optimizees the
                best meta-parameters are chosen. Defaults to `None`, as in
                training.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: If an argument is out of its range, or `backup_dir`
                holds a backup of another run or a damaged one, which is left
                as it is.
            RuntimeError: If every episode of the run diverged. The backup
                stays.
        """
        if not self.compiled:
            raise ValueError(
                "Call `trainer.compile(optimizer)` before `trainer.fit()`."
            )
        self._replicas.check_scope()
        checks.positive_integers(epochs=epochs, steps_per_epoch=steps_per_epoch)
        own_callbacks.check_callbacks(callbacks)
        validate = self._validate(
            validation_task,
            validation_episodes,
            validation_freq,
            validation_horizon,
            validation_loss,
        )
        before, after = self._own_callbacks(validate, backup_dir, restore_best)
        divergence = own_callbacks.CheckDivergence()
        callback_list = keras.callbacks.CallbackList(
            [
                *before,
                *keras.tree.flatten(callbacks or []),
                keras.callbacks.History(),
                divergence,
                *after,
            ],
            add_progbar=verbose != 0 and self.is_chief,
            model=self,
            verbose=1 if verbose == "auto" else verbose,
            epochs=epochs,
            steps=steps_per_epoch,
        )
        self.stop_training = False
        self._initial_epoch = 0
        callback_list.on_train_begin()
        for epoch in range(self._initial_epoch, epochs):
            if self.stop_training:
                break
            callback_list.on_epoch_begin(epoch)
            logs = self._run_epoch(steps_per_epoch, callback_list)
            callback_list.on_epoch_end(epoch, logs)
        write_average(self.rule, self.optimizer)
        callback_list.on_train_end()
        divergence.raise_if_all_diverged()
        return self.history

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one of a run that writes files.

        Of several workers (`tf.distribute.MultiWorkerMirroredStrategy`) one
        prints, keeps the backup and should export the rule. Without such a
        strategy it is this process.
        """
        return self._replicas.is_chief

    def evaluate(
        self,
        task: Task | list[Task],
        episodes: int = 8,
        horizon: int | None = None,
        loss: str | float | None = None,
    ) -> float:
        """The meta-loss of the rule over whole episodes of fresh optimizees.

        Args:
            task: A `Task` or a list of tasks.
            episodes: Integer. Optimizees of each task. The first ones are
                the same at each call, and none is seen in training.
                Defaults to `8`.
            horizon: Integer. Inner steps in an episode. Defaults to `None`,
                that of the training.
            loss: `"training"`, `"held_out"` or a number, as `meta_loss`.
                Defaults to `None`, as in training.

        Returns:
            A float; infinity if an optimizee diverged.
        """
        return self.validation_loss(task, episodes, horizon, loss).mean

    def validation_loss(
        self,
        task: Task | list[Task],
        episodes: int = 8,
        horizon: int | None = None,
        loss: str | float | None = None,
    ) -> ValidationLoss:
        """The same as `evaluate`, with its standard error.

        Args:
            task: A `Task` or a list of tasks.
            episodes: Integer, as for `evaluate`. Defaults to `8`.
            horizon: Integer, as for `evaluate`. Defaults to `None`.
            loss: As for `evaluate`. Defaults to `None`.

        Returns:
            A named tuple `(mean, standard_error)` of floats. The error is
            that of the mean over other optimizees of the same tasks; NaN with
            one optimizee a task.
        """
        tasks = task_list("task", task)
        held_out = self._held_out("loss", loss)
        check_held_out_data(tasks, held_out)
        horizon = self.horizon if horizon is None else horizon
        checks.positive_integers(episodes=episodes, horizon=horizon)
        weights = self._config.loss_weights
        if horizon != self.horizon:
            weights = np.ones(horizon, "float32")
        return self._validation.meta_loss(tasks, episodes, weights, held_out)

    def save(self, filepath, overwrite=True, **kwargs) -> NoReturn:
        """Not for a trainer: raises an error that says what to call."""
        raise NotImplementedError(
            "A MetaTrainer holds Python functions and data and cannot be "
            "saved. Save the rule with `rule.export(path)`, the weights with "
            "`trainer.save_weights(path)` (in `ModelCheckpoint`: "
            "`save_weights_only=True`), a run that is to go on with "
            f"`fit(backup_dir=…)`. Received: filepath={filepath}"
        )

    def _held_out(self, argument, loss):
        """The weight of the held-out loss; of `None`, that of training."""
        if loss is None:
            return self._config.held_out
        return held_out_weight(argument, loss)

    def _validate(self, task, episodes, frequency, horizon, loss):
        """The callback that validates, or `None` without a task."""
        checks.positive_integers(
            validation_episodes=episodes, validation_freq=frequency
        )
        if horizon is not None:
            checks.positive_integers(validation_horizon=horizon)
        held_out = self._held_out("validation_loss", loss)
        if task is None:
            return None
        tasks = task_list("validation_task", task)
        check_held_out_data(tasks, held_out)
        return own_callbacks.Validate(
            tasks, episodes, frequency, horizon, self._schedule, held_out
        )

    def _own_callbacks(self, validate, backup_dir, restore_best):
        """The callbacks that run before those of the user, and after them.

        The user's see `val_loss`; the backup sees the history and everything
        that the user's did.
        """
        best = own_callbacks.KeepBest(restore_best)
        before, after = [best], []
        if validate is not None:
            before.insert(0, validate)
        if self._schedule.is_curriculum:
            if validate is None:
                raise ValueError(
                    "Argument `validation_task` must be a task, by which a "
                    "curriculum advances. Received: validation_task=None"
                )
            after.append(
                own_callbacks.AdvanceCurriculum(self._schedule, validate, best)
            )
        after.append(own_callbacks.AgreeToStop(self._replicas))
        if backup_dir is not None:
            path = pathlib.Path(backup_dir) / _BACKUP_NAME
            after.append(
                Backup(
                    path,
                    self._config,
                    self._pool,
                    self._schedule,
                    best,
                    self._replicas,
                )
            )
        return before, after

    def _run_epoch(self, steps, callbacks):
        logs, losses, diverged, begin = {}, [], 0, time.perf_counter()
        for step in range(steps):
            callbacks.on_train_batch_begin(step)
            step_losses, gradients = self._pool.step()
            if gradients is not None:
                self._apply_function(gradients)
            losses += step_losses
            diverged += self._pool.optimizees - len(step_losses)
            seconds = time.perf_counter() - begin
            inner_steps = (step + 1) * self._pool.inner_steps
            logs = {
                "loss": float(np.mean(losses)) if losses else math.nan,
                "inner_steps_per_second": inner_steps / seconds,
                "diverged": diverged,
            }
            callbacks.on_train_batch_end(step, logs)
            # Several workers agree on it at the end of the epoch.
            if self.stop_training and self._replicas.workers == 1:
                break
        if self._schedule.is_curriculum:
            logs["horizon"] = self._schedule.horizons[1]
        return logs

    def _apply(self, gradients):
        # The optimizer divides them by its loss scale, if it has one.
        gradients = [self.optimizer.scale_loss(g) for g in gradients]
        self.optimizer.apply(gradients, self.rule.trainable_variables)
