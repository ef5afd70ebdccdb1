"""The outer step of a meta-training as a program for a TPU.

`pip install -e ".[test,tpu]"`; then

    pytest -m large -n 0 -s tests/meta_training/test_tpu.py

prints what the compiler says of each program.
"""

import pytest
import tensorflow as tf

from keras_l2l import MetaTrainer, meta_gradients, presets, tasks
from keras_l2l.meta_training.outer_step import compile_outer_step
from tests.tpu_compiler import compile_for_tpu

ESTIMATORS = {
    "TruncatedBackpropagation": meta_gradients.TruncatedBackpropagation,
    "PersistentES": lambda: meta_gradients.PersistentES(vectorize=True),
    "AntitheticES": lambda: meta_gradients.AntitheticES(vectorize=True),
}


def outer_step(rule, task, estimator):
    """A compiled outer step, and its arguments.

    Of two optimizees, or of one where they are trained one by one.
    """
    trainer = MetaTrainer(
        rule, task, horizon=20, unroll=10, optimizees=2, estimator=estimator
    )
    config, (batch, *_) = trainer._config, trainer._pool.batches
    batch.start(config.estimator, rule, dict.fromkeys(batch.numbers, 0))
    step = tf.function(
        compile_outer_step(config, batch.task, rule),
        autograph=False,
        jit_compile=True,
    )
    return step, (
        batch.carry,
        batch.first_losses(),
        batch.weights(config.loss_weights, config.unroll),
        batch.seeds(0),
    )


@pytest.mark.large
@pytest.mark.parametrize("preset", [presets.DEFAULT, "lstm-mnist", "rnnprop"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_outer_step_compiles(estimator, preset):
    pytest.importorskip("libtpu")
    task = tasks.digits_mlp(units=16, batch_size=32)
    step, arguments = outer_step(
        presets.load(preset), task, ESTIMATORS[estimator]()
    )
    program = compile_for_tpu(step, *arguments)
    print(f"\n{estimator:<25}{preset:<11}{program}")
    assert 0 < program.code < 2**26
    assert program.temporaries < 2**30
