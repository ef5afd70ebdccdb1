"""Which parameters belong to which group."""

import glob
import math

import hypothesis
import keras
import pytest
from hypothesis import strategies

from keras_l2l import rules
from keras_l2l.rules.parameter_groups import (
    Selection,
    fits,
    layers_of,
    without_numbers,
)

# Names without a number at the end, some with characters of a glob.
_NAMES = strategies.text("ab_*?[]", min_size=1, max_size=4)
_PATHS = strategies.lists(_NAMES, min_size=1, max_size=4)


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


@hypothesis.given(
    _PATHS,
    strategies.lists(
        strategies.none() | strategies.integers(0, 12), min_size=4, max_size=4
    ),
)
def test_a_path_fits_its_last_names_with_and_without_numbers(names, numbers):
    numbered = [
        name if number is None else f"{name}_{number}"
        for name, number in zip(names, numbers)
    ]
    path = "/".join(numbered)
    assert without_numbers(path) == "/".join(names)
    assert without_numbers(without_numbers(path)) == without_numbers(path)
    for start in range(len(names)):
        for ends in (names, numbered):
            assert fits(glob.escape("/".join(ends[start:])), path)


@hypothesis.given(_PATHS, _PATHS)
def test_a_path_fits_no_other_names(names, others):
    is_end = names[-len(others) :] == others
    assert fits(glob.escape("/".join(others)), "/".join(names)) == is_end


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
    # A second model, whose layers get other numbers from Keras.
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


class _Subclassed(keras.Model):
    """A model with layers in lists, dicts and layers of its own."""

    def __init__(self):
        super().__init__()
        self.stack = [keras.layers.Dense(2), (keras.layers.PReLU(),)]
        self.heads = {"one": keras.layers.Dense(1, name="one")}
        self.inner = keras.Sequential([keras.layers.LayerNormalization()])
        self.same = self.stack[0]

    def call(self, inputs):
        dense, (activation,) = self.stack
        return self.heads["one"](self.inner(activation(dense(inputs))))


def _wrapped():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    return keras.Sequential(
        [
            keras.Input((6, 4)),
            keras.layers.Bidirectional(keras.layers.GRU(2)),
            keras.layers.RepeatVector(3),
            keras.layers.TimeDistributed(inner),
            keras.layers.RNN([keras.layers.LSTMCell(2)]),
        ]
    )


def _functional():
    inputs = keras.Input((4,))
    hidden = _model(keras.layers.Flatten(), keras.layers.Dense(4))
    outputs = keras.layers.Dense(2)(inputs)
    return keras.Model([inputs, *hidden.inputs], [outputs, *hidden.outputs])


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            _Subclassed,
            {
                *("_Subclassed", "Dense", "PReLU", "Sequential"),
                "LayerNormalization",
            },
        ),
        (
            _wrapped,
            {
                *("Sequential", "Bidirectional", "GRU", "GRUCell", "RNN"),
                *("RepeatVector", "TimeDistributed", "Dense", "LSTMCell"),
                "StackedRNNCells",
            },
        ),
        (_functional, {"Functional", "InputLayer", "Dense", "Flatten"}),
    ],
)
def test_layers_are_found_wherever_keras_finds_their_variables(build, expected):
    model = build()
    if not model.built:
        model(keras.ops.ones((1, 3)))
    model.compile("sgd", "mse", metrics=["mae"])
    layers = layers_of(model)
    assert layers[0] is model
    assert len({id(layer) for layer in layers}) == len(layers)
    assert {type(layer).__name__ for layer in layers} == expected
    assert {id(v) for v in model.trainable_variables} == {
        id(v)
        for layer in layers[1:]
        if not isinstance(layer, keras.Model)
        for v in layer.trainable_variables
    }


_LAYERS = strategies.sampled_from(["Dense", "EinsumDense", "PReLU", "nested"])


@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            _LAYERS,
            strategies.none() | strategies.sampled_from(["dense", "in_1", "x"]),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda pair: pair[1] or object(),
    )
)
def test_paths_of_has_exactly_the_variables_of_the_layers(pairs):
    def make(kind, name):
        return {
            "Dense": lambda: keras.layers.Dense(3, name=name),
            "EinsumDense": lambda: keras.layers.EinsumDense(
                "ab,bc->ac", 3, bias_axes="c", name=name
            ),
            "PReLU": lambda: keras.layers.PReLU(name=name),
            "nested": lambda: keras.Sequential(
                [keras.Input((3,)), keras.layers.Dense(3)], name=name
            ),
        }[kind]()

    layers = [make(*pair) for pair in pairs]
    model = keras.Sequential([keras.Input((3,)), *layers])
    wanted = {
        variable.path
        for layer in layers_of(model)
        if isinstance(layer, keras.layers.Dense)
        for variable in layer.trainable_variables
    }
    if not wanted:
        with pytest.raises(ValueError, match="Argument `layers`"):
            rules.paths_of(model, "Dense")
        return
    patterns = rules.paths_of(model, "Dense")
    found = {
        variable.path
        for variable in model.trainable_variables
        if any(fits(pattern, variable.path) for pattern in patterns)
    }
    assert found == wanted


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


_SHAPES = strategies.lists(strategies.integers(1, 4), max_size=3).map(tuple)


@hypothesis.given(
    strategies.lists(
        strategies.tuples(_SHAPES, strategies.sampled_from(["a/k", "a/b"])),
        max_size=6,
    ),
    strategies.sets(strategies.integers(0, 3), min_size=1, max_size=2),
    strategies.integers(1, 12),
    strategies.sampled_from(["b", "k", "a/*"]),
)
def test_each_parameter_is_in_exactly_one_group(
    parameters, ranks, most, pattern
):
    criteria = {
        "ranked": lambda shape, path: len(shape) in ranks,
        "small": lambda shape, path: (
            math.prod(shape) <= most and fits(pattern, path)
        ),
    }
    selection = Selection(
        {*criteria, "others"},
        ranks={"ranked": sorted(ranks)},
        shapes=None,
        sizes={"small": (None, most)},
        paths={"small": pattern},
    )
    for shape, path in parameters:
        expected = [name for name, has in criteria.items() if has(shape, path)]
        if len(expected) == 2:
            with pytest.raises(ValueError, match="in one group"):
                selection.group_of(shape, path)
        else:
            assert selection.group_of(shape, path) == (*expected, "others")[0]
