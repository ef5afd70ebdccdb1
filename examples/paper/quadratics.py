"""Quadratic functions of ten dimensions: what sharing information brings.

    python examples/paper/quadratics.py         # half an hour on one core
    python examples/paper/quadratics.py --fast  # to see that it runs

Four rules are meta-trained on random functions ‖Wθ - y‖², raw gradients as
inputs: the LSTM, the same with global averaging cells, and NTM-BFGS with a full
and with a low-rank memory. They are compared on fresh functions with tuned SGD,
NAG, RMSprop and Adam, and with BFGS and L-BFGS of SciPy, of which a step is an
iteration, line search included. Stopped, it goes on from where it was.

Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474, section 3.1 and
appendix.
"""

import argparse
import dataclasses
import pathlib

import keras
import numpy as np
import scipy.optimize
from rich.console import Console

from keras_l2l import MetaTrainer, evaluation, plotting, report, rules, tasks
from keras_l2l.comparison import Record

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--fast", action="store_true")
parser.add_argument("--epochs", type=int, default=50)
parser.add_argument("--learning-rate", type=float, default=1e-3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--output", type=pathlib.Path, default="runs/quadratics")
arguments = parser.parse_args()

STEPS, UNROLL = (20, 10) if arguments.fast else (100, 20)
EPOCHS, STEPS_PER_EPOCH = (1, 2) if arguments.fast else (arguments.epochs, 100)
OPTIMIZEES = 2 if arguments.fast else 10
SEEDS, SWEEP_SEEDS = (3, 1) if arguments.fast else (50, 50)

network = {
    "units": 4 if arguments.fast else 20,
    "layers": 1 if arguments.fast else 2,
    "preprocessing": "raw",
    "seed": arguments.seed,
}
learned = {
    "LSTM": rules.CoordinatewiseLSTM(**network),
    "LSTM+GAC": rules.CoordinatewiseLSTM(averaging_cells=2, **network),
    "NTM-BFGS": rules.NTMBFGS(**network),
    "NTM-BFGS, low rank": rules.NTMBFGS(memory="low_rank", **network),
}
task = tasks.Quadratic(dimensions=10)


def meta_train(name, rule):
    path = arguments.output / name.replace(", ", "-").replace(" ", "-")
    trainer = MetaTrainer(
        rule,
        task,
        horizon=STEPS,
        unroll=UNROLL,
        optimizees=OPTIMIZEES,
        seed=arguments.seed,
    )
    rate = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate, EPOCHS * STEPS_PER_EPOCH, alpha=0.01
    )
    trainer.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0))
    trainer.fit(
        epochs=EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
        validation_task=task,
        validation_episodes=OPTIMIZEES,
        backup_dir=path / "backup",
        verbose=2,
    )
    rule.export(path / "rule")


def records_of_scipy(method, seeds):
    """What SciPy makes of the functions of these seeds."""
    records = []
    for seed in seeds:
        (start,), (matrix, target) = task.initial_parameters(seed)
        matrix, target = np.float64(matrix[0]), np.float64(target[0])

        def loss(theta, matrix=matrix, target=target):
            return float(np.sum((matrix @ theta - target) ** 2))

        def gradient(theta, matrix=matrix, target=target):
            return 2 * matrix.T @ (matrix @ theta - target)

        path = [np.float64(start[0])]
        scipy.optimize.minimize(
            loss,
            path[0],
            jac=gradient,
            method=method,
            callback=lambda theta, path=path: path.append(theta.copy()),
            options={"maxiter": STEPS},
        )
        losses = [loss(theta) for theta in path]
        losses += losses[-1:] * (STEPS + 1 - len(losses))  # It has converged.
        records.append(
            Record(
                task=task.name,
                optimizer=f"{method} (SciPy)",
                learning_rate=None,
                seed=seed,
                losses=tuple(losses),
                test_losses={STEPS: losses[-1]},
            )
        )
    return records


for name, rule in learned.items():
    print(name)
    meta_train(name, rule)

comparisons = [
    evaluation.compare(
        rule,
        task,
        steps=STEPS,
        seeds=SEEDS,
        sweep_seeds=SWEEP_SEEDS,
        seed=arguments.seed,
        name=name,
        baselines=None if index == 0 else {},  # once is enough
    )
    for index, (name, rule) in enumerate(learned.items())
]
records = [record for c in comparisons for record in c.records]
seeds = [r.seed for r in records if r.optimizer == "LSTM"]
for method in ("BFGS", "L-BFGS-B"):
    records += records_of_scipy(method, seeds)
comparison = dataclasses.replace(comparisons[0], records=tuple(records))

Console(width=120).print(*report.comparison_table(comparison))
comparison.write_json(arguments.output / "comparison.json")
figure = plotting.plot_learning_curves(comparison)
figure.axes[0].set_ylim(bottom=1e-4)  # BFGS goes on down to rounding
figure.savefig(arguments.output / "curves.png")
