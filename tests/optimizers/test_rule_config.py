"""An optimizer's config, the rule within it, and what it may ask for."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_l2l import packaged_files, presets, rules
from keras_l2l.optimizers.l2l_optimizer import L2LOptimizer
from keras_l2l.rules import RuleState


def lstm(seed=0):
    return rules.CoordinatewiseLSTM(units=3, layers=2, seed=seed)


def updates(optimizer):
    on = keras.Variable([1.0, 2.0, 3.0])
    for scale in (1.0, -2.0):
        optimizer.apply([scale * ops.array([1.0, -2.0, 0.0])], [on])
    return on.numpy()


class OfTheUser(rules.UpdateRule):
    """A rule that is registered nowhere."""

    def initial_state(self, parameters):
        return RuleState([{} for _ in parameters], {})

    def call(self, gradients, parameters, state):
        return [-gradient for gradient in gradients], state


@pytest.fixture
def preset(tmp_path, monkeypatch):
    """A shipped rule, under the name of the default one."""
    rule = lstm(seed=5)
    rule.export(tmp_path / presets.DEFAULT)
    monkeypatch.setitem(packaged_files.DIRECTORIES, "presets", (tmp_path,))
    return rule


def round_trip(optimizer):
    config = json.loads(
        json.dumps(keras.saving.serialize_keras_object(optimizer))
    )
    return keras.saving.deserialize_keras_object(config)


def test_the_config_makes_the_same_optimizer():
    optimizer = L2LOptimizer(
        lstm(),
        learning_rate=0.25,
        weight_decay=0.1,
        clipnorm=2.0,
        use_ema=True,
        ema_momentum=0.5,
        name="mine",
    )
    twin = round_trip(optimizer)
    assert twin.get_config() == optimizer.get_config()
    np.testing.assert_array_equal(updates(twin), updates(optimizer))
    again = L2LOptimizer.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()


def test_a_config_without_a_rule_has_the_default_of_the_class():
    class Momentum(L2LOptimizer):
        def __init__(self, rule=None, **kwargs):
            super().__init__(rule or rules.Momentum(0.1), **kwargs)

    assert isinstance(Momentum.from_config({}).rule, rules.Momentum)
    assert L2LOptimizer.from_config({}).get_config()["rule"] == presets.DEFAULT


def test_a_preset_is_in_the_config_by_name(preset):
    optimizer = L2LOptimizer()
    assert optimizer.get_config()["rule"] == presets.DEFAULT
    assert round_trip(optimizer).get_config()["rule"] == presets.DEFAULT
    for one, two in zip(optimizer.rule.get_weights(), preset.get_weights()):
        np.testing.assert_array_equal(one, two)
    named = keras.optimizers.get("keras_l2l>L2LOptimizer")
    assert isinstance(named, L2LOptimizer)


def test_a_preset_with_other_meta_parameters_is_spelled_out(preset):
    optimizer = L2LOptimizer(presets.DEFAULT)
    other = lstm(seed=9)
    optimizer.rule.set_weights(other.get_weights())
    twin = round_trip(optimizer)
    for one, two in zip(twin.rule.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("as_type", [str, lambda path: path])
def test_a_path_is_spelled_out_in_the_config(tmp_path, as_type):
    lstm().export(tmp_path / "rule")
    optimizer = L2LOptimizer(as_type(tmp_path / "rule"))
    config = optimizer.get_config()
    assert config["rule"] == L2LOptimizer(lstm()).get_config()["rule"] | {
        "config": optimizer.rule.get_config()
    }


def test_the_config_is_short_on_the_screen():
    config = L2LOptimizer(rules.CoordinatewiseLSTM()).get_config()
    assert len(json.dumps(config)) > 20_000
    assert len(repr(config)) < 2_000


def test_a_rule_of_the_user_is_restored_if_it_is_known():
    config = L2LOptimizer(OfTheUser()).get_config()
    with pytest.raises(ValueError, match=r"custom_objects.*'OfTheUser'"):
        L2LOptimizer.from_config(config)
    known = {"OfTheUser": OfTheUser}
    twin = L2LOptimizer.from_config(config, known)
    assert isinstance(twin.rule, OfTheUser)
    with keras.saving.custom_object_scope(known):
        assert isinstance(L2LOptimizer.from_config(config).rule, OfTheUser)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_name": "os.system"}, "Or register it"),
        ({"class_name": "keras_l2l>L2LOptimizer"}, "Or register it"),
        ({"class_name": ["a"]}, "cannot be made"),
        ({"class_name": ["a" * 5000]}, "Or register it"),
        ({"config": {"unheard_of": 1}}, "cannot be made"),
        (
            {
                "config": {
                    "kernel_initializer": {
                        "class_name": "__lambda__",
                        "config": {"value": "4wEA"},
                    }
                }
            },
            "cannot be made",
        ),
        ({"meta_parameters": None}, "damaged"),
        ({"meta_parameters": "not base64"}, "damaged"),
        ({"meta_parameters": "eJwDAAAAAAE="}, "beyond the 0 bytes"),
    ],
)
def test_a_malicious_or_damaged_config_is_refused_in_a_few_words(
    changes, message
):
    optimizer = L2LOptimizer(rules.CoordinatewiseLSTM())
    config = keras.saving.serialize_keras_object(optimizer)
    config = json.loads(json.dumps(config))
    config["config"]["rule"].update(changes)
    with pytest.raises(ValueError, match=message) as error:
        keras.saving.deserialize_keras_object(config, safe_mode=False)
    assert len(str(error.value)) < 2_000
