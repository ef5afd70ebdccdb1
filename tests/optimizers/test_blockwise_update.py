"""A step in blocks is the step; the hidden state may be narrower."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import tree

from keras_l2l import L2LOptimizer, rules
from keras_l2l.optimizers import blockwise_update
from keras_l2l.optimizers.blockwise_update import update_in_blocks
from keras_l2l.rules import RuleState
from tests import components

SHAPES = [(3, 2), (7,), (), (4, 5), (2,)]


def _values(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("float32") for shape in SHAPES]


def _trained(rule, block_size, steps=3, jit_compile=False):
    """Variables and slots after some steps in blocks of a size."""
    variables = [tf.Variable(value) for value in _values(0)]
    state = rule.initial_state(variables)
    dtypes = tree.map_structure(lambda t: t.dtype, state)
    slots = tree.map_structure(tf.Variable, state)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def step(gradients):
        updates = update_in_blocks(
            rule, gradients, variables, slots, dtypes, 1.0, block_size
        )
        for variable, update in zip(variables, updates):
            variable.assign_add(update)

    for seed in range(1, 1 + steps):
        step([tf.constant(g) for g in _values(seed)])
    return [v.numpy() for v in tree.flatten((variables, slots))]


# 20 coordinates in blocks of 8 have an odd first one, in blocks of 4 none.
BLOCK_SIZES = (1, 4, 8, 1000)
FAST = {
    *(("Adam", 1), ("Adam", 1000), ("CoordinatewiseLSTM", 4)),
    *(("RNNprop", 8), ("ScheduleFreeAdamW", 8), ("NTMBFGS", 8)),
    *(("Grouped", 1), ("Grouped-shapes", 8), ("LearnedMuon-2", 8)),
}


@pytest.mark.parametrize(
    ("name", "block_size"),
    [
        pytest.param(*case, marks=() if case in FAST else pytest.mark.slow)
        for case in itertools.product(components.RULES, BLOCK_SIZES)
    ],
)
def test_blocks_of_any_size_are_the_step_as_a_whole(name, block_size):
    rule = components.shared_rule(name)
    parameters = [tf.constant(value) for value in _values(0)]
    state = rule.initial_state(parameters)
    for seed in (1, 2, 3):
        gradients = [tf.constant(g) for g in _values(seed)]
        updates, state = rule(gradients, parameters, state)
        parameters = [p + u for p, u in zip(parameters, updates)]
    expected = tree.flatten((parameters, state))
    for one, two in zip(_trained(rule, block_size), expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["Adam", pytest.param("CoordinatewiseLSTM", marks=pytest.mark.slow)]
)
def test_blocks_compile_to_xla(name):
    rule = components.shared_rule(name)
    compiled = _trained(rule, block_size=8, jit_compile=True)
    for one, two in zip(compiled, _trained(rule, block_size=8), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.fixture
def sixteen_blocks(monkeypatch):
    monkeypatch.setattr(blockwise_update, "_BLOCKS_OF_TENSORS", 16)


@pytest.mark.usefixtures("sixteen_blocks")
def test_tensors_share_a_call_up_to_a_number_of_blocks():
    calls = []

    class Records(rules.Hierarchical):
        def call(self, gradients, parameters, state):
            calls.append([tuple(p.shape) for p in parameters])
            return super().call(gradients, parameters, state)

    _trained(Records(units=2, coordinate_units=1), block_size=1, steps=1)
    assert calls == [[(3, 2), (7,), ()], [(4, 5)], [(2,)]]


@pytest.mark.usefixtures("sixteen_blocks")
def test_tensors_of_one_shape_share_a_call():
    calls = []

    class Records(rules.Hierarchical):
        def call(self, gradients, parameters, state):
            calls.append([tuple(p.shape) for p in parameters])
            return super().call(gradients, parameters, state)

    rule = Records(units=2, coordinate_units=1)
    shapes = [(6,), (3, 2), (6,), (3, 2)]
    variables = [tf.Variable(tf.ones(shape)) for shape in shapes]
    state = rule.initial_state(variables)
    update_in_blocks(
        rule,
        [tf.ones(shape) for shape in shapes],
        variables,
        tree.map_structure(tf.Variable, state),
        tree.map_structure(lambda value: value.dtype, state),
        1.0,
        block_size=1,
    )
    assert calls == [[(6,), (6,)], [(3, 2), (3, 2)]]


def test_a_rule_that_shares_gets_all_variables_at_once():
    class CountsCalls(rules.UpdateRule):
        calls = 0

        def initial_state(self, parameters):
            return RuleState([{} for _ in parameters], {})

        def call(self, gradients, parameters, state):
            type(self).calls += 1
            total = sum(tf.reduce_sum(g) for g in gradients)
            return [total + tf.zeros_like(p) for p in parameters], state

    _trained(CountsCalls(), block_size=1, steps=2)
    assert CountsCalls.calls == 1  # traced once, with no block


@pytest.mark.parametrize("state_dtype", ["bfloat16", "float16"])
@pytest.mark.slow
def test_a_narrow_state_changes_little(state_dtype, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    y = np.sin(x.sum(1, keepdims=True))

    def fit(state_dtype):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(8, "tanh"),
                keras.layers.Dense(1),
            ]
        )
        model.compile(
            L2LOptimizer("lstm-mnist", state_dtype=state_dtype), "mse"
        )
        history = model.fit(x, y, epochs=10, shuffle=False, verbose=0)
        return model, history.history["loss"]

    model, losses = fit(state_dtype)
    _, expected = fit(None)
    assert losses != expected
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    slots = [
        v
        for v in model.optimizer.variables
        if len(v.shape) == 2 and "guard" not in v.path
    ]
    assert slots
    assert {v.dtype for v in slots} == {state_dtype}
    model.save(tmp_path / "model.keras")
    twin = keras.models.load_model(tmp_path / "model.keras")
    assert twin.optimizer.state_dtype == state_dtype
    model.fit(x, y, shuffle=False, verbose=0)
    twin.fit(x, y, shuffle=False, verbose=0)
    for one, two in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_is_shared_keeps_its_dtype():
    """A step count in bfloat16 would stop at 256."""
    optimizer = L2LOptimizer(rules.Adam(), state_dtype="bfloat16")
    optimizer.build([keras.Variable([1.0, 2.0])])
    dtypes = {v.name: v.dtype for v in optimizer.variables}
    shared = {n: d for n, d in dtypes.items() if n.startswith("shared")}
    assert shared
    assert "bfloat16" not in shared.values()
    assert "bfloat16" in dtypes.values()


def test_refuses_another_state_dtype():
    with pytest.raises(ValueError, match=r"`state_dtype` must be one of"):
        L2LOptimizer(rules.SGD(), state_dtype="int8")
