"""A rule for each group of parameters, as one rule."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import L2LOptimizer, load_rule, rules
from keras_l2l.saving import RuleFormatError


def _lstm(seed):
    return rules.CoordinatewiseLSTM(units=3, averaging_cells=1, seed=seed)


def _grouped():
    return rules.Grouped(
        {"convolutions": _lstm(1), "others": _lstm(2)},
        ranks={"convolutions": [4, 5]},
    )


def _run(rule, shapes, steps=3):
    parameters = [tf.zeros(shape) for shape in shapes]
    state = rule.initial_state(parameters)
    for step in range(steps):
        gradients = [
            tf.random.stateless_normal(shape, [step, sum(shape)])
            for shape in shapes
        ]
        updates, state = rule(gradients, parameters, state)
        parameters = [p + u for p, u in zip(parameters, updates)]
    return parameters


def test_each_rule_sees_its_own_group_alone():
    """Its averages, too, are over its group."""
    kernels, others = [(3, 3, 2, 4), (1, 1, 2, 2)], [(4,), (8, 2), ()]
    mixed = [kernels[0], *others[:2], kernels[1], others[2]]
    received = _run(_grouped(), mixed)
    of_kernels, of_others = _run(_lstm(1), kernels), _run(_lstm(2), others)
    expected = [of_kernels[0], *of_others[:2], of_kernels[1], of_others[2]]
    for one, two in zip(received, expected):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7)
    # A group may have no parameters.
    for one, two in zip(_run(_grouped(), others), of_others):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7)


def test_the_steps_of_a_group_are_counted_without_its_parameters():
    """As independent parameters may be updated one by one."""
    rule = rules.Grouped(
        {"convolutions": rules.Adam(0.1), "others": rules.Adam(0.2)},
        ranks={"convolutions": 4},
    )
    vector = [tf.ones((2,))]
    state = rule.initial_state(vector)
    for _ in range(2):
        updates, state = rule(vector, vector, state)
    np.testing.assert_allclose(updates[0], [-0.2, -0.2], rtol=1e-4)
    assert keras.tree.flatten(state.shared) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([rules.SGD(), rules.Adam()], "tensors"),
        ([rules.SGD(), rules.Hierarchical()], "tensors"),
        ([rules.SGD(), _lstm(1)], "nothing"),
    ],
)
def test_is_as_independent_as_the_weakest_of_its_rules(parts, expected):
    rule = rules.Grouped(dict(zip("ab", parts)), ranks={"a": 4})
    assert rule.independent == expected


def test_a_model_resumes_bit_for_bit(tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 5, 5, 1)).astype("float32")
    y = x.sum((1, 2, 3))
    model = keras.Sequential(
        [
            keras.Input((5, 5, 1)),
            keras.layers.Conv2D(2, 3, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(L2LOptimizer(_grouped()), "mse")
    model.fit(x, y, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    twin = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, twin):
        one.fit(x, y, shuffle=False, verbose=0)
    for one, two in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_is_no_rule_is_not_made_of_a_group(tmp_path):
    rule = _grouped()
    rule.export(tmp_path / "rule")
    manifest = tmp_path / "rule" / "manifest.json"
    document = json.loads(manifest.read_text())
    config = L2LOptimizer(rule).get_config()
    for part in (
        {"module": "os", "class_name": "system", "registered_name": None},
        {"registered_name": "keras_l2l>L2LOptimizer"},
        {"class_name": "__lambda__", "registered_name": None},
    ):
        for group in (document["rule"], config["rule"]):
            group["config"]["rules"]["others"].update(part)
        manifest.write_text(json.dumps(document))
        with pytest.raises(RuleFormatError, match="nested objects"):
            load_rule(tmp_path / "rule")
        with pytest.raises(ValueError, match="cannot be made"):
            L2LOptimizer.from_config(config)


SGD = rules.SGD()


@pytest.mark.parametrize(
    ("parts", "ranks", "message"),
    [
        ({}, {}, "`rules` must be a dict"),
        ({"a": SGD, "b": "adam"}, {"a": 4}, "instances of `UpdateRule`"),
        ({"a": SGD, "b": SGD}, {"a": 4}, "different instances"),
        ({"a b": SGD}, {}, "identifiers"),
        ({"a": SGD, "b": rules.SGD()}, {}, "all groups but one"),
        ({"a": SGD}, {"a": 4}, "all groups but one"),
        ({"a": SGD, "b": rules.SGD()}, {"a": [4, 4]}, "integers that differ"),
        ({"a": SGD, "b": rules.SGD()}, {"a": "4"}, "integers that differ"),
        (
            {"a": SGD, "b": rules.SGD(dtype="float64")},
            {"a": 4},
            "rules of one dtype",
        ),
    ],
)
def test_refuses(parts, ranks, message):
    with pytest.raises(ValueError, match=message):
        rules.Grouped(parts, ranks)


def test_each_group_is_evaluated_where_its_rule_says():
    averaging = rules.ScheduleFreeAdamW(0.1)
    rule = rules.Grouped(
        {"matrices": averaging, "others": rules.SGD(0.1)},
        ranks={"matrices": 2},
    )
    parameters = [tf.zeros((2, 3)), tf.zeros((3,))]
    gradients = [tf.ones((2, 3)), tf.ones((3,))]
    state = rule.initial_state(parameters)
    alone = averaging.initial_state(parameters[:1])
    for _ in range(3):
        _, state = rule(gradients, parameters, state)
        _, alone = averaging(gradients[:1], parameters[:1], alone)
    matrix, vector = rule.evaluation_parameters(parameters, state)
    (expected,) = averaging.evaluation_parameters(parameters[:1], alone)
    assert np.abs(expected).max() > 0.005
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_array_equal(vector, parameters[1])
