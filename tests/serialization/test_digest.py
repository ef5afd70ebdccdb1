import numpy as np
import pytest

from keras_l2l import load_rule, rules
from keras_l2l.serialization import RuleFormatError, read_manifest
from keras_l2l.serialization.digest import digest
from tests.serialization.test_manifest import edit_config, edit_manifest


def lstm(**arguments):
    return rules.CoordinatewiseLSTM(**{"units": 2, "seed": 1, **arguments})


def with_weights_of(rule, other):
    rule.set_weights(other.get_weights())
    return rule


def test_what_a_digest_covers():
    rule = lstm()
    same = [{"seed": 2}, {"name": "other"}, {"kernel_initializer": "zeros"}]
    for arguments in same:
        twin = with_weights_of(lstm(**arguments), rule)
        assert digest(twin) == digest(rule)
    for arguments in ({"p": 5.0}, {"output_scale": 1.0}):
        other = with_weights_of(lstm(**arguments), rule)
        assert digest(other) != digest(rule)
    assert digest(lstm(seed=2)) != digest(rule)
    assert digest(rules.SGD(0.1)) != digest(rules.Adam(0.1))


def test_a_digest_covers_rules_within_a_rule():
    def grouped(scale, names=("seed", "name")):
        inner = [lstm(output_scale=scale), lstm()]
        return rules.Grouped(dict(zip(names, inner)), ranks={names[0]: 2})

    rule = grouped(0.5)
    assert digest(with_weights_of(grouped(0.5), rule)) == digest(rule)
    assert digest(with_weights_of(grouped(0.25), rule)) != digest(rule)
    renamed = with_weights_of(grouped(0.5, ("seed", "other")), rule)
    assert digest(renamed) != digest(rule)


@pytest.mark.parametrize(
    "changes", [{"output_scale": 1.0}, {"p": 5.0}, {"preprocessing": "raw"}]
)
def test_a_setting_that_was_changed(lstm_with_one_input, changes):
    edit_config(lstm_with_one_input, **changes)
    with pytest.raises(RuleFormatError, match=r"changed after|not stored"):
        load_rule(lstm_with_one_input)


@pytest.fixture
def lstm_with_one_input(tmp_path):
    lstm().export(tmp_path / "rule")
    return tmp_path / "rule"


def test_a_setting_without_effect(lstm_with_one_input):
    before = load_rule(lstm_with_one_input)
    edit_config(lstm_with_one_input, seed=9, kernel_initializer="zeros")
    after = load_rule(lstm_with_one_input)
    assert after.seed == 9
    for one, two in zip(before.get_weights(), after.get_weights()):
        np.testing.assert_array_equal(one, two)


def test_the_digest_is_optional_and_that_of_the_rule(lstm_with_one_input):
    path = lstm_with_one_input
    assert read_manifest(path)["digest"] == digest(load_rule(path)).hex()
    edit_manifest(path, digest=5)
    with pytest.raises(RuleFormatError, match="'digest'"):
        load_rule(path)
    edit_manifest(path, digest="no digest")
    with pytest.raises(RuleFormatError, match="changed after the export"):
        load_rule(path)
