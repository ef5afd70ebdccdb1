"""What rounding makes of a training: other sums, the same mathematics.

    python benchmarks/rounding.py

A convnet is trained twice on one device, with the examples of each batch in
another order, and then on two replicas.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_l2l import L2LOptimizer

BATCH, BATCHES, EPOCHS, CLASSES = 16, 4, 5, 3
OPTIMIZERS = {"L2LOptimizer": L2LOptimizer, "Adam": keras.optimizers.Adam}


def convnet(optimizer, use_bias):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(8, 3, use_bias=use_bias, name="convolution"),
            keras.layers.BatchNormalization(synchronized=True, name="norm"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, name="dense"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


def train(model, x, y, order=slice(None)):
    model.fit(x[order], y[order], BATCH, EPOCHS, shuffle=False, verbose=0)
    values = {
        "/".join(v.path.split("/")[-2:]): v.numpy() for v in model.weights
    }
    images = tf.constant(x)
    return {**values, "outputs of an evaluation": model(images).numpy()}


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    device = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [device, device])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * BATCHES, 6, 6, 3)).astype("float32")
    y = rng.integers(0, CLASSES, len(x))
    order = np.arange(len(x)).reshape(BATCHES, BATCH)
    order = rng.permuted(order, axis=1).ravel()
    for name, optimizer in OPTIMIZERS.items():
        for use_bias in (True, False):
            first = train(convnet(optimizer(), use_bias), x, y)
            model = convnet(optimizer(), use_bias)
            others = {"other order": train(model, x, y, order)}
            strategy = tf.distribute.MirroredStrategy(
                ["CPU:0", "CPU:1"],
                cross_device_ops=tf.distribute.ReductionToOneDevice(),
            )
            with strategy.scope():
                model = convnet(optimizer(), use_bias)
            others["two replicas"] = train(model, x, y)
            for how, other in others.items():
                print(f"{name}, use_bias={use_bias}, {how}")
                for key, value in first.items():
                    largest = np.abs(value - other[key]).max()
                    print(f"    {key:28} {largest:.0e}")


if __name__ == "__main__":
    main()
