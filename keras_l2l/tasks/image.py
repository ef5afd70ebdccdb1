"""Image classifiers: the paper's MNIST optimizee, and digits by default."""

import keras

from keras_l2l.tasks import datasets
from keras_l2l.tasks.keras_model import KerasTask


def mnist_mlp(
    units=20,
    depth=1,
    activation="sigmoid",
    batch_size=128,
    stddev=0.01,
):
    """The paper's MNIST optimizee: a multilayer perceptron, cross-entropy.

    The data come through `tensorflow-datasets`, which downloads them at the
    first use, or finds them in `TFDS_DATA_DIR`. The optimizee is trained on
    the 60,000 training images; the 10,000 test images are its test data.

    Args:
        units: Integer. Units of each hidden layer. Defaults to `20`.
        depth: Integer. Number of hidden layers. Defaults to `1`.
        activation: String or function. Of the hidden layers.
            Defaults to `"sigmoid"`.
        batch_size: Integer. Defaults to `128`.
        stddev: Float. Weights and biases start at N(0, stddev²); `None` has
            Keras's own initializers. Defaults to `0.01`.

    Returns:
        A `KerasTask`.

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 3.2.
    """
    return _classifier(
        "mnist",
        datasets.images("mnist"),
        units,
        depth,
        activation,
        batch_size,
        stddev,
    )


def digits_mlp(
    units=20,
    depth=1,
    activation="sigmoid",
    batch_size=128,
    stddev=0.01,
):
    """The MNIST optimizee on scikit-learn's digits, which need no download.

    1,797 handwritten digits of 8×8 pixels, of which the last 360, by other
    writers, are the test data.

    Args:
        units: Integer. Units of each hidden layer. Defaults to `20`.
        depth: Integer. Number of hidden layers. Defaults to `1`.
        activation: String or function. Of the hidden layers.
            Defaults to `"sigmoid"`.
        batch_size: Integer. Defaults to `128`.
        stddev: Float. Weights and biases start at N(0, stddev²); `None` has
            Keras's own initializers. Defaults to `0.01`.

    Returns:
        A `KerasTask`.
    """
    return _classifier(
        "digits",
        datasets.digits(),
        units,
        depth,
        activation,
        batch_size,
        stddev,
    )


def _classifier(name, data, units, depth, activation, batch_size, stddev):
    train_data, test_data = (
        (images.reshape(len(images), -1), labels) for images, labels in data
    )
    image_shape = train_data[0].shape[1:]

    def build_model():
        def dense(size, activation=None):
            initial = (
                {}
                if stddev is None
                else {
                    "kernel_initializer": keras.initializers.RandomNormal(
                        stddev=stddev
                    ),
                    "bias_initializer": keras.initializers.RandomNormal(
                        stddev=stddev
                    ),
                }
            )
            return keras.layers.Dense(size, activation=activation, **initial)

        return keras.Sequential(
            [
                keras.Input(image_shape),
                *(dense(units, activation) for _ in range(depth)),
                dense(10),
            ]
        )

    activation_name = keras.activations.serialize(
        keras.activations.get(activation)
    )
    return KerasTask(
        build_model,
        train_data,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=batch_size,
        test_data=test_data,
        name=f"{name}-mlp-{units}x{depth}-{activation_name}",
    )
