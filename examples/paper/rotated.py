"""Rotated quadratics: a memory that begins as BFGS, and what it learns.

    python examples/paper/rotated.py         # to see that it runs
    python examples/paper/rotated.py --full  # about ten minutes on one core

Quadratics of ten dimensions whose axes are rotated, so that no rule that takes
each coordinate alone sees them, of condition 100 and 1,000, and with noise in
the gradients of a tenth of the first one's size. Compared are NTM-BFGS as
trained on noisy ones of condition 100 (`ntm-bfgs-noisy`); the same with a
low-rank memory; as trained without noise on condition 1,000 (*exact*,
`ntm-bfgs-rotated`); as it begins, which is BFGS with unit steps; the LSTM
(`lstm-noisy`); tuned SGD, NAG, RMSprop and Adam; and L-BFGS of SciPy, of which
a step is an evaluation of the gradient, and of which the best point so far
counts. Then a small network is trained through `fit`, in full batches, by
NTM-BFGS and by Adam, both at their best rates.

Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474, appendix.
"""

import dataclasses
import json

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf

from keras_l2l import L2LOptimizer, evaluation, presets, rules, tasks
from keras_l2l.reports import plots
from keras_l2l.reproduction import paper

NOISY, EXACT, LSTM = "ntm-bfgs-noisy", "ntm-bfgs-rotated", "lstm-noisy"
PROBLEMS = {
    "condition 100 with noise": (100.0, 0.1),
    "condition 100": (100.0, None),
    "condition 1000": (1000.0, None),
}
RATES = {"NTM-BFGS": (0.1, 0.3, 1.0), "Adam": (0.01, 0.03, 0.1, 0.3)}  # in fit


def main(output, full=False, seed=0):
    for title, (condition, noise) in PROBLEMS.items():
        # In float64, as SciPy computes: float32 ends at losses of 1e-14.
        task = tasks.Analytic("sphere", 10, condition, dtype="float64")
        if noise:
            task = tasks.GradientNoise(task, noise, noise)
        name = title.replace(" ", "-")
        comparison = evaluation.compare(
            compared_rules(),
            task,
            steps=100 if full else 5,
            seeds=30 if full else 2,
            sweep_seeds=5 if full else 1,
            seed=seed,
            baselines=paper.baselines(full),
            cache_dir=output / "runs" / name,
        )
        seeds = [r.seed for r in comparison.records_of("NTM-BFGS")]
        records = [record_of_lbfgs(task, s, comparison.steps) for s in seeds]
        comparison = dataclasses.replace(
            comparison, records=(*comparison.records, *records)
        )
        comparison.write_json(output / f"{name}.json")
        paper.show(comparison)
        show_speed(comparison)
        figure = plots.plot_learning_curves(comparison)
        figure.savefig(output / f"{name}.png")
    show_cost(100_000 if full else 1000)
    losses = losses_of_fit(*((300, 5, 3) if full else (2, 1, 1)))
    (output / "fit.json").write_text(json.dumps(losses))
    for name, values in losses.items():
        print(f"fit, {name}: {np.mean(values):.3g}, {np.round(values, 6)}")


def compared_rules():
    """The rules that are taken as they are."""
    return {
        "NTM-BFGS": in_float64(NOISY),
        "NTM-BFGS, low rank": in_float64(NOISY, memory="low_rank"),
        "NTM-BFGS, exact": in_float64(EXACT),
        "NTM-BFGS, exact, low rank": in_float64(EXACT, memory="low_rank"),
        "NTM-BFGS, untrained": rules.NTMBFGS.from_config(
            in_float64(NOISY).get_config()
        ),
        "LSTM": presets.load(LSTM),
    }


def in_float64(name, **arguments):
    """A preset of NTM-BFGS in float64, perhaps with another memory."""
    trained = presets.load(name)
    config = {**trained.get_config(), "dtype": "float64", **arguments}
    rule = rules.NTMBFGS.from_config(config)
    rule.set_weights(trained.get_weights())
    return rule


def record_of_lbfgs(task, seed, steps):
    """The best loss of L-BFGS after each evaluation of the gradient."""
    (start,), state = task.initial_parameters(seed)
    losses, best = [], [np.inf, start.numpy()]

    def evaluate(theta):
        # The noise is that of the step with this number.
        batch = task.sample_batch(tf.constant([seed, len(losses)]))
        parameters = [tf.constant(theta)]
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            loss, _ = task.loss(parameters, state, batch)
        (gradient,) = tape.gradient(loss, parameters)
        if loss < best[0]:
            best[:] = float(loss), np.array(theta)
        losses.append(best[0])
        return float(loss), gradient.numpy()

    while len(losses) <= steps:  # Noise can end a line search: begin again.
        before = len(losses)
        scipy.optimize.minimize(
            evaluate,
            best[1],
            jac=True,
            method="L-BFGS-B",
            options={"ftol": 0.0, "gtol": 0.0, "maxfun": steps + 1 - before},
        )
    losses = losses[: steps + 1]
    return evaluation.Record(
        task=task.name,
        optimizer="L-BFGS (SciPy)",
        learning_rate=None,
        seed=seed,
        losses=tuple(losses),
        test_losses={steps: losses[-1]},
    )


def show_speed(comparison):
    """Prints at which step the loss is a millionth of the first one."""
    names = dict.fromkeys(r.optimizer for r in comparison.records)
    for name in names:
        counts = []
        for record in comparison.records_of(name):
            losses = np.array(record.losses)
            reached = losses <= 1e-6 * losses[0]
            counts.append(reached.argmax() if reached.any() else np.inf)
        if np.isfinite(np.median(counts)):
            print(f"{name}: 1e-6 of the loss at step {np.median(counts):g}")


def show_cost(coordinates):
    """Prints what updates cost, with the low-rank memory and of the LSTM."""
    config = {**presets.load(NOISY).get_config(), "memory": "low_rank"}
    for name, rule in (
        ("NTM-BFGS, low rank", rules.NTMBFGS.from_config(config)),
        ("LSTM", presets.load(LSTM)),
    ):
        cost = evaluation.measure_cost(rule, coordinates)
        print(
            f"{coordinates} coordinates, {name}: an update takes "
            f"{cost.update_nanoseconds * coordinates / 1e6:.3g} ms, its state "
            f"{cost.state_bytes * coordinates / 1e6:.3g} MB"
        )


def losses_of_fit(epochs, seeds, sweep_seeds):
    """Final losses of a regression in full batches, for each optimizer.

    The rate of each is that of the lowest mean over other initialisations.
    """
    generator = np.random.default_rng(0)
    x = generator.normal(size=(256, 4)).astype("float32")
    y = np.sin(x @ generator.normal(size=4))[:, None] + x[:, :1] ** 2

    def train(optimizer, seed):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(16, activation="tanh"),
                keras.layers.Dense(16, activation="tanh"),
                keras.layers.Dense(1),
            ]
        )
        model.compile(optimizer, "mse")
        model.fit(x, y, batch_size=len(x), epochs=epochs, verbose=0)
        return float(model.evaluate(x, y, batch_size=len(x), verbose=0))

    make = {
        "NTM-BFGS": lambda rate: L2LOptimizer(NOISY, learning_rate=rate),
        "Adam": keras.optimizers.Adam,
    }
    found = {}
    for name, rates in RATES.items():
        means = {
            rate: np.mean(
                [train(make[name](rate), 100 + s) for s in range(sweep_seeds)]
            )
            for rate in rates
        }
        best = min(means, key=means.__getitem__)
        found[f"{name} at {best:g}"] = [
            train(make[name](best), s) for s in range(seeds)
        ]
    return found


if __name__ == "__main__":
    paper.run_script(main)
