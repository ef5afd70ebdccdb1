"""Loops that build, compile and fit many models, as tuners do."""

import gc
import weakref

import keras
import pytest
import tensorflow as tf

from keras_l2l import L2LOptimizer, rules
from tests.small_fit import compiled, fit

RULES = {
    "SGD": rules.SGD,
    # With both custom gradients, which TensorFlow registers for ever.
    "CoordinatewiseLSTM": lambda: rules.CoordinatewiseLSTM(
        units=2, layers=1, derivative_smoothing=0.1
    ),
    "Hierarchical": lambda: rules.Hierarchical(units=2, coordinate_units=2),
}


def graphs():
    gc.collect()
    kind = tf.__internal__.FuncGraph
    # Not `isinstance`, which asks lazy objects of other packages.
    return [v for v in gc.get_objects() if issubclass(type(v), kind)]


def train_and_forget(rule):
    fit(compiled(L2LOptimizer(rule), run_eagerly=False), epochs=1)
    keras.backend.clear_session()


@pytest.mark.parametrize(
    "name",
    [
        "SGD",
        pytest.param("CoordinatewiseLSTM", marks=pytest.mark.slow),
        pytest.param("Hierarchical", marks=pytest.mark.slow),
    ],
)
def test_no_graph_outlives_its_model(name):
    # Those of other tests may go in the meantime.
    before = weakref.WeakSet(graphs())
    train_and_forget(RULES[name]())
    assert not [graph for graph in graphs() if graph not in before]
