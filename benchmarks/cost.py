"""What an optimizer costs a person who puts it in the place of Adam.

A model's first step, its further steps and the peak memory of its process,
under `fit()`'s own train function:

    python benchmarks/cost.py
    python benchmarks/cost.py --models mlp convnet --optimizers Adam L2L

Each row is a process of its own on one core; the rows of a model take turns.
Processor time is that of all threads. Images are random: only time counts.
"""

import argparse
import json
import resource
import statistics
import sys
import time

from processes import run_script, set_threads

CLASSES = 10
TEXT_LENGTH, WORDS = 64, 2000


def main():
    if len(sys.argv) > 1 and sys.argv[1] == "--row":
        set_threads(1)
        print(json.dumps(measure(*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument(
        "--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS
    )
    parser.add_argument("--jit", nargs="+", choices=["off", "on"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    for model in arguments.models:
        rows = [
            (optimizer, jit)
            for jit in arguments.jit or ["off", "on"]
            for optimizer in arguments.optimizers
        ]
        found = {row: [] for row in rows}
        for _ in range(arguments.repeats):
            for row in rows:
                found[row].append(
                    run_script(
                        "cost.py",
                        *("--row", model, *row, arguments.steps),
                        threads=1,
                    )
                )
        _print(model, found)


def measure(model_name, optimizer_name, jit, steps):
    """Trains a model for some steps.

    Args:
        model_name: String, a key of `MODELS`.
        optimizer_name: String, a key of `OPTIMIZERS`.
        jit: `"on"` or `"off"`.
        steps: Integer, as a number or a string.

    Returns:
        Dict of numbers: seconds of processor time and of the clock for the
        first step and for a further one, and the peak memory in megabytes.
    """
    import keras

    keras.utils.set_random_seed(0)
    build_model, make_data, size = MODELS[model_name]
    model = build_model()
    model.compile(
        OPTIMIZERS[optimizer_name](),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit == "on",
    )
    data = make_data(size)
    first = _timed(lambda: model.train_on_batch(*data))
    model.train_on_batch(*data)
    further = [
        _timed(lambda: model.train_on_batch(*data)) for _ in range(int(steps))
    ]
    return {
        "tensors": len(model.trainable_variables),
        "parameters": model.count_params(),
        "first_cpu": first[0],
        "first_clock": first[1],
        "step_cpu": statistics.median(cpu for cpu, _ in further),
        "step_clock": statistics.median(clock for _, clock in further),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _timed(function):
    cpu, clock = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - clock


def _print(model, found):
    any_row = next(iter(found.values()))[0]
    parameters = any_row["parameters"]
    print(f"\n{model}: {any_row['tensors']} tensors, {parameters:,} parameters")
    print("| optimizer | jit | first step, s | step, ms | peak, MB | ns |")
    print("|---|---|---|---|---|---|")
    for (optimizer, jit), runs in found.items():
        best = {key: min(run[key] for run in runs) for key in any_row}
        adam = found.get(("Adam", jit), runs)
        over = best["step_cpu"] - min(run["step_cpu"] for run in adam)
        print(
            f"| {optimizer} | {jit} "
            f"| {best['first_cpu']:.1f} ({best['first_clock']:.1f}) "
            f"| {1e3 * best['step_cpu']:.1f} ({1e3 * best['step_clock']:.1f}) "
            f"| {best['peak']:.0f} | {1e9 * over / parameters:.1f} |",
            flush=True,
        )
    print("In brackets: by the clock. ns: above Adam's step, a parameter.")


def _adam():
    import keras

    return keras.optimizers.Adam()


def _muon():
    import keras

    return keras.optimizers.Muon()


def _l2l(guard=True):
    from keras_l2l import L2LOptimizer

    return L2LOptimizer(guard=guard)


def _mlp():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(128, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dense(CLASSES),
        ]
    )


def _deep_mlp():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((64,)),
            *(layers.Dense(64, activation="relu") for _ in range(24)),
            layers.Dense(CLASSES),
        ]
    )


def _convnet():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
        ]
    )


def _lstm():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((TEXT_LENGTH,), dtype="int32"),
            layers.Embedding(WORDS, 64),
            layers.LSTM(128),
            layers.Dense(CLASSES),
        ]
    )


def _transformer(width=64, heads=4, depth=2):
    import keras
    from keras import layers

    inputs = keras.Input((TEXT_LENGTH,), dtype="int32")
    hidden = layers.Embedding(WORDS, width)(inputs)
    for _ in range(depth):
        normed = layers.LayerNormalization()(hidden)
        attention = layers.MultiHeadAttention(heads, width // heads)
        hidden = layers.Add()([hidden, attention(normed, normed)])
        normed = layers.LayerNormalization()(hidden)
        normed = layers.Dense(4 * width, activation="gelu")(normed)
        hidden = layers.Add()([hidden, layers.Dense(width)(normed)])
    hidden = layers.GlobalAveragePooling1D()(hidden)
    return keras.Model(inputs, layers.Dense(CLASSES)(hidden))


def _application(name, **arguments):
    import keras

    return getattr(keras.applications, name)(
        weights=None,
        input_shape=(32, 32, 3),
        classes=CLASSES,
        classifier_activation=None,
        **arguments,
    )


def _images(size):
    import numpy as np

    generator = np.random.default_rng(0)
    images = generator.normal(size=(size, 32, 32, 3)).astype("float32")
    return images, generator.integers(0, CLASSES, size)


def _vectors(width):
    def make(size):
        import numpy as np

        generator = np.random.default_rng(0)
        vectors = generator.normal(size=(size, width)).astype("float32")
        return vectors, generator.integers(0, CLASSES, size)

    return make


def _texts(size):
    import numpy as np

    generator = np.random.default_rng(0)
    texts = generator.integers(0, WORDS, (size, TEXT_LENGTH))
    return texts.astype("int32"), generator.integers(0, CLASSES, size)


# Name → how to build it, how to make a batch, and the size of the batch.
MODELS = {
    "mlp": (_mlp, _vectors(784), 128),
    "deep-mlp": (_deep_mlp, _vectors(64), 32),
    "convnet": (_convnet, _images, 32),
    "lstm": (_lstm, _texts, 32),
    "transformer": (_transformer, _texts, 32),
    "mobilenet": (
        lambda: _application("MobileNetV2", alpha=0.35),
        _images,
        32,
    ),
    "resnet50": (lambda: _application("ResNet50"), _images, 8),
}
OPTIMIZERS = {
    "Adam": _adam,
    "Muon": _muon,
    "L2L": _l2l,
    "L2L, no guard": lambda: _l2l(guard=False),
}


if __name__ == "__main__":
    main()
