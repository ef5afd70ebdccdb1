"""Train a recurrent model of text with a learned optimizer, and with Adam.

    python examples/text.py

It predicts the next character of the reference that comes with Python, and
then writes a line of its own. Writes the curves to `text.png`.
"""

import argparse
from pydoc_data import topics

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers

from keras_l2l import L2LOptimizer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=500)
arguments = parser.parse_args()

text = "".join(topics.topics.values())
alphabet, codes = np.unique(list(text), return_inverse=True)
LENGTH, BATCH = 64, 32
starts = np.arange(0, len(codes) - LENGTH, LENGTH)
pieces = codes[starts[:, None] + np.arange(LENGTH + 1)]
pieces = np.random.default_rng(0).permutation(pieces)[: arguments.steps * BATCH]
x, y = pieces[:, :-1], pieces[:, 1:]


def build_model():
    keras.utils.set_random_seed(0)  # the same start for both
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(len(alphabet), 32),
            layers.GRU(96, return_sequences=True),
            layers.Dense(len(alphabet)),
        ]
    )


def write(model, line="The ", characters=60):
    generator = np.random.default_rng(0)
    for _ in range(characters):
        known = np.searchsorted(alphabet, list(line[-LENGTH:]))
        logits = keras.ops.convert_to_numpy(model(known[None]))[0, -1]
        chances = np.exp(2.0 * (logits - logits.max()))
        line += generator.choice(alphabet, p=chances / chances.sum())
    return line


class Losses(keras.callbacks.Callback):
    """The mean loss after each step."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])


steps = -(-len(x) // BATCH)
figure, axes = plt.subplots()
for name, optimizer in {
    "L2LOptimizer(total_steps)": L2LOptimizer(total_steps=steps),
    "Adam(0.003)": keras.optimizers.Adam(0.003),
}.items():
    model = build_model()
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    curve = Losses()
    model.fit(x, y, batch_size=BATCH, callbacks=[curve], verbose=0)
    axes.plot(curve.losses, label=name)
    print(f"{name}: mean loss {curve.losses[-1]:.3f}")
    print(f"  {write(model)!r}")
axes.set(xlabel="step", ylabel="mean training loss so far")
axes.legend()
figure.savefig("text.png", dpi=150)
