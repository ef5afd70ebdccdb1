"""Saving, resuming and copying models with an `L2LOptimizer`."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.small_fit import compiled, fit, make


def state(optimizer):
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return [*optimizer.variables, *inner.rule.variables]


def assert_same(model, other):
    """Bit for bit: weights, optimizer and meta-parameters."""
    for one, two in zip(
        [*model.variables, *state(model.optimizer)],
        [*other.variables, *state(other.optimizer)],
        strict=True,
    ):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


def schedule():
    return keras.optimizers.schedules.ExponentialDecay(1.0, 2, 0.5)


SETTINGS = (
    {"weight_decay": 0.01},
    {"clipnorm": 0.1},
    {"clipvalue": 0.1},
    {"global_clipnorm": 0.1},
    {"use_ema": True, "ema_overwrite_frequency": 2},
    {"loss_scale_factor": 8.0},
    {"gradient_accumulation_steps": 3},
    {"learning_rate": schedule()},
)


@pytest.mark.parametrize(
    ("way", "settings"),
    [(way, {}) for way in ("keras", "weights", "pickle", "checkpoint")]
    + [("keras", settings) for settings in SETTINGS],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_training_resumes_bit_for_bit(way, settings, tmp_path):
    straight = compiled(make(**settings))
    fit(straight)
    model = compiled(make(**settings))
    fit(model, epochs=1)
    # Meta-parameters that the config of a fresh optimizer cannot know.
    other = compiled(make(seed=1, **settings))
    if way == "keras":
        model.save(tmp_path / "model.keras")
        other = keras.models.load_model(tmp_path / "model.keras")
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(model))
    elif way == "weights":
        other.optimizer.build(other.trainable_variables)
        model.save_weights(tmp_path / "model.weights.h5")
        other.load_weights(tmp_path / "model.weights.h5")
    else:
        path = tf.train.Checkpoint(model, optimizer=model.optimizer).save(
            tmp_path / "checkpoint"
        )
        other.optimizer.build(other.trainable_variables)
        checkpoint = tf.train.Checkpoint(other, optimizer=other.optimizer)
        checkpoint.restore(path).assert_consumed()
    assert_same(other, model)
    fit(other, initial_epoch=1)
    assert_same(other, straight)


def test_backup_and_restore(tmp_path):
    straight = compiled()
    fit(straight, epochs=3)

    def interrupt(epoch, logs):
        if epoch == 1:
            raise RuntimeError("power cut")

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    stop = keras.callbacks.LambdaCallback(on_epoch_begin=interrupt)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(compiled(), epochs=3, callbacks=[backup, stop])
    resumed = compiled()
    fit(resumed, epochs=3, callbacks=[backup])
    assert_same(resumed, straight)


def test_saved_meta_parameters_win_over_the_config(tmp_path):
    model = compiled()
    fit(model)
    for weight in model.optimizer.rule.weights:
        weight.assign(weight + 0.25)
    expected = model.optimizer.rule.get_weights()
    config = model.optimizer.get_config()
    config["rule"] = make().get_config()["rule"]
    model.optimizer.get_config = lambda: config
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").optimizer
    for one, two in zip(loaded.rule.get_weights(), expected):
        np.testing.assert_array_equal(one, two)


def test_copies_of_an_optimizer_and_of_a_model():
    optimizer = make(clipnorm=1.0)
    twins = [
        pickle.loads(pickle.dumps(optimizer)),
        copy.deepcopy(optimizer),
        keras.optimizers.get(keras.optimizers.serialize(optimizer)),
    ]
    for twin in twins:
        assert twin.get_config() == optimizer.get_config()
    model = compiled(optimizer)
    clone = keras.models.clone_model(model)
    clone.compile_from_config(model.get_compile_config())
    clone.set_weights(model.get_weights())
    fit(clone)
    fit(model)
    assert_same(clone, model)


@pytest.mark.slow
def test_inside_other_optimizers():
    inner = [make(), make(learning_rate=0.1)]
    optimizer = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(inner[0], {".*bias": inner[1]})
    )
    model = compiled(optimizer, run_eagerly=False)
    fit(model)
    assert [len(o._trainable_variables) for o in inner] == [2, 2]
    scaled = keras.optimizers.LossScaleOptimizer(make())
    twin = keras.optimizers.get(keras.optimizers.serialize(scaled))
    assert twin.get_config() == scaled.get_config()


def test_a_loss_scale_is_saved(tmp_path):
    model = compiled(keras.optimizers.LossScaleOptimizer(make()))
    fit(model)
    model.save(tmp_path / "model.keras")
    assert_same(keras.models.load_model(tmp_path / "model.keras"), model)
