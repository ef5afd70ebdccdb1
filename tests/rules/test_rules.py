"""The contract of every rule."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_l2l import rules
from tests import components

SHAPES = [(3, 2), (4,), ()]


@pytest.fixture(params=components.rule_names())
def rule(request):
    return components.shared_rule(request.param)


def _parameters(dtype="float32"):
    rng = np.random.default_rng(0)
    return [ops.cast(rng.normal(size=shape), dtype) for shape in SHAPES]


def _gradients(step, like):
    """They agree somewhat from step to step, as those of a training do."""
    rng = np.random.default_rng(step)
    return [
        ops.cast(rng.normal(1.0, size=tuple(p.shape)), p.dtype) for p in like
    ]


def _run(rule, parameters, steps=5):
    state = rule.initial_state(parameters)
    for step in range(steps):
        updates, state = rule(_gradients(step, parameters), parameters, state)
        parameters = [p + u for p, u in zip(parameters, updates)]
    return parameters, state


def _leaves(state):
    return keras.tree.flatten(state)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_shapes_and_dtypes_are_kept(rule, dtype):
    parameters = _parameters(dtype)
    state = rule.initial_state(parameters)
    updates, next_state = rule(_gradients(0, parameters), parameters, state)
    evaluated = rule.evaluation_parameters(parameters, next_state)
    for parameter, *others in zip(parameters, updates, evaluated, strict=True):
        for other in others:
            assert other.shape == parameter.shape
            assert other.dtype == parameter.dtype
    keras.tree.assert_same_structure(state, next_state)
    for before, after in zip(_leaves(state), _leaves(next_state)):
        assert before.shape == after.shape
        assert before.dtype == after.dtype == tf.float32


def test_finite_on_any_gradient(rule):
    parameters = _parameters()
    # A graph, as the steps are many.
    step = tf.function(rule.__call__, autograph=False)
    for value in (0.0, 1e-30, 1e30, np.nan, np.inf, -np.inf):
        state = rule.initial_state(parameters)
        for _ in range(3):
            gradients = [ops.full(p.shape, value) for p in parameters]
            updates, state = step(gradients, parameters, state)
            for leaf in [*updates, *_leaves(state)]:
                assert np.isfinite(leaf).all(), f"gradients of {value}"


def test_one_bad_coordinate_touches_no_other(rule):
    parameters = _parameters()
    good = _gradients(0, parameters)
    bad = [np.array(g) for g in good]
    bad[1][0] = np.nan
    state = rule.initial_state(parameters)
    expected, _ = rule(good, parameters, state)
    received, _ = rule(bad, parameters, state)
    assert all(np.isfinite(update).all() for update in received)
    if rule.granularity != "model":
        np.testing.assert_array_equal(received[0], expected[0])
    if rule.granularity == "coordinate":
        np.testing.assert_array_equal(received[1][1:], expected[1][1:])


def test_no_retrace_at_step_two(rule):
    traces = []

    @tf.function
    def step(gradients, parameters, state):
        traces.append(1)
        return rule(gradients, parameters, state)

    parameters = _parameters()
    state = rule.initial_state(parameters)
    for index in range(3):
        _, state = step(_gradients(index, parameters), parameters, state)
    assert len(traces) == 1


def test_config_round_trip_is_exact(rule):
    twin = type(rule).from_config(rule.get_config())
    assert twin.get_config() == rule.get_config()
    twin.set_weights(rule.get_weights())
    for ours, theirs in zip(
        _run(rule, _parameters()), _run(twin, _parameters())
    ):
        for a, b in zip(_leaves(ours), _leaves(theirs)):
            np.testing.assert_array_equal(a, b)


def test_copy_shares_nothing(rule):
    twin = rule.copy()
    before = rule.get_weights()
    for weight in twin.weights:
        weight.assign(weight + 1.0)
    for a, b in zip(before, rule.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_serializes_as_a_keras_object(rule):
    config = keras.saving.serialize_keras_object(rule)
    twin = keras.saving.deserialize_keras_object(config)
    assert twin.get_config() == rule.get_config()


def test_every_meta_parameter_gets_a_gradient(rule):
    rng = np.random.default_rng(7)
    parameters = _parameters()
    state = rule.initial_state(parameters)
    with tf.GradientTape() as tape:
        moved = parameters
        for step in range(3):
            updates, state = rule(_gradients(step, moved), moved, state)
            moved = [p + u for p, u in zip(moved, updates)]
        # Weights that cancel no symmetric contribution.
        objective = sum(ops.sum(p * rng.normal(size=p.shape)) for p in moved)
    gradients = tape.gradient(
        objective, [v.value for v in rule.trainable_variables]
    )
    assert gradients
    for gradient in gradients:
        assert gradient is not None
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


def test_a_list_equals_its_parts(rule):
    listed, _ = _run(rule, _parameters())
    # To one whose coordinates share something the parameters are a vector,
    # too, however it is cut.
    if isinstance(rule, rules.CoordinatewiseRule):
        _equals_its_concatenation(rule, listed)
    if rule.granularity == "tensor":
        for ours, theirs in zip(listed, _one_by_one(rule)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)
    if rule.granularity == "model":
        # Else it could say so, and be updated variable by variable.
        for ours, theirs in zip(listed, _one_by_one(rule)):
            assert not np.array_equal(ours, theirs)


def _one_by_one(rule):
    for index in range(len(SHAPES)):
        alone = _parameters()[index : index + 1]
        state = rule.initial_state(alone)
        for step in range(5):
            gradient = _gradients(step, _parameters())[index]
            (update,), state = rule([gradient], alone, state)
            alone = [alone[0] + update]
        yield alone[0]


def _equals_its_concatenation(rule, listed):
    parameters = [
        ops.concatenate([ops.reshape(p, (-1,)) for p in _parameters()])
    ]
    state = rule.initial_state(parameters)
    for step in range(5):
        gradients = [
            ops.concatenate(
                [ops.reshape(g, (-1,)) for g in _gradients(step, _parameters())]
            )
        ]
        updates, state = rule(gradients, parameters, state)
        parameters = [parameters[0] + updates[0]]
    np.testing.assert_allclose(
        np.concatenate([np.ravel(p) for p in listed]),
        parameters[0],
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.parametrize("name", components.rule_names())
def test_runs_in_xla(name):
    rule = components.shared_rule(name)
    parameters = _parameters()
    state = rule.initial_state(parameters)
    gradients = _gradients(0, parameters)
    expected, _ = rule(gradients, parameters, state)
    compiled = tf.function(rule, jit_compile=True)
    received, _ = compiled(gradients, parameters, state)
    for a, b in zip(received, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", components.KERAS_TWINS)
def test_equals_keras_step_for_step(name):
    rule, twin = components.RULES[name](), components.KERAS_TWINS[name]()
    parameters = _parameters()
    variables = [keras.Variable(p) for p in parameters]
    state = rule.initial_state(parameters)
    for step in range(30):
        gradients = _gradients(step, parameters)
        twin.apply(gradients, variables)
        updates, state = rule(gradients, parameters, state)
        parameters = [p + u for p, u in zip(parameters, updates)]
        for ours, theirs in zip(parameters, variables):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_lstm_equals_keras_layers():
    """The same numbers from `keras.layers.LSTMCell`, gates and all."""
    rule = rules.CoordinatewiseLSTM(units=4, layers=2, output_scale=0.3, seed=5)
    cells = [keras.layers.LSTMCell(4) for _ in range(2)]
    weights = rule.get_weights()
    for index, cell in enumerate(cells):
        kernel, bias = weights[2 * index : 2 * index + 2]
        cell.build((None, kernel.shape[0] - 4))
        cell.set_weights([kernel[:-4], kernel[-4:], bias])
    hidden = [[ops.zeros((6, 4))] * 2 for _ in cells]
    parameter = ops.zeros((6,))
    state = rule.initial_state([parameter])
    for step in range(4):
        gradient = np.random.default_rng(step).normal(size=6).astype("float32")
        (update,), state = rule([gradient], [parameter], state)
        large = np.log(np.abs(gradient)) / 10
        output = np.stack([large, np.sign(gradient)], -1)
        for index, cell in enumerate(cells):
            output, hidden[index] = cell(output, hidden[index])
        expected = 0.3 * (output @ weights[-2] + weights[-1])[:, 0]
        np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-6)


def test_prodigy_starts_where_its_first_step_is():
    """An exported rule makes its state before it sees the parameters."""
    rule = components.RULES["Prodigy"]()
    expected, _ = _run(rule, _parameters())
    parameters = _parameters()
    state = rule.initial_state([ops.zeros_like(p) for p in parameters])
    for step in range(5):
        updates, state = rule(_gradients(step, parameters), parameters, state)
        parameters = [p + u for p, u in zip(parameters, updates)]
    for ours, theirs in zip(parameters, expected):
        np.testing.assert_array_equal(ours, theirs)


def test_lstm_seed_fixes_the_meta_parameters():
    first, again, other = (
        rules.CoordinatewiseLSTM(units=3, seed=seed) for seed in (1, 1, 2)
    )
    for a, b in zip(first.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(first.get_weights()[0], other.get_weights()[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "`units` must be a positive integer. Received: units=0"),
        ({"layers": 1.5}, "`layers` must be a positive integer"),
        ({"output_scale": 0.0}, "`output_scale` must be a positive number"),
        ({"p": -1.0}, "`p` must be a positive number. Received: p=-1.0"),
        ({"preprocessing": "log"}, "`preprocessing` must be one of"),
    ],
)
def test_lstm_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        rules.CoordinatewiseLSTM(**arguments)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rules.SGD(0.0), "`learning_rate` must be a positive"),
        (lambda: rules.Momentum(momentum=1.0), "`momentum` must be in"),
        (lambda: rules.RMSprop(rho=-0.1), "`rho` must be in"),
        (lambda: rules.Adam(beta_1=2.0), "`beta_1` must be in"),
        (
            lambda: rules.Prodigy(initial_distance=0.0),
            "`initial_distance` must be a positive",
        ),
        (
            lambda: rules.ScheduleFreeAdamW(warmup_steps=0),
            "`warmup_steps` must be a positive",
        ),
        (lambda: rules.SGD(dtype="float16"), '"float32" or "float64"'),
    ],
)
def test_hand_designed_rules_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()
