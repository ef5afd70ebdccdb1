import json
import sys

import keras
import pytest
import tensorflow as tf

from keras_l2l import load_rule, rules
from keras_l2l.serialization import RuleFormatError, read_manifest
from keras_l2l.serialization import manifest as manifests
from tests.components import METADATA


def edit_manifest(path, **changes):
    file = path / manifests.FILE
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


def edit_config(path, **changes):
    rule = read_manifest(path)["rule"]
    edit_manifest(path, rule={**rule, "config": {**rule["config"], **changes}})


def test_manifest(adam):
    manifest = read_manifest(adam)
    assert manifest["format_version"] == manifests.FORMAT_VERSION
    assert manifest["rule"]["class_name"] == "keras_l2l>Adam"
    assert {key: manifest[key] for key in METADATA} == METADATA
    assert manifest["versions"]["tensorflow"] == tf.__version__
    assert manifest["versions"].keys() == {
        "keras_l2l",
        "keras",
        "tensorflow",
        "python",
    }


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"score": {}}, r"keys.*Received: metadata with \['score'\]"),
        ({"scores": {"loss": float("nan")}}, "not JSON compliant"),
        ({"scores": [1]}, "'scores' of type"),
        ({"recipe": {"function": print}}, "not JSON serializable"),
        ({"seed": "7"}, "'seed' of type"),
        ({"description": "x" * manifests.SIZE_LIMIT}, "at most 1048576 bytes"),
    ],
    ids=["unknown", "nan", "list", "function", "seed", "long"],
)
def test_export_refuses_metadata_it_could_not_read(tmp_path, metadata, match):
    with pytest.raises(ValueError, match=f"`metadata`.*{match}"):
        rules.SGD().export(tmp_path / "rule", metadata=metadata)
    assert not list(tmp_path.iterdir())


# Manifests that are damaged.


def test_no_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_rule(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="no directory"):
        load_rule(tmp_path / "file")


def test_no_manifest(adam):
    (adam / manifests.FILE).unlink()
    with pytest.raises(RuleFormatError, match=r"a file manifest\.json"):
        load_rule(adam)


def test_large_manifest_is_not_parsed(adam):
    (adam / manifests.FILE).write_text(" " * manifests.SIZE_LIMIT + "{}")
    with pytest.raises(RuleFormatError, match="at most 1048576 bytes"):
        load_rule(adam)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b'{"format": NaN}', b"[" * 100_000, b"9" * 10_000],
    ids=["empty", "cut", "binary", "NaN", "deep", "long number"],
)
def test_invalid_json(adam, content):
    (adam / manifests.FILE).write_bytes(content)
    with pytest.raises(RuleFormatError, match=r"valid JSON.*Received"):
        load_rule(adam)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": "other"}, '"format": "keras_l2l.rule"'),
        ({"format_version": 2}, "Received: 2, written by.*Upgrade"),
        ({"format_version": 0}, '"format_version": 1.*Received: 0'),
        ({"format_version": "1"}, "Received: '1'"),
        ({"format_version": True}, "Received: True"),
        ({"rule": "keras_l2l>Adam"}, "'rule' of type"),
        ({"rule": {"class_name": "keras_l2l>Adam"}}, "'config' in"),
        ({"variables": [3]}, "a dict of"),
        ({"variables": [{"name": "x", "dtype": "float32"}]}, "'shape' in"),
        ({"scores": None}, "'scores' of type"),
        ({"recipe": []}, "'recipe' of type"),
    ],
)
def test_manifest_of_another_form(adam, changes, match):
    edit_manifest(adam, **changes)
    with pytest.raises(RuleFormatError, match=match):
        read_manifest(adam)


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"{}"])
def test_manifest_that_is_no_manifest(adam, content):
    (adam / manifests.FILE).write_bytes(content)
    with pytest.raises(RuleFormatError, match='"format"'):
        load_rule(adam)


def test_manifest_lacks_a_field(adam):
    content = read_manifest(adam)
    del content["versions"]
    (adam / manifests.FILE).write_text(json.dumps(content))
    with pytest.raises(RuleFormatError, match="'versions' in"):
        load_rule(adam)


def test_unknown_configuration(adam):
    edit_config(adam, momentum=0.9)
    with pytest.raises(RuleFormatError, match=r"Adam` accepts.*momentum"):
        load_rule(adam)


def test_manifest_lists_other_variables(lstm):
    edit_manifest(lstm, variables=read_manifest(lstm)["variables"][1:])
    with pytest.raises(RuleFormatError, match=r"kernel_0.*expected no such"):
        load_rule(lstm)


# Manifests of a stranger.


@pytest.mark.parametrize(
    "name", ["keras_l2l>Nothing", "os>system", "keras.layers.Dense", "Dense"]
)
def test_unknown_rule_class(adam, name):
    edit_manifest(adam, rule={"class_name": name, "config": {}})
    with pytest.raises(RuleFormatError, match=f"the rule class '{name}'"):
        load_rule(adam)


def test_custom_object_must_be_a_rule(adam):
    edit_manifest(adam, rule={"class_name": "Dense", "config": {"units": 1}})
    with pytest.raises(RuleFormatError, match="the rule class"):
        load_rule(adam, custom_objects={"Dense": keras.layers.Dense})


@pytest.fixture
def planted_module_was_imported(tmp_path, monkeypatch):
    (tmp_path / "planted_module.py").write_text("class Zeros: pass")
    monkeypatch.syspath_prepend(tmp_path)
    return lambda: "planted_module" in sys.modules


def hostile(module="keras.initializers", class_name="Zeros", **others):
    named = {"module": module, "class_name": class_name, "config": {}}
    return {**named, "registered_name": None, **others}


@keras.saving.register_keras_serializable(package="another_package")
class Bell(keras.initializers.Zeros):
    """What a stranger's config must not make, though Keras knows its name."""

    rang = False

    def __init__(self):
        Bell.rang = True


@pytest.mark.parametrize(
    "initializer",
    [
        hostile(module="os", class_name="system"),
        hostile(module="planted_module"),
        hostile(module="planted_module", class_name="evil"),
        hostile(module="keras.layers", class_name="Lambda"),
        hostile(class_name="__lambda__", config={"value": "abc"}),
        hostile(class_name="function", config="evil"),
        hostile(class_name=["Zeros"]),
        hostile(registered_name="another_package>Bell"),
        hostile(class_name="another_package>Bell"),
        hostile(
            class_name="GlorotUniform",
            config={"seed": hostile(module="planted_module")},
        ),
        hostile(
            class_name="Constant",
            config={"value": {"x": [hostile(module="planted_module")]}},
        ),
        "another_package>Bell",
    ],
    ids=repr,
)
def test_hostile_initializer(lstm, planted_module_was_imported, initializer):
    edit_config(lstm, kernel_initializer=initializer)
    with pytest.raises(RuleFormatError, match=r"nested objects|bare string"):
        load_rule(lstm)
    assert not planted_module_was_imported()
    assert not Bell.rang


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": hostile(module="planted_module")},
        {"name": hostile(class_name="__lambda__")},
        {"planted": hostile(module="planted_module")},
    ],
)
def test_hostile_configuration(lstm, planted_module_was_imported, changes):
    edit_config(lstm, **changes)
    with pytest.raises(RuleFormatError, match="nested objects"):
        load_rule(lstm)
    assert not planted_module_was_imported()


def test_arguments_of_a_newer_keras_are_ignored_at_none(lstm):
    initializer = {
        "module": "keras.initializers",
        "class_name": "GlorotUniform",
        "config": {"seed": None, "of_a_newer_version": None},
    }
    edit_config(lstm, kernel_initializer=initializer)
    assert load_rule(lstm).count_params() > 0
    initializer["config"]["of_a_newer_version"] = 1
    edit_config(lstm, kernel_initializer=initializer)
    with pytest.raises(RuleFormatError, match="of_a_newer_version"):
        load_rule(lstm)


def test_custom_initializer_is_an_explicit_choice(tmp_path):
    @keras.saving.register_keras_serializable(package="another_package")
    class Tenths(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return 0.1 * keras.ops.ones(shape, dtype)

    path = tmp_path / "rule"
    rule = rules.CoordinatewiseLSTM(units=2, kernel_initializer=Tenths())
    rule.export(path)
    with pytest.raises(RuleFormatError, match="another_package>Tenths"):
        load_rule(path)
    loaded = load_rule(path, custom_objects={"another_package>Tenths": Tenths})
    assert isinstance(loaded.kernel_initializer, Tenths)
