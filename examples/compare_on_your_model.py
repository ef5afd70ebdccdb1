"""Compare the default optimizer with a tuned Adam on a model of your own.

    python examples/compare_on_your_model.py
    python examples/compare_on_your_model.py --data cifar10 --steps 500

Here the model is a small U-Net that removes noise from images: a regression
with skip connections, transposed convolutions and group normalisation. Digits
need no download; CIFAR-10 comes through `tensorflow-datasets`.
"""

import argparse

import keras
import numpy as np
from keras import layers

from keras_l2l import presets, tasks
from keras_l2l.evaluation import BASELINES, compare
from keras_l2l.tasks import datasets

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", choices=["digits", "cifar10"], default="digits")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--seeds", type=int, default=5)
parser.add_argument("--sweep-seeds", type=int, default=1)
arguments = parser.parse_args()

if arguments.data == "digits":
    data = datasets.digits()
else:
    data = datasets.images("cifar10")
generator = np.random.default_rng(0)


def noisy(images):
    noise = 0.3 * generator.normal(size=images.shape).astype("float32")
    return images + noise, images


train, test = (noisy(images) for images, _ in data)


def convolution(hidden, width, **options):
    hidden = layers.Conv2D(width, 3, padding="same", **options)(hidden)
    return layers.Activation("silu")(layers.GroupNormalization(4)(hidden))


def build_model():
    inputs = keras.Input(train[0].shape[1:])
    fine = convolution(inputs, 12)
    middle = convolution(fine, 24, strides=2)
    coarse = convolution(middle, 24, strides=2)
    up = layers.Conv2DTranspose(24, 2, strides=2)(coarse)
    up = convolution(layers.Concatenate()([up, middle]), 24)
    up = layers.Conv2DTranspose(12, 2, strides=2)(up)
    up = convolution(layers.Concatenate()([up, fine]), 12)
    return keras.Model(inputs, layers.Conv2D(train[0].shape[-1], 1)(up))


task = tasks.KerasTask(
    build_model, train, "mse", batch_size=32, test_data=test, name="denoiser"
)
comparison = compare(
    presets.load(),
    task,
    steps=arguments.steps,
    seeds=arguments.seeds,
    sweep_seeds=arguments.sweep_seeds,
    baselines={"Adam": BASELINES["Adam"]},
    name=presets.DEFAULT,
    progress=lambda name, done, total: print(f"{done}/{total} {name}"),
)
for summary in comparison.summaries():
    held_out = summary.test_losses[arguments.steps]
    print(
        f"{summary.optimizer}, rate {summary.learning_rate}: "
        f"mean loss {summary.mean_loss.mean:.5f}, "
        f"held-out loss {held_out.mean:.5f} ± {held_out.standard_error:.5f}"
    )
