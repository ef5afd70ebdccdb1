"""The invariants that Keras tests on its own optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_l2l import presets, rules
from keras_l2l.optimizers import divergence_guard
from keras_l2l.optimizers.l2l_optimizer import L2LOptimizer
from tests.small_fit import compiled, fit, make


def descent(**kwargs):
    """The rule that adds the negative gradient: shows what it was given."""
    return L2LOptimizer(rules.SGD(1.0), **kwargs)


def variable(value=((1.0, 2.0), (3.0, 4.0)), name="kernel"):
    return keras.Variable(np.array(value, "float32"), name=name)


ONES = np.ones((2, 2), "float32")


# Gradients, counters, variables.


def test_iterations_are_counted_and_settable():
    optimizer, kernel = make(), variable()
    optimizer.apply_gradients([(ONES, kernel)])
    optimizer.apply_gradients([(ONES, kernel)])
    assert int(optimizer.iterations.numpy()) == 2
    optimizer.iterations.assign(7)
    optimizer.apply_gradients([(ONES, kernel)])
    assert int(optimizer.iterations.numpy()) == 8


def test_absent_gradients():
    optimizer, kernel = make(), variable()
    optimizer.apply([])
    with pytest.raises(ValueError, match="No gradients provided"):
        optimizer.apply([None], [kernel])
    assert int(optimizer.iterations.numpy()) == 0


def test_the_variables_must_be_those_it_was_built_for():
    optimizer, kernel = make(), variable()
    with pytest.raises(ValueError, match="must already be built"):
        optimizer.apply([ONES])
    optimizer.build([kernel])
    optimizer.apply([ops.array(ONES)])
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply([ONES], [variable()])
    with pytest.raises(ValueError, match="list of 2 gradients"):
        optimizer.apply([ONES, ONES])


def test_set_weights():
    first, kernel = make(), variable()
    first.apply([ONES], [kernel])
    second = make()
    with pytest.raises(ValueError, match="not yet been built"):
        second.set_weights([])
    second.build([kernel])
    second.set_weights([v.numpy() for v in first.variables])
    for one, two in zip(first.variables, second.variables):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


@pytest.mark.parametrize("metrics", [None, ["mae"]])
def test_the_update_is_traced_once(monkeypatch, metrics):
    """`fit()` traces a step twice that creates variables, as metrics do."""
    traces = []
    check = divergence_guard.Guard.check
    monkeypatch.setattr(
        divergence_guard.Guard,
        "check",
        lambda *arguments: traces.append(1) or check(*arguments),
    )
    steps = []
    model = compiled(run_eagerly=False, metrics=metrics)
    train_step = model.train_step
    monkeypatch.setattr(
        model, "train_step", lambda data: steps.append(1) or train_step(data)
    )
    fit(model)
    assert len(traces) == 1
    assert len(steps) == (1 if metrics is None else 2)


def test_constraints_are_applied():
    kernel = variable()
    kernel.constraint = keras.constraints.NonNeg()
    descent().apply([10.0 * ONES], [kernel])
    np.testing.assert_array_equal(kernel.numpy(), np.zeros((2, 2)))


def test_variables_that_their_gradient_overwrites():
    for steps in (None, 2):
        scale, kernel = variable(name="scale"), variable()
        scale.overwrite_with_gradient = True
        optimizer = descent(gradient_accumulation_steps=steps, use_ema=True)
        for _ in range(steps or 1):
            optimizer.apply_gradients([(5.0 * ONES, scale), (ONES, kernel)])
        np.testing.assert_array_equal(scale.numpy(), 5.0 * ONES)
        np.testing.assert_array_equal(kernel.numpy(), [[0, 1], [2, 3]])


EMPTY_SHAPES = [(0, 4), (0,), (3, 0, 2)]


@pytest.mark.parametrize("shape", EMPTY_SHAPES)
@pytest.mark.parametrize("rule", [presets.DEFAULT, rules.Adam(0.1)])
def test_variables_without_elements(rule, shape):
    kernel, empty = variable(), keras.Variable(np.zeros(shape, "float32"))
    optimizer = L2LOptimizer(rule, weight_decay=0.1, use_ema=True)
    twin, twin_kernel = (
        optimizer.from_config(optimizer.get_config()),
        variable(),
    )
    for _ in range(2):
        optimizer.apply([ops.zeros(shape), ONES], [empty, kernel])
        twin.apply([ONES], [twin_kernel])
    np.testing.assert_array_equal(kernel.numpy(), twin_kernel.numpy())
    optimizer.apply([ops.zeros(shape)], [empty])


@pytest.mark.parametrize("rule", [presets.DEFAULT, rules.Adam(0.1)])
def test_a_model_without_trainable_variables(rule):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.trainable = False
    model.compile(L2LOptimizer(rule), "mse")
    before = model.get_weights()
    with pytest.warns(UserWarning, match="does not have any trainable"):
        model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)
    for one, two in zip(before, model.get_weights()):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("dtype", ["complex64", "int32", "bool"])
def test_variables_that_no_rule_can_train_are_refused_by_name(dtype):
    bad = keras.Variable(
        np.zeros(2, dtype), dtype=dtype, trainable=False, name="phase"
    )
    with pytest.raises(ValueError, match=f"variable 'phase' of dtype {dtype}"):
        make().build([variable(), bad])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_variables_of_every_float_dtype_are_trained(dtype):
    kernel = keras.Variable(np.ones(2), dtype=dtype)
    for rule in (presets.DEFAULT, rules.Adam(0.1)):
        before = kernel.numpy()
        optimizer = L2LOptimizer(rule, weight_decay=0.01, use_ema=True)
        optimizer.apply([ops.ones((2,), dtype)], [kernel])
        assert (ops.convert_to_numpy(kernel) != before).all()


def test_nothing_moves_without_a_gradient():
    """The first version of the rule moves; the second is for the default."""
    rule = rules.Hierarchical(units=2, coordinate_units=2, version=2)
    kernel, optimizer = variable(), L2LOptimizer(rule)
    for _ in range(5):
        optimizer.apply([0.0 * ONES], [kernel])
    np.testing.assert_array_equal(kernel.numpy(), variable().numpy())


# Clipping, decay, averages, accumulation, loss scales.


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"clipnorm": 1.0}, ([0.6, 0.8], [0.0, 1.0])),
        ({"clipvalue": 3.5}, ([3.0, 3.5], [0.0, 3.5])),
        ({"global_clipnorm": 13.0}, ([3.0, 4.0], [0.0, 12.0])),
        ({"global_clipnorm": 1.3}, ([0.3, 0.4], [0.0, 1.2])),
    ],
)
def test_clipping(setting, expected):
    on = [variable([0.0, 0.0]), variable([0.0, 0.0])]
    gradients = [ops.array([3.0, 4.0]), ops.array([0.0, 12.0])]
    descent(**setting).apply(gradients, on)
    for one, two in zip(on, expected):
        np.testing.assert_allclose(-one.numpy(), two, rtol=1e-6)


def test_one_way_of_clipping_at_most():
    with pytest.raises(ValueError, match="Only one of `clipnorm`"):
        make(clipnorm=1.0, clipvalue=1.0)


def test_weight_decay_is_times_the_learning_rate_and_can_exclude():
    on = [variable(), variable(name="bias"), variable(name="other")]
    optimizer = descent(weight_decay=0.5, learning_rate=0.5)
    optimizer.exclude_from_weight_decay(var_list=[on[2]], var_names=["bias"])
    optimizer.apply([0.0 * ONES] * 3, on)
    for one, factor in zip(on, (0.75, 1.0, 1.0)):
        np.testing.assert_allclose(one.numpy(), factor * variable().numpy())


def test_a_weight_decay_that_is_set_between_two_trainings():
    kernel, optimizer = variable(), descent(learning_rate=0.5)
    for weight_decay in (None, 0.5):
        optimizer.weight_decay = weight_decay
        tf.function(lambda: optimizer.apply([0.0 * ONES], [kernel]))()
    np.testing.assert_allclose(kernel, 0.75 * variable().numpy())


def test_the_recurrence_of_the_average():
    kernel = variable()
    optimizer = make(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3)
    twin, twin_kernel = make(), variable()
    average = None
    for step in range(1, 4):
        optimizer.apply([step * ONES], [kernel])
        twin.apply([step * ONES], [twin_kernel])
        value = twin_kernel.numpy()
        average = value if step == 1 else 0.9 * average + 0.1 * value
        moving = optimizer._model_variables_moving_average[0]
        np.testing.assert_allclose(moving.numpy(), average, rtol=1e-6)
        expected = average if step == 3 else value
        np.testing.assert_allclose(kernel.numpy(), expected, rtol=1e-6)


def test_a_training_without_a_step_keeps_the_weights():
    """Keras's own optimizers put in an average that is zero yet."""
    model = compiled(make(use_ema=True))
    before = model.get_weights()
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(np.zeros((0, 3)), np.zeros((0, 1)), verbose=0)
    for one, two in zip(before, model.get_weights()):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("decay", [None, 0.05])
def test_accumulation_is_a_step_on_the_mean(decay):
    once, kernel = make(weight_decay=decay), variable()
    thrice = make(weight_decay=decay, gradient_accumulation_steps=3)
    other = variable()
    rng = np.random.default_rng(0)
    for _ in range(3):
        gradients = rng.normal(size=(3, 2, 2)).astype("float32")
        before = other.numpy()
        for gradient in gradients[:2]:
            thrice.apply([gradient], [other])
            np.testing.assert_array_equal(other.numpy(), before)
        thrice.apply([gradients[2]], [other])
        once.apply([gradients.mean(0)], [kernel])
        np.testing.assert_allclose(other.numpy(), kernel.numpy(), atol=1e-6)
    assert int(thrice.iterations.numpy()) == 3


def test_accumulation_in_a_graph():
    settings = {"gradient_accumulation_steps": 2}
    compiled_model = compiled(make(**settings), run_eagerly=False)
    eager_model = compiled(make(**settings))
    fit(compiled_model)
    fit(eager_model)
    for one, two in zip(
        eager_model.get_weights(), compiled_model.get_weights()
    ):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_static_loss_scale():
    kernel, other = variable(), variable()
    scaled = make(loss_scale_factor=1024.0)
    scaled.apply([1024.0 * ONES], [kernel])
    make().apply([ONES], [other])
    assert scaled.scale_loss(1.0) == 1024.0
    np.testing.assert_allclose(kernel.numpy(), other.numpy())


def test_dynamic_loss_scale_skips_non_finite_steps():
    optimizer = keras.optimizers.LossScaleOptimizer(make(), initial_scale=8.0)
    kernel, other = variable(), variable()
    optimizer.apply([8.0 * ONES], [kernel])
    make().apply([ONES], [other])
    np.testing.assert_allclose(kernel.numpy(), other.numpy())
    inner = optimizer.inner_optimizer
    before = [kernel.numpy(), *[v.numpy() for v in inner.variables]]
    bad = ONES.copy()
    bad[0, 0] = np.inf
    optimizer.apply([bad], [kernel])
    after = [kernel.numpy(), *[v.numpy() for v in inner.variables]]
    for one, two in zip(before, after):
        np.testing.assert_array_equal(one, two)
    assert float(optimizer.scale_loss(1.0)) == 4.0


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def test_mixed_precision_keeps_the_hidden_state_in_float32(policy):
    x = np.arange(8) % 3
    model = keras.Sequential(
        [
            keras.Input((), dtype="int32"),
            keras.layers.Embedding(3, 2),
            keras.layers.Dense(1),
        ]
    )
    model.compile(make(), "mse")
    model.fit(x, x, batch_size=4, epochs=3, verbose=0)
    optimizer = model.optimizer
    if policy == "mixed_float16":
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        optimizer = optimizer.inner_optimizer
    floats = {v.dtype for v in optimizer.variables if "float" in v.dtype}
    assert floats == {"float32"}
    assert int(optimizer.iterations.numpy()) > 0
    assert all(np.isfinite(w).all() for w in model.get_weights())


# The learning rate.


def test_every_kind_of_learning_rate():
    decay = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    for learning_rate, factors in (
        (0.5, (0.5, 0.5)),
        (lambda: 0.25, (0.25, 0.25)),
        (decay, (0.5, 0.25)),
    ):
        optimizer, kernel = descent(learning_rate=learning_rate), variable()
        for factor in factors:
            before = kernel.numpy()
            optimizer.apply([ONES], [kernel])
            np.testing.assert_allclose(before - kernel.numpy(), factor * ONES)


def test_setting_the_learning_rate():
    optimizer, kernel = descent(), variable()
    optimizer.learning_rate = 0.125
    optimizer.apply([ONES], [kernel])
    np.testing.assert_allclose(kernel.numpy(), variable().numpy() - 0.125)
    count = len(optimizer.variables)
    optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(1.0, 9)
    assert len(optimizer.variables) == count - 1
    with pytest.raises(TypeError, match="not settable"):
        optimizer.learning_rate = 0.1


def test_callbacks_set_the_learning_rate():
    model = compiled()
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5**epoch)
    fit(model, epochs=3, callbacks=[schedule])
    assert float(model.optimizer.learning_rate) == 0.25
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.1, min_delta=1e9, patience=1
    )
    fit(model, epochs=2, callbacks=[plateau])
    np.testing.assert_allclose(float(model.optimizer.learning_rate), 0.025)


def test_swap_ema_weights():
    model = compiled(make(use_ema=True, ema_momentum=0.5))
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    fit(model, epochs=2, callbacks=[swap])
    averages = model.optimizer._model_variables_moving_average
    for one, two in zip(model.trainable_variables, averages):
        np.testing.assert_array_equal(one.numpy(), two.numpy())
