"""Random choices of the architectures of small models."""

import keras

ACTIVATIONS = ("relu", "relu", "gelu", "tanh", "silu", "elu", "sigmoid")


def draw_initializer(generator):
    """Draws a function that makes an initializer, a new one each time.

    An initializer that is used twice would give the same values twice.
    """
    name = generator.choice(["glorot", "he", "lecun", "small"])
    if name == "small":
        return lambda: keras.initializers.RandomNormal(stddev=0.01)
    return {
        "glorot": keras.initializers.GlorotUniform,
        "he": keras.initializers.HeNormal,
        "lecun": keras.initializers.LecunNormal,
    }[str(name)]


def norm_layers(name):
    """A list of the layer of a normalisation, empty for any other name."""
    if name == "batch":
        return [keras.layers.BatchNormalization()]
    if name == "layer":
        return [keras.layers.LayerNormalization()]
    return []


def log_uniform(generator, low, high):
    """Draws an integer between two bounds, inclusive."""
    return round(float(low * (high / low) ** generator.uniform()))
