"""The backup of a meta-training, from which it resumes exactly."""

import keras

from keras_l2l.meta_gradients.base import MetaGradientEstimator
from keras_l2l.meta_gradients.meta_loss import DEFAULT_LOG_FLOOR
from keras_l2l.meta_training import checkpoint
from keras_l2l.rules.base import UpdateRule

# What was always so before there was a setting for it.
_ADDED_SETTINGS = {"meta_loss": 0.0}


class Backup(keras.callbacks.Callback):
    """Writes a backup after each epoch, and resumes a run from it.

    It must be the last callback, so that it sees what the others did. One
    process of several, the chief, reads and writes the file, which holds the
    optimizees of all: another number of processes can go on from it.

    Args:
        path: A `pathlib.Path`, the file.
        config: A `MetaTrainingConfig`.
        pool: An `EpisodePool`.
        schedule: A `HorizonSchedule`.
        best: A `KeepBest`.
        replicas: A `Replicas`.
    """

    def __init__(self, path, config, pool, schedule, best, replicas):
        super().__init__()
        self._path = path
        self._config = config
        self._pool = pool
        self._schedule = schedule
        self._best = best
        self._replicas = replicas

    def on_train_begin(self, logs=None):
        content = None
        if self._replicas.is_chief and self._path.exists():
            content = self._path.read_bytes()
        content = self._replicas.broadcast(content)
        if content is None:
            return
        arrays, document = checkpoint.parse(content, self._path)
        self._check_settings(document)
        try:
            self._restore(arrays, document)
        except Exception as error:
            raise ValueError(
                f"The backup {str(self._path)!r} is damaged: {error!r}. Move "
                "it away to start the run anew."
            ) from error

    def on_epoch_end(self, epoch, logs=None):
        arrays, outer_loop = self._pool.state()
        if not self._replicas.is_chief:
            return
        variables = [keras.ops.convert_to_numpy(v) for v in self._variables()]
        best = self._best.weights or []
        checkpoint.write(
            self._path,
            variables + best + arrays,
            {
                "settings": self._settings(),
                "epoch": epoch + 1,
                "stopped": self.model.stop_training,
                "history": self.model.history.history,
                "epochs": self.model.history.epoch,
                "best": {"loss": self._best.loss, "arrays": len(best)},
                "progress": self._schedule.state(),
                "outer_loop": outer_loop,
            },
        )

    def _restore(self, arrays, document):
        """Puts a backup into place, or changes nothing if it raises."""
        variables, best = self._variables(), document["best"]
        arrays = iter(arrays)
        values = _take(arrays, variables)
        weights = _take(arrays, self._config.rule.weights[: best["arrays"]])
        loss, stopped = float(best["loss"]), bool(document["stopped"])
        # Numbers: `+` raises for whatever is none.
        history = {k: [+x for x in v] for k, v in document["history"].items()}
        epochs = list(map(int, document["epochs"]))
        epoch = int(document["epoch"])
        # The first backups, before there were curricula, have no stage.
        if "progress" in document:
            self._schedule.restore(document["progress"])
        self._pool.restore(arrays, document["outer_loop"])
        for variable, value in zip(variables, values):
            variable.assign(value)
        self._best.loss, self._best.weights = loss, weights or None
        # A callback that ended the run has ended it for good.
        self.model.stop_training = stopped
        self.model.history.history = history
        self.model.history.epoch = epochs
        # As Keras's own `BackupAndRestore` does.
        self.model._initial_epoch = epoch

    def _check_settings(self, document):
        ours = self._settings()
        with checkpoint.errors_name_backup(self._path):
            theirs = {**_ADDED_SETTINGS, **document.get("settings", {})}
        for key in ("rule", "estimator"):
            theirs[key] = _without_origin(theirs.get(key))
        other = sorted(key for key in ours if ours[key] != theirs.get(key))
        if other:
            # Loss weights have a number for each step, files may have anything.
            expected, received = (
                f"{ ({key: settings.get(key) for key in other})!s:.1000}"
                for settings in (ours, theirs)
            )
            raise ValueError(
                "Argument `backup_dir` must hold a backup of this run. "
                f"Expected {expected}. Received {received} in "
                f"{str(self._path)!r}. Choose another directory, or start "
                "with the settings of the backup."
            )

    def _variables(self):
        return self._config.rule.variables + self.model.optimizer.variables

    def _settings(self):
        """What a backup must agree with, for JSON."""
        config = self._config
        return {
            "rule": _without_origin(config.rule.get_config()),
            "optimizer": type(self.model.optimizer).__name__,
            "variables": [list(v.shape) for v in self._variables()],
            "horizon": self._schedule.settings(),
            "parameters": [
                [list(spec.shape) for spec in task.parameter_specs]
                for task in config.tasks
            ],
            "unroll": config.unroll,
            "optimizees": [len(b.slots) for b in self._pool.batches],
            "tasks_per_step": config.tasks_per_step,
            "loss_weights": config.loss_weights.tolist(),
            "loss_transform": config.loss_transform,
            # Backups older than the argument have none.
            **(
                {}
                if config.log_floor == DEFAULT_LOG_FLOOR
                else {"log_floor": config.log_floor}
            ),
            "meta_loss": config.held_out,
            "estimator": _described(config.estimator),
            "divergence_limit": config.divergence_limit,
            "clipnorm": config.clipnorm,
            "seed": config.seed,
        }


def _take(arrays, variables):
    """The next arrays, one for each variable and of its shape."""
    values = [next(arrays) for _ in variables]
    for value, variable in zip(values, variables):
        if value.shape != tuple(variable.shape):
            raise ValueError(
                f"expected an array of shape {tuple(variable.shape)}, "
                f"received one of shape {value.shape}"
            )
    return values


def _described(value):
    """An estimator and its parts, for JSON."""
    if isinstance(value, UpdateRule):
        return _without_origin(value.get_config())
    if not isinstance(value, MetaGradientEstimator):
        return value
    parts = {
        name: _described(part)
        for name, part in vars(value).items()
        if isinstance(
            part,
            bool
            | int
            | float
            | str
            | list
            | MetaGradientEstimator
            | UpdateRule,
        )
    }
    return _without_origin({"class_name": type(value).__name__, **parts})


def _without_origin(config):
    """A configuration without what may differ from one process to the next.

    Keras counts up the names of layers within a process, and a class may move
    to another module. A flag that is off and an argument that is `None` are
    left out, as by versions, of Keras too, that did not have them yet.
    """
    if not isinstance(config, dict):
        return config
    return {
        key: _without_origin(value)
        for key, value in config.items()
        if key not in ("name", "module")
        and value is not False
        and value is not None
    }
