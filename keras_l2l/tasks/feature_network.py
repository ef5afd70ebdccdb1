"""A small network whose features tell content and style of an image."""

import importlib.resources

import keras

STYLE_LAYERS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1")
CONTENT_LAYERS = ("conv2_2",)

_WEIGHTS = "feature_network.weights.h5"
_CHANNELS = ((16, 16), (32, 32), (64,))  # a tuple for each resolution


def build():
    """The network, before any training.

    Five convolutions of 3×3 pixels with ReLU and, between resolutions, average
    pooling, which style transfer favours over maxima. No normalisation, which
    would take the contrast out of the features.

    Returns:
        A `keras.Model` of images `[B, H, W, 3]` in [0, 1], of any size. Its
        layers are called as those of VGG.

    Reference:
        [Gatys et al., 2016](https://arxiv.org/abs/1508.06576), for average
        pooling.
    """
    layers = [keras.Input((None, None, 3)), keras.layers.Rescaling(4.0, -2.0)]
    for block, widths in enumerate(_CHANNELS, 1):
        if block > 1:
            layers.append(keras.layers.AveragePooling2D(2))
        layers += [
            keras.layers.Conv2D(
                channels,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                name=f"conv{block}_{index}",
            )
            for index, channels in enumerate(widths, 1)
        ]
    return keras.Sequential(layers, name="feature_network")


def load():
    """The network as it is shipped, trained on CIFAR-10.

    `examples/paper/feature_network.py --full` made its weights.

    Returns:
        A `keras.Model`, as from `build`.
    """
    model = build()
    file = importlib.resources.files("keras_l2l.tasks") / _WEIGHTS
    with importlib.resources.as_file(file) as path:
        model.load_weights(path)
    return model
