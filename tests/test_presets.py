import numpy as np
import pytest

from keras_l2l import packaged_files, presets, rules
from keras_l2l.serialization import RuleFormatError, saved_model

METADATA = {
    "description": "Nothing but Adam.",
    "recipe": {},
    "seed": 1,
    "scores": {"final_loss": 0.5},
}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Two presets, in place of those that are shipped."""
    root = tmp_path / "saved_models"
    rules.Adam(0.25).export(root / "adam-quadratic", metadata=METADATA)
    rules.CoordinatewiseLSTM(units=2).export(root / presets.DEFAULT)
    monkeypatch.setitem(
        packaged_files.DIRECTORIES, "presets", (tmp_path / "not_here", root)
    )
    return root


def test_names_are_the_directories_that_hold_an_export(shelf):
    (shelf / "notes.txt").touch()
    (shelf / "plots").mkdir()
    rules.SGD().export(shelf / ".interrupted.old")
    assert presets.names() == ("adam-quadratic", presets.DEFAULT)


def test_presets_in_the_package_come_first(shelf, tmp_path, monkeypatch):
    packaged = tmp_path / "packaged"
    rules.SGD().export(packaged / "sgd")
    monkeypatch.setitem(
        packaged_files.DIRECTORIES, "presets", (packaged, shelf)
    )
    assert presets.names() == ("sgd",)
    assert presets.path("sgd") == packaged / "sgd"


def test_no_presets_at_all(tmp_path, monkeypatch):
    monkeypatch.setitem(
        packaged_files.DIRECTORIES, "presets", (tmp_path / "nothing",)
    )
    assert presets.names() == ()
    with pytest.raises(ValueError, match=r"one of \[\]"):
        presets.load()


def test_load(shelf):
    rule = presets.load("adam-quadratic")
    assert isinstance(rule, rules.Adam)
    np.testing.assert_array_equal(rule.learning_rate, 0.25)
    assert isinstance(presets.load(), rules.CoordinatewiseLSTM)


def test_describe(shelf):
    first, second = presets.describe()
    assert first == presets.Preset(
        "adam-quadratic", "Nothing but Adam.", 1, {"final_loss": 0.5}
    )
    assert second.name == presets.DEFAULT
    assert second.parameters == presets.load().count_params()


@pytest.mark.parametrize("function", [presets.path, presets.load])
def test_unknown_name_lists_the_known_ones(shelf, function):
    with pytest.raises(ValueError, match="Did you mean 'adam-quadratic'") as e:
        function("adam_quadratic")
    assert str(["adam-quadratic", presets.DEFAULT]) in str(e.value)
    with pytest.raises(ValueError, match=r"Received: name='\.\./adam'"):
        function("../adam")
    with pytest.raises(ValueError, match="one of"):
        function("zzz")


def test_resolve_rule(shelf, tmp_path, monkeypatch):
    rule = rules.SGD(0.125)
    assert presets.resolve_rule(rule) is rule
    rule.export(tmp_path / presets.DEFAULT)
    for path in (tmp_path / presets.DEFAULT, f"{tmp_path}/{presets.DEFAULT}"):
        loaded = presets.resolve_rule(path)
        np.testing.assert_array_equal(loaded.learning_rate, 0.125)
    monkeypatch.chdir(tmp_path)
    by_name = presets.resolve_rule(presets.DEFAULT)
    assert isinstance(by_name, rules.CoordinatewiseLSTM)
    by_path = presets.resolve_rule(f"./{presets.DEFAULT}")
    assert isinstance(by_path, rules.SGD)


def test_resolve_rule_errors(shelf, tmp_path):
    with pytest.raises(ValueError, match=r"existing directory.*Did you mean"):
        presets.resolve_rule("genreal")
    known = f"'adam-quadratic', '{presets.DEFAULT}'"
    with pytest.raises(ValueError, match=known):
        presets.resolve_rule(str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError):
        presets.resolve_rule(tmp_path / "nothing")
    with pytest.raises(RuleFormatError, match=r"a file manifest\.json"):
        presets.resolve_rule(tmp_path)
    with pytest.raises(TypeError, match="Received: None"):
        presets.resolve_rule(None)


@pytest.mark.parametrize("name", presets.names())
def test_shipped_preset_is_complete(name):
    rule = presets.load(name)
    manifest = saved_model.read_manifest(presets.path(name))
    assert rule.count_params() == sum(
        preset.parameters
        for preset in presets.describe()
        if preset.name == name
    )
    assert manifest["description"]
    assert manifest["recipe"]
    assert manifest["seed"] is not None
    assert manifest["scores"]
    assert "unknown" not in manifest["versions"].values()
