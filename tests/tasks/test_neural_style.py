"""The paper's neural art: its loss, its images, its networks."""

import keras
import numpy as np
import pytest

from keras_l2l import tasks
from keras_l2l.tasks import datasets, feature_network
from tests import components


def _images(count, height, width):
    generator = np.random.default_rng(0)
    return generator.uniform(size=(count, height, width, 3))


def _convolve(images, kernel, bias):
    """A convolution and a ReLU, as the definition has them."""
    height, width = images.shape[:2]
    padded = np.pad(images, ((1, 1), (1, 1), (0, 0)))
    features = np.zeros((height, width, kernel.shape[-1])) + bias
    for row in range(3):
        for column in range(3):
            features += (
                padded[row : row + height, column : column + width]
                @ kernel[row, column]
            )
    return np.maximum(features, 0.0)


def _gram(features):
    flat = features.reshape(-1, features.shape[-1])
    return np.einsum("pi,pj->ij", flat, flat) / len(flat)


def _relative_error(value, target):
    return ((value - target) ** 2).mean() / (target**2).mean()


def test_the_loss_is_that_of_its_definition():
    contents, style = _images(1, 8, 8), _images(2, 12, 10)[1]
    model = components.image_features()
    task = tasks.NeuralStyle(
        contents,
        style,
        model,
        content_layers=["second"],
        style_layers=["first", "second"],
        size=8,
        content_weight=2.0,
        style_weight=3.0,
        variation_weight=5.0,
    )
    (image,), state = task.initial_parameters(1)
    received, _ = task.loss([image], state, ())

    weights = model.get_weights()
    image = np.float64(image[0])

    def features(image):
        first = _convolve(image, *weights[:2])
        return first, _convolve(first, *weights[2:])

    ours, content, painting = map(features, (image, contents[0], style))
    expected = 2.0 * _relative_error(ours[1], content[1])
    expected += 3.0 * np.mean(
        [_relative_error(_gram(a), _gram(b)) for a, b in zip(ours, painting)]
    )
    expected += 5.0 * sum((np.diff(image, axis=i) ** 2).mean() for i in (0, 1))
    np.testing.assert_allclose(received, expected, rtol=1e-4)
    assert task.test_loss([image[None].astype("float32")], state) == (
        pytest.approx(expected, rel=1e-4)
    )


def test_only_the_variation_is_left_where_content_and_style_agree():
    (image,) = _images(1, 8, 8)
    task = tasks.NeuralStyle([image], image, size=8, variation_weight=0.0)
    _, state = task.initial_parameters(0)
    assert task.test_loss([np.float32(image[None])], state) < 1e-10


def test_contents_are_random_pieces():
    images = [*_images(2, 9, 12), *_images(1, 8, 8)]
    task = tasks.NeuralStyle(images, images[0], size=8)
    pieces = [task.content(seed) for seed in range(40)]
    assert {piece.shape for piece in pieces} == {(8, 8, 3)}
    assert len({piece.tobytes() for piece in pieces}) > 10
    np.testing.assert_array_equal(task.content(3), pieces[3])
    windows = np.concatenate(
        [
            np.lib.stride_tricks.sliding_window_view(image, (8, 8, 3)).reshape(
                -1, 8, 8, 3
            )
            for image in images
        ]
    ).astype("float32")
    for piece in pieces:
        assert (windows == piece).all((1, 2, 3)).any()


def test_the_start_is_noise_around_grey():
    task = tasks.neural_art(size=64)
    (image,), _ = task.initial_parameters(0)
    assert np.mean(image) == pytest.approx(0.5, abs=0.01)
    assert np.std(image) == pytest.approx(0.25, abs=0.01)
    assert task.name == "neural-art-flower-train-64"


def test_contents_of_training_and_testing_do_not_meet():
    train, test = (
        tasks.neural_art(split=s, size=32) for s in ("train", "test")
    )
    assert not np.array_equal(train.content(0), test.content(0))
    for task in (train, test):
        assert task.content(0).shape == (32, 32, 3)
    with pytest.raises(ValueError, match="`split` must be one of"):
        tasks.neural_art(split="validation")
    with pytest.raises(ValueError, match="`style` must be one of"):
        tasks.neural_art("mosaic")
    with pytest.raises(ValueError, match="`size` must be at most 256"):
        tasks.neural_art(size=300)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"contents": []}, ValueError, "`contents` must hold at least one"),
        ({"contents": _images(1, 7, 9)}, ValueError, r"`contents\[0\]` must"),
        ({"style": np.zeros((8, 8, 1))}, ValueError, "`style` must be an"),
        ({"style": np.full((8, 8, 3), 255)}, ValueError, "divide bytes"),
        ({"style": np.full((8, 8, 3), np.nan)}, ValueError, "from 0 to 1"),
        ({"features": "vgg"}, ValueError, "`features` must be one of"),
        ({"features": 3}, TypeError, "`features` must be one of"),
        ({"content_layers": None}, ValueError, "`content_layers` must hold"),
        ({"style_layers": ["third"]}, ValueError, "`style_layers` must hold"),
        ({"style_weight": -1.0}, ValueError, "`style_weight` must be zero"),
        ({"size": 0}, ValueError, "`size` must be a positive integer"),
    ],
)
def test_neural_style_refuses(arguments, error, message):
    valid = {
        "contents": _images(1, 8, 8),
        "style": _images(1, 8, 8)[0],
        "features": components.image_features(),
        "content_layers": ["second"],
        "style_layers": ["first"],
        "size": 8,
    }
    with pytest.raises(error, match=message):
        tasks.NeuralStyle(**{**valid, **arguments})


def test_vgg_has_average_pooling(monkeypatch):
    untrained = keras.applications.VGG19
    monkeypatch.setattr(
        keras.applications,
        "VGG19",
        lambda **arguments: untrained(weights=None, **arguments),
    )
    (image,) = _images(1, 16, 16)
    task = tasks.NeuralStyle([image], image, "vgg19", size=16)
    kinds = {type(layer).__name__ for layer in task._network.layers}
    assert "AveragePooling2D" in kinds
    assert "MaxPooling2D" not in kinds
    _, state = task.initial_parameters(0)
    assert [tuple(features.shape) for features in state] == [(1, 2, 2, 512)]


def test_vgg_without_its_weights_is_explained(monkeypatch):
    def fail(**arguments):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "VGG19", fail)
    (image,) = _images(1, 16, 16)
    with pytest.raises(RuntimeError, match=r"could not be loaded.*URL fetch"):
        tasks.NeuralStyle([image], image, "vgg19", size=16)


def test_the_feature_network_is_trained():
    trained, fresh = feature_network.load(), feature_network.build()
    assert [w.shape for w in trained.get_weights()] == [
        w.shape for w in fresh.get_weights()
    ]
    # A bias starts at zero.
    assert np.any(trained.get_layer("conv3_1").bias != 0.0)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("china", (427, 640, 3)),
        ("flower", (427, 640, 3)),
        ("grace_hopper", (600, 512, 3)),
    ],
)
def test_photographs(name, shape):
    photograph = datasets.photograph(name)
    assert photograph.shape == shape
    assert 0.0 <= photograph.min() < photograph.max() <= 1.0
