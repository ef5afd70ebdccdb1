"""Learn an optimizer from the training of your own model, and use it.

    python examples/learn_your_own.py

Meta-training resumes where it was stopped, from `--output`.
"""

import argparse
import pathlib

import keras
import numpy as np

from keras_l2l import L2LOptimizer, MetaTrainer, load_rule, rules, tasks

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--steps-per-epoch", type=int, default=50)
parser.add_argument("--output", type=pathlib.Path, default="runs/my_rule")
arguments = parser.parse_args()

# A regression with noise; yours is any `tf.data.Dataset` of batches or arrays.
rng = np.random.default_rng(0)
x = rng.normal(size=(2000, 8)).astype("float32")
y = np.sin(x).sum(-1, keepdims=True) + 0.1 * rng.normal(size=(2000, 1))


def build_model():
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )


task = tasks.KerasTask(build_model, (x, y), "mse", batch_size=64)
rule = rules.CoordinatewiseLSTM(units=20, layers=2, output_scale=0.1, seed=0)
trainer = MetaTrainer(rule, task, horizon=100, unroll=20)
trainer.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1.0))
trainer.fit(
    epochs=arguments.epochs,
    steps_per_epoch=arguments.steps_per_epoch,
    validation_task=task,
    callbacks=[keras.callbacks.EarlyStopping(patience=5)],
    backup_dir=arguments.output / "backup",
    verbose=2,
)
rule.export(arguments.output / "rule")

# Later, or elsewhere: load it and train with it.
model = build_model()
model.compile(L2LOptimizer(load_rule(arguments.output / "rule")), loss="mse")
history = model.fit(x, y, batch_size=64, epochs=3, verbose=2)
print(f"loss after three epochs: {history.history['loss'][-1]:.3f}")
