"""A run that was broken off goes on with the same numbers, or says why not."""

import json
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_l2l import MetaTrainer, rules, tasks
from keras_l2l.meta_gradients import TruncatedBackpropagation
from keras_l2l.meta_training import checkpoint


def _trainer(optimizer=None, **arguments):
    arguments = {
        "rule": rules.SGD(0.02),
        "task": tasks.Quadratic(3),
        "horizon": 12,
        "unroll": 4,
        "optimizees": 2,
        **arguments,
    }
    trainer = MetaTrainer(**arguments)
    trainer.compile(optimizer or keras.optimizers.Adam(1e-2))
    return trainer


def _train(directory, epochs, optimizer=None, callbacks=(), **arguments):
    trainer = _trainer(optimizer, **arguments)
    history = trainer.fit(
        epochs=epochs,
        steps_per_epoch=4,
        validation_task=tasks.Quadratic(3),
        validation_episodes=2,
        verbose=0,
        callbacks=callbacks,
        backup_dir=directory,
    )
    numbers = dict(history.history)
    del numbers["inner_steps_per_second"]
    return trainer.rule.get_weights(), numbers, history.epoch


def test_resume_gives_the_same_numbers(tmp_path):
    def train(name, **arguments):
        rule = rules.CoordinatewiseLSTM(units=2, layers=1, seed=0)
        optimizer = keras.optimizers.Adam(
            1e-2, use_ema=True, ema_momentum=0.8, gradient_accumulation_steps=2
        )
        # Lengths are drawn, too.
        return _train(
            tmp_path / name,
            3,
            optimizer,
            rule=rule,
            horizon=(4, 12),
            **arguments,
        )

    def break_off(epoch, logs):
        if epoch == 1:
            shutil.copytree(tmp_path / "whole", tmp_path / "parts")

    copy = keras.callbacks.LambdaCallback(on_epoch_begin=break_off)
    expected = train("whole", callbacks=[copy])
    received = train("parts")
    for a, b in zip(expected[0], received[0]):
        np.testing.assert_array_equal(a, b)
    assert received[1:] == expected[1:]
    # A finished run has nothing left to do.
    again = train("parts")
    for a, b in zip(expected[0], again[0]):
        np.testing.assert_array_equal(a, b)


def test_a_run_that_a_callback_stopped_stays_stopped(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    for callbacks in ([Stop()], []):
        history = _trainer(optimizees=1).fit(
            epochs=4,
            steps_per_epoch=1,
            callbacks=callbacks,
            verbose=0,
            backup_dir=tmp_path,
        )
        assert history.epoch == [0, 1]


SCRIPT = """
import sys, numpy as np, keras
from keras_l2l import MetaTrainer, rules, tasks

rule = rules.CoordinatewiseLSTM(units=2, layers=1, seed=0)
task = tasks.digits_mlp(units=3, batch_size=16)
trainer = MetaTrainer(rule, task, horizon=12, unroll=4, optimizees=2)
trainer.compile(keras.optimizers.Adam(1e-2))
trainer.fit(epochs=12, steps_per_epoch=5, validation_task=task,
            validation_episodes=2, verbose=0, backup_dir=sys.argv[1])
np.savez(sys.argv[2], *rule.get_weights())
"""


@pytest.mark.slow
def test_a_killed_process_resumes_with_the_same_numbers(tmp_path):
    """A real process, killed with SIGKILL in the middle of its epochs."""

    def command(name):
        return [
            sys.executable, "-c", SCRIPT,
            str(tmp_path / name), str(tmp_path / f"{name}.npz"),
        ]  # fmt: skip

    subprocess.run(command("whole"), check=True, capture_output=True)

    process = subprocess.Popen(
        command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    path = tmp_path / "killed" / "backup.npz"
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.read(path)[1]["epoch"] < 12
    assert not (tmp_path / "killed.npz").exists()

    subprocess.run(command("killed"), check=True, capture_output=True)
    with (
        np.load(tmp_path / "whole.npz") as a,
        np.load(tmp_path / "killed.npz") as b,
    ):
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize(
    "arguments",
    [
        {"horizon": 8},
        {"loss_weights": np.arange(12.0)},
        {"estimator": TruncatedBackpropagation(coordinate_share=0.5)},
        {"optimizer": keras.optimizers.Nadam(1e-2)},
        {"task": tasks.Quadratic(dimensions=4)},
    ],
    ids=["horizon", "loss_weights", "estimator", "optimizer", "task"],
)
def test_a_backup_of_another_run_is_refused(tmp_path, backup, arguments):
    checkpoint.write(tmp_path / "backup.npz", *backup)
    before = (tmp_path / "backup.npz").read_bytes()
    with pytest.raises(ValueError, match="must hold a backup of this run"):
        _train(tmp_path, 1, **arguments)
    assert (tmp_path / "backup.npz").read_bytes() == before


def _without(document, key):
    return {k: v for k, v in document.items() if k != key}


DAMAGES = {
    "no epoch": lambda arrays, document: (arrays, _without(document, "epoch")),
    "no best": lambda arrays, document: (arrays, _without(document, "best")),
    "an array is missing": lambda arrays, document: (arrays[:-1], document),
    "another shape": lambda arrays, document: (
        [*arrays[:-1], np.zeros((7, 7), "float32")],
        document,
    ),
    "variables of another shape": lambda arrays, document: (
        [np.zeros(3, "float32"), *arrays[1:]],
        document,
    ),
    "fewer slots": lambda arrays, document: (
        arrays,
        {**document, "outer_loop": {"steps": 1, "groups": []}},
    ),
    "a slot of another form": lambda arrays, document: (
        arrays,
        json.loads(json.dumps(document).replace("first_loss", "last_loss")),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_backup_is_refused_and_kept(tmp_path, backup, damage):
    path = tmp_path / "backup.npz"
    checkpoint.write(path, *DAMAGES[damage](*backup))
    before = path.read_bytes()
    trainer = _trainer()
    with pytest.raises(ValueError, match=r"is damaged.*Move it away"):
        trainer.fit(epochs=2, backup_dir=tmp_path, verbose=0)
    assert path.read_bytes() == before
    assert float(trainer.rule.learning_rate) == np.float32(0.02)


@pytest.fixture(scope="module")
def backup(tmp_path_factory):
    """What is in the backup of a run in the midst of its episodes."""
    directory = tmp_path_factory.mktemp("backup")
    _train(directory, 1)
    return checkpoint.read(directory / "backup.npz")


def test_a_corrupt_backup_is_refused_and_kept(tmp_path):
    (tmp_path / "backup.npz").write_bytes(b"no backup")
    with pytest.raises(ValueError, match="cannot be read"):
        _train(tmp_path, 1)
    assert (tmp_path / "backup.npz").read_bytes() == b"no backup"
