import functools
import itertools
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import load_rule, rules
from keras_l2l.rules import RuleState
from keras_l2l.serialization import RuleFormatError, saved_model
from tests import components

RULES = {
    **components.RULES,
    "float64": lambda: rules.CoordinatewiseLSTM(
        units=2, preprocessing="raw", dtype="float64", seed=1
    ),
    "generator-frozen": lambda: rules.CoordinatewiseLSTM(
        units=4,
        kernel_initializer=keras.initializers.RandomNormal(
            seed=keras.random.SeedGenerator(2)
        ),
        trainable=False,
        name="a_name",
    ),
}
KINDS = [name for name in RULES if name not in components.SIBLINGS]
COUNTS = (1, 5, 1000)
STEPS = 4

# Runs the exported graphs where neither this package nor Keras exists.
PLAIN_TENSORFLOW = f"""
import sys
sys.modules["keras_l2l"] = sys.modules["keras"] = None
import numpy as np
import tensorflow as tf

root = sys.argv[1]
results = {{}}
for path in sys.argv[2:]:
    name = path.rpartition("/")[2]
    module = tf.saved_model.load(path)
    for n in {COUNTS}:
        data = np.load(f"{{root}}/gradients_{{n}}.npy")
        state = module.initial_state(n)
        dtype = module.update.input_signature[0].dtype
        parameters = tf.zeros(n, dtype)
        for gradient in data:
            gradients = tf.constant(gradient, dtype)
            by_signature = module.signatures["update"](
                gradients=gradients, parameters=parameters, **state
            )
            updates, state = module.update(gradients, parameters, state)
            parameters += updates
            np.testing.assert_array_equal(by_signature["updates"], updates)
            for key in state:
                np.testing.assert_array_equal(by_signature[key], state[key])
        results[f"{{name}}_{{n}}"] = parameters.numpy()
np.savez(f"{{root}}/results.npz", **results)
"""


def train(rule, gradients):
    """The parameter that a rule makes of zeros, given all the gradients."""
    parameters = [keras.ops.zeros(gradients.shape[1:], rule.compute_dtype)]
    state = rule.initial_state(parameters)
    for gradient in gradients.astype(rule.compute_dtype):
        updates, state = rule(
            [keras.ops.convert_to_tensor(gradient)], parameters, state
        )
        parameters = [parameters[0] + updates[0]]
    return keras.ops.convert_to_numpy(parameters[0])


def contents(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in Path(directory).rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Function from the name of a rule to its directory and itself."""
    root = tmp_path_factory.mktemp("exported")

    @functools.cache
    def export(name):
        rule = RULES[name]()
        rule.export(root / name, metadata=components.METADATA)
        return root / name, rule

    return export


@pytest.mark.parametrize(
    "name", [*components.rule_names(), "float64", "generator-frozen"]
)
def test_round_trip_is_exact(export, name):
    path, rule = export(name)
    loaded = load_rule(path)
    assert type(loaded) is type(rule)
    assert loaded.get_config() == rule.get_config()
    for expected, received in zip(rule.weights, loaded.weights, strict=True):
        assert received.dtype == expected.dtype
        np.testing.assert_array_equal(received, expected)
    gradients = np.random.default_rng(1).normal(size=(3, 6))
    np.testing.assert_array_equal(
        train(loaded, gradients), train(rule, gradients)
    )


def test_meta_parameters_that_were_changed_are_what_is_saved(tmp_path):
    rule = rules.SGD(0.1)
    rule.learning_rate.assign(0.7)
    rule.export(tmp_path / "rule")
    np.testing.assert_array_equal(
        load_rule(tmp_path / "rule").learning_rate, np.float32(0.7)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [KINDS, sorted(components.SIBLINGS)], ids=["kinds", "siblings"]
)
def test_plain_tensorflow_gets_the_same_numbers(export, names, tmp_path):
    rng = np.random.default_rng(0)
    gradients = {}
    for n in COUNTS:
        scale = np.exp(rng.uniform(-14, 2, (STEPS, n)))
        gradients[n] = (scale * rng.normal(size=(STEPS, n))).astype("float32")
        np.save(tmp_path / f"gradients_{n}.npy", gradients[n])
    done = subprocess.run(
        [
            *(sys.executable, "-c", PLAIN_TENSORFLOW, os.fspath(tmp_path)),
            *(os.fspath(export(name)[0]) for name in names),
        ],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = np.load(tmp_path / "results.npz")
    for name, n in itertools.product(names, COUNTS):
        expected = train(export(name)[1], gradients[n])
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(
            results[f"{name}_{n}"],
            expected,
            rtol=1e-6,
            atol=1e-6,
            err_msg=f"{name} on {n} coordinates",
        )


def test_names_of_variables_and_state(export, adam):
    entries = saved_model.read_manifest(export("CoordinatewiseLSTM")[0])
    shapes = [(v["name"], v["shape"]) for v in entries["variables"]]
    assert shapes == [
        ("kernel_0", [6, 16]),
        ("bias_0", [16]),
        ("kernel_1", [8, 16]),
        ("bias_1", [16]),
        ("output_kernel", [4, 1]),
        ("output_bias", [1]),
    ]
    reader = tf.train.load_checkpoint(adam / "variables" / "variables")
    key = "meta_parameters/learning_rate/.ATTRIBUTES/VARIABLE_VALUE"
    assert reader.get_tensor(key) == np.float32(0.001)
    module = saved_model.load_graph_unsafe(adam)
    assert {k: v.shape for k, v in module.initial_state(4).items()} == {
        "local__first_moment": (4,),
        "local__second_moment": (4,),
        "shared__step": (),
    }
    signature = module.signatures["initial_state"](n=tf.constant(4))
    assert signature.keys() == module.initial_state(4).keys()


def test_export_holds_no_path_of_this_machine(adam):
    package = os.fspath(Path(saved_model.__file__).parent).encode()
    assert all(package not in content for content in contents(adam).values())


class Mean(rules.UpdateRule):
    """A rule that shares: every coordinate moves by the mean gradient."""

    def __init__(self, inner=None, second=None, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner or rules.SGD(0.5)
        self.second = second or self.inner.copy()

    def initial_state(self, parameters):
        count = sum(keras.ops.size(parameter) for parameter in parameters)
        return RuleState(
            [{"seen": [keras.ops.zeros_like(p)]} for p in parameters],
            {"count": keras.ops.cast(count, self.compute_dtype)},
        )

    def call(self, gradients, parameters, state):
        total = sum(keras.ops.sum(gradient) for gradient in gradients)
        update = -self.inner.learning_rate * total / state.shared["count"]
        local = [
            {"seen": [local["seen"][0] + gradient]}
            for local, gradient in zip(state.local, gradients)
        ]
        return (
            [update * keras.ops.ones_like(p) for p in parameters],
            RuleState(local, state.shared),
        )

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "inner": serialize(self.inner),
            "second": serialize(self.second),
        }

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        nested = {k: deserialize(config[k]) for k in ("inner", "second")}
        return cls(**{**config, **nested})


def test_rule_that_shares_and_nests(tmp_path):
    rule = Mean()
    rule.second.learning_rate.assign(0.25)
    rule.export(tmp_path / "mean")
    manifest = saved_model.read_manifest(tmp_path / "mean")
    assert manifest["independent"] == "nothing"
    assert "as one parameter" in manifest["graph"]

    module = saved_model.load_graph_unsafe(tmp_path / "mean")
    gradients = tf.constant([1.0, 2.0, 6.0])
    updates, state = module.update(
        gradients, tf.zeros(3), module.initial_state(3)
    )
    np.testing.assert_array_equal(updates, [-1.5, -1.5, -1.5])
    assert state.keys() == {"local__seen__0", "shared__count"}
    np.testing.assert_array_equal(state["local__seen__0"], gradients)

    with pytest.raises(RuleFormatError, match="custom_objects"):
        load_rule(tmp_path / "mean")
    loaded = load_rule(tmp_path / "mean", custom_objects={"Mean": Mean})
    assert float(loaded.inner.learning_rate) == 0.5
    assert float(loaded.second.learning_rate) == 0.25


def test_export_refuses_meta_parameters_that_diverged(tmp_path):
    rule = rules.SGD()
    rule.learning_rate.assign(np.nan)
    with pytest.raises(ValueError, match=r"finite.*learning_rate"):
        rule.export(tmp_path / "rule")
    assert not list(tmp_path.iterdir())


def make_directory(path):
    path.mkdir()
    (path / "thesis.txt").write_text("ten years")


def make_file(path):
    path.write_text("ten years")


def make_export_and_more(path):
    rules.SGD().export(path)
    (path / "thesis.txt").write_text("ten years")


@pytest.mark.parametrize(
    "make", [make_directory, make_file, make_export_and_more]
)
def test_export_destroys_nothing(tmp_path, make):
    make(tmp_path / "mine")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="`path` must be a new"):
        rules.Adam().export(tmp_path / "mine")
    assert contents(tmp_path) == before


def test_export_replaces_an_export(adam):
    rules.SGD(0.5).export(adam)
    assert isinstance(load_rule(adam), rules.SGD)
    assert list(adam.parent.iterdir()) == [adam]


def fail_in_the_middle(module, path, **kwargs):
    Path(path, "variables").mkdir(parents=True)
    Path(path, "saved_model.pb").write_bytes(b"half")
    raise RuntimeError("power cut")


def test_interrupted_export_leaves_the_old_one(adam, monkeypatch):
    before = contents(adam.parent)
    monkeypatch.setattr(tf.saved_model, "save", fail_in_the_middle)
    with pytest.raises(RuntimeError, match="power cut"):
        rules.SGD().export(adam)
    assert contents(adam.parent) == before
    with pytest.raises(RuntimeError, match="power cut"):
        rules.SGD().export(adam.parent / "new")
    assert list(adam.parent.iterdir()) == [adam]
