"""Rules with a recurrent cell for each tensor."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_l2l import rules
from keras_l2l.rules import step_sizes
from keras_l2l.rules.stacking import ShapeStacks
from keras_l2l.rules.steering import LinearSteering
from tests import components

SHAPES = [(4, 3), (5,), (), (4, 3), (2, 2, 3), (5,), (4, 3)]


def _tensors(seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return [
        ops.cast(scale * generator.normal(size=shape), "float32")
        for shape in SHAPES
    ]


@functools.cache
def _graph(rule):
    return tf.function(rule.__call__, autograph=False)


def _steps(rule, parameters, gradients):
    state = rule.initial_state(parameters)
    for gradient in gradients:
        updates, state = _graph(rule)(gradient, parameters, state)
        parameters = [p + u for p, u in zip(parameters, updates)]
    return parameters, state


@pytest.fixture(
    params=[
        pytest.param("Hierarchical", marks=pytest.mark.slow),
        pytest.param("Hierarchical-2", marks=pytest.mark.slow),
        pytest.param("LearnedMuon", marks=pytest.mark.slow),
        "LearnedMuon-2",
        "LearnedMuon-3",
    ]
)
def rule(request):
    return components.shared_rule(request.param)


@pytest.fixture(
    params=[
        pytest.param("Hierarchical-2", marks=pytest.mark.slow),
        pytest.param("LearnedMuon", marks=pytest.mark.slow),
        "LearnedMuon-2",
        "LearnedMuon-3",
    ]
)
def vanishing(request):
    """A rule whose steps fall with the gradient."""
    return components.shared_rule(request.param)


def test_stacks_come_apart_as_they_were():
    tensors = _tensors(0)
    stacks = ShapeStacks(tensors, "float32")
    received = stacks.stack(tensors)
    assert [tuple(stack.shape) for stack in received] == [
        (3, 12),
        (2, 5),
        (1, 1),
        (1, 12),
    ]
    for one, two in zip(stacks.unstack(received), tensors, strict=True):
        np.testing.assert_array_equal(one, two)
    numbers = [float(i) for i in range(len(SHAPES))]
    ordered = stacks.stack_scalars(numbers)
    assert ops.convert_to_numpy(ordered).tolist() == [0, 3, 6, 1, 5, 2, 4]
    np.testing.assert_array_equal(stacks.unstack_scalars(ordered), numbers)
    assert [len(part) for part in stacks.split(ordered)] == [3, 2, 1, 1]


def test_the_update_of_a_tensor_depends_on_it_alone(rule):
    """Stacked with others of its shape, and on its own."""
    gradients = [_tensors(seed, 10.0 ** (seed % 3)) for seed in (1, 2, 3)]
    together, _ = _steps(rule, _tensors(0), gradients)
    for i, expected in enumerate(together):
        alone, _ = _steps(rule, [_tensors(0)[i]], [[g[i]] for g in gradients])
        np.testing.assert_allclose(alone[0], expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["Hierarchical", "Hierarchical-2"])
def test_a_config_without_a_version_is_of_the_first(name):
    rule = components.shared_rule(name)
    config = rule.get_config()
    assert ("version" in config) == (rule.version == 2)
    assert rules.Hierarchical.from_config(config).version == rule.version


def test_refuses_another_version():
    with pytest.raises(ValueError, match=r"`version` must be one of \[1, 2\]"):
        rules.Hierarchical(version=3)


@pytest.mark.parametrize("steps_before", [0, 2])
def test_zero_gradients_change_nothing(vanishing, steps_before):
    """Neither at the start nor after others, whose momenta are still there."""
    parameters = _tensors(0)
    state = vanishing.initial_state(parameters)
    zeros = [ops.zeros_like(tensor) for tensor in parameters]
    for step in range(steps_before + 3):
        gradients = _tensors(step) if step < steps_before else zeros
        updates, state = _graph(vanishing)(gradients, parameters, state)
    for update in updates:
        np.testing.assert_array_equal(update, np.zeros(update.shape))


def test_steps_shrink_with_the_gradients(vanishing):
    """Once they are a thousandth of those before, so are the updates."""
    parameters = _tensors(0)
    state = vanishing.initial_state(parameters)
    step = _graph(vanishing)
    for seed in range(1, 5):
        first, state = step(_tensors(seed), parameters, state)
    for seed in range(5, 60):
        last, state = step(_tensors(seed, 1e-3), parameters, state)
    for one, two in zip(first, last):
        assert np.linalg.norm(two) < 0.1 * np.linalg.norm(one)


@pytest.mark.parametrize("scale", [1e-6, 1e8])
def test_the_scale_of_the_loss_does_not_matter(rule, scale):
    assert rule.is_scale_invariant
    gradients = [_tensors(seed) for seed in range(1, 6)]
    expected, _ = _steps(rule, _tensors(0), gradients)
    received, _ = _steps(
        rule, _tensors(0), [[scale * g for g in gs] for gs in gradients]
    )
    for one, two in zip(received, expected):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=2e-5)


def test_one_huge_gradient_does_not_stop_a_training(vanishing):
    """It counts for twice the mean of those before."""
    gradients = [_tensors(seed) for seed in range(1, 10)]
    _, usual = _steps(vanishing, _tensors(0), gradients)
    gradients[4] = [1e4 * g for g in gradients[4]]
    _, outlier = _steps(vanishing, _tensors(0), gradients)
    for one, two in zip(usual.local, outlier.local):
        assert _mean_square(two) < 3.0 * _mean_square(one)


def _mean_square(state):
    if "summary" in state:
        return float(state["summary"][1])
    return float(state["mean_square"])


@pytest.mark.parametrize(
    "rule", [rules.Hierarchical(version=2), rules.LearnedMuon(version=2)]
)
def test_a_bias_travels_far(rule):
    """The mean absolute error of targets of 150, from a bias of zero."""
    parameters = [tf.zeros((1,))]
    state = rule.initial_state(parameters)
    step = tf.function(rule.__call__, autograph=False)
    for _ in range(1000):
        gradient = tf.sign(parameters[0] - 150.0)
        updates, state = step([gradient], parameters, state)
        parameters = [parameters[0] + updates[0]]
    assert abs(float(parameters[0][0]) - 150.0) < 15.0


def test_steps_grow_while_gradients_keep_their_direction():
    rule = rules.LearnedMuon(version=2)
    parameters, gradient = _tensors(0), _tensors(1)
    sizes = {}
    for name, signs in {"alike": (1, 1), "in turns": (1, -1)}.items():
        state = rule.initial_state(parameters)
        for step in range(20):
            signed = [signs[step % 2] * g for g in gradient]
            updates, state = _graph(rule)(signed, parameters, state)
        sizes[name] = [np.linalg.norm(update) for update in updates]
    for alike, in_turns in zip(*sizes.values()):
        assert alike > 5.0 * in_turns


@pytest.mark.parametrize(
    ("version", "decay"), [(1, 0.005), (2, 0.0025), (3, 0.0025)]
)
def test_a_step_of_the_nominal_rule(version, decay):
    """A vector and a matrix whose singular values are equal already."""
    rule = rules.LearnedMuon(version=version)
    vector = np.array([0.3, -0.4], "float32")
    matrix = np.array([[3.0, -4.0], [4.0, 3.0]], "float32")
    state = rule.initial_state([vector, matrix])
    updates, _ = rule([vector, -matrix], [vector, matrix], state)
    # The first direction is the sign; its steps have sizes of 0.05 of those
    # of the parameters, and the size of a vector of two is at least 0.1.
    size = np.sqrt(np.mean(vector**2))
    np.testing.assert_allclose(
        updates[0], -0.05 * size * np.sign(vector), rtol=1e-5
    )
    # Signs of these make a matrix of equal singular values.
    size = np.sqrt(np.mean(matrix**2))
    expected = 0.05 * size * np.sign(matrix) - decay * matrix
    np.testing.assert_allclose(updates[1], expected, rtol=0.02)


def test_what_a_weight_of_the_third_version_does():
    """That from the average of the last feature, the size, to the step.

    Times the logarithm of the columns, of which a vector of two has two.
    """
    rule = rules.LearnedMuon(version=3)
    vector, gradient = np.float32([0.3, -0.4]), np.float32([1.0, -2.0])

    def first_update():
        state = rule.initial_state([vector])
        (update,), _ = rule([gradient], [vector], state)
        return ops.convert_to_numpy(update)

    nominal = first_update()
    (weights,) = rule.trainable_variables
    values = np.zeros(weights.shape, "float32")
    values[-1, 0] = 0.5
    weights.assign(values)
    columns = np.log2(2) / 5.0 - 0.5
    correction = np.log(np.sqrt(np.mean(vector**2))) / 3.0 + 1.0
    correction = 0.5 * columns * correction
    factor = np.exp(3.0 * np.tanh(correction / 3.0))
    np.testing.assert_allclose(first_update(), factor * nominal, rtol=1e-5)


def test_averages_are_of_all_steps_and_later_of_the_last():
    steering = LinearSteering(rules.LearnedMuon(version=3), 7)
    features = np.arange(21.0, dtype="float32").reshape(3, 7)
    memory = np.zeros((3, 7), "float32")
    for step in range(1, 4):
        memory = steering.next_memory(step * features, None, memory, step)
    np.testing.assert_allclose(memory, 2.0 * features, rtol=1e-6)
    memory = steering.next_memory(0.0 * features, None, memory, 1000.0)
    np.testing.assert_allclose(memory, 0.98 * 2.0 * features, rtol=1e-6)


def test_the_third_version_has_no_units():
    with pytest.raises(ValueError, match="`units` must be `None` in version 3"):
        rules.LearnedMuon(units=8, version=3)
    rule = rules.LearnedMuon(version=3)
    again = rules.LearnedMuon.from_config(rule.get_config())
    assert (again.version, again.units) == (3, None)


def test_the_decay_of_the_second_version_stays_where_gradients_vanish():
    """What a gradient of a ten-thousandth adds to a decay of a tenth of it."""
    parameters, gradient = _tensors(0), _tensors(1)
    decays = {}
    for version in (1, 2):
        rule = rules.LearnedMuon(version=version)
        state = rule.initial_state(parameters)
        _, state = _graph(rule)(gradient, parameters, state)
        decays[version] = []
        for tensors in (parameters, [10.0 * p for p in parameters]):
            small = [1e-4 * g for g in gradient]
            updates, _ = _graph(rule)(small, tensors, state)
            decays[version].append(updates[0])
    # Steps of a matrix are relative to its first size: the rest is decay.
    one, two = (np.linalg.norm(decays[v][1] - decays[v][0]) for v in (1, 2))
    assert 50.0 < two / one < 5_000.0


@pytest.mark.parametrize(
    ("gradient", "momentum", "expected"),
    [
        ([1.0, -2.0], [2.0, -0.5], 1.0),
        ([1.0, -2.0], [-2.0, 0.5], -1.0),
        ([3.0, 1.0], [1.0, -1.0], 0.5),
        ([3.0, 1.0], [0.0, 0.0], 0.0),
        # The large coordinate turns round, the many small ones go on.
        ([1e3, *[0.1] * 99], [-1e3, *[0.1] * 99], -1.0),
    ],
)
def test_alignment(gradient, momentum, expected):
    products = np.multiply(gradient, momentum).astype("float32")
    received = step_sizes.alignments(
        ops.array([products.mean()]), ops.array([np.abs(products).mean()])
    )
    np.testing.assert_allclose(received, [expected], atol=1e-5)


def test_nothing_grows_where_the_gradient_has_vanished():
    growths = ops.array([1.0, 1.0, 1.0, 2.99, 0.05])
    received = step_sizes.grown(
        growths,
        alignments=ops.array([1.0, 1.0, -1.0, 1.0, -1.0]),
        ratios=ops.array([1.0, 0.0, 1e-3, 1.0, 1.0]),
        rates=0.2,
        thresholds=0.1,
    )
    np.testing.assert_allclose(
        received, [1.18, 0.98, 0.78, 3.0, 0.0], rtol=1e-5
    )


@pytest.mark.parametrize("zero", ["gradients", "parameters", "both"])
def test_derivatives_at_zeros_are_finite(rule, zero):
    """A model whose last layer starts at zero has gradients of zero."""
    parameters, gradients = _tensors(0), _tensors(1)
    if zero != "gradients":
        parameters = [ops.zeros_like(p) for p in parameters]
    if zero != "parameters":
        gradients = [ops.zeros_like(g) for g in gradients]
    with tf.GradientTape() as tape:
        tape.watch([parameters, gradients])
        received, _ = _steps(rule, parameters, [gradients, _tensors(2)])
        loss = tf.add_n([tf.reduce_sum(tf.square(p)) for p in received])
    derivatives = tape.gradient(loss, [rule.trainable_variables, parameters])
    for derivative in tf.nest.flatten(derivatives):
        assert np.isfinite(derivative).all()
