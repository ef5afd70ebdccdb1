"""The compiled training step, as a program for a TPU and as a trace for one.

`pip install -e ".[test,tpu]"`; then

    pytest -m large -n 0 -s tests/optimizers/test_tpu.py

prints what the compiler says of each program.
"""

import operator

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_l2l import L2LOptimizer
from keras_l2l.tasks import benchmark_suite
from tests import small_fit
from tests.tpu_compiler import compile_for_tpu

BATCH_SIZE = 32

# Operations that call the host, create a variable, draw random numbers that no
# seed determines, or whose results have shapes that depend on their values.
NOT_FOR_A_TPU = (
    *("EagerPyFunc", "PyFunc", "PyFuncStateless", "Print", "PrintV2"),
    *("StringFormat", "VarHandleOp", "VarIsInitializedOp", "VariableV2"),
    *("RandomStandardNormal", "RandomUniform", "TruncatedNormal"),
    *("ListDiff", "Unique", "UniqueV2", "Where"),
)

OPTIMIZERS = {
    "Adam": keras.optimizers.Adam,  # to compare with
    "default": L2LOptimizer,
    "lstm-mnist": lambda: L2LOptimizer("lstm-mnist"),
    "rnnprop": lambda: L2LOptimizer("rnnprop"),
}


def perceptron():
    return keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def convnet():
    convolution = {"padding": "same", "use_bias": False}
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(16, 3, **convolution),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, **convolution),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(10),
        ]
    )


MODELS = {
    "perceptron": perceptron,
    "convnet": convnet,
    "transformer": benchmark_suite.transformer(
        characters=64, length=64, width=64, heads=4, blocks=2
    ),
}


def train_step(model, optimizer):
    """A compiled step of `fit`, and a batch."""
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    batch = tuple(
        tf.zeros([BATCH_SIZE, *tensor.shape[1:]], dtype)
        for tensor, dtype in (
            (model.inputs[0], model.inputs[0].dtype),
            (model.outputs[0][..., 0], "int32"),
        )
    )
    # Creates the variables.
    model.train_step(batch)
    step = tf.function(model.train_step, autograph=False, jit_compile=True)
    return step, batch


@pytest.mark.large
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_compiles(optimizer, model, policy):
    pytest.importorskip("libtpu")
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        step, batch = train_step(MODELS[model](), OPTIMIZERS[optimizer]())
        program = compile_for_tpu(step, batch)
    finally:
        keras.config.set_dtype_policy(former)
    print(f"\n{optimizer:<11}{model:<12}{policy:<15}{program}")
    assert 0 < program.code < 2**25
    assert program.temporaries < 2**30


@pytest.mark.large
def test_a_step_in_the_scope_of_a_strategy_compiles():
    """As a `TPUStrategy` traces it: one replica, all of it in XLA."""
    pytest.importorskip("libtpu")
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    step, batch, _ = scoped_step(strategy, L2LOptimizer, jit_compile=True)
    program = compile_for_tpu(step, batch)
    print(f"\ndefault, in a scope{'':<20}{program}")
    assert program.code > 0


@pytest.mark.parametrize(
    ("call", "operation"),
    [
        (lambda x: [x, tf.print(x)][0], "StringFormat"),
        (lambda x: tf.py_function(lambda x: x, [x], x.dtype), "EagerPyFunc"),
    ],
)
def test_what_cannot_be_lowered_is_named(call, operation):
    function = tf.function(call, jit_compile=True)
    with pytest.raises(ValueError, match=operation):
        compile_for_tpu(function, tf.constant(1.0))


def scoped_step(strategy, make_optimizer, jit_compile):
    """A step on the replicas of a strategy, a batch, and the model."""
    with strategy.scope():
        model = small_fit.built(small_fit.compiled(make_optimizer()))
    batch = tuple(tf.constant(array) for array in small_fit.data())

    def run(batch):
        return strategy.run(model.train_step, args=(batch,))

    with strategy.scope():
        run(batch)  # creates what variables there are still to be
    step = tf.function(run, autograph=False, jit_compile=jit_compile)
    return step, batch, model


# Of the definition of a graph.
nested_functions = operator.attrgetter("library.function")


def test_a_trace_on_replicas_is_what_a_tpu_needs():
    """Static shapes, no variable that is created, nothing for the host.

    Logical devices stand in for the cores of a TPU.
    """
    step, batch, _ = scoped_step(small_fit.mirrored(2), small_fit.make, False)
    graph = step.get_concrete_function(batch).graph
    nodes = list(graph.as_graph_def().node)
    for function in nested_functions(graph.as_graph_def()):
        nodes += function.node_def
    assert len(nodes) > 500
    assert {node.op for node in nodes}.isdisjoint(NOT_FOR_A_TPU)
    tensors = [t for op in graph.get_operations() for t in op.outputs]
    assert all(tensor.shape.is_fully_defined() for tensor in tensors)


@pytest.mark.slow
def test_xla_on_one_replica_agrees_with_none():
    """The path of a strategy, in XLA, as each core of a TPU would run it."""
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    results = []
    for scope in strategy, tf.distribute.get_strategy():
        step, batch, model = scoped_step(scope, small_fit.make, True)
        for _ in range(3):
            step(batch)
        results.append(model.get_weights())
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-7)
