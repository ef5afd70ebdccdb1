"""A rule for each group of parameters, as one rule."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import L2LOptimizer, MetaTrainer, load_rule, rules, tasks
from keras_l2l.inner_loop.episode import start
from keras_l2l.meta_gradients.evolution_strategies import PersistentES
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)
from keras_l2l.serialization import RuleFormatError
from tests.small_fit import built


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
        ([rules.SGD(), rules.Adam()], "tensor"),
        ([rules.SGD(), rules.Hierarchical()], "tensor"),
        ([rules.SGD(), _lstm(1)], "model"),
    ],
)
def test_is_as_independent_as_the_weakest_of_its_rules(parts, expected):
    rule = rules.Grouped(dict(zip("ab", parts)), ranks={"a": 4})
    assert rule.granularity == expected


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
    built(model).fit(x, y, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    twin = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, twin):
        one.fit(x, y, shuffle=False, verbose=0)
    for one, two in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def _by_path():
    return rules.Grouped(
        {"biases": _lstm(1), "gates": _lstm(2), "others": _lstm(3)},
        paths={"biases": "bias", "gates": "bidirectional/*kernel"},
    )


def _recurrent():
    """A model whose paths lose a part when Keras loads it."""
    model = keras.Sequential(
        [
            keras.Input((3, 2)),
            keras.layers.Bidirectional(keras.layers.LSTM(2)),
            keras.layers.Dense(1),
        ]
    )
    model.compile(L2LOptimizer(_by_path()), "mse")
    return model


X = np.random.default_rng(0).normal(size=(8, 3, 2)).astype("float32")
Y = X.sum((1, 2))
OF_RECURRENT = [*("gates", "gates", "biases") * 2, "others", "biases"]


@pytest.mark.slow
def test_a_model_resumes_in_the_same_groups(tmp_path):
    model = _recurrent()
    model.fit(X, Y, epochs=2, shuffle=False, verbose=0)
    variables = model.trainable_variables
    assert _by_path().groups_of(variables) == OF_RECURRENT
    twin = model
    for _ in range(2):
        twin.save(tmp_path / "model.keras")
        twin = keras.models.load_model(tmp_path / "model.keras")
    assert _by_path().groups_of(twin.trainable_variables) != OF_RECURRENT
    for one in (model, twin):
        one.fit(X, Y, shuffle=False, verbose=0)
    for one, two in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_another_model_has_groups_of_its_own():
    config = built(_recurrent()).optimizer.get_config()
    optimizer = L2LOptimizer.from_config(config)
    assert optimizer.get_config() == config
    gates = [keras.Variable(np.ones(3), name="gate") for _ in OF_RECURRENT]
    optimizer.build(gates)
    assert optimizer.get_config()["paths"] == [v.path for v in gates]


def _convnet():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(2, 3, activation="tanh", name="stem"),
            keras.layers.Conv2D(2, 3, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )


# Name → how groups are selected in `_convnet()`, and the groups.
SELECTIONS = {
    "path": (lambda _: {"paths": {"a": "bias"}}, "bababa"),
    "glob": (lambda _: {"paths": {"a": "*conv2d*/kernel"}}, "bbabbb"),
    "shape": (lambda _: {"shapes": {"a": (3, 3, None, 2)}}, "ababbb"),
    "size": (lambda _: {"sizes": {"a": (10, 30)}}, "abbbbb"),
    "layer": (
        lambda model: {"paths": {"a": rules.paths_of(model, "Conv2D")}},
        "aaaabb",
    ),
    "layer and rank": (
        lambda model: {
            "paths": {"a": rules.paths_of(model, keras.layers.Conv2D)},
            "ranks": {"a": 4},
        },
        "ababbb",
    ),
}


def _selected(model, name):
    make_arguments, _ = SELECTIONS[name]
    return rules.Grouped(
        {"a": _lstm(1), "b": _lstm(2)}, **make_arguments(model)
    )


@pytest.mark.parametrize("name", SELECTIONS)
def test_groups_of_a_model(name):
    model = _convnet()
    groups = _selected(model, name).groups_of(model.trainable_variables)
    assert "".join(groups) == SELECTIONS[name][1]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if "and" in name else pytest.mark.slow)
        for name in SELECTIONS
    ],
)
def test_equals_one_optimizer_a_group(name):
    model = _convnet()
    rule = _selected(model, name)
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    groups = rule.groups_of(model.trainable_variables)
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 1)).astype("float32")
    y = x.sum((1, 2, 3))
    model.compile(L2LOptimizer(rule, guard=False), "mse")
    built(model).fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    optimizers = {
        name: L2LOptimizer(part, guard=False)
        for name, part in rule.rules.items()
    }
    variables = twin.trainable_variables
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((twin(x, training=True)[:, 0] - y) ** 2)
        gradients = tape.gradient(loss, [v.value for v in variables])
        for name, optimizer in optimizers.items():
            own = [i for i, group in enumerate(groups) if group == name]
            optimizer.apply(
                [gradients[i] for i in own], [variables[i] for i in own]
            )
    for one, two in zip(variables, model.trainable_variables, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_groups_of_a_trained_rule_can_be_selected_anew(tmp_path):
    _grouped().export(tmp_path / "rule")
    trained = load_rule(tmp_path / "rule")
    paths = {"convolutions": ["stem/*", "conv2d/kernel"]}
    rule = rules.Grouped(trained.rules, paths=paths)
    rule.export(tmp_path / "again")
    twin = load_rule(tmp_path / "again")
    assert twin.get_config() == rule.get_config()
    for one, two in zip(twin.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    groups = twin.groups_of(_convnet().trainable_variables)
    assert groups == ["convolutions"] * 3 + ["others"] * 3
    # The graph is that of a vector without a path.
    module = tf.saved_model.load(tmp_path / "again")
    updates, state = module.update(
        tf.ones(3), tf.zeros(3), module.initial_state(3)
    )
    (expected,) = _run_once(_lstm(2), [tf.ones(3)])
    np.testing.assert_allclose(updates, expected, rtol=1e-6)
    assert "local__others__hidden_0" in state


def _run_once(rule, gradients):
    state = rule.initial_state(gradients)
    return rule(gradients, [tf.zeros_like(g) for g in gradients], state)[0]


def _task():
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 1)).astype("float32")
    return tasks.KerasTask(_convnet, (x, x.sum((1, 2, 3))), "mse", 8)


def _of_convolutions():
    return rules.Grouped(
        {"a": rules.Adam(0.1, name="a"), "b": rules.Adam(0.01, name="b")},
        paths={"a": rules.paths_of(_convnet(), "Conv2D")},
    )


@pytest.mark.parametrize(
    "augment",
    [
        lambda task: task,
        lambda task: tasks.GradientNoise(tasks.Reparametrization(task)),
    ],
)
def test_a_task_knows_the_paths_of_its_model(augment):
    carry = start(_of_convolutions(), augment(_task()), seed=3)
    groups = [next(iter(local)) for local in carry.rule_state.local]
    assert groups == list("aaaabb")


@pytest.mark.slow
def test_the_meta_gradient_tensor_by_tensor_is_the_same():
    rule, task = _of_convolutions(), _task()
    carry = start(rule, task, seed=0)
    one, two = (
        TruncatedBackpropagation(memory_budget=memory_budget)(
            rule, task, carry, MetaLoss(tf.ones(2)), tf.constant([0, 0])
        ).gradients
        for memory_budget in (2**30, 1)
    )
    for ours, theirs in zip(one, two, strict=True):
        assert np.abs(ours).max() > 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_meta_training_resumes_with_the_same_numbers(tmp_path):
    def train(directory, epochs):
        trainer = MetaTrainer(
            _of_convolutions(),
            _task(),
            horizon=6,
            unroll=2,
            estimator=PersistentES(jit_compile=False),
        )
        trainer.compile("adam")
        trainer.fit(
            epochs=epochs,
            steps_per_epoch=2,
            backup_dir=tmp_path / directory,
            verbose=0,
        )
        return trainer.rule.get_weights()

    expected = train("whole", 2)
    train("parts", 1)
    for one, two in zip(expected, train("parts", 2), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_task_without_a_model_has_no_paths():
    with pytest.raises(ValueError, match="a property `parameter_paths`"):
        start(_of_convolutions(), tasks.Quadratic(), seed=0)


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
