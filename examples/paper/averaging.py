"""Averaging cells where the norm of the gradient tells something.

    python examples/paper/averaging.py         # to see that it runs
    python examples/paper/averaging.py --full  # some minutes on one core

Quadratics of ten dimensions in two settings: the gradients of a step are
multiplied by 100 with probability 0.05 (`bursts`); each function is multiplied
by a factor drawn from four decades (`scales`). The LSTM and the LSTM with
averaging cells, trained by one recipe in each setting, are compared with SGD
and Adam whose rate and clipping by the global norm are both tuned. The LSTM
of the plain functions (`lstm-quadratic`) is run on these, to show how much a
setting costs the LSTM, which is the most that averaging can win back. Last the
two LSTMs are compared on rotated functions of one condition, which they have
not seen. A figure shows the averaging cells in bursts.

Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474, section 3.1 and
appendix.
"""

import dataclasses

import numpy as np
import tensorflow as tf
from keras import ops
from matplotlib.figure import Figure

from keras_l2l import evaluation, presets, rules, tasks
from keras_l2l.evaluation.comparison import Plan, Progress, compare_optimizers
from keras_l2l.evaluation.optimizer_spec import OptimizerSpec, learned_spec
from keras_l2l.evaluation.run_cache import RunCache
from keras_l2l.inner_loop import inner_step, start
from keras_l2l.reproduction import paper

SETTINGS = {"bursts": tasks.GradientBursts, "scales": tasks.LossScaling}
CLIPNORMS = (None, 1.0, 10.0, 100.0)
OPTIMIZERS = {"SGD": rules.SGD, "Adam": rules.Adam}
# Of the functions on which the two LSTMs are compared beyond their training.
CONDITION = 100.0


def main(output, full=False, seed=0):
    runs = 100 if full else 2
    plan = Plan(
        steps=100 if full else 5,
        seeds=runs,
        sweep_seeds=10 if full else 1,
        seed=seed,
        criterion="held-out",
    )
    for name, setting in SETTINGS.items():
        comparison = compare(setting(tasks.Quadratic()), name, plan, output)
        comparison.write_json(output / f"{name}.json")
        print(f"{name}: loss of the functions themselves")
        paper.show(comparison)
        show_ratio(
            *(final_losses(comparison, of) for of in ("LSTM+GAC", "LSTM"))
        )
        if name == "scales":
            show_decades(comparison, setting(tasks.Quadratic()))
    seeds = plan.episode_seeds("test")
    plain = evaluation.learning_curves(
        presets.load("lstm-quadratic"), tasks.Quadratic(), seeds, plan.steps
    ).losses[:, -1]
    error = plain.std(ddof=1) / len(plain) ** 0.5
    print(f"lstm-quadratic, plain: loss {plain.mean():.3g} ± {error:.2g}")
    plan = dataclasses.replace(plan, seeds=3 * runs)
    for name, setting in SETTINGS.items():
        print(f"{name}, condition {CONDITION:g}")
        compare_on_one_condition(name, setting, plan)
    steps = 60 if full else 5
    plot_averaging_cells(output / "averaging_cells.png", steps, seeds[0])


def compare(task, name, plan, output):
    """Compares the two LSTMs with optimizers whose clipping is tuned, too."""
    learned = {
        "LSTM+GAC": learned_spec(presets.load(f"lstm-gac-{name}-2")),
        "LSTM": learned_spec(presets.load(f"lstm-{name}-2")),
    }
    clipped = {
        f"{of_one}, clipped at {clipnorm:g}" if clipnorm else of_one: spec_of(
            of_one, clipnorm
        )
        for of_one in OPTIMIZERS
        for clipnorm in CLIPNORMS
    }
    comparison = compare_optimizers(
        {**learned, **clipped},
        task.name,
        lambda: task,
        plan,
        RunCache(output / "runs" / name),
        Progress(None, 0),
    )
    # Each optimizer with the clipping of the lowest loss in the sweep.
    kept = {
        min(
            (s for s in comparison.sweeps if s.optimizer.startswith(of_one)),
            key=lambda sweep: min(sweep.scores),
        ).optimizer
        for of_one in OPTIMIZERS
    }
    kept |= set(learned)
    return dataclasses.replace(
        comparison,
        records=tuple(r for r in comparison.records if r.optimizer in kept),
        sweeps=tuple(s for s in comparison.sweeps if s.optimizer in kept),
    )


def spec_of(name, clipnorm):
    """An optimizer with its rates to try, and one clipping."""
    rule, rates = OPTIMIZERS[name], evaluation.BASELINES[name].learning_rates
    if clipnorm is None:
        return OptimizerSpec(lambda steps: rule(), rates)
    return OptimizerSpec(lambda steps: Clipped(rule(), clipnorm), rates)


class Clipped(rules.UpdateRule):
    """A rule that sees gradients clipped by their global norm."""

    def __init__(self, rule, clipnorm):
        super().__init__()
        self._rule, self._clipnorm = rule, clipnorm
        self.learning_rate = rule.learning_rate

    def initial_state(self, parameters):
        return self._rule.initial_state(parameters)

    def call(self, gradients, parameters, state):
        square = sum(ops.sum(ops.square(g)) for g in gradients)
        norm = ops.maximum(ops.sqrt(square), self._clipnorm)
        gradients = [g * (self._clipnorm / norm) for g in gradients]
        return self._rule(gradients, parameters, state)


def final_losses(comparison, name):
    """The losses of the functions themselves after the last step."""
    records = comparison.records_of(name)
    return [record.test_losses[comparison.steps] for record in records]


def compare_on_one_condition(name, setting, plan):
    """Compares the two LSTMs on rotated functions of one condition."""
    task = setting(tasks.Analytic("sphere", condition=CONDITION))
    show_ratio(
        *(
            evaluation.learning_curves(
                presets.load(f"{preset}-{name}-2"),
                task,
                plan.episode_seeds("test"),
                plan.steps,
            ).test_losses[:, -1]
            for preset in ("lstm-gac", "lstm")
        )
    )


def show_ratio(with_cells, without):
    """Prints the final loss with averaging cells over that without.

    In the mean, where few functions of a bad condition count for most, and in
    the geometric mean, where all count alike.

    Args:
        with_cells: Sequence of losses with averaging cells, one a function.
        without: Sequence of those without, on the same functions.
    """
    with_cells, without = np.array(with_cells), np.array(without)
    difference = with_cells - without
    error = difference.std(ddof=1) / len(difference) ** 0.5
    print(
        f"LSTM+GAC / LSTM: {with_cells.mean() / without.mean():.3g}, the "
        f"difference of the losses {difference.mean():.3g} ± {error:.2g}"
    )
    logs = np.log(with_cells / without)
    error = logs.std(ddof=1) / len(logs) ** 0.5
    print(
        f"geometric mean of the ratios: {np.exp(logs.mean()):.3g}, "
        f"{logs.mean() / error:.1f} standard errors from one"
    )


def show_decades(comparison, task):
    """Prints the mean loss with averaging cells, by the factor's decade."""
    decades = {}
    for record in comparison.records_of("LSTM+GAC"):
        _, (factor, *_) = task.initial_parameters(record.seed)
        decade = int(np.floor(np.log10(factor)))
        loss = record.test_losses[comparison.steps]
        decades.setdefault(decade, []).append(loss)
    for decade, losses in sorted(decades.items()):
        print(f"factors from 1e{decade}: loss {np.mean(losses):.3g}")


def plot_averaging_cells(path, steps, seed):
    """Draws the averaging cells of both layers while gradients burst."""
    rule = presets.load("lstm-gac-bursts-2")
    task = tasks.GradientBursts(tasks.Quadratic())
    carry, cells, bursts = start(rule, task, seed), [], []
    for step in range(steps):
        _, factor = task.sample_batch(tf.constant([seed, step]))
        bursts.append(factor > 1.0)
        carry, *_ = inner_step(rule, task, carry)
        (state,) = carry.rule_state.local
        cells.append(
            [
                state[f"hidden_{layer}"][0, cell]
                for layer in range(rule.layers)
                for cell in range(rule.averaging_cells)
            ]
        )
    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    axes = figure.subplots()
    for index, values in enumerate(np.transpose(cells)):
        layer, cell = divmod(index, rule.averaging_cells)
        label = f"layer {layer + 1}, cell {cell + 1}"
        axes.plot(range(steps), values, label=label)
    for step in np.flatnonzero(bursts):
        axes.axvline(step, color="0.8", zorder=0)
    axes.set(xlabel="Step; bursts are grey", ylabel="Averaging cell")
    figure.legend(loc="outside center right", frameon=False, fontsize="small")
    figure.savefig(path)


if __name__ == "__main__":
    paper.run_script(main)
