"""Networks whose features describe content and style of an image."""

import importlib.resources

import keras

_WEIGHTS = "feature_network.weights.h5"
_CHANNELS = ((16, 16), (32, 32), (64,))  # a tuple for each resolution


def build():
    """Builds the small network with random weights.

    It has five convolutions of 3×3 pixels with ReLU and average pooling
    between resolutions, which suits style transfer better than max pooling.
    There is no normalisation, which would remove the contrast from the
    features.

    Returns:
        A `keras.Model` of images `[B, H, W, 3]` in [0, 1], of any size. The
        names of its layers follow those of VGG.

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
    """Loads the small network, trained on CIFAR-10.

    `examples/paper/feature_network.py --full` reproduces its weights.

    Returns:
        A `keras.Model`, as from `build`.
    """
    model = build()
    file = importlib.resources.files("keras_l2l.tasks") / _WEIGHTS
    with importlib.resources.as_file(file) as path:
        model.load_weights(path)
    return model


def with_layers(features, content_layers=None, style_layers=None):
    """Returns a network whose outputs are those of some of its layers.

    Args:
        features: As for `NeuralStyle`.
        content_layers: As for `NeuralStyle`.
        style_layers: As for `NeuralStyle`.

    Returns:
        Tuple `(model, count)`: a `keras.Model` with a list of outputs, and the
        number of those that belong to `content_layers`; those of
        `style_layers` follow.

    Raises:
        TypeError: If `features` is neither a name nor a model.
        ValueError: If there is no such network, or no such layer.
        RuntimeError: If the weights of a network could not be downloaded.
    """
    if isinstance(features, str):
        if features not in _NETWORKS:
            raise ValueError(
                f"Argument `features` must be one of {tuple(_NETWORKS)} or a "
                f"`keras.Model`. Received: features={features!r}"
            )
        make, *defaults = _NETWORKS[features]
        model = make()
        content_layers, style_layers = (
            given or default
            for given, default in zip((content_layers, style_layers), defaults)
        )
    elif isinstance(features, keras.Model):
        model = features
    else:
        raise TypeError(
            f"Argument `features` must be one of {tuple(_NETWORKS)} or a "
            f"`keras.Model`. Received: features={features!r}"
        )
    known = [layer.name for layer in model.layers]
    for argument, names in (
        ("content_layers", content_layers),
        ("style_layers", style_layers),
    ):
        if not names or not set(names) <= set(known):
            raise ValueError(
                f"Argument `{argument}` must hold names of layers of "
                f"`features`, some of {known}. Received: {argument}={names!r}"
            )
    layers = [model.get_layer(n) for n in (*content_layers, *style_layers)]
    return (
        keras.Model(model.inputs, [layer.output for layer in layers]),
        len(content_layers),
    )


def _vgg19():
    try:
        original = keras.applications.VGG19(include_top=False)
    except Exception as error:  # Keras raises no narrower one.
        raise RuntimeError(
            'The ImageNet weights of `features="vgg19"` could not be loaded. '
            'Connect to the internet once, use `features="cifar10"`, which '
            "needs no download, or pass a `keras.Model`. "
            f"Received from Keras: {error}"
        ) from error

    def copy(layer):
        if isinstance(layer, keras.layers.MaxPooling2D):
            return keras.layers.AveragePooling2D(2, name=layer.name)
        return type(layer).from_config(layer.get_config())

    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Lambda(
                lambda images: keras.applications.vgg19.preprocess_input(
                    255.0 * images
                )
            ),
            *(copy(layer) for layer in original.layers[1:]),
        ]
    )
    model.set_weights(original.get_weights())
    return model


# Name → function that makes it, its layers for content and for style.
_NETWORKS = {
    "cifar10": (
        load,
        ("conv2_2",),
        ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1"),
    ),
    "vgg19": (
        _vgg19,
        ("block4_conv2",),
        tuple(f"block{block}_conv1" for block in range(1, 6)),
    ),
}
