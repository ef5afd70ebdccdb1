"""Learn an optimizer from the training of your own model, and compare it.

    python examples/learn_your_own.py

The default rule is trained further on one model for about five minutes, and
then trains fresh models beside the default as it is shipped and a tuned Adam.
Writes the rule to `--output`, from where a run that was stopped goes on, and
the curves to `learned.png`.
"""

import argparse
import pathlib

import keras
import numpy as np

from keras_l2l import (
    L2LOptimizer,
    MetaTrainer,
    evaluation,
    load_rule,
    presets,
    reports,
    tasks,
)
from keras_l2l.meta_gradients import PersistentES

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=15)
parser.add_argument("--steps-per-epoch", type=int, default=40)
parser.add_argument("--horizon", type=int, default=200)
parser.add_argument("--seeds", type=int, default=10)
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
rule = presets.load()
trainer = MetaTrainer(
    *(rule, task),
    horizon=arguments.horizon,
    unroll=20,
    optimizees=2,
    loss_transform="log",
    loss_weights=np.arange(1, arguments.horizon + 1),  # the end counts most
    estimator=PersistentES(stddev=0.02),
)
trainer.compile(keras.optimizers.Adam(2e-3, beta_2=0.99), jit_compile=True)
trainer.fit(
    epochs=arguments.epochs,
    steps_per_epoch=arguments.steps_per_epoch,
    validation_task=task,
    backup_dir=arguments.output / "backup",
    verbose=2,
)
rule.export(arguments.output / "rule")

comparison = evaluation.compare(
    {"learned": rule, "the default": presets.load()},
    task,
    steps=arguments.horizon,
    seeds=arguments.seeds,
    sweep_seeds=1,
    baselines={"Adam": evaluation.BASELINES["Adam"]},
)
reports.plot_learning_curves(comparison, "learned.png")
for summary in comparison.summaries():
    final = summary.final_loss
    print(
        f"{summary.optimizer}: final loss {final.mean:.4f} ± "
        f"{final.standard_error:.4f}"
    )

# Later, or elsewhere: load it and train with it.
model = build_model()
model.compile(L2LOptimizer(load_rule(arguments.output / "rule")), loss="mse")
model.fit(x, y, batch_size=64, epochs=3, verbose=2)
