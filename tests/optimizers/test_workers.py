"""`L2LOptimizer` in two processes: a custom loop, as Keras cannot `fit`."""

import json
import os
import signal
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

# Saves after each step, and may be killed before one.
KILLED_SCRIPT = """
import json, sys
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()

from tests.optimizers.test_workers import train
from keras_l2l import L2LOptimizer, rules

index = strategy.cluster_resolver.task_id
directory, dies_at = f"{sys.argv[1]}/{index}", int(sys.argv[2]) if index else -1
result = train(strategy, L2LOptimizer, rules.Adam, 0.02, directory, dies_at)
print(json.dumps(result))
"""


def data():
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    return x, x.sum(1, keepdims=True)


def train(
    strategy,
    optimizer_class,
    rule_class,
    learning_rate,
    directory=None,
    dies_at=-1,
):
    """The loop of the documentation: losses and weights after three steps.

    It goes on from the checkpoint in a directory, one for each worker.
    """
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
        checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    manager = directory and tf.train.CheckpointManager(checkpoint, directory, 1)
    if manager:
        manager.restore_or_initialize()
    done = int(optimizer.iterations.numpy())

    def dataset(context):
        x, y = data()
        workers, index = context.num_input_pipelines, context.input_pipeline_id
        batch = x[index::workers], y[index::workers]
        return tf.data.Dataset.from_tensors(batch).repeat(3 - done)

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
    losses = []
    for step_number, batch in enumerate(batches, done):
        if step_number == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        losses.append(float(train_step(batch)))
        if manager:
            manager.save()
    weights = np.concatenate([w.ravel() for w in model.get_weights()])
    return {"losses": losses, "weights": weights.tolist()}


def start(script, *arguments):
    """Two workers that run a script."""
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
                [sys.executable, "-c", script, *arguments],
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


@pytest.mark.slow
def test_a_custom_loop_on_two_workers():
    """It agrees with one process; Keras's own `fit` fails there with Adam."""
    import tensorflow as tf

    from keras_l2l import L2LOptimizer, rules

    processes = start(SCRIPT)
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


@pytest.mark.slow
def test_a_custom_loop_goes_on_after_a_worker_was_killed(tmp_path):
    """All are started again, with the weights of one process in the end."""
    import tensorflow as tf

    from keras_l2l import L2LOptimizer, rules

    processes = start(KILLED_SCRIPT, str(tmp_path), "2")
    processes[1].communicate(timeout=300)
    assert processes[1].returncode == -signal.SIGKILL
    processes[0].kill()  # It waits for the other one.
    processes[0].communicate()

    expected = train(
        tf.distribute.get_strategy(), L2LOptimizer, rules.Adam, 0.02
    )
    for process in start(KILLED_SCRIPT, str(tmp_path), "-1"):
        output, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        received = json.loads(output.splitlines()[-1])
        assert len(received["losses"]) == 1
        np.testing.assert_allclose(
            received["losses"], expected["losses"][2:], rtol=1e-5
        )
        np.testing.assert_allclose(
            received["weights"], expected["weights"], rtol=1e-5
        )
