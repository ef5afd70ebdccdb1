"""`L2LOptimizer` in two processes: a custom loop, as Keras cannot `fit`."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import json, sys
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()

import keras
from tests.optimizers.test_workers import data, train
from keras_l2l import L2LOptimizer, rules

result = train(strategy, L2LOptimizer, rules.SGD, 0.02)
with strategy.scope():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
try:
    model.fit(*data(), batch_size=8, verbose=0)
    result["fit"] = "works"
except ValueError as error:
    result["fit"] = str(error)
print(json.dumps(result))
"""


def data():
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    return x, x.sum(1, keepdims=True)


def train(strategy, optimizer_class, rule_class, learning_rate):
    """The loop of the documentation: losses and weights after three steps."""
    import keras
    import tensorflow as tf

    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(2, "tanh", kernel_initializer="ones"),
                keras.layers.Dense(1, kernel_initializer="ones"),
            ]
        )
        optimizer = optimizer_class(rule_class(learning_rate))
        optimizer.build(model.trainable_variables)

    def dataset(context):
        x, y = data()
        workers, index = context.num_input_pipelines, context.input_pipeline_id
        batch = x[index::workers], y[index::workers]
        return tf.data.Dataset.from_tensors(batch).repeat(3)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2) / replicas
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    @tf.function
    def train_step(batch):
        losses = strategy.run(step, args=batch)
        return strategy.reduce("SUM", losses, axis=None)

    batches = strategy.distribute_datasets_from_function(dataset)
    losses = [float(train_step(batch)) for batch in batches]
    weights = np.concatenate([w.ravel() for w in model.get_weights()])
    return {"losses": losses, "weights": weights.tolist()}


@pytest.mark.slow
def test_a_custom_loop_on_two_workers():
    """It agrees with one process; Keras's own `fit` fails there with Adam."""
    import tensorflow as tf

    from keras_l2l import L2LOptimizer, rules

    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    cluster = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    processes = []
    for index in range(2):
        config = {
            "cluster": {"worker": cluster},
            "task": {"type": "worker", "index": index},
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT],
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    expected = train(
        tf.distribute.get_strategy(), L2LOptimizer, rules.SGD, 0.02
    )
    for process in processes:
        output, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        received = json.loads(output.splitlines()[-1])
        for name, values in expected.items():
            np.testing.assert_allclose(received[name], values, rtol=1e-5)
        # The documentation says so; once it works, say that.
        assert "PerReplica" in received["fit"]
