"""The network whose features the neural art compares, trained on CIFAR-10.

    python examples/paper/feature_network.py         # digits: to see it run
    python examples/paper/feature_network.py --full  # minutes on one core

The weights that come with the package were made by the second command; they
are `keras_l2l/tasks/feature_network.weights.h5`.

Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474, section 3.4, has
VGG in its place, which is a download of 80 MB.
"""

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_l2l.reproduction import paper
from keras_l2l.tasks import datasets, feature_network

BATCH_SIZE = 64


def main(output, full=False, seed=0):
    epochs = 4 if full else 1
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    if full:
        train_data, test_data = datasets.images("cifar10")
    else:
        train_data, test_data = (
            (to_photographs(images), labels)
            for images, labels in datasets.digits()
        )
    features = feature_network.build()
    classifier = keras.Sequential(
        [
            features,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    steps = epochs * -(-len(train_data[0]) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps, alpha=0.01)
    classifier.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    classifier.fit(*train_data, batch_size=BATCH_SIZE, epochs=epochs, verbose=2)
    loss, accuracy = classifier.evaluate(*test_data, verbose=0)
    features.save_weights(output / "feature_network.weights.h5")
    Console().print(f"Test loss {loss:.3f}, accuracy {accuracy:.1%}")


def to_photographs(digits):
    """Digits of 8×8 pixels as images of 32×32 in three equal colours."""
    return np.kron(digits, np.ones((1, 4, 4, 3), "float32"))


if __name__ == "__main__":
    paper.run_script(main)
