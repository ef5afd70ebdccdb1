"""Processor time of a step of `fit` with the default rule and with Adam.

On any backend of Keras, on one thread, the rows in turns:

    KERAS_BACKEND=jax taskset -c 1 python benchmarks/backends.py
"""

import time

import keras
import numpy as np

import keras_l2l

BATCH, STEPS, ROUNDS = 128, 30, 5
OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(1e-3),
    "L2LOptimizer()": keras_l2l.L2LOptimizer,
    "L2LOptimizer(guard=False)": lambda: keras_l2l.L2LOptimizer(guard=False),
}


def main():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH, 784)).astype("float32")
    y = rng.integers(0, 10, STEPS * BATCH)
    models = {name: model_of(make()) for name, make in OPTIMIZERS.items()}
    times = {name: [] for name in models}
    for _ in range(1 + ROUNDS):  # The first compiles.
        for name, model in models.items():
            start = time.process_time()
            model.fit(x, y, batch_size=BATCH, verbose=0)
            times[name].append((time.process_time() - start) / STEPS)
    adam = np.median(times["Adam"][1:])
    print(f"{keras.config.backend()}: MLP 784-256-128-10, batch {BATCH}")
    for name, (first, *others) in times.items():
        median = np.median(others)
        print(
            f"{name:<26} {1e3 * median:6.2f} ms a step, {median / adam:.2f} "
            f"of Adam; the first epoch {STEPS * first:.1f} s"
        )


def model_of(optimizer):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(256, "relu"),
            layers.Dense(128, "relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


if __name__ == "__main__":
    main()
