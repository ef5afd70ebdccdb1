"""A small meta-training, by one process of several or by one alone."""

import os
import pathlib
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_l2l import MetaTrainer, rules, tasks
from keras_l2l.meta_training import replicas


class Die(keras.callbacks.Callback):
    """Kills its process when an epoch begins."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def train(epochs, backup_dir=None, strategy=None, callbacks=None):
    """Trains, or goes on.

    Returns:
        Dict of arrays: the meta-parameters and the logs but for the time.
    """
    with replicas.scope(strategy):
        trainer = MetaTrainer(
            rules.SGD(0.02),
            [tasks.Quadratic(2), tasks.Quadratic(3)],
            horizon=(4, 12),
            unroll=4,
            optimizees=3,
        )
        trainer.compile(keras.optimizers.Adam(1e-2))
    history = trainer.fit(
        epochs=epochs,
        steps_per_epoch=3,
        validation_task=tasks.Quadratic(3),
        validation_episodes=3,
        verbose=2,
        backup_dir=backup_dir,
        callbacks=callbacks,
    )
    logs = dict(history.history)
    del logs["inner_steps_per_second"]
    weights = enumerate(trainer.rule.get_weights())
    return {**{f"weight_{i}": w for i, w in weights}, **logs}


def main(directory, epochs, dies_at):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index = strategy.cluster_resolver.task_id
    directory = pathlib.Path(directory)
    callbacks = [Die(int(dies_at))] if index else []
    # Only the chief's directory counts.
    backup_dir = directory / f"worker-{index}"
    result = train(int(epochs), backup_dir, strategy, callbacks)
    np.savez(directory / f"result-{index}.npz", **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
