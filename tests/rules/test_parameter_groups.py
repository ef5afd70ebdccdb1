"""Which parameters belong to which group."""

import keras
import pytest

from keras_l2l import rules
from keras_l2l.rules.parameter_groups import fits


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("bias", "dense/bias", True),
        ("bias", "dense/my_bias", False),
        ("*/bias", "dense/bias", True),
        ("*bias", "dense/my_bias", True),
        ("conv2d/kernel", "sequential_1/conv2d_12/kernel", True),
        ("conv2d_1/kernel", "sequential/conv2d_1/kernel", True),
        ("conv2d_1/kernel", "sequential/conv2d_2/kernel", False),
        ("conv2d/*", "conv2d_transpose/kernel", False),
        ("*conv2d*/kernel", "sequential/conv2d_transpose/kernel", True),
        ("conv2d", "conv2d/kernel", False),
        ("encoder/*", "model/encoder/dense_1/kernel", True),
        ("encoder/*", "model/my_encoder/dense/kernel", False),
        ("Bias", "dense/bias", False),
        ("*", "", True),
        ("bias", "", False),
    ],
)
def test_patterns(pattern, path, expected):
    assert fits(pattern, path) == expected


def _model(*layers):
    return keras.Sequential([keras.Input((6, 6, 1)), *layers])


def _convnet():
    return _model(
        keras.layers.Conv2D(2, 3),
        keras.layers.Conv2D(2, 3, name="stem"),
        keras.layers.Conv2DTranspose(2, 3, name="conv"),
        keras.layers.Flatten(),
        keras.layers.Dense(2),
    )


@pytest.mark.parametrize("layer", ["Conv2D", keras.layers.Conv2D])
def test_paths_of_layers(layer):
    expected = ["conv2d/bias", "conv2d/kernel", "stem/bias", "stem/kernel"]
    assert rules.paths_of(_convnet(), layer) == expected
    # Whatever Keras numbers, it numbers anew.
    assert rules.paths_of(_convnet(), layer) == expected


def test_paths_of_several_layers_and_of_those_within():
    inputs = keras.Input((6, 4))
    x = keras.layers.MultiHeadAttention(2, 2)(inputs, inputs)
    x = keras.layers.Bidirectional(keras.layers.LSTM(2))(x)
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = keras.Model(inputs, inner(x))
    assert rules.paths_of(model, "Dense") == ["dense/bias", "dense/kernel"]
    patterns = rules.paths_of(model, "MultiHeadAttention", keras.layers.RNN)
    assert "multi_head_attention/query/kernel" in patterns
    assert "forward_lstm/lstm_cell/recurrent_kernel" in patterns
    of_others = {"dense/kernel", "dense/bias"}
    for variable in model.trainable_variables:
        is_other = any(fits(pattern, variable.path) for pattern in of_others)
        assert is_other != any(fits(p, variable.path) for p in patterns)


def test_numbers_that_tell_layers_apart_are_kept():
    model = _model(
        keras.layers.Conv2D(2, 3, name="block_1"),
        keras.layers.Conv2DTranspose(2, 3, name="block_2"),
    )
    expected = ["block_1/bias", "block_1/kernel"]
    assert rules.paths_of(model, "Conv2D") == expected


def test_paths_of_refuses():
    with pytest.raises(ValueError, match=r"Received: layers=\('LSTM',\)"):
        rules.paths_of(_convnet(), "LSTM")
    inner = keras.Sequential(
        [keras.Input((4, 4, 2)), keras.layers.Conv2DTranspose(2, 3, name="a")],
    )
    model = _model(keras.layers.Conv2D(2, 3, name="a"), inner)
    with pytest.raises(ValueError, match="Give the layers names that differ"):
        rules.paths_of(model, "Conv2D")


def _groups(tensors, names, **arguments):
    groups = {name for criteria in arguments.values() for name in criteria}
    rule = rules.Grouped(
        {name: rules.SGD() for name in (*groups, "rest")}, **arguments
    )
    twin = rules.Grouped.from_config(rule.get_config())
    parameters = [keras.ops.zeros(shape) for shape in tensors]
    received = rule.groups_of(parameters, names)
    assert received == twin.groups_of(parameters, names)
    return received


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"ranks": {"a": (1, 4)}}, ["a", "rest", "rest", "a"]),
        ({"shapes": {"a": (5, 5, None, None)}}, ["a", "rest", "rest", "rest"]),
        (
            {"shapes": {"a": [(), (None, 8)], "b": [7]}},
            ["rest", "a", "a", "b"],
        ),
        ({"sizes": {"a": (16, None)}}, ["a", "a", "rest", "rest"]),
        ({"sizes": {"a": [(None, 1), (7, 7)]}}, ["rest", "rest", "a", "a"]),
        ({"paths": {"a": "kernel", "b": ["bias"]}}, ["a", "a", "rest", "b"]),
        # What fits all.
        (
            {"paths": {"a": ["x/*", "z/*"]}, "ranks": {"a": [0, 4]}},
            ["a", "rest", "a", "rest"],
        ),
        (
            {
                "paths": {"a": "kernel"},
                "sizes": {"a": (None, 64), "b": (65, 99)},
            },
            ["rest", "a", "rest", "rest"],
        ),
    ],
)
def test_groups(arguments, expected):
    shapes = [(5, 5, 1, 8), (8, 8), (), (7,)]
    paths = ["x/kernel", "y/kernel", "z/scale", "z/bias"]
    assert _groups(shapes, paths, **arguments) == expected


def test_a_parameter_is_in_one_group():
    with pytest.raises(ValueError, match=r"'x/bias' .* in \['a', 'b'\]"):
        _groups([(3,)], ["x/bias"], paths={"a": "x/*"}, ranks={"b": 1})


def test_a_path_that_is_not_known_is_no_other_group():
    selected = {"paths": {"a": "kernel"}, "ranks": {"a": 2}}
    # Where it does not matter, it need not be known.
    assert _groups([(3,), ()], None, **selected) == ["rest", "rest"]
    assert _groups([(3, 3)], [""], **selected) == ["rest"]
    with pytest.raises(ValueError, match="path of each parameter must be"):
        _groups([(3, 3)], None, **selected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"ranks": {"a": 1.0}},
        {"ranks": {"a": True}},
        {"ranks": {"a": []}},
        {"ranks": {"a": -1}},
        {"shapes": {"a": 3}},
        {"shapes": {"a": [(3, "x")]}},
        {"sizes": {"a": (1, 2, 3)}},
        {"sizes": {"a": 5}},
        {"paths": {"a": ""}},
        {"paths": {"a": ["bias", "bias"]}},
        {"paths": {"a": None}},
    ],
)
def test_refuses(arguments):
    (kind,) = arguments
    parts = {"a": rules.SGD(), "b": rules.SGD()}
    with pytest.raises(ValueError, match=f"Argument `{kind}` must be a dict"):
        rules.Grouped(parts, **arguments)
