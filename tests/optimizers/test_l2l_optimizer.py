"""What `L2LOptimizer` computes, how it is configured, what it refuses."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_l2l
from keras_l2l import rules
from keras_l2l.optimizers.l2l_optimizer import L2LOptimizer
from keras_l2l.rules import RuleState
from tests import components
from tests.small_fit import built

GRADIENTS = ([[1.0, -2.0], [0.5, 0.0]], [3.0, -1e-3])


def lstm(seed=0):
    return rules.CoordinatewiseLSTM(units=3, layers=2, seed=seed)


def variables():
    return [
        keras.Variable([[1.0, 2.0], [3.0, 4.0]], name="kernel"),
        keras.Variable([-1.0, 1.0], name="bias"),
    ]


def steps(optimizer, on, count=3):
    for scale in range(1, count + 1):
        optimizer.apply([scale * ops.array(g) for g in GRADIENTS], on)
    return [v.numpy() for v in on]


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True) ** 2


def fitted(optimizer, epochs=3, is_built=True, **kwargs):
    init = keras.initializers.GlorotUniform(seed=1)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, "tanh", kernel_initializer=init),
            keras.layers.Dense(1, kernel_initializer=init),
        ]
    )
    model.compile(optimizer, "mse", **kwargs)
    if is_built:
        built(model)
    model.fit(*data(), batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return model


def assert_equal(model, other, **tolerance):
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, **tolerance)


class Normalised(rules.UpdateRule):
    """All variables share one norm; its state is nested and learned."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.start = self.add_weight(shape=(), initializer="ones", name="start")

    def initial_state(self, parameters):
        local = [
            {"sum": [ops.zeros(ops.shape(p)), ops.ones((), "int32")]}
            for p in parameters
        ]
        return RuleState(local, {"memory": (self.start + 0.0,)})

    def call(self, gradients, parameters, state):
        norm = ops.sqrt(sum(ops.sum(ops.square(g)) for g in gradients))
        memory = 0.5 * state.shared["memory"][0] + norm
        local = [
            {"sum": [s["sum"][0] + g, s["sum"][1] + 1]}
            for s, g in zip(state.local, gradients)
        ]
        updates = [-0.1 * s["sum"][0] / memory for s in local]
        return updates, RuleState(local, {"memory": (memory,)})


# The update.


@pytest.mark.parametrize("rule", [lstm(), rules.Adam(0.1), Normalised()])
def test_it_is_the_rule_times_the_learning_rate(rule):
    received = steps(L2LOptimizer(rule, learning_rate=0.5), variables())
    expected = [v.value for v in variables()]
    state = rule.initial_state(expected)
    for scale in (1.0, 2.0, 3.0):
        gradients = [scale * ops.array(g) for g in GRADIENTS]
        updates, state = rule(gradients, expected, state)
        expected = [p + 0.5 * u for p, u in zip(expected, updates)]
    for one, two in zip(received, expected):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [
        (rules.Adam(1e-2), keras.optimizers.Adam(1e-2)),
        (
            rules.Momentum(1e-2, nesterov=True),
            keras.optimizers.SGD(1e-2, momentum=0.9, nesterov=True),
        ),
    ],
)
def test_it_equals_keras_optimizers_in_fit(rule, optimizer):
    assert_equal(
        fitted(L2LOptimizer(rule)), fitted(optimizer), rtol=1e-5, atol=1e-6
    )


@pytest.fixture(scope="module")
def fitted_in_a_graph():
    return fitted(L2LOptimizer(lstm()), jit_compile=False)


@pytest.mark.parametrize(
    "how",
    [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 2}],
)
def test_every_way_of_running_agrees(how, fitted_in_a_graph):
    model = fitted(L2LOptimizer(lstm()), **how)
    assert_equal(model, fitted_in_a_graph, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    ["Prodigy", "CoordinatewiseLSTM-averaging", "Grouped", "Hierarchical"],
)
@pytest.mark.slow
def test_rules_with_a_state_of_whole_tensors(name):
    def fitted(layers, **how):
        # TensorFlow embeds tensors of up to 128 elements in a graph.
        wide = keras.layers.Dense(50, kernel_initializer="ones")
        model = keras.Sequential([*layers, wide])
        model.compile(L2LOptimizer(components.RULES[name]()), "mse", **how)
        model.fit(*data(), batch_size=8, shuffle=False, verbose=0)
        return model

    expected = fitted([keras.Input((3,))], run_eagerly=True)
    # Keras compiles by itself where there is a GPU. And without an input,
    # `fit()` builds the model and the optimizer while it traces.
    for jit_compile in (False, True):
        received = fitted([], jit_compile=jit_compile)
        assert_equal(received, expected, rtol=1e-4, atol=1e-5)


def test_a_rule_that_begins_with_values_of_parameters_is_refused():
    class ReadsValues(rules.Hierarchical):
        def initial_state(self, parameters):
            state = super().initial_state(parameters)
            state.shared["sum"] = sum(ops.sum(p) for p in parameters)
            return state

    optimizer = L2LOptimizer(ReadsValues(units=2, coordinate_units=1))
    with pytest.raises(ValueError, match="NaN at shared/sum"):
        optimizer.build(variables())


def test_fit_traces_a_rule_once(monkeypatch):
    calls = []
    call = rules.CoordinatewiseLSTM.call
    monkeypatch.setattr(
        rules.CoordinatewiseLSTM,
        "call",
        lambda *arguments: calls.append(1) or call(*arguments),
    )
    # Its variables are created in the function that trains.
    fitted(L2LOptimizer(lstm()), is_built=False, metrics=["mae"])
    assert len(calls) == 1


def test_the_rule_is_a_copy():
    rule = lstm()
    optimizer = L2LOptimizer(rule)
    expected = steps(L2LOptimizer(rule), variables())
    rule.set_weights([np.zeros_like(w) for w in rule.get_weights()])
    for one, two in zip(steps(optimizer, variables()), expected):
        np.testing.assert_array_equal(one, two)


@pytest.mark.filterwarnings("ignore:The guard of")
def test_a_nan_gradient_does_no_lasting_harm():
    optimizer, on = L2LOptimizer(lstm()), variables()
    optimizer.apply(
        [ops.array([[np.nan, np.inf], [-np.inf, 1.0]]), ops.array([1.0, 2.0])],
        on,
    )
    before = [v.numpy() for v in on]
    for one, two in zip(steps(optimizer, on), before):
        assert np.isfinite(one).all()
        assert (one != two).all()
    # A snapshot is NaN until it is taken.
    kept = [v for v in optimizer.variables if "guard_snapshot" not in v.path]
    assert kept
    assert all(np.isfinite(v.numpy()).all() for v in kept)


@pytest.mark.parametrize("how", ["accumulate", "clip", "scale", "plain"])
def test_slices_equal_their_dense_gradient(how):
    settings = {
        "accumulate": {"gradient_accumulation_steps": 2},
        "clip": {"clipnorm": 0.1},
        "scale": {"loss_scale_factor": 8.0},
        "plain": {},
    }[how]
    slices = tf.IndexedSlices(
        values=tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        indices=tf.constant([2, 0, 2]),
        dense_shape=tf.constant([3, 2]),
    )
    dense = tf.constant([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])
    results = []
    for gradient in (slices, dense):
        variable = keras.Variable(np.ones((3, 2), "float32"))
        optimizer = L2LOptimizer(lstm(), **settings)
        for _ in range(4):
            optimizer.apply([gradient], [variable])
        results.append(variable.numpy())
    np.testing.assert_array_equal(*results)
    assert (results[0] != 1.0).all()


# The hidden state.


def test_the_hidden_state_is_in_variables_of_the_optimizer():
    optimizer, on = L2LOptimizer(Normalised()), variables()
    optimizer.build(on)
    # After them come the guard's.
    kernel, kernel_count, bias, _, memory = optimizer.variables[2:7]
    assert kernel.name == "kernel_sum_0"
    assert bias.name == "bias_sum_0"
    assert memory.name == "shared_memory_0"
    assert kernel.shape == (2, 2)
    assert kernel_count.dtype == "int32"
    assert memory.numpy() == 1.0
    steps(optimizer, on, count=1)
    np.testing.assert_array_equal(kernel, GRADIENTS[0])
    assert kernel_count.numpy() == 2
    count = len(optimizer.variables)
    optimizer.build(on)
    assert len(optimizer.variables) == count


@pytest.mark.parametrize("missing", ["left out", "None"])
def test_variables_without_gradient_keep_their_state(missing):
    optimizer, on = L2LOptimizer(rules.Adam()), variables()
    steps(optimizer, on, count=1)
    names = [v.name for v in optimizer.variables]
    before = dict(zip(names, [v.numpy() for v in optimizer.variables]))
    bias = on[1].numpy()
    gradient = ops.array(GRADIENTS[0])
    if missing == "None":
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply([gradient, None], on)
    else:
        optimizer.apply([gradient], on[:1])
    after = dict(zip(names, [v.numpy() for v in optimizer.variables]))
    changed = {n for n in names if not np.array_equal(before[n], after[n])}
    assert changed == {
        "iteration",
        "kernel_first_moment",
        "kernel_second_moment",
        "shared_step",
        "guard_age",
        "guard_peak",
    }
    np.testing.assert_array_equal(on[1], bias)


def test_total_steps_let_the_learning_rate_fall_to_zero():
    optimizer, (kernel, _) = (
        L2LOptimizer(rules.SGD(0.1), total_steps=10),
        variables(),
    )
    moves = []
    for _ in range(11):
        before = kernel.numpy()
        optimizer.apply([ops.ones_like(kernel)], [kernel])
        moves.append((before - kernel.numpy()).max())
    expected = [0.1] * 7 + [0.075, 0.05, 0.025, 0.0]
    np.testing.assert_allclose(moves, expected, atol=1e-6)
    config = optimizer.get_config()
    assert (config["learning_rate"], config["total_steps"]) == (1.0, 10)
    twin = L2LOptimizer.from_config(config)
    assert float(twin.learning_rate) == 1.0
    assert twin.get_config()["total_steps"] == 10


def test_total_steps_make_a_schedule_of_a_number_alone():
    schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
    with pytest.raises(ValueError, match="`learning_rate` must be a float"):
        L2LOptimizer(rules.SGD(), schedule, total_steps=4)
    with pytest.raises(ValueError, match="`total_steps`"):
        L2LOptimizer(rules.SGD(), total_steps=0)
    with pytest.raises(ValueError, match=r"`total_steps`.*Received.*True"):
        L2LOptimizer(rules.SGD(), total_steps=True)


def test_total_steps_as_a_dataset_gives_them():
    optimizer = L2LOptimizer(rules.SGD(), total_steps=np.int64(4))
    assert type(optimizer.total_steps) is int
    config = keras.optimizers.serialize(optimizer)
    assert keras.optimizers.deserialize(config).total_steps == 4


# Errors, and the weight of the import.


@pytest.mark.parametrize("rule", [None, 3, rules.Adam, {"class_name": "x"}])
def test_a_rule_of_the_wrong_type_is_refused(rule):
    with pytest.raises(ValueError, match=r"`rule` must be.*Received: rule="):
        L2LOptimizer(rule)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match=r"`rule`.*Received: 'lstm-mnits'"):
        L2LOptimizer("lstm-mnits")


@pytest.mark.parametrize("learning_rate", [1, None, "fast"])
def test_a_learning_rate_that_is_no_float_is_refused(learning_rate):
    with pytest.raises(ValueError, match="`learning_rate` should be float"):
        L2LOptimizer(lstm(), learning_rate=learning_rate)


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "numpy")
    with pytest.raises(RuntimeError, match=r"one of .*jax.*Received: .*numpy"):
        L2LOptimizer(lstm())


def test_the_optimizer_imports_no_meta_training():
    package = Path(keras_l2l.__file__).parent
    reached, queue = set(), ["optimizers"]
    while queue:
        room = queue.pop()
        reached.add(room)
        file = package / f"{room}.py"
        files = [file] if file.is_file() else (package / room).rglob("*.py")
        for file in files:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom):
                    first, *parts = node.module.split(".")
                    names = parts[:1] or [alias.name for alias in node.names]
                    if first == "keras_l2l":
                        queue += set(names) - reached
    lower = {"checks", "execution", "optimizers", "presets", "rules"}
    assert reached <= lower | {"serialization", "packaged_files"}
