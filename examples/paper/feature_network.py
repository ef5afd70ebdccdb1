"""The network whose features the neural art compares, trained on CIFAR-10.

    python examples/paper/feature_network.py         # digits: to see it run
    python examples/paper/feature_network.py --full  # ten minutes on one core

The weights that come with the package, `keras_l2l/tasks/` has them, were made
by the second command.

Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474, section 3.4, has
VGG in its place, which is a download of 80 MB.
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_l2l.tasks import datasets, feature_network

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--full", action="store_true")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument(
    "--output", type=pathlib.Path, default="runs/paper/feature_network"
)
arguments = parser.parse_args()

EPOCHS = 4 if arguments.full else 1

keras.utils.set_random_seed(arguments.seed)
tf.config.experimental.enable_op_determinism()


def to_photos(images):
    """Digits of 8×8 pixels to three colours of 32×32."""
    return np.kron(images, np.ones((1, 4, 4, 3), "float32"))


if arguments.full:
    train_data, test_data = datasets.images("cifar10")
else:
    train_data, test_data = (
        (to_photos(images), labels) for images, labels in datasets.digits()
    )

features = feature_network.build()
classifier = keras.Sequential(
    [
        features,
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10),
    ]
)
steps = EPOCHS * -(-len(train_data[0]) // 64)
classifier.compile(
    keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(3e-3, steps, alpha=0.01)
    ),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
classifier.fit(*train_data, batch_size=64, epochs=EPOCHS, verbose=2)
loss, accuracy = classifier.evaluate(*test_data, verbose=0)

arguments.output.mkdir(parents=True, exist_ok=True)
features.save_weights(arguments.output / "feature_network.weights.h5")
Console().print(f"Test loss {loss:.3f}, accuracy {accuracy:.1%}")
