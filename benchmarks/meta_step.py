"""What a step of meta-training costs, each row measured in one run.

    python benchmarks/meta_step.py

The workload: the paper's MNIST optimizee on random images (784-20-10,
batch 128, 15,910 coordinates) and `CoordinatewiseLSTM(20, 2)`, unroll 20. The
rows take turns, so that a machine whose speed drifts favours none.
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from keras_l2l import rules, tasks
from keras_l2l.meta_gradient import TruncatedBackpropagation
from keras_l2l.unroll import start, unroll

PIXELS, CLASSES, UNITS, BATCH_SIZE = 784, 10, 20, 128


def make_task():
    """The shapes of MNIST without its data, which change no cost."""
    rng = np.random.default_rng(0)
    images = rng.random((1000, PIXELS), "float32")
    labels = rng.integers(0, CLASSES, 1000)
    return tasks.KerasTask(
        build_model,
        (images, labels),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=BATCH_SIZE,
    )


def build_model():
    return keras.Sequential(
        [
            keras.Input((PIXELS,)),
            keras.layers.Dense(UNITS, activation="sigmoid"),
            keras.layers.Dense(CLASSES),
        ]
    )


def meta_step(task, steps, estimator):
    """One outer step: an unroll and an update of the rule."""
    rule = rules.CoordinatewiseLSTM(units=20, layers=2, seed=0)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(rule.trainable_variables)
    weights = tf.ones(steps)

    @tf.function
    def step(carry):
        losses, gradients, _ = estimator(
            rule, task, carry, weights, tf.constant([0, 0])
        )
        optimizer.apply(gradients, rule.trainable_variables)
        return losses[-1]

    carry = start(rule, task, 1)
    return lambda: step(carry)


def outer_tape(rule, task, carry, weights, seed):
    """(a): an outer GradientTape through the whole unroll."""
    with tf.GradientTape() as tape:
        carry, trajectory = unroll(
            rule, task, carry, weights.shape[0], differentiable=True
        )
        objective = tf.reduce_mean(weights * trajectory.losses[1:])
    variables = [v.value for v in rule.trainable_variables]
    return trajectory.losses, tape.gradient(objective, variables), carry


def forward(task, rule, steps):
    """Inner steps alone: the optimizee's training, nothing learned."""
    carry = start(rule, task, 1)
    step = tf.function(lambda c: unroll(rule, task, c, steps)[1].losses[-1])
    return lambda: step(carry)


def keras_adam(task, steps):
    """(b): the same training steps by `keras.optimizers.Adam`."""
    model = build_model()
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step():
        loss = tf.constant(0.0)
        for index in tf.range(steps):
            x, y = task.sample_batch(tf.stack([1, index]))
            with tf.GradientTape() as tape:
                loss = loss_function(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
        return loss

    return step


def measure(rows, repeats, steps):
    """Seconds of the first call, and of the later ones per inner step."""
    first, times = {}, {name: [] for name in rows}
    for name, function in rows.items():
        begin = time.perf_counter()
        float(function())
        first[name] = time.perf_counter() - begin
    for _ in range(repeats):
        for name, function in rows.items():
            begin = time.perf_counter()
            float(function())
            times[name].append((time.perf_counter() - begin) / steps)
    return first, {name: statistics.median(t) for name, t in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unroll", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    steps, task = arguments.unroll, make_task()
    ours = "meta-gradient"
    rows = {
        ours: meta_step(task, steps, TruncatedBackpropagation()),
        "meta-gradient, a quarter of the coordinates": meta_step(
            task, steps, TruncatedBackpropagation(coordinate_share=0.25)
        ),
        "outer GradientTape through everything": meta_step(
            task, steps, outer_tape
        ),
        "training by the rule alone": forward(
            task, rules.CoordinatewiseLSTM(seed=0), steps
        ),
        "training by rules.Adam": forward(task, rules.Adam(), steps),
        "training by keras.optimizers.Adam": keras_adam(task, steps),
    }
    first, seconds = measure(rows, arguments.repeats, steps)
    records = [
        {
            "row": name,
            "first_call_seconds": first[name],
            "milliseconds_per_inner_step": seconds[name] * 1e3,
            "time_relative_to_meta_gradient": seconds[name] / seconds[ours],
        }
        for name in rows
    ]
    if arguments.json:
        print(json.dumps(records, indent=2))
        return
    table = Table("", "first call", "ms / inner step", "relative")
    for record in records:
        table.add_row(
            record["row"],
            f"{record['first_call_seconds']:.1f} s",
            f"{record['milliseconds_per_inner_step']:.2f}",
            f"{record['time_relative_to_meta_gradient']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
