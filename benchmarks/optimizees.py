"""Section `optimizees`: a `MetaTrainer` with more and more optimizees."""

import statistics

import keras
from workloads import UNROLL, make_rule

from keras_l2l import MetaTrainer, rules, tasks

HORIZON = 100
OPTIMIZEES = (1, 4, 16, 64)
# Outer steps in an epoch: whole episodes, so that their starts count.
STEPS = HORIZON // UNROLL


def optimizees_section(arguments):
    """Inner steps a second of all optimizees together."""
    records = []
    for name, make, task in (
        ("LSTM 2×20, digits MLP", make_rule, tasks.digits_mlp()),
        ("LSTM 1×4, digits MLP", _small_rule, tasks.digits_mlp()),
        ("LSTM 2×20, quadratic", make_rule, tasks.Quadratic(10)),
    ):
        trainers = {n: _trainer(make(), task, n) for n in OPTIMIZEES}
        speeds = {n: [] for n in OPTIMIZEES}
        for _ in range(max(1, arguments.repeats // 5)):
            for n, trainer in trainers.items():
                speeds[n].append(_speed(trainer))
        medians = {n: statistics.median(speeds[n]) for n in OPTIMIZEES}
        records += [
            {
                "row": name,
                "optimizees": n,
                "inner_steps_per_second": medians[n],
                "relative_to_one": medians[n] / medians[1],
            }
            for n in OPTIMIZEES
        ]
    return records


def _small_rule():
    return rules.CoordinatewiseLSTM(units=4, layers=1, seed=0)


def _trainer(rule, task, optimizees):
    trainer = MetaTrainer(
        rule, task, horizon=HORIZON, unroll=UNROLL, optimizees=optimizees
    )
    trainer.compile(keras.optimizers.Adam(1e-3))
    return trainer


def _speed(trainer):
    """That of the second epoch, as the first one builds the graph."""
    history = trainer.fit(epochs=2, steps_per_epoch=STEPS, verbose=0)
    return history.history["inner_steps_per_second"][-1]
