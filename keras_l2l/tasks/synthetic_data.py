"""Random small data sets: tables, token sequences and images.

Each function draws a data set by a generator: a `Dataset` whose held-out
examples come from the same source, without label noise. Nothing of them is of
a real data set.
"""

import numpy as np

from keras_l2l.tasks.datasets import Dataset

# Training examples, of tables and sequences and of images.
COUNTS, IMAGE_COUNTS = (100, 2000), (100, 500)
# So many that a training sees few of them twice.
LARGE_COUNTS = (20_000, 20_000)
_HELD_OUT = 512
# Shares of wrong labels, one of which is drawn.
_WRONG = (0.0, 0.0, 0.0, 0.05, 0.1, 0.2)
_WRONG_IN_CLUSTERS = (0.0, 0.0, 0.0, 0.05)


def draw_count(generator, counts=COUNTS):
    """Draws a number of training examples, log-uniform.

    Args:
        generator: A `np.random.Generator`.
        counts: Pair of integers, the fewest and the most.
            Defaults to `(100, 2000)`.

    Returns:
        An integer.
    """
    fewest, most = counts
    return round(float(fewest * (most / fewest) ** generator.uniform()))


def labelled_table(generator, features, classes, counts=COUNTS):
    """Draws a table and the class of each row.

    Args:
        generator: A `np.random.Generator`.
        features: Integer. Columns.
        classes: Integer.
        counts: As for `draw_count`.

    Returns:
        A `Dataset` of float32 `[M, features]` and int32 `[M]`.
    """
    inputs, scores = _columns_and_scores(generator, features, classes, counts)
    # Classes of unequal size, and rows that no model gets right.
    scores += 0.5 * generator.normal(size=classes)
    scores += 10.0 ** generator.uniform(-2.0, 0.0) * generator.normal(
        size=scores.shape
    )
    return _labelled(generator, inputs, scores.argmax(-1), classes)


def clustered_table(generator, features, classes, counts=COUNTS):
    """Draws a table whose rows lie in clusters, one to three for each class.

    Most rows are far from those of other classes, as they are in most tables
    that people collect: a model learns all of them by heart. In a quarter of
    the tables some labels are wrong.

    Args:
        generator: A `np.random.Generator`.
        features: Integer. Columns.
        classes: Integer.
        counts: As for `draw_count`.

    Returns:
        A `Dataset` of float32 `[M, features]` and int32 `[M]`.
    """
    count = draw_count(generator, counts) + _HELD_OUT
    factors = int(generator.integers(2, features + 1))
    clusters = int(generator.integers(1, 4))
    distance = 0.7 * (3.0 / 0.7) ** generator.uniform()
    centers = distance * generator.normal(size=(classes, clusters, factors))
    shares = generator.dirichlet(np.full(classes, 5.0))
    labels = generator.choice(classes, size=count, p=shares)
    rows = centers[labels, generator.integers(clusters, size=count)]
    rows = rows + generator.normal(size=rows.shape)
    inputs = _in_columns(generator, _mixed(generator, rows, features))
    return _labelled(
        generator, inputs, labels, classes, wrong_shares=_WRONG_IN_CLUSTERS
    )


def measured_table(generator, features, outputs):
    """Draws a table and numbers for each row, half of them in odd units.

    Args:
        generator: A `np.random.Generator`.
        features: Integer. Columns.
        outputs: Integer. Numbers of a row.

    Returns:
        A `Dataset` of float32 `[M, features]` and `[M, outputs]`.
    """
    inputs, targets = _columns_and_scores(generator, features, outputs)
    noise = 10.0 ** generator.uniform(-1.5, 0.3)
    targets += noise * generator.normal(size=targets.shape)
    if generator.integers(2):
        shifts = 2.0 * generator.normal(size=outputs)
        targets = (targets + shifts) * 10.0 ** generator.uniform(-1.0, 2.5)
    return _split(inputs, targets.astype("float32"))


def smooth_function(generator, features):
    """Draws points and a smooth function of them, with hardly any noise.

    A model is to fit it to many digits, on training and held-out data alike.

    Args:
        generator: A `np.random.Generator`.
        features: Integer. Coordinates of a point.

    Returns:
        A `Dataset` of float32 `[M, features]` and `[M, 1]`.
    """
    count = draw_count(generator) + _HELD_OUT
    points = generator.uniform(-2.0, 2.0, size=(count, features))
    waves = generator.uniform(0.5, 2.0) * generator.normal(size=(features, 8))
    angles = points @ waves / np.sqrt(features)
    angles += generator.uniform(0.0, 2.0 * np.pi, size=8)
    values = np.sin(angles) @ generator.normal(size=(8, 1))
    values /= values.std() + 1e-6
    noise = 10.0 ** generator.uniform(-4.0, -2.0)
    values += noise * generator.normal(size=values.shape)
    return _split(points.astype("float32"), values.astype("float32"))


def ill_conditioned_table(generator, features):
    """Draws a linear function of features whose sizes span some decades.

    Its flat directions matter as much as its steep ones.

    Args:
        generator: A `np.random.Generator`.
        features: Integer. Columns.

    Returns:
        A `Dataset` of float32 `[M, features]` and `[M, 1]`.
    """
    count = draw_count(generator) + _HELD_OUT
    scales = np.geomspace(1.0, 10.0 ** generator.uniform(-2.5, -1.0), features)
    factors = scales * generator.normal(size=(count, features))
    weights = generator.normal(size=(features, 1)) / np.sqrt(scales)[:, None]
    values = factors @ weights
    values /= values.std()
    noise = 10.0 ** generator.uniform(-3.0, -1.0)
    values += noise * generator.normal(size=values.shape)
    rotation, _ = np.linalg.qr(generator.normal(size=(features, features)))
    inputs = (factors @ rotation).astype("float32")
    return _split(inputs, values.astype("float32"))


def categories(generator, columns, levels, classes):
    """Draws rows of categories, most of them rare, and their classes.

    Args:
        generator: A `np.random.Generator`.
        columns: Integer.
        levels: Integer. Categories, common to all columns.
        classes: Integer.

    Returns:
        A `Dataset` of int32 `[M, columns]` and `[M]`.
    """
    count = draw_count(generator) + _HELD_OUT
    rate = 10.0 ** generator.uniform(-1.3, -0.3)
    codes = generator.geometric(rate, size=(count, columns)) % levels
    effects = generator.normal(size=(columns, levels, classes))
    scores = effects[np.arange(columns), codes].sum(1)
    scores += generator.uniform(0.0, 2.0) * generator.normal(size=scores.shape)
    return _labelled(
        generator, codes.astype("int32"), scores.argmax(-1), classes
    )


def labelled_sequences(generator, tokens, length, classes):
    """Draws sequences of tokens, each by the Markov chain of its class.

    Args:
        generator: A `np.random.Generator`.
        tokens: Integer. The size of the vocabulary.
        length: Integer. Tokens in a sequence.
        classes: Integer.

    Returns:
        A `Dataset` of int32 `[M, length]` and `[M]`.
    """
    labels = generator.integers(classes, size=draw_count(generator) + _HELD_OUT)
    sharpness = generator.uniform(0.5, 3.0)
    logits = sharpness * generator.normal(size=(classes, tokens, tokens))
    sequences = [generator.integers(tokens, size=len(labels))]
    for _ in range(length - 1):
        sequences.append(_sample(generator, logits[labels, sequences[-1]]))
    inputs = np.stack(sequences, 1).astype("int32")
    return _labelled(generator, inputs, labels, classes)


def text(generator, tokens, length, counts=COUNTS):
    """Draws texts of a random language, each with the next token everywhere.

    Args:
        generator: A `np.random.Generator`.
        tokens: Integer. The size of the vocabulary.
        length: Integer. Tokens in a text.
        counts: As for `draw_count`.

    Returns:
        A `Dataset` of int32 `[M, length]` and `[M, length]`.
    """
    count = draw_count(generator, counts) + _HELD_OUT
    # A token depends on the two before it.
    one, two = (
        generator.uniform(0.5, 3.0) * generator.normal(size=(tokens, tokens))
        for _ in range(2)
    )
    popular = generator.normal(size=tokens)
    sequences = list(generator.integers(tokens, size=(2, count)))
    for _ in range(length):
        logits = one[sequences[-1]] + two[sequences[-2]] + popular
        sequences.append(_sample(generator, logits))
    texts = np.stack(sequences[1:], 1).astype("int32")
    return _split(texts[:, :-1], texts[:, 1:])


def labelled_images(generator, size, channels, classes):
    """Draws pictures: smooth patterns of a class, shifted and with noise.

    Args:
        generator: A `np.random.Generator`.
        size: Integer. Pixels in height and in width.
        channels: Integer.
        classes: Integer.

    Returns:
        A `Dataset` of float32 `[M, size, size, channels]` and int32 `[M]`.
    """
    count = draw_count(generator, IMAGE_COUNTS) + _HELD_OUT // 2
    labels = generator.integers(classes, size=count)
    waves = generator.normal(size=(classes, 3, 3, channels, 2))
    axis = 2.0 * np.pi * np.arange(size) / size
    phase = (
        np.arange(3)[:, None, None, None] * axis[:, None]
        + np.arange(3)[:, None, None] * axis
    )  # [3, 3, size, size]
    patterns = np.einsum("kabc,abhw->khwc", waves[..., 0], np.cos(phase))
    patterns += np.einsum("kabc,abhw->khwc", waves[..., 1], np.sin(phase))
    shifts = generator.integers(-1, 2, size=(count, 2))
    rows = (np.arange(size) + shifts[:, :1]) % size
    columns = (np.arange(size) + shifts[:, 1:]) % size
    images = patterns[
        labels[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    images *= np.exp(0.3 * generator.normal(size=(count, 1, 1, 1)))
    noise = generator.uniform(0.5, 4.0)
    images += noise * generator.normal(size=images.shape)
    images -= images.min()
    images /= images.max()  # [0, 1], as pixels are
    form = generator.integers(4)
    if form == 0:
        images = (images - images.mean()) / images.std()
    elif form == 1:
        images *= generator.choice([16.0, 255.0])
    return _labelled(
        generator, images.astype("float32"), labels, classes, _HELD_OUT // 2
    )


def _columns_and_scores(generator, features, outputs, counts=COUNTS):
    """A table `[M, features]` float32, and scores `[M, outputs]` of order 1."""
    count = draw_count(generator, counts) + _HELD_OUT
    factors = int(generator.integers(2, features + 1))
    rows = generator.normal(size=(count, factors))
    inputs = _mixed(generator, rows, features)
    units = 1 if generator.integers(3) == 0 else 16  # a third is linear
    hidden = inputs @ generator.normal(size=(features, units))
    hidden /= np.sqrt(features)
    if units > 1:
        hidden = np.tanh(generator.uniform(1.0, 3.0) * hidden)
    scores = hidden @ generator.normal(size=(units, outputs))
    scores /= scores.std() + 1e-6
    return _in_columns(generator, inputs), scores


def _mixed(generator, factors, features):
    """Mixes factors `[M, F]` into `[M, features]`, and adds noise."""
    inputs = factors @ generator.normal(size=(factors.shape[1], features))
    inputs /= np.sqrt(factors.shape[1])
    inputs += 10.0 ** generator.uniform(-1.5, 0.0) * generator.normal(
        size=inputs.shape
    )
    return inputs


def _in_columns(generator, inputs):
    """Makes numbers of order 1, `[M, features]`, the columns of a table."""
    features = inputs.shape[1]
    # Some columns are skewed, some of them counts, some yes or no.
    forms = generator.choice(4, size=features, p=[0.6, 0.2, 0.1, 0.1])
    inputs = np.where(forms == 1, np.exp(inputs), inputs)
    inputs = np.where(forms == 2, np.round(2.0 * inputs), inputs)
    inputs = np.where(forms == 3, inputs > 0.0, inputs)
    if generator.integers(2):
        mean, deviation = inputs.mean(0), inputs.std(0)
        inputs = (inputs - mean) / np.where(deviation > 0.0, deviation, 1.0)
    else:
        # Raw: units over six decades, and offsets.
        shifts, exponents = generator.normal(size=(2, features))
        scales = 10.0 ** np.clip(
            generator.uniform(0.0, 1.5) * exponents, -3.0, 3.0
        )
        inputs = (inputs + 2.0 * shifts) * scales
    return inputs.astype("float32")


def _labelled(
    generator,
    inputs,
    labels,
    classes,
    held_out=_HELD_OUT,
    wrong_shares=_WRONG,
):
    """A `Dataset`, some of whose training labels are wrong."""
    labels = labels.astype("int32")
    wrong = generator.uniform(size=len(labels)) < generator.choice(wrong_shares)
    wrong[-held_out:] = False
    labels[wrong] = generator.integers(classes, size=wrong.sum())
    return _split(inputs, labels, held_out)


def _split(inputs, targets, held_out=_HELD_OUT):
    return Dataset(
        (inputs[:-held_out], targets[:-held_out]),
        (inputs[-held_out:], targets[-held_out:]),
    )


def _sample(generator, logits):
    """Draws a token for each row of logits `[M, tokens]`."""
    return (logits + generator.gumbel(size=logits.shape)).argmax(-1)
