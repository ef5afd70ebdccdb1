"""A photograph as a function of its coordinates: the default against Adam.

    python benchmarks/photograph.py  # seven minutes on one core

A perceptron with random Fourier features learns the colours of four fifths of
the pixels of a photograph of scikit-learn's, and is tested on the others. This
was chosen when the preset `general-3` was fixed, and run once.

Reference:
    [Tancik et al., 2020](https://arxiv.org/abs/2006.10739)
"""

import functools

import keras
import numpy as np
import sklearn.datasets

from keras_l2l import L2LOptimizer

RATES = (1e-3, 3e-3, 1e-2)
SEEDS = range(5)


def main():
    train_data, test_data = load()

    def show(name, make):
        losses = np.array([fit(make(), seed) for seed in SEEDS])
        mean = losses.mean(axis=0)
        error = losses.std(axis=0, ddof=1) / len(losses) ** 0.5
        print(f"{name}: training loss {mean[0]:.5f}, ", end="")
        print(f"held-out loss {mean[1]:.5f} ± {error[1]:.5f}", flush=True)

    def fit(optimizer, seed):
        keras.utils.set_random_seed(seed)
        model = build_model()
        model.compile(optimizer, "mse")
        history = model.fit(
            *train_data,
            batch_size=128,
            epochs=30,
            verbose=0,
            validation_data=test_data,
        ).history
        return history["loss"][-1], history["val_loss"][-1]

    for rate in RATES:
        show(f"Adam, {rate}", functools.partial(keras.optimizers.Adam, rate))
    show("default", L2LOptimizer)


def load():
    """Pairs of features `[n, 64]` and colours `[n, 3]`: training and test."""
    image = sklearn.datasets.load_sample_image("flower.jpg")[::5, ::5] / 255.0
    height, width, _ = image.shape
    axes = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    waves = places @ (4.0 * np.random.default_rng(1).normal(size=(2, 32)))
    features = np.concatenate([np.sin(waves), np.cos(waves)], axis=1)
    order = np.random.default_rng(0).permutation(len(features))
    cut = len(order) // 5
    data = features.astype("float32"), image.reshape(-1, 3).astype("float32")
    return tuple(
        tuple(array[part] for array in data)
        for part in (order[cut:], order[:cut])
    )


def build_model():
    return keras.Sequential(
        [
            keras.Input((64,)),
            *(keras.layers.Dense(128, activation="gelu") for _ in range(3)),
            keras.layers.Dense(3, activation="sigmoid"),
        ]
    )


if __name__ == "__main__":
    main()
