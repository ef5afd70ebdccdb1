"""Quadratic functions of ten dimensions: what sharing information brings.

    python examples/paper/quadratics.py         # to see that it runs
    python examples/paper/quadratics.py --full  # a few minutes on one core

Learned rules on random functions ‖Wθ - y‖², raw gradients as inputs: the LSTM,
the same with global averaging cells, and NTM-BFGS; and, with the same
meta-parameters, NTM-BFGS with a memory of only the last 30 pairs. They are
compared on fresh functions with tuned SGD, NAG, RMSprop and Adam, and with BFGS
and L-BFGS of SciPy, of which a step is an iteration, line search included.
`keras-l2l meta-train` trains the presets.

Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474, section 3.1 and
appendix.
"""

import dataclasses

import numpy as np
import scipy.optimize

from keras_l2l import evaluation, presets, rules, tasks
from keras_l2l.reports import plots
from keras_l2l.reproduction import paper

LEARNED = {
    "LSTM": "lstm-quadratic",
    "LSTM+GAC": "lstm-gac-quadratic",
    "NTM-BFGS": "ntm-bfgs",
}


def main(output, full=False, seed=0):
    learned = {name: presets.load(of_one) for name, of_one in LEARNED.items()}
    config = learned["NTM-BFGS"].get_config()
    low_rank = rules.NTMBFGS.from_config({**config, "memory": "low_rank"})
    low_rank.set_weights(learned["NTM-BFGS"].get_weights())
    task = tasks.Quadratic(dimensions=10)
    runs = 100 if full else 3
    comparison = evaluation.compare(
        {**learned, "NTM-BFGS, low rank": low_rank},
        task,
        steps=100 if full else 20,
        seeds=runs,
        sweep_seeds=runs,
        seed=seed,
        baselines=paper.baselines(full),
    )
    records = list(comparison.records)
    seeds = [r.seed for r in comparison.records_of("LSTM")]
    for method in ("BFGS", "L-BFGS-B"):
        records += [
            record_of_scipy(method, task, s, comparison.steps) for s in seeds
        ]
    comparison = dataclasses.replace(comparison, records=tuple(records))
    paper.show(comparison)
    comparison.write_json(output / "quadratics.json")
    figure = plots.plot_learning_curves(comparison)
    figure.axes[0].set_ylim(bottom=1e-3)  # BFGS goes on down to rounding
    figure.savefig(output / "quadratics.png")


def record_of_scipy(method, task, seed, steps):
    """What SciPy makes of the function of this seed."""
    (start,), (matrix, target) = task.initial_parameters(seed)
    matrix, target = np.float64(matrix[0]), np.float64(target[0])

    def loss(theta):
        return float(np.sum((matrix @ theta - target) ** 2))

    def gradient(theta):
        return 2 * matrix.T @ (matrix @ theta - target)

    path = [np.float64(start[0])]
    scipy.optimize.minimize(
        loss,
        path[0],
        jac=gradient,
        method=method,
        callback=lambda theta: path.append(theta.copy()),
        options={"maxiter": steps},
    )
    losses = [loss(theta) for theta in path]
    losses += losses[-1:] * (steps + 1 - len(losses))  # It has converged.
    return evaluation.Record(
        task=task.name,
        optimizer=f"{method} (SciPy)",
        learning_rate=None,
        seed=seed,
        losses=tuple(losses),
        test_losses={steps: losses[-1]},
    )


if __name__ == "__main__":
    paper.run_script(main)
