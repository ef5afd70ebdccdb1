"""Section `update`: a rule's update alone, without an optimizee."""

import keras
import tensorflow as tf
from workloads import first_calls, make_rule, take_turns

from keras_l2l import L2LOptimizer, rules
from keras_l2l.optimizers.blockwise_update import BLOCK_SIZE

VARIABLES = 10
SIZES = (10**4, 10**5, 10**6)
LARGEST = 25 * 10**6  # with `--all`
# The products of the LSTM's two layers: inputs and units → four gates.
KERNELS = ((2 + 20, 4 * 20), (20 + 20, 4 * 20))
COMPILED = "CoordinatewiseLSTM, jit"
PRODUCTS, KERAS_ADAM = "matrix products", "keras.optimizers.Adam"
TANGENTS = "hyperbolic tangents"
# Of each of 2 × 20 units: four gates and the cell.
TANGENTS_PER_COORDINATE = 2 * 5 * 20


def update_section(arguments):
    """An optimizer's update of ten variables, per coordinate."""
    records = []
    for count in (*SIZES, *([LARGEST] if arguments.all else [])):
        rows, notes = _rows(count)
        first_calls(rows)
        repeats = arguments.repeats
        if count >= max(SIZES):
            repeats = max(1, repeats // 3 * max(SIZES) // count)
        seconds = take_turns(rows, repeats)
        records += [
            {
                "row": name,
                "coordinates": count,
                "nanoseconds_per_coordinate": seconds[name] / count * 1e9,
                "relative_to_products": seconds[name] / seconds[PRODUCTS],
                "relative_to_keras_adam": seconds[name] / seconds[KERAS_ADAM],
            }
            for name in rows
        ]
        records += [{"row": row, "note": note} for row, note in notes.items()]
    return records


def _rows(count):
    """Dict of functions, and dict of notes on those that fail."""
    lstm = make_rule()
    rows = {
        KERAS_ADAM: update(keras.optimizers.Adam(1e-3), count),
        "rules.Adam": update(L2LOptimizer(rules.Adam()), count),
        "CoordinatewiseLSTM": update(
            L2LOptimizer(lstm, state_dtype=_state_dtype(count)), count
        ),
        PRODUCTS: products(count),
        TANGENTS: tangents(count),
    }
    # All of it in XLA, as `model.compile(jit_compile=True)` has it.
    if count == LARGEST:
        return rows, {}  # A second hidden state has no room.
    compiled = update(L2LOptimizer(lstm), count, jit_compile=True)
    try:
        float(compiled())
    except tf.errors.InvalidArgumentError as error:
        reason = str(error).splitlines()[0]
        return rows, {COMPILED: f"{count:,} coordinates fail: {reason}"}
    return rows | {COMPILED: compiled}, {}


def _state_dtype(count):
    """Halves the hidden state where it takes gigabytes."""
    return "bfloat16" if count == LARGEST else None


def update(optimizer, count, jit_compile=False):
    """One update of ten variables of `count` coordinates in all."""
    variables, gradients = make_variables(count)
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step():
        optimizer.apply(gradients, variables)
        return variables[-1].value[0]

    return step


def make_variables(count, number=VARIABLES):
    """Keras variables of `count` coordinates in all, and gradients."""
    shape = [count // number]
    variables = [keras.Variable(tf.zeros(shape)) for _ in range(number)]
    gradients = [
        tf.random.stateless_normal(shape, [0, index]) for index in range(number)
    ]
    return variables, gradients


def products(count):
    """The LSTM's matrix products on as many coordinates, block by block."""
    inputs = [
        tf.random.stateless_normal([count, rows], [1, rows])
        for rows, _ in KERNELS
    ]
    kernels = [tf.random.stateless_normal(shape, [2, 0]) for shape in KERNELS]

    @tf.function
    def step():
        total = tf.constant(0.0)
        for begin in range(0, count, BLOCK_SIZE):
            block = slice(begin, begin + BLOCK_SIZE)
            # One number of each is enough for it to be computed; one block
            # waits for the other, as in the optimizer.
            with tf.control_dependencies([total]):
                for x, kernel in zip(inputs, kernels):
                    total += tf.matmul(x[block], kernel)[0, 0]
        return total

    return step


def tangents(count):
    """The LSTM's hyperbolic tangents on as many coordinates, block by block."""
    block = tf.random.stateless_normal(
        [min(count, BLOCK_SIZE), TANGENTS_PER_COORDINATE], [3, 0]
    )

    @tf.function
    def step():
        total = tf.constant(0.0)
        for begin in range(0, count, BLOCK_SIZE):
            part = block[: count - begin]
            with tf.control_dependencies([total]):
                # Not the same as in the block before, which runs but once.
                total += tf.tanh(part + total)[0, 0]
        return total

    return step
