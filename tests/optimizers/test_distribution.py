"""`L2LOptimizer` under `MirroredStrategy` agrees with one device."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_l2l import rules
from keras_l2l.optimizers.l2l_optimizer import L2LOptimizer
from keras_l2l.rules import RuleState
from tests.small_fit import built, mirrored


def make(**kwargs):
    rule = rules.CoordinatewiseLSTM(units=3, layers=1, seed=0)
    return L2LOptimizer(rule, **kwargs)


class Normalised(rules.UpdateRule):
    """All variables share one norm and a count, and start is learned."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.start = self.add_weight(shape=(), initializer="ones", name="start")

    def initial_state(self, parameters):
        local = [{"sum": ops.zeros(ops.shape(p))} for p in parameters]
        return RuleState(local, {"memory": self.start + 0.0})

    def call(self, gradients, parameters, state):
        norm = ops.sqrt(sum(ops.sum(ops.square(g)) for g in gradients))
        memory = 0.5 * state.shared["memory"] + norm
        local = [{"sum": s["sum"] + g} for s, g in zip(state.local, gradients)]
        updates = [-0.1 * s["sum"] / memory for s in local]
        return updates, RuleState(local, {"memory": memory})


def grouped():
    return rules.Grouped(
        {
            "biases": rules.CoordinatewiseLSTM(units=3, layers=1, seed=0),
            "others": rules.Hierarchical(units=3, coordinate_units=2),
        },
        paths={"biases": "bias"},
    )


def dense(optimizer, policy="float32", **kwargs):
    ones = keras.initializers.Constant(0.3)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, "tanh", kernel_initializer=ones),
            keras.layers.Dense(1, kernel_initializer="ones"),
        ]
    )
    for layer in model.layers:
        layer.dtype_policy = policy
    model.compile(optimizer, "mse", **kwargs)
    return model


def embedding(optimizer):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Embedding(4, 2, embeddings_initializer="ones"),
            keras.layers.Flatten(),
            keras.layers.Dense(1, kernel_initializer="ones"),
        ]
    )
    model.compile(optimizer, "mse")
    return model


def fit(model, epochs=2):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, size=(16, 3)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)


def results(model):
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return {
        f"{i} {v.path}": v.numpy()
        for i, v in enumerate((*model.variables, *optimizer.variables))
    }


def assert_close(one, two, atol=1e-6):
    ours, theirs = results(one), results(two)
    for (name, a), b in zip(ours.items(), theirs.values(), strict=True):
        # The norm of a gradient is no number of order one.
        rtol = atol if name.endswith("guard_peak") else 1e-7
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("replicas", "build"),
    [
        (2, lambda: embedding(make())),
        (2, lambda: dense(L2LOptimizer(Normalised(), weight_decay=0.01))),
        # These take six seconds each.
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (2, lambda: dense(make())),
                (4, lambda: dense(make())),
                (2, lambda: dense(L2LOptimizer(Normalised()))),
                (2, lambda: dense(L2LOptimizer(grouped()))),
                (2, lambda: dense(make(weight_decay=0.01, use_ema=True))),
                (2, lambda: dense(make(), "mixed_bfloat16")),
            )
        ),
    ],
    ids=[
        "embedding",
        "shared and decay",
        "two",
        "four",
        "shared",
        "grouped",
        "decay and average",
        "bfloat16",
    ],
)
def test_fit_agrees_with_one_device(replicas, build):
    one = built(build())
    fit(one)
    with mirrored(replicas).scope():
        several = built(build())
    fit(several)
    # Replicas round their parts of a gradient to 8 bits.
    is_rounded = one.layers[-1].compute_dtype == "bfloat16"
    assert_close(several, one, atol=5e-3 if is_rounded else 1e-6)


def normalised_convnet(use_bias):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(8, 3, use_bias=use_bias),
            keras.layers.BatchNormalization(synchronized=True),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    rule = rules.Hierarchical(units=2, coordinate_units=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(L2LOptimizer(rule, guard=False), loss)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_bias_before_batch_normalization_follows_rounding_errors(use_bias):
    """Nothing else differs, with replicas or with another order of sums."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6, 6, 3)).astype("float32")
    y = rng.integers(0, 3, 64)
    shuffled = rng.permuted(np.arange(64).reshape(4, 16), axis=1).ravel()

    def trained(model, order=slice(None)):
        data = {"batch_size": 16, "shuffle": False, "verbose": 0}
        model.fit(x[order], y[order], epochs=5, **data)
        return {v.path.partition("/")[2]: v.numpy() for v in model.variables}

    def rename(values):
        """Without the numbers that Keras gives to layers."""
        return {re.sub(r"_\d+/", "/", k): v for k, v in values.items()}

    alone = rename(trained(normalised_convnet(use_bias)))
    other_order = rename(trained(normalised_convnet(use_bias), shuffled))
    with mirrored().scope():
        model = normalised_convnet(use_bias)
    replicas = rename(trained(model))
    moved = {"conv2d/bias", "batch_normalization/moving_mean"}
    for other in (other_order, replicas):
        different = {
            name
            for name in alone
            if np.abs(alone[name] - other[name]).max() > 1e-5
        }
        assert different == (moved if use_bias else set())


@pytest.mark.slow
def test_mixed_float16_agrees_with_one_device():
    def build():
        scaled = keras.optimizers.LossScaleOptimizer(make(), initial_scale=4.0)
        return dense(scaled, "mixed_float16")

    one = build()
    fit(one)
    with mirrored().scope():
        several = build()
    fit(several)
    assert int(several.optimizer.iterations.numpy()) == 4
    assert_close(several, one, atol=1e-3)


@pytest.mark.slow
def test_saved_and_loaded_on_replicas(tmp_path):
    strategy = mirrored()
    with strategy.scope():
        model = dense(make())
    fit(model, epochs=1)
    model.save(tmp_path / "model.keras")
    with strategy.scope():
        mirror = keras.models.load_model(tmp_path / "model.keras")
    alone = keras.models.load_model(tmp_path / "model.keras")
    assert_close(mirror, model, atol=0)
    for each in (model, mirror, alone):
        fit(each, epochs=1)
    assert_close(mirror, model, atol=0)
    assert_close(alone, model)


def in_replicas(strategy, optimizer, gradients, on):
    strategy.run(lambda: optimizer.apply([ops.array(g) for g in gradients], on))


@pytest.mark.parametrize("wrap", [tf.function, lambda step: step])
def test_a_custom_loop_builds_in_the_replicas_and_sums_gradients(wrap):
    strategy = mirrored()
    with strategy.scope():
        on = [keras.Variable([1.0, 2.0]), tf.Variable([3.0])]
        optimizer = L2LOptimizer(Normalised())

        @wrap
        def step():
            in_replicas(strategy, optimizer, [[1.0, -1.0], [2.0]], on)

        step()
        step()
    alone = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
    single = L2LOptimizer(Normalised())
    for _ in range(2):
        single.apply([ops.array([2.0, -2.0]), ops.array([4.0])], alone)
    for one, two in zip(on, alone):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-6)


def test_a_subset_of_the_variables():
    strategy = mirrored()
    with strategy.scope():
        on = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
        optimizer = make()
        optimizer.build(on)
        in_replicas(strategy, optimizer, [[5.0]], on[1:])
    np.testing.assert_array_equal(on[0].numpy(), [1.0, 2.0])
    assert on[1].numpy() != 3.0


def test_eager_accumulation_and_averaging():
    strategy = mirrored()
    with strategy.scope():
        on = [keras.Variable([1.0, 2.0])]
        optimizer = L2LOptimizer(rules.SGD(1.0), gradient_accumulation_steps=2)
        in_replicas(strategy, optimizer, [[1.0, 0.0]], on)
        np.testing.assert_array_equal(on[0].numpy(), [1.0, 2.0])
        in_replicas(strategy, optimizer, [[1.0, 2.0]], on)
        np.testing.assert_array_equal(on[0].numpy(), [-1.0, 0.0])
        averaging = L2LOptimizer(
            rules.SGD(1.0),
            use_ema=True,
            ema_momentum=0.5,
            ema_overwrite_frequency=2,
        )
        in_replicas(strategy, averaging, [[1.0, 1.0]], on)
        np.testing.assert_array_equal(on[0].numpy(), [-3.0, -2.0])
        in_replicas(strategy, averaging, [[1.0, 1.0]], on)
        np.testing.assert_array_equal(on[0].numpy(), [-4.0, -3.0])


@pytest.mark.parametrize(
    ("settings", "how", "message"),
    [
        ({}, {"jit_compile": True}, "`jit_compile=True`"),
        ({}, {"steps_per_execution": 2}, "`steps_per_execution`"),
        (
            {"gradient_accumulation_steps": 2},
            {},
            "`gradient_accumulation_steps`",
        ),
        (
            {"use_ema": True, "ema_overwrite_frequency": 2},
            {},
            "`ema_overwrite_frequency`",
        ),
    ],
)
def test_what_replicas_cannot_do_is_refused(settings, how, message):
    with mirrored().scope():
        model = dense(make(**settings), **how)
    with pytest.raises(ValueError, match=f"{message}.* cannot be used"):
        fit(model)


def test_a_loop_of_the_user_around_the_replicas_is_not_refused():
    strategy = mirrored()
    with strategy.scope():
        on = [keras.Variable([1.0, 2.0])]
        optimizer = L2LOptimizer(rules.SGD(1.0))
        optimizer.build(on)

        @tf.function
        def loop():
            for _ in tf.range(3):
                in_replicas(strategy, optimizer, [[1.0, 0.0]], on)

        loop()
    np.testing.assert_array_equal(on[0].numpy(), [-5.0, 2.0])


def test_an_optimizer_from_outside_the_scope_is_refused():
    optimizer = make()
    with mirrored().scope():
        model = dense(optimizer)
    with pytest.raises(ValueError, match=r"with strategy.scope\(\)"):
        fit(model)
    with mirrored().scope():
        optimizer = make()
    with pytest.raises(ValueError, match=r"with strategy.scope\(\)"):
        optimizer.build([keras.Variable([1.0])])
