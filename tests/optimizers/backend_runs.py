"""Trainings that are run once on each backend of Keras, without TensorFlow.

    KERAS_BACKEND=jax python -m tests.optimizers.backend_runs DIRECTORY

reads `rules.json` of the directory, rules as `rule_config.serialize` describes
them, and writes `jax.npz`: the numbers that are to be the same everywhere.
"""

import functools
import json
import os
import pathlib
import sys
import warnings

if os.environ["KERAS_BACKEND"] != "tensorflow":
    sys.modules["tensorflow"] = None  # What imports it fails.

import keras
import numpy as np

import keras_l2l
from keras_l2l import rules
from keras_l2l.optimizers import rule_config

SHAPES = {"dense/kernel": (4, 3), "dense/bias": (3,), "scale": ()}
LARGE = {"large/kernel": (130, 131), "large/bias": (131,)}
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "optimizers"
BACKEND = keras.config.backend()


def variables_of(shapes, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for path, shape in shapes.items():
        *scopes, name = path.split("/")
        with keras.name_scope("/".join(scopes) or "top"):
            value = rng.normal(size=shape).astype("float32")
            made.append(keras.Variable(value, name=name))
    return made


def gradients_of(shapes, steps, bad=()):
    """Random gradients; those of the steps in `bad` are multiplied."""
    rng = np.random.default_rng(1)
    factors = dict(bad)
    return [
        [
            (factors.get(step, 1.0) * rng.normal(size=shape)).astype("float32")
            for shape in shapes.values()
        ]
        for step in range(steps)
    ]


def numbers(variables):
    """Their values in a dtype that every file and backend has."""
    values = [keras.ops.cast(variable, "float32") for variable in variables]
    return [np.array(keras.ops.convert_to_numpy(value)) for value in values]


def compiled_step(optimizer, variables):
    """A function that applies gradients as Keras's trainer would."""
    if BACKEND != "jax":
        return lambda gradients: optimizer.apply(
            [keras.ops.convert_to_tensor(g) for g in gradients], variables
        )
    import jax

    step = jax.jit(optimizer.stateless_apply)

    def apply(gradients):
        targets = [variables, optimizer.variables]
        values = [[v.value for v in group] for group in targets]
        for group, new in zip(targets, step(values[1], gradients, values[0])):
            for variable, value in zip(group, new):
                variable.assign(value)

    return apply


def train(optimizer, shapes=SHAPES, steps=4, bad=(), lose=None):
    """The variables after each step, and those of the optimizer at the end."""
    variables = variables_of(shapes)
    optimizer.build(variables)
    step = compiled_step(optimizer, variables)
    values = []
    for number, gradients in enumerate(gradients_of(shapes, steps, bad)):
        if number == lose:
            variables[0].assign(np.full(variables[0].shape, np.nan))
        step(gradients)
        values += numbers(variables)
    return [*values, *numbers(optimizer.variables)]


def options():
    """What is of Keras's own: each option, with the guard at work."""
    make = functools.partial(keras_l2l.L2LOptimizer, rules.Adam(0.01))
    bad = {3: np.nan, 5: 1e9}
    schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 2, 0.9)
    yield "plain", make(), {"bad": bad}
    yield "no guard", make(guard=False), {}
    yield "weight decay", make(weight_decay=0.1), {"bad": bad}
    yield "clipnorm", make(clipnorm=0.5), {"bad": bad}
    yield "global clipnorm", make(global_clipnorm=0.5), {}
    yield "average", make(use_ema=True, ema_momentum=0.5), {"bad": bad}
    overwritten = {"use_ema": True, "ema_overwrite_frequency": 3}
    yield "overwritten", make(**overwritten), {}
    yield "accumulated", make(gradient_accumulation_steps=2), {}
    yield "loss scale", make(loss_scale_factor=8.0), {}
    yield "schedule", make(learning_rate=schedule), {}
    yield "total steps", make(total_steps=5), {}
    yield "narrow", make(state_dtype="bfloat16"), {}
    # A variable is lost, and comes back; then a trial after many bad steps.
    trial = dict.fromkeys(range(7, 30), np.nan)
    yield "lost", make(), {"lose": 5, "bad": {5: np.nan, 6: np.nan}}
    yield "trial", make(use_ema=True), {"bad": trial, "steps": 33}


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 8)).astype("float32")
    return x, x[:, :1] * x[:, 1:2]


def model_of(optimizer):
    layers = [keras.Input((8,)), keras.layers.Dense(16, "tanh")]
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    rng = np.random.default_rng(2)
    model.set_weights(
        [0.3 * rng.normal(size=w.shape) for w in model.get_weights()]
    )
    model.compile(optimizer, "mse")
    return model


def fit(model, epochs):
    model.fit(*data(), batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return numbers([*model.variables, *model.optimizer.variables])


def resumed(optimizer, directory):
    """Two epochs; asserts that a saved and loaded model makes the same."""
    model = model_of(optimizer)
    fit(model, 1)
    path = directory / f"{BACKEND}-{optimizer.name}.keras"
    model.save(path)
    expected = fit(model, 1)
    loaded = keras.models.load_model(path)
    assert type(loaded.optimizer) is keras_l2l.L2LOptimizer
    for one, two in zip(fit(loaded, 1), expected, strict=True):
        np.testing.assert_array_equal(one, two)
    return expected


def golden(name):
    """What a model that TensorFlow saved goes on to, on this backend."""
    model = keras.models.load_model(GOLDEN / f"{name}.keras")
    with np.load(GOLDEN / f"{name}.npz") as file:
        x, y = file["x"], file["y"]
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return numbers(model.variables)


def all_runs(directory):
    """Yields names and lists of arrays."""
    for name, config in json.loads(
        (directory / "rules.json").read_text()
    ).items():
        rule = rule_config.deserialize(config)
        yield f"rule {name}", train(keras_l2l.L2LOptimizer(rule))
    lstm = keras_l2l.L2LOptimizer("lstm-mnist")
    yield "blocks", train(lstm, shapes=LARGE, steps=2)
    for name, optimizer, settings in options():
        yield f"option {name}", train(optimizer, **{"steps": 8, **settings})
    for preset in keras_l2l.presets.names():
        yield f"preset {preset}", keras_l2l.presets.load(preset).get_weights()
    for preset in (
        "general-2",
        "general-3",
        "general-4",
        "lstm-mnist",
        "rnnprop",
    ):
        optimizer = keras_l2l.L2LOptimizer(preset, name=preset)
        yield f"fit {preset}", resumed(optimizer, directory)
    for path in sorted(GOLDEN.glob("*.keras")):
        yield f"golden {path.stem}", golden(path.stem)


def main(directory):
    warnings.filterwarnings("ignore", "The guard of")
    made = {}
    for name, arrays in all_runs(pathlib.Path(directory)):
        made |= {f"{name}/{i:03}": array for i, array in enumerate(arrays)}
    if BACKEND != "tensorflow":
        assert sys.modules["tensorflow"] is None
        assert not [m for m in sys.modules if m.startswith("tensorflow.")]
    np.savez(f"{directory}/{BACKEND}.npz", **made)


if __name__ == "__main__":
    main(*sys.argv[1:])
