"""Held-out losses of the rules of `general` to `general-4`, and of Adam.

The rules of the first three untrained, `general-4` as it ships, and Adam at its
default rate. Small tables and digits, a hundred epochs, and what has broken the
first rule. All steps of a training, for all seeds, are one XLA program of JAX,
which needs some ten seconds a task, most of which is compilation:

    KERAS_BACKEND=jax python benchmarks/held_out.py
    KERAS_BACKEND=jax python benchmarks/held_out.py --tasks digits cancer

A rule is pure and in `keras.ops` alone, so it runs there as it is.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import keras
import numpy as np
import sklearn.datasets
from keras import layers, ops

from keras_l2l import presets, rules

ADAM = "Adam 1e-3"

# In ratios, as a loss is zero where all is certain and right.
_SMALLEST_LOSS = 1e-7


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--epochs", type=float, default=1.0, help="multiplies their number"
    )
    arguments = parser.parse_args()
    optimizers = {
        ADAM: rules.Adam(),
        "general": rules.Hierarchical(units=8, coordinate_units=4),
        "general-2": rules.Hierarchical(units=8, coordinate_units=4, version=2),
        "general-3": rules.LearnedMuon(),
        "general-4": presets.load("general-4"),
    }
    names = [name for name in optimizers if name != ADAM]
    print("Final training loss / held-out loss / accuracy; mean of seeds")
    ratios = []
    for task in arguments.tasks:
        made = TASKS[task]()
        results = {
            name: train(rule, *made, arguments.seeds, arguments.epochs)
            for name, rule in optimizers.items()
        }
        means = {name: np.mean(r, axis=1) for name, r in results.items()}
        held_out = {
            n: max(mean[1], _SMALLEST_LOSS) for n, mean in means.items()
        }
        ratios.append([held_out[name] / held_out[ADAM] for name in names])
        columns = (
            f"{name} " + " / ".join(f"{value:.4g}" for value in mean)
            for name, mean in means.items()
        )
        print(f"{task:<16}", " | ".join(columns), flush=True)
    means = np.exp(np.mean(np.log(ratios), axis=0))
    for name, mean, worst in zip(names, means, np.max(ratios, axis=0)):
        print(
            f"{name}: held-out loss {mean:.3f} of Adam's in geometric mean, "
            f"{worst:.2f} at worst"
        )


def train(rule, build_model, train_data, test_data, loss, epochs, seeds, scale):
    """Trains a model with a rule, once for each seed, side by side.

    Args:
        rule: An `UpdateRule`.
        build_model: Function without arguments that returns a model.
        train_data: Pair of arrays.
        test_data: Pair of arrays.
        loss: Function of targets and outputs.
        epochs: Integer, at batches of 32.
        seeds: Integer.
        scale: Float that multiplies the number of epochs.

    Returns:
        Array `[3, seeds]`: the mean training loss of the last tenth of the
        steps, the held-out loss and accuracy.
    """
    models = []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        models.append(build_model())
    model = models[0]
    parameters, buffers = (
        [jnp.stack([v.value for v in same]) for same in zip(*variables)]
        for variables in (
            [m.trainable_variables for m in models],
            [m.non_trainable_variables for m in models],
        )
    )
    inputs, targets = map(jnp.asarray, train_data)
    batches = jnp.stack(
        [
            _batches(len(inputs), max(1, round(scale * epochs)), seed)
            for seed in range(seeds)
        ]
    )

    def model_loss(parameters, buffers, data, training):
        outputs, buffers = model.stateless_call(
            parameters, buffers, data[0], training=training
        )
        return loss(data[1], outputs), (buffers, outputs)

    def run(parameters, buffers, batches):
        def step(carry, batch):
            parameters, buffers, state = carry
            (value, (buffers, _)), gradients = jax.value_and_grad(
                model_loss, has_aux=True
            )(parameters, buffers, (inputs[batch], targets[batch]), True)
            updates, state = rule(gradients, parameters, state)
            parameters = [p + u for p, u in zip(parameters, updates)]
            return (parameters, buffers, state), value

        carry = (parameters, buffers, rule.initial_state(parameters))
        (parameters, buffers, _), losses = jax.lax.scan(step, carry, batches)
        data = tuple(map(jnp.asarray, test_data))
        value, (_, outputs) = model_loss(parameters, buffers, data, False)
        accuracy = jnp.nan
        if jnp.issubdtype(data[1].dtype, jnp.integer):
            accuracy = jnp.mean(jnp.argmax(outputs, -1) == data[1])
        last = losses[-max(1, len(losses) // 10) :].mean()
        return jnp.stack([last, value, accuracy])

    compiled = jax.jit(jax.vmap(run))
    return np.asarray(compiled(parameters, buffers, batches)).T


def _batches(examples, epochs, seed, size=32):
    """Indices `[steps, size]`: each epoch a permutation."""
    generator = np.random.default_rng(seed)
    size = min(size, examples)
    steps = examples // size
    return np.concatenate(
        [
            generator.permutation(examples)[: steps * size].reshape(-1, size)
            for _ in range(epochs)
        ]
    )


def _split(inputs, targets, held_out=0.2):
    order = np.random.default_rng(0).permutation(len(inputs))
    cut = int(held_out * len(inputs))
    inputs = inputs.astype("float32")
    return tuple(
        (inputs[part], targets[part]) for part in (order[cut:], order[:cut])
    )


def _table(name, standardize, classes=None, hidden=(64, 64), loss=None):
    """Dense layers on a table of scikit-learn's; targets as they are."""
    load = getattr(sklearn.datasets, f"load_{name}")
    arguments = {} if classes else {"scaled": False}
    inputs, targets = load(return_X_y=True, **arguments)
    if standardize:
        inputs = (inputs - inputs.mean(0)) / np.maximum(inputs.std(0), 1e-9)
    if classes is None:
        targets = targets[:, None].astype("float32")
    return (
        lambda: _dense(inputs.shape[1], hidden, classes or 1),
        *_split(inputs, targets),
        loss or _cross_entropy,
        100,
    )


def _dense(inputs, hidden, outputs):
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            *(layers.Dense(units, activation="relu") for units in hidden),
            layers.Dense(outputs),
        ]
    )


def _digits_convnet():
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)

    def build_model():
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(16, 3, padding="same", activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(32, 3, padding="same", activation="relu"),
                layers.Flatten(),
                layers.Dense(10),
            ]
        )

    images = pixels.reshape(-1, 8, 8, 1) / 16.0
    return build_model, *_split(images, labels), _cross_entropy, 15


def _six_decades(size=20):
    """Logistic regression whose features span six decades."""
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(1000, size))
    noise = 0.5 * generator.normal(size=1000)
    labels = (inputs @ generator.normal(size=size) + noise > 0).astype("int32")
    inputs = inputs * np.geomspace(1e-3, 1e3, size)
    return (
        lambda: _dense(size, (), 2),
        *_split(inputs, labels),
        _cross_entropy,
        100,
    )


def _ratings():
    """Collaborative filtering: a product of two embeddings, noise mostly."""

    class Ratings(keras.Model):
        def __init__(self):
            super().__init__()
            self.tables = [
                layers.Embedding(count, width, "he_normal")
                for count in (600, 500)
                for width in (50, 1)
            ]
            self(np.zeros((1, 2), "int32"))

        def call(self, pairs, training=False):
            users, items = pairs[:, 0], pairs[:, 1]
            user, user_bias = (table(users) for table in self.tables[:2])
            item, item_bias = (table(items) for table in self.tables[2:])
            product = ops.tensordot(user, item, 2)
            return ops.sigmoid(product + user_bias + item_bias)

    generator = np.random.default_rng(0)
    users, items = generator.integers(0, (600, 500), (20_000, 2)).T
    mean = generator.normal(size=600)[users] + generator.normal(size=500)[items]
    ratings = np.clip(0.65 + 0.15 * mean, 0.0, 1.0)[:, None].astype("float32")
    pairs = np.stack([users, items], axis=1)
    train_data, test_data = (
        (inputs.astype("int32"), targets)
        for inputs, targets in _split(pairs, ratings, 0.1)
    )
    return Ratings, train_data, test_data, _binary_cross_entropy, 3


def _cross_entropy(labels, logits):
    logits = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(logits, labels[:, None], 1))


def _binary_cross_entropy(targets, outputs):
    return ops.mean(keras.losses.binary_crossentropy(targets, outputs))


def _squared_error(targets, outputs):
    return jnp.mean(jnp.square(outputs - targets))


def _absolute_error(targets, outputs):
    return jnp.mean(jnp.abs(outputs - targets))


TASKS = {
    "digits": lambda: _table("digits", False, 10),
    "cancer": lambda: _table("breast_cancer", True, 2),
    "cancer-raw": lambda: _table("breast_cancer", False, 2),
    "wine": lambda: _table("wine", True, 3),
    "wine-raw": lambda: _table("wine", False, 3),
    "diabetes": lambda: _table("diabetes", True, loss=_squared_error),
    "diabetes-linear": lambda: _table(
        "diabetes", True, hidden=(), loss=_absolute_error
    ),
    "six-decades": _six_decades,
    "digits-convnet": _digits_convnet,
    "ratings": _ratings,
}


if __name__ == "__main__":
    main()
