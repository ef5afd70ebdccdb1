"""The kinds of the mixture whose data each episode draws anew."""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from keras_l2l.tasks import synthetic_data
from keras_l2l.tasks.random_choices import (
    ACTIVATIONS,
    draw_initializer,
    log_uniform,
    norm_layers,
)
from keras_l2l.tasks.synthetic_task import SyntheticTask

_TOKENS, _LENGTH = 16, 8
_INITIALIZATIONS = 16


def _table(
    generator,
    name,
    depths=(1, 4),
    draw_data=synthetic_data.labelled_table,
    counts=synthetic_data.COUNTS,
):
    features, classes = log_uniform(generator, 4, 32), _classes(generator)
    return _classification(
        generator,
        name,
        _dense_model(generator, (features,), classes, depths),
        functools.partial(
            draw_data, features=features, classes=classes, counts=counts
        ),
        max_examples=counts[-1],
    )


def _measurements(generator, name, depths=(1, 4)):
    features, outputs = log_uniform(generator, 4, 32), generator.integers(1, 4)
    outputs = int(outputs)
    return _regression(
        generator,
        name,
        _dense_model(generator, (features,), outputs, depths),
        functools.partial(
            synthetic_data.measured_table, features=features, outputs=outputs
        ),
        ["mse", "mse", "mae", "huber"],
    )


def _function(generator, name, draw_data, features, depths):
    features = log_uniform(generator, *features)
    return _regression(
        generator,
        name,
        _dense_model(generator, (features,), 1, depths),
        functools.partial(draw_data, features=features),
        ["mse"],
    )


def _categories(generator, name):
    columns, classes = int(generator.integers(3, 9)), _classes(generator)
    levels, width = (
        log_uniform(generator, 8, 64),
        log_uniform(generator, 4, 16),
    )

    def embed():
        return [layers.Embedding(levels, width), layers.Flatten()]

    return _classification(
        generator,
        name,
        _dense_model(generator, (columns,), classes, (0, 3), embed),
        functools.partial(
            synthetic_data.categories,
            columns=columns,
            levels=levels,
            classes=classes,
        ),
    )


def _recurrent(generator, name, is_text=False, counts=synthetic_data.COUNTS):
    width = log_uniform(generator, 12, 32)
    cell = generator.choice([layers.GRU, layers.LSTM])
    classes = _TOKENS if is_text else _classes(generator)

    def build_model():
        return keras.Sequential(
            [
                keras.Input((_LENGTH,), dtype="int32"),
                layers.Embedding(_TOKENS, width),
                # No loop, which could not be vectorised.
                cell(width, return_sequences=is_text, unroll=True),
                layers.Dense(classes),
            ]
        )

    return _sequences(generator, name, build_model, classes, is_text, counts)


def _attention(generator, name, is_text=False):
    heads = int(generator.choice([2, 4]))
    width = heads * int(generator.integers(4, 9))
    activation = str(generator.choice(["relu", "gelu"]))
    classes = _TOKENS if is_text else _classes(generator)

    def build_model():
        inputs = keras.Input((_LENGTH,), dtype="int32")
        hidden = layers.Embedding(_TOKENS, width)(inputs)
        hidden += layers.Embedding(_LENGTH, width)(keras.ops.arange(_LENGTH))
        normed = layers.LayerNormalization()(hidden)
        hidden += layers.MultiHeadAttention(heads, width // heads)(
            normed, normed, use_causal_mask=is_text
        )
        normed = layers.LayerNormalization()(hidden)
        normed = layers.Dense(2 * width, activation=activation)(normed)
        hidden += layers.Dense(width)(normed)
        hidden = layers.LayerNormalization()(hidden)
        if not is_text:
            hidden = layers.GlobalAveragePooling1D()(hidden)
        return keras.Model(inputs, layers.Dense(classes)(hidden))

    return _sequences(generator, name, build_model, classes, is_text)


def _convolution(generator, name):
    depth = int(generator.integers(2, 4))
    widths = [log_uniform(generator, 6, 16) for _ in range(depth)]
    activation = str(generator.choice(["relu", "relu", "gelu", "silu", "elu"]))
    norm = str(generator.choice(["none", "batch"]))
    pools = bool(generator.integers(2))
    rate = float(generator.choice([0.0, 0.0, 0.3]))

    def build_layers():
        for width in widths:
            yield layers.Conv2D(width, 3, strides=2, padding="same")
            yield from norm_layers(norm)
            yield layers.Activation(activation)
        yield layers.GlobalAveragePooling2D() if pools else layers.Flatten()
        if rate:
            yield layers.Dropout(rate)

    return _images(
        generator,
        name,
        lambda shape, classes: keras.Sequential(
            [keras.Input(shape), *build_layers(), layers.Dense(classes)]
        ),
    )


def _residual(generator, name):
    width = log_uniform(generator, 6, 12)
    norm = str(generator.choice(["batch", "batch", "layer"]))

    def conv(inputs, strides=1):
        hidden = layers.Conv2D(
            width, 3, strides=strides, padding="same", use_bias=False
        )(inputs)
        return norm_layers(norm)[0](hidden)

    def build_model(shape, classes):
        inputs = keras.Input(shape)
        hidden = layers.ReLU()(conv(inputs, strides=2))
        branch = conv(layers.ReLU()(conv(hidden)))
        hidden = layers.ReLU()(hidden + branch)
        hidden = layers.GlobalAveragePooling2D()(hidden)
        return keras.Model(inputs, layers.Dense(classes)(hidden))

    return _images(generator, name, build_model)


# In the order in which they take turns.
SYNTHETIC_KINDS: dict[str, Callable[..., Any]] = {
    "random-table": _table,
    "random-measurements": _measurements,
    "random-convolution": _convolution,
    "random-linear": functools.partial(_table, depths=(0, 1)),
    "random-recurrent": _recurrent,
    "random-categories": _categories,
    "random-attention-text": functools.partial(_attention, is_text=True),
    "random-linear-regression": functools.partial(_measurements, depths=(0, 1)),
    "random-residual": _residual,
    "random-attention": _attention,
    "random-recurrent-text": functools.partial(_recurrent, is_text=True),
}

# `"synthetic"` does not stand for these, as the recipes of rules that ship name
# it, and would draw other tasks than they did.
CLUSTER_KINDS: dict[str, Callable[..., Any]] = {
    name: functools.partial(
        _table, depths=depths, draw_data=synthetic_data.clustered_table
    )
    for name, depths in {
        "random-clusters": (1, 4),
        "random-linear-clusters": (0, 1),
    }.items()
}

# So many data that few are seen twice, and functions that a model is to fit to
# many digits: what a rule must not lose by being careful with small data.
LARGE_KINDS: dict[str, Callable[..., Any]] = {
    "random-large-table": functools.partial(
        _table, counts=synthetic_data.LARGE_COUNTS
    ),
    "random-large-clusters": functools.partial(
        _table,
        draw_data=synthetic_data.clustered_table,
        counts=synthetic_data.LARGE_COUNTS,
    ),
    "random-large-text": functools.partial(
        _recurrent, is_text=True, counts=synthetic_data.LARGE_COUNTS
    ),
    "random-function": functools.partial(
        _function,
        draw_data=synthetic_data.smooth_function,
        features=(1, 4),
        depths=(1, 4),
    ),
    "random-ill-conditioned": functools.partial(
        _function,
        draw_data=synthetic_data.ill_conditioned_table,
        features=(8, 32),
        depths=(0, 1),
    ),
}


def _classes(generator):
    """Draws a number of classes, of which few are most frequent."""
    return log_uniform(generator, 2, 10)


def _dense_model(generator, shape, outputs, depths, first=list):
    """Draws a network of dense layers: a function that builds it."""
    depth = int(generator.integers(*depths))
    widths = [log_uniform(generator, 16, 64) for _ in range(depth)]
    activation = str(generator.choice(ACTIVATIONS))
    norm = str(generator.choice(["none", "none", "none", "batch", "layer"]))
    rate = float(generator.choice([0.0, 0.0, 0.0, 0.1, 0.3, 0.5]))
    initializer = draw_initializer(generator)

    def build_model():
        built = [keras.Input(shape), *first()]
        for width in widths:
            built.append(layers.Dense(width, kernel_initializer=initializer()))
            built += [*norm_layers(norm), layers.Activation(activation)]
            built += [layers.Dropout(rate)] if rate else []
        return keras.Sequential([*built, layers.Dense(outputs)])

    return build_model


def _sequences(
    generator,
    name,
    build_model,
    classes,
    is_text,
    counts=synthetic_data.COUNTS,
):
    if is_text:
        draw = functools.partial(
            synthetic_data.text, tokens=_TOKENS, length=_LENGTH, counts=counts
        )
    else:
        draw = functools.partial(
            synthetic_data.labelled_sequences,
            tokens=_TOKENS,
            length=_LENGTH,
            classes=classes,
        )
    return _classification(
        generator, name, build_model, draw, (8, 24), counts[-1]
    )


def _images(generator, name, build_model):
    channels, classes = int(generator.choice([1, 1, 3])), _classes(generator)
    return _classification(
        generator,
        name,
        functools.partial(build_model, (8, 8, channels), classes),
        functools.partial(
            synthetic_data.labelled_images,
            size=8,
            channels=channels,
            classes=classes,
        ),
        (8, 32),
        synthetic_data.IMAGE_COUNTS[-1],
    )


def _regression(generator, name, build_model, draw_data, losses):
    return SyntheticTask(
        build_model,
        draw_data,
        str(generator.choice(losses)),
        synthetic_data.COUNTS[-1],
        batch_size=log_uniform(generator, 16, 64),
        name=name,
        initializations=_INITIALIZATIONS,
    )


def _classification(
    generator,
    name,
    build_model,
    draw_data,
    sizes=(16, 64),
    max_examples=synthetic_data.COUNTS[-1],
):
    return SyntheticTask(
        build_model,
        draw_data,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        max_examples,
        batch_size=log_uniform(generator, *sizes),
        name=name,
        initializations=_INITIALIZATIONS,
    )
