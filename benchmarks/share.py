"""Section `share`: what the noise of `coordinate_share` does to a training."""

import statistics
import time

import keras

from keras_l2l import MetaTrainer, rules, tasks
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)

SHARES = (1.0, 0.25, 0.1, 0.02)
SEEDS = range(5)
STEPS = 200


def share_section(arguments):
    """The validation loss after 200 outer steps on digits, 5 seeds each."""
    task = tasks.digits_mlp()
    losses = {share: [] for share in SHARES}
    seconds = {share: [] for share in SHARES}
    before = []
    for seed in SEEDS:
        for share in SHARES:
            trainer = _trainer(task, share, seed)
            if share == SHARES[0]:
                before.append(trainer.evaluate(task))
            trainer.fit(steps_per_epoch=1, verbose=0)  # Builds the graph.
            begin = time.perf_counter()
            trainer.fit(steps_per_epoch=STEPS - 1, verbose=0)
            seconds[share].append(time.perf_counter() - begin)
            losses[share].append(trainer.evaluate(task))
    records = [_record("not trained", before)]
    for share in SHARES:
        time_of_one = statistics.median(seconds[share])
        records.append(
            _record(f"coordinate_share={share}", losses[share])
            | {
                "seconds": time_of_one,
                "relative_seconds": time_of_one
                / statistics.median(seconds[SHARES[0]]),
            }
        )
    return records


def _trainer(task, share, seed):
    trainer = MetaTrainer(
        rules.CoordinatewiseLSTM(units=20, layers=2, seed=seed),
        task,
        horizon=100,
        unroll=20,
        estimator=TruncatedBackpropagation(coordinate_share=share),
        seed=seed,
    )
    trainer.compile(keras.optimizers.Adam(3e-3))
    return trainer


def _record(name, losses):
    return {
        "row": name,
        "validation_loss": statistics.mean(losses),
        "standard_error": statistics.stdev(losses) / len(losses) ** 0.5,
    }
