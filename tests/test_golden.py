"""Files that earlier versions wrote: what is in them goes on as it did.

`tests/golden` holds models, rules and backups as `tests/golden/make.py` wrote
them once, each with what came of it when it went on. They are never made
anew: a user's files are not, either.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_l2l
from keras_l2l import rules, tasks
from keras_l2l.meta_gradients import PersistentES
from keras_l2l.meta_training import Curriculum
from keras_l2l.serialization import load_graph_unsafe, read_manifest
from tests import components

ROOT = pathlib.Path(__file__).parent / "golden"
REPOSITORY = ROOT.parent.parent
DIGESTS = ROOT / "digests.json"
STEPS = 3
PATHS = ["dense/kernel", "dense/bias"]

# Other processors, and other versions of TensorFlow, add in another order. A
# few steps carry that on, but they do not yet let it grow.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
# A state that is kept in bfloat16 turns the last bit of a float32 into one of
# 8 bits wherever it falls on the other side of a rounding.
CLOSE_IN_BFLOAT16 = {"rtol": 1e-3, "atol": 1e-3}


def names(directory, suffix):
    return sorted(
        path.name.removesuffix(suffix)
        for path in (ROOT / directory).glob(f"*{suffix}")
    )


def arrays(*path):
    with np.load(ROOT.joinpath(*path)) as file:
        return dict(file)


def go_on(model, data, epochs):
    """Fits on the same batches, in the same order, at each call."""
    model.fit(
        data["x"],
        data["y"],
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
    )


def numbers(variables):
    """Dict of arrays by position: names of variables are counted up."""
    return {f"{i:02}": v.numpy() for i, v in enumerate(variables)}


@pytest.mark.parametrize("name", names("optimizers", ".keras"))
def test_a_saved_model_goes_on(name):
    model = keras.models.load_model(ROOT / "optimizers" / f"{name}.keras")
    assert isinstance(model.optimizer, keras_l2l.L2LOptimizer)
    data = arrays("optimizers", f"{name}.npz")
    go_on(model, data, epochs=2)
    tolerances = (
        CLOSE_IN_BFLOAT16
        if model.optimizer.state_dtype == "bfloat16"
        else CLOSE
    )
    received = numbers(model.variables)
    assert received.keys() == data.keys() - {"x", "y"}
    for key, value in received.items():
        np.testing.assert_allclose(value, data[key], **tolerances)


@pytest.mark.parametrize("way", ["weights", "checkpoint"])
def test_saved_weights_are_those_of_the_saved_model(way):
    path = ROOT / "optimizers"
    model = keras.models.load_model(path / "general.keras")
    meta_parameters = model.optimizer.rule.weights
    variables = [*model.variables, *model.optimizer.variables, *meta_parameters]
    expected = [v.numpy() for v in variables]
    for variable in variables:
        variable.assign(keras.ops.ones_like(variable))
    if way == "weights":
        model.load_weights(path / "general.weights.h5")
    else:
        checkpoint = tf.train.Checkpoint(model, optimizer=model.optimizer)
        prefix = os.fspath(path / "checkpoint" / "general")
        checkpoint.read(prefix).assert_consumed()
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def updates_of_rule(rule, data):
    """What a rule makes of two tensors: three steps, then the end."""
    gradients = [data["kernel_gradients"], data["bias_gradients"]]
    parameters = [tf.constant(data["kernel"]), tf.constant(data["bias"])]
    state = rule.named_initial_state(parameters, PATHS)
    made = {}
    for step in range(STEPS):
        updates, state = rule(
            [tf.constant(g[step]) for g in gradients], parameters, state
        )
        parameters = [p + u for p, u in zip(parameters, updates)]
        for name, update in zip(("kernel", "bias"), updates):
            made[f"{name}_update_{step}"] = update.numpy()
    ends = rule.evaluation_parameters(parameters, state)
    for name, end in zip(("kernel", "bias"), ends):
        made[f"{name}_end"] = keras.ops.convert_to_numpy(end)
    return made


def updates_of_graph(module, data):
    """What the graph, which knows flat tensors alone, makes of one."""
    parameter = tf.constant(data["bias"])
    state, made = module.initial_state(len(data["bias"])), {}
    for step in range(STEPS):
        gradient = tf.constant(data["bias_gradients"][step])
        update, state = module.update(gradient, parameter, state)
        parameter += update
        made[f"graph_update_{step}"] = update.numpy()
    return made


def assert_updates(received, expected):
    for key, value in received.items():
        np.testing.assert_allclose(value, expected[key], err_msg=key, **CLOSE)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.slow if name in components.SIBLINGS else (),
        )
        for name in names("rules", ".npz")
    ],
)
def test_an_exported_rule_goes_on(name):
    path, data = ROOT / "rules" / name, arrays("rules", f"{name}.npz")
    manifest = read_manifest(path)
    assert manifest["description"] == "A rule."
    assert manifest["recipe"] == {"task": "mnist", "steps": [1, 2]}
    assert manifest["seed"] == 7
    assert manifest["scores"] == {"final_loss": 0.25}
    rule = keras_l2l.load_rule(path)
    assert type(rule).__name__ == name.split("-")[0]
    assert_updates(updates_of_rule(rule, data), data)
    module = load_graph_unsafe(path)
    assert_updates(updates_of_graph(module, data), data)


# How the runs were started whose backups are kept; to go on, they must be
# started in the same way.


def by_backpropagation():
    return (
        keras_l2l.MetaTrainer(
            rules.CoordinatewiseLSTM(units=3, layers=1, seed=1),
            tasks.Quadratic(dimensions=3),
            horizon=4,
            unroll=2,
            optimizees=2,
            seed=5,
        ),
        {"validation_task": tasks.Quadratic(dimensions=3)},
    )


def by_evolution():
    quadratics = [tasks.Quadratic(dimensions=n) for n in (2, 3)]
    return (
        keras_l2l.MetaTrainer(
            rules.Hierarchical(units=2, coordinate_units=2, seed=1),
            quadratics,
            horizon=Curriculum((2, 4, 8)),
            unroll=2,
            tasks_per_step=1,
            loss_transform="log",
            estimator=PersistentES(jit_compile=False),
            seed=5,
        ),
        {"validation_task": quadratics},
    )


def of_groups():
    # With names, which Keras else counts up within a process: a backup must
    # agree with them.
    lstm = rules.CoordinatewiseLSTM(units=2, layers=1, seed=1, name="lstm")
    rule = rules.Grouped(
        {"matrices": lstm, "others": rules.Adam(0.01, name="adam")},
        ranks={"matrices": 2},
    )
    return keras_l2l.MetaTrainer(
        rule, tasks.Quadratic(dimensions=3), horizon=4, unroll=2, seed=5
    ), {"validation_task": tasks.Quadratic(dimensions=3)}


RUNS = {
    "backpropagation": by_backpropagation,
    "evolution": by_evolution,
    "groups": of_groups,
}


def start(make, backup_dir, **settings):
    """Two epochs, or those that a backup still lacks of them."""
    trainer, arguments = make()
    # Without this epsilon Adam would make whole steps of rounding errors.
    trainer.compile(keras.optimizers.Adam(1e-2, epsilon=1e-3))
    history = trainer.fit(
        epochs=2,
        steps_per_epoch=3,
        validation_episodes=2,
        verbose=0,
        backup_dir=backup_dir,
        **arguments,
        **settings,
    )
    # The time that it took is another each time.
    logs = dict(history.history)
    del logs["inner_steps_per_second"]
    return trainer.rule.get_weights(), {"epochs": history.epoch, "logs": logs}


@pytest.mark.parametrize(
    "name",
    [
        "backpropagation",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in sorted(RUNS.keys() - {"backpropagation"})
        ),
    ],
)
def test_a_backup_goes_on_or_is_refused(name, tmp_path):
    # A newer version may refuse it, saying so, and must lose nothing then.
    backup = ROOT / "backup" / name
    mine = shutil.copytree(backup, tmp_path / name)
    try:
        weights, history = start(RUNS[name], mine)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert re.search(r"version.*\d", refusal, re.DOTALL), refusal
        assert contents(mine) == contents(backup)
        return
    expected = arrays("backup", f"{name}.npz")
    for index, weight in enumerate(weights):
        np.testing.assert_allclose(weight, expected[f"{index:02}"], **CLOSE)
    assert len(weights) == len(expected)
    document = json.loads((ROOT / "backup" / f"{name}.json").read_text())
    assert history["epochs"] == document["epochs"]
    for key, values in document["logs"].items():
        np.testing.assert_allclose(history["logs"][key], values, **CLOSE)


def contents(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def digests():
    """Dict from the paths of all kept files to their SHA-256."""
    kept = {}
    for directory in (ROOT, REPOSITORY / "saved_models"):
        start = directory.relative_to(REPOSITORY)
        for path, content in contents(directory).items():
            name = (start / path).as_posix()
            if path.suffix in (".py", ".pyc") or path.name == DIGESTS.name:
                continue
            kept[name] = hashlib.sha256(content).hexdigest()
    return kept


def test_no_file_was_made_anew():
    # A new preset or golden file is to be added to the list; one that is on
    # it stays as it is.
    expected, received = json.loads(DIGESTS.read_text()), digests()
    assert received.keys() == expected.keys()
    changed = [name for name in expected if received[name] != expected[name]]
    assert not changed
