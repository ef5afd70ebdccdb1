"""Images painted by optimization: the paper's neural art."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_l2l import checks
from keras_l2l.tasks import datasets, feature_network
from keras_l2l.tasks.base import Task

_INITIAL_STDDEV = 0.25  # of pixels around 0.5: most of them in [0, 1]
_LEAST_SCALE = 1e-8  # features that are zero everywhere have no scale
# The side of the part of a photograph that `neural_art` uses, in pixels.
_VIEW = 256


class NeuralStyle(Task):
    """Paints an image with the content of one image in the style of another.

    The only parameter is the image `[1, size, size, 3]`. Its loss is

        α content + β style + γ variation.

    The content term compares features of a convolutional network with those
    of the content image. The style term compares Gram matrices, the mean
    products of any two channels, with those of the style image. Both are mean
    squared errors relative to the mean square of the target, averaged over
    the layers: 0 for equal features and 1 for an image without features,
    whatever the network and the size. The variation is the mean squared
    difference of neighbouring pixels.

    The content of an episode is a random crop of one of `contents`; the style
    is always the same. As in Gatys et al., 2016, the image starts as noise,
    with a mean of 0.5 and a standard deviation of 0.25. Pixels may leave
    [0, 1].

    Args:
        contents: Sequence of images `[H, W, 3]` in [0, 1], of `size` by `size`
            pixels or larger.
        style: An image `[H, W, 3]` in [0, 1], of any size.
        features: `"cifar10"`, a small network that comes with the package;
            `"vgg19"`, with average pooling and its ImageNet weights, which
            Keras downloads at the first use (80 MB); or a `keras.Model` of
            images `[B, size, size, 3]` in [0, 1]. Defaults to `"cifar10"`.
        content_layers: Sequence of names of layers of `features` for the
            content term. Required for a `keras.Model`. Defaults to `None`,
            the usual layers of a named network.
        style_layers: As `content_layers`, for the style term.
        size: Integer. Side length of the image in pixels. Defaults to `64`.
        content_weight: Float, α. Defaults to `1.0`.
        style_weight: Float, β. Defaults to `1.0`.
        variation_weight: Float, γ. Defaults to `1.0`.
        name: String. Defaults to `"neural-style-64"` for size 64.

    Raises:
        TypeError: If `features` is neither a name nor a model.
        ValueError: If an image or a number is out of its range, or if there
            is no such network or layer.
        RuntimeError: If the weights of a network could not be downloaded.

    Example:

    >>> task = keras_l2l.tasks.NeuralStyle(photos, painting, size=32)
    >>> task.content(seed=0).shape
    (32, 32, 3)

    Reference:
        [Gatys et al., 2016](https://arxiv.org/abs/1508.06576), and
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 3.4.
    """

    def __init__(
        self,
        contents: Sequence[Any],
        style: Any,
        features: Any = "cifar10",
        content_layers: Sequence[str] | None = None,
        style_layers: Sequence[str] | None = None,
        size: int = 64,
        content_weight: float = 1.0,
        style_weight: float = 1.0,
        variation_weight: float = 1.0,
        name: str | None = None,
    ):
        super().__init__(name or f"neural-style-{size}")
        self.size = checks.positive_integer(size=size)
        weights = {
            "content_weight": content_weight,
            "style_weight": style_weight,
            "variation_weight": variation_weight,
        }
        for argument, weight in weights.items():
            if not 0.0 <= weight < float("inf"):
                raise ValueError(
                    f"Argument `{argument}` must be zero or a positive number. "
                    f"Received: {argument}={weight!r}"
                )
        self.content_weight = float(content_weight)
        self.style_weight = float(style_weight)
        self.variation_weight = float(variation_weight)
        self._contents = [
            _image(f"contents[{index}]", image, size)
            for index, image in enumerate(contents)
        ]
        if not self._contents:
            raise ValueError(
                "Argument `contents` must hold at least one image. "
                "Received an empty sequence"
            )
        self.style = _image("style", style)
        self._network, self._content_count = feature_network.with_layers(
            features, content_layers, style_layers
        )
        _, self._style_grams = self._describe(self.style[np.newaxis])

    def content(self, seed: int) -> np.ndarray:
        """Returns the content image of an episode.

        Args:
            seed: Integer in [0, 2³¹).

        Returns:
            Array `[size, size, 3]` in [0, 1].
        """
        generator = np.random.default_rng(seed)
        image = self._contents[generator.integers(len(self._contents))]
        top, left = (
            generator.integers(length - self.size, endpoint=True)
            for length in image.shape[:2]
        )
        return image[top : top + self.size, left : left + self.size]

    def initial_parameters(self, seed):
        noise = tf.random.stateless_normal(
            (1, self.size, self.size, 3), [seed, 0]
        )
        # The targets of the content term change with the episode, those of
        # the style term do not.
        features, _ = self._describe(self.content(seed)[np.newaxis])
        return [0.5 + _INITIAL_STDDEV * noise], features

    def sample_batch(self, seed):
        return ()

    def sample_held_out_batch(self, seed):
        return ()

    def loss(self, parameters, model_state, batch):
        (image,) = parameters
        features, grams = self._describe(image)
        content = _mean_relative_error(features, model_state)
        style = _mean_relative_error(grams, self._style_grams)
        variation = tf.add_n(
            [
                tf.reduce_mean((image[:, 1:] - image[:, :-1]) ** 2),
                tf.reduce_mean((image[:, :, 1:] - image[:, :, :-1]) ** 2),
            ]
        )
        loss = (
            self.content_weight * content
            + self.style_weight * style
            + self.variation_weight * variation
        )
        return loss, model_state

    def test_loss(self, parameters, model_state):
        return float(self.loss(parameters, model_state, ())[0])

    def _describe(self, image):
        """Returns content features and Gram matrices of `[1, H, W, 3]`."""
        features = self._network(tf.convert_to_tensor(image), training=False)
        count = self._content_count
        return features[:count], [_gram(f) for f in features[count:]]


def neural_art(
    style: str = "flower",
    split: str = "train",
    size: int = 64,
    content_weight: float = 1.0,
    style_weight: float = 0.5,
    variation_weight: float = 4.0,
) -> NeuralStyle:
    """Makes the paper's neural art task on photographs without a download.

    The photographs come with scikit-learn and Matplotlib. The contents for
    training are crops of a pagoda, those for testing crops of a portrait, of
    the same field of view at every size. The features are those of the small
    network of `NeuralStyle`.

    Args:
        style: `"flower"`, the petals of a dahlia, or `"flag"`, stars and
            stripes behind the portrait. Defaults to `"flower"`.
        split: `"train"` or `"test"`, which selects the contents.
            Defaults to `"train"`.
        size: Integer, at most 256. Side length in pixels. Defaults to `64`.
        content_weight: Float, see `NeuralStyle`. Defaults to `1.0`.
        style_weight: Float, see `NeuralStyle`. Defaults to `0.5`.
        variation_weight: Float, see `NeuralStyle`. Defaults to `4.0`.

    Returns:
        A `NeuralStyle`.

    Raises:
        ValueError: If there is no such style or split, or if the size is too
            large.

    Example:

    >>> task = keras_l2l.tasks.neural_art(style="flag", size=32)
    >>> task.name
    'neural-art-flag-train-32'

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
        section 3.4.
    """
    size = checks.positive_integer(size=size)
    for argument, value, table in (
        ("style", style, _STYLES),
        ("split", split, _CONTENTS),
    ):
        if value not in table:
            raise ValueError(
                f"Argument `{argument}` must be one of {tuple(table)}. "
                f"Received: {argument}={value!r}"
            )
    if size > _VIEW:
        raise ValueError(
            f"Argument `size` must be at most {_VIEW}. Received: size={size}"
        )
    content, painting = (
        _shrink(datasets.photograph(name)[rows, columns], _VIEW // size)
        for name, rows, columns in (_CONTENTS[split], _STYLES[style])
    )
    return NeuralStyle(
        [content],
        painting,
        size=size,
        content_weight=content_weight,
        style_weight=style_weight,
        variation_weight=variation_weight,
        name=f"neural-art-{style}-{split}-{size}",
    )


# Names of photographs, and the rows and columns in use.
_CONTENTS = {
    "train": ("china", slice(None), slice(None)),
    "test": ("grace_hopper", slice(0, 440), slice(140, None)),
}
_STYLES = {
    "flower": ("flower", slice(85, 361), slice(168, 444)),
    "flag": ("grace_hopper", slice(20, 420), slice(0, 140)),
}


def _shrink(image, factor):
    """Averages `[H, W, 3]` over squares of `factor` by `factor` pixels."""
    height, width = (length // factor for length in image.shape[:2])
    image = image[: factor * height, : factor * width]
    return image.reshape(height, factor, width, factor, 3).mean((1, 3))


def _image(argument, image, size=1):
    """Checks an image, and converts it to float32."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or min(image.shape[:2]) < size:
        raise ValueError(
            f"Argument `{argument}` must be an image [H, W, 3] of at least "
            f"{size} by {size} pixels. Received: an array of shape "
            f"{image.shape}"
        )
    if not (image.min() >= 0.0 and image.max() <= 1.0):
        raise ValueError(
            f"Argument `{argument}` must hold numbers from 0 to 1; divide "
            "bytes by 255. Received: numbers from "
            f"{image.min()} to {image.max()}"
        )
    return image.astype("float32")


def _gram(features):
    """The mean products of any two channels of `[1, H, W, C]`, `[C, C]`."""
    pixels = tf.reshape(features, [-1, features.shape[-1]])  # [H * W, C]
    count = tf.cast(tf.shape(pixels)[0], pixels.dtype)
    return tf.matmul(pixels, pixels, transpose_a=True) / count


def _mean_relative_error(values, targets):
    """The mean relative squared error: 0 if equal, 1 for values of zero."""
    errors = [
        tf.reduce_mean((value - target) ** 2)
        / (tf.reduce_mean(target**2) + _LEAST_SCALE)
        for value, target in zip(values, targets)
    ]
    return tf.add_n(errors) / len(errors)
