"""What stays in memory of models that are built, trained and forgotten.

    python benchmarks/many_models.py adam
    python benchmarks/many_models.py general

trains five models one after the other, and prints by how many megabytes the
process grew with each of the last four.
"""

import ctypes
import gc
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_l2l import L2LOptimizer

MODELS = 5


def resident_megabytes():
    gc.collect()
    # What the allocator keeps for later is not in use.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


def train_and_forget(optimizer):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, "relu"),
            keras.layers.Dense(16, "relu"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer, "mse")
    x = np.random.default_rng(0).normal(size=(64, 8))
    model.fit(x, x.sum(axis=1), verbose=0)


def main():
    name = sys.argv[1]
    sizes = []
    for _ in range(MODELS):
        optimizer = (
            keras.optimizers.Adam() if name == "adam" else L2LOptimizer(name)
        )
        train_and_forget(optimizer)
        keras.backend.clear_session()
        sizes.append(resident_megabytes())
    print(name, np.round(np.diff(sizes), 1).tolist(), tf.version.VERSION)


if __name__ == "__main__":
    main()
