"""Makes the golden files that are not there: each once, kept for ever.

    python -m tests.golden.make

Most were made at commit 27db21c (keras_l2l 0.1.0) with VERSIONS, on x86-64.
What is there is never overwritten; a new file, of a new format, gets a new
name. `tests/test_golden.py` says what is in them and has them go on.

- `optimizers/NAME.keras`: a model after six steps, with the state of its
  optimizer; `NAME.npz`: the data, and the weights after six steps more.
  `general.weights.h5` and `checkpoint/` are of the model in `general.keras`.
- `rules/NAME/`: an exported rule; `rules/NAME.npz`: gradients, parameters,
  and the updates that the rule and the graph make of them.
- `backup/NAME/`: of a meta-training that broke off after one epoch of two;
  `NAME.npz` and `NAME.json`: meta-parameters and history at its end.
- `digests.json`: the SHA-256 of all these files and of `saved_models`.
"""

import json
import os
import tempfile

import keras
import numpy as np
import tensorflow as tf

import keras_l2l
from keras_l2l import rules
from keras_l2l.serialization import load_graph_unsafe
from tests import components
from tests import test_golden as golden

VERSIONS = {
    "python": "3.11.7",
    "keras": "3.15.1",
    "numpy": "2.4.6",
    "tensorflow": "2.21.0",
}


def model_of(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(6, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )
    # Without XLA, which rounds in other ways from version to version.
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def by_path():
    return rules.Grouped(
        {
            "biases": rules.Adam(0.01),
            "scales": rules.CoordinatewiseLSTM(units=3, layers=1, seed=1),
            "others": rules.RNNprop(units=3, layers=1, seed=2),
        },
        paths={
            "biases": "bias",
            "scales": ["batch_normalization/gamma", "*/beta"],
        },
    )


OPTIMIZERS = {
    "general": lambda: keras_l2l.L2LOptimizer("general"),
    "general_3": lambda: keras_l2l.L2LOptimizer("general-3"),
    "general_4": lambda: keras_l2l.L2LOptimizer("general-4"),
    "lstm_mnist": lambda: keras_l2l.L2LOptimizer("lstm-mnist"),
    # The rate begins to fall at step 9, the model is saved at 6.
    "options": lambda: keras_l2l.L2LOptimizer(
        by_path(),
        learning_rate=0.5,
        weight_decay=0.01,
        clipnorm=1.0,
        use_ema=True,
        ema_momentum=0.9,
        ema_overwrite_frequency=4,
        total_steps=15,
        state_dtype="bfloat16",
    ),
    "accumulating": lambda: keras_l2l.L2LOptimizer(
        rules.ScheduleFreeAdamW(0.01, warmup_steps=3),
        learning_rate=keras.optimizers.schedules.ExponentialDecay(1.0, 2, 0.9),
        global_clipnorm=1.0,
        loss_scale_factor=8.0,
        gradient_accumulation_steps=4,
        guard=False,
        name="accumulating",
    ),
}

RULES = {
    **components.RULES,
    "Grouped-paths": lambda: rules.Grouped(
        {
            "biases": rules.Adam(0.01),
            "others": rules.CoordinatewiseLSTM(units=3, layers=1, seed=1),
        },
        paths={"biases": ["bias", "b[0-9]"]},
    ),
}


def make_optimizers(root):
    rng = np.random.default_rng(0)
    data = {
        "x": rng.normal(size=(24, 8)).astype("float32"),
        "y": rng.integers(0, 3, 24).astype("int32"),
    }
    for name, make in OPTIMIZERS.items():
        if (root / f"{name}.npz").exists():
            continue
        model = model_of(make())
        golden.go_on(model, data, epochs=2)
        model.save(root / f"{name}.keras")
        if name == "general":
            model.save_weights(root / f"{name}.weights.h5")
            checkpoint = tf.train.Checkpoint(model, optimizer=model.optimizer)
            checkpoint.write(os.fspath(root / "checkpoint" / name))
        golden.go_on(model, data, epochs=2)
        np.savez(
            root / f"{name}.npz", **data, **golden.numbers(model.variables)
        )


def make_rules(root):
    for name, make in RULES.items():
        if (root / f"{name}.npz").exists():
            continue
        rng, rule = np.random.default_rng(0), make()
        data = {
            key: rng.normal(size=shape).astype("float32")
            for key, shape in {
                "kernel": (3, 2),
                "bias": (4,),
                "kernel_gradients": (golden.STEPS, 3, 2),
                "bias_gradients": (golden.STEPS, 4),
            }.items()
        }
        rule.export(root / name, metadata=components.METADATA)
        module = load_graph_unsafe(root / name)
        made = {
            **golden.updates_of_rule(rule, data),
            **golden.updates_of_graph(module, data),
        }
        # A first update may be zero, a last one would show nothing.
        for key, value in made.items():
            assert key.endswith("_0") or np.all(value), (name, key)
        np.savez(root / f"{name}.npz", **data, **made)


def make_backups(root):
    def break_off(epoch, logs):
        if epoch == 1:
            raise KeyboardInterrupt

    for name, make in golden.RUNS.items():
        if (root / f"{name}.npz").exists():
            continue
        callback = keras.callbacks.LambdaCallback(on_epoch_begin=break_off)
        try:
            golden.start(make, root / name, callbacks=[callback])
        except KeyboardInterrupt:
            pass
        else:
            raise RuntimeError("The run was to break off.")
        with tempfile.TemporaryDirectory() as directory:
            weights, history = golden.start(make, directory)
        np.savez(
            root / f"{name}.npz",
            **{f"{i:02}": weight for i, weight in enumerate(weights)},
        )
        (root / f"{name}.json").write_text(json.dumps(history, indent=2) + "\n")


def main():
    make_optimizers(golden.ROOT / "optimizers")
    make_rules(golden.ROOT / "rules")
    make_backups(golden.ROOT / "backup")
    known, digests = json.loads(golden.DIGESTS.read_text()), golden.digests()
    changed = [name for name in known if digests.get(name) != known[name]]
    if changed:
        raise RuntimeError(f"Golden files were changed or lost: {changed}")
    golden.DIGESTS.write_text(f"{json.dumps(digests, indent=2)}\n")


if __name__ == "__main__":
    main()
