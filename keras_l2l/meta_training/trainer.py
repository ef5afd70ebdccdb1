"""The outer loop: meta-training of an update rule."""

import math
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)
from keras_l2l.meta_training import arguments, checkpoint
from keras_l2l.meta_training.episode_pool import EpisodePool
from keras_l2l.meta_training.validation import Best, Validation

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
    logs as `diverged`, and contributes nothing.

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
        tasks_per_step: Integer. If set, each outer step takes so many of the
            tasks, at random; the others pause. Defaults to `None`, all.
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
        seed: Integer. Seeds all episodes. Defaults to `0`.
        name: String. The name of the model.

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
        rule,
        task,
        horizon=100,
        unroll=20,
        optimizees=1,
        tasks_per_step=None,
        loss_weights=None,
        loss_transform="identity",
        estimator=None,
        divergence_limit=1e3,
        clipnorm=None,
        seed=0,
        name=None,
    ):
        super().__init__(name=name)
        estimator = estimator or TruncatedBackpropagation()
        tasks = arguments.task_list("task", task)
        arguments.check(
            rule,
            tasks,
            tasks_per_step,
            loss_transform,
            estimator,
            divergence_limit,
        )
        checks.positive_integers(unroll=unroll, optimizees=optimizees)
        if clipnorm is not None:
            checks.positive_numbers(clipnorm=clipnorm)
        self._progress = arguments.progress(horizon, unroll)
        self.rule = rule
        self.horizon = self._progress.longest_horizon
        self.seed = seed
        self._loss_weights = arguments.loss_weight_array(
            loss_weights, self.horizon
        )
        self._outer_loop = EpisodePool(
            rule,
            tasks,
            self._progress.horizons,
            unroll,
            optimizees,
            tasks_per_step,
            self._loss_weights,
            loss_transform,
            estimator,
            float(divergence_limit),
            clipnorm,
            seed,
        )
        self._best = Best()
        self._validation = Validation(rule, loss_transform, seed)
        self.built = True

    def compile(self, optimizer="adam", jit_compile=False):
        """Sets the meta-optimizer.

        Args:
            optimizer: A `keras.optimizers.Optimizer`, or the name of one.
                Defaults to `"adam"`.
            jit_compile: Boolean. Whether XLA compiles the training of the
                validation's optimizees: seconds to compile for each task,
                several times faster from then on. Defaults to `False`.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile)
        self._validation = Validation(
            self.rule,
            self._outer_loop.loss_transform,
            self.seed,
            bool(jit_compile),
        )
        self.optimizer.build(self.rule.trainable_variables)
        self._apply_function = tf.function(self._apply, autograph=False)

    def fit(
        self,
        epochs=1,
        steps_per_epoch=100,
        validation_task=None,
        validation_episodes=8,
        validation_freq=1,
        validation_horizon=None,
        callbacks=None,
        verbose="auto",
        backup_dir=None,
        restore_best=True,
    ):
        """Meta-trains the rule.

        The logs that callbacks, the progress bar and the history see are
        `loss` (the meta-loss), `inner_steps_per_second`, `diverged`
        (episodes cut in this epoch) and `val_loss` (the meta-loss of the
        validation task, over whole episodes).

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
            validation_freq: Integer. Validates each so many epochs.
                Defaults to `1`.
            validation_horizon: Integer. Inner steps of a validation episode.
                Defaults to `None`, the longest of training; of a curriculum,
                the next.
            callbacks: List of `keras.callbacks.Callback`.
            verbose: `"auto"`, 0, 1 or 2, as in `keras.Model.fit`.
            backup_dir: Directory. After each epoch all that the run needs is
                written there; a run that was killed goes on from there when
                it is started again with the same arguments, and ends with the
                same numbers. Callbacks keep no state of their own over a
                resume. Defaults to `None`.
            restore_best: Boolean. With a validation task, whether the rule
                ends with the meta-parameters of its lowest `val_loss`.
                Defaults to `True`.

        Returns:
            A `keras.callbacks.History`.
        """
        if not self.compiled:
            raise ValueError(
                "Call `trainer.compile(optimizer)` before `trainer.fit()`."
            )
        checks.positive_integers(
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            validation_episodes=validation_episodes,
            validation_freq=validation_freq,
        )
        if validation_horizon is not None:
            checks.positive_integers(validation_horizon=validation_horizon)
        arguments.refuse_keras_backup(callbacks)
        validation_tasks = (
            []
            if validation_task is None
            else arguments.task_list("validation_task", validation_task)
        )
        if self._progress.is_curriculum and not validation_tasks:
            raise ValueError(
                "Argument `validation_task` must be a task, by which a "
                "curriculum goes on. Received: validation_task=None"
            )

        def validate():
            horizon = validation_horizon or self._progress.validation_horizon
            return self.evaluate(validation_tasks, validation_episodes, horizon)

        callbacks = keras.callbacks.CallbackList(
            callbacks,
            add_history=True,
            add_progbar=verbose != 0,
            model=self,
            verbose=1 if verbose == "auto" else verbose,
            epochs=epochs,
            steps=steps_per_epoch,
        )
        self.stop_training = False
        self._best = Best()
        callbacks.on_train_begin()
        first_epoch, path = 0, None
        if backup_dir is not None:
            path = pathlib.Path(backup_dir) / _BACKUP_NAME
            if path.exists():
                first_epoch = self._restore(path)
        for epoch in range(first_epoch, epochs):
            if self.stop_training:
                break
            callbacks.on_epoch_begin(epoch)
            logs = self._run_epoch(steps_per_epoch, callbacks)
            if self._progress.is_curriculum:
                logs["horizon"] = self._progress.horizons[1]
            is_validated = (
                validation_tasks and not (epoch + 1) % validation_freq
            )
            if is_validated:
                logs["val_loss"] = validate()
                improved = self._best.update_if_better(
                    logs["val_loss"], self.rule.get_weights()
                )
            callbacks.on_epoch_end(epoch, logs)
            # While all diverge, longer episodes would teach it nothing.
            is_good = is_validated and self._best.weights is not None
            if is_good and self._progress.moves_on(improved):
                self._begin_stage(validate, restore_best)
            if path is not None:
                self._back_up(path, epoch + 1)
        if restore_best and self._best.weights is not None:
            self.rule.set_weights(self._best.weights)
        callbacks.on_train_end()
        return self.history

    def evaluate(self, task, episodes=8, horizon=None):
        """The meta-loss of the rule over whole episodes of fresh optimizees.

        Args:
            task: A `Task` or a list of tasks.
            episodes: Integer. Optimizees of each task. The first ones are
                the same at each call, and none is seen in training.
                Defaults to `8`.
            horizon: Integer. Inner steps in an episode. Defaults to `None`,
                that of the training.

        Returns:
            A float; infinity if an optimizee diverged.
        """
        horizon = self.horizon if horizon is None else horizon
        checks.positive_integers(episodes=episodes, horizon=horizon)
        weights = self._loss_weights
        if horizon != self.horizon:
            weights = np.ones(horizon, "float32")
        tasks = arguments.task_list("task", task)
        return self._validation.meta_loss(tasks, episodes, weights)

    def save(self, filepath, overwrite=True, **kwargs):
        """Not for a trainer: raises an error that says what to call."""
        raise NotImplementedError(
            "A MetaTrainer holds Python functions and data and cannot be "
            "saved. Save the rule with `rule.export(path)`, the weights with "
            "`trainer.save_weights(path)` (in `ModelCheckpoint`: "
            "`save_weights_only=True`), a run that is to go on with "
            f"`fit(backup_dir=…)`. Received: filepath={filepath}"
        )

    def _run_epoch(self, steps, callbacks):
        logs, losses, diverged, begin = {}, [], 0, time.perf_counter()
        for step in range(steps):
            callbacks.on_train_batch_begin(step)
            step_losses, gradients = self._outer_loop.step()
            if gradients is not None:
                self._apply_function(gradients)
            losses += step_losses
            diverged += self._outer_loop.optimizees - len(step_losses)
            seconds = time.perf_counter() - begin
            inner_steps = (step + 1) * self._outer_loop.inner_steps
            logs = {
                "loss": float(np.mean(losses)) if losses else math.nan,
                "inner_steps_per_second": inner_steps / seconds,
                "diverged": diverged,
            }
            callbacks.on_train_batch_end(step, logs)
        return logs

    def _begin_stage(self, validate, restore_best):
        """Goes on at the horizon that progress has come to."""
        if restore_best:
            self.rule.set_weights(self._best.weights)
        self._outer_loop.horizons = self._progress.horizons
        self._best = Best()
        self._best.update_if_better(validate(), self.rule.get_weights())

    def _apply(self, gradients):
        self.optimizer.apply(gradients, self.rule.trainable_variables)

    def _back_up(self, path, next_epoch):
        variables = self.rule.variables + self.optimizer.variables
        best = self._best.weights or []
        arrays, outer = self._outer_loop.state()
        checkpoint.write(
            path,
            [keras.ops.convert_to_numpy(v) for v in variables] + best + arrays,
            {
                "settings": self._settings(),
                "epoch": next_epoch,
                "stopped": self.stop_training,
                "history": self.history.history,
                "epochs": self.history.epoch,
                "best": {"loss": self._best.loss, "arrays": len(best)},
                "progress": self._progress.state(),
                "outer_loop": outer,
            },
        )

    def _restore(self, path):
        """Restores a backup and returns the epoch to go on with."""
        arrays, document = checkpoint.read(path)
        ours, theirs = self._settings(), document["settings"]
        theirs = {**theirs, "rule": _without_origin(theirs.get("rule"))}
        other = sorted(key for key in ours if ours[key] != theirs.get(key))
        if other:
            raise ValueError(
                "Argument `backup_dir` must hold a backup of this run. "
                f"Expected { ({key: ours[key] for key in other}) }. Received "
                f"{ ({key: theirs.get(key) for key in other}) } in "
                f"{str(path)!r}. Choose another directory, or start with the "
                "settings of the backup."
            )
        arrays = iter(arrays)
        for variable in self.rule.variables + self.optimizer.variables:
            variable.assign(next(arrays))
        best = document["best"]
        self._best.loss = best["loss"]
        self._best.weights = [
            next(arrays) for _ in range(best["arrays"])
        ] or None
        self._outer_loop.restore(arrays, document["outer_loop"])
        # Backups of the time before curricula have none.
        if "progress" in document:
            self._progress.restore(document["progress"])
        self._outer_loop.horizons = self._progress.horizons
        # A callback that ended the run has ended it for good.
        self.stop_training = document["stopped"]
        self.history.history = document["history"]
        self.history.epoch = document["epochs"]
        return document["epoch"]

    def _settings(self):
        """What a backup must agree with."""
        return {
            "rule": _without_origin(self.rule.get_config()),
            "optimizer": type(self.optimizer).__name__,
            "variables": [
                list(v.shape)
                for v in self.rule.variables + self.optimizer.variables
            ],
            "horizon": self._progress.settings(),
            **self._outer_loop.settings(),
        }


def _without_origin(config):
    """A configuration without what may differ from one process to the next.

    Keras counts up the names of layers within a process, and a class may move
    to another module.
    """
    if not isinstance(config, dict):
        return config
    return {
        key: _without_origin(value)
        for key, value in config.items()
        if key not in ("name", "module")
    }
