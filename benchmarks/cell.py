"""Section `cell`: other ways to write the LSTM's step, against the chosen one.

Two layers of 20 units on 16,384 coordinates, log-and-sign inputs. `forward`:
an inner loop that learns nothing. `tape`: forward and backward over an unroll,
the rule alone.
"""

import functools

import numpy as np
import tensorflow as tf
from workloads import UNROLL, first_calls, make_rule, take_turns

from keras_l2l.execution.compiled_step import compile_rule
from keras_l2l.rules import preprocessing

COORDINATES, UNITS = 2**14, 20


def cell_section(arguments):
    """Formulations of the cell, in nanoseconds a coordinate and step."""
    rng = np.random.default_rng(0)
    gradients = tf.constant(
        rng.normal(size=(UNROLL + 1, COORDINATES)), tf.float32
    )
    rule = make_rule()
    weights = [v.value for v in rule.trainable_variables]
    chosen = "chosen: one tanh, own gradient, XLA"
    steps = {
        chosen: (_of_rule(rule, compile_rule(rule)), False),
        "the same without XLA": (_of_rule(rule, rule), False),
    }
    for name, (cell, last_axis) in _CELLS.items():
        step = functools.partial(_step, cell, last_axis)
        compiled = tf.function(step, autograph=False, jit_compile=True)
        steps[name] = (step, last_axis)
        steps[f"{name}, XLA"] = (compiled, last_axis)
    functions = {
        (name, kind): make(step, weights, gradients, last_axis)
        for name, (step, last_axis) in steps.items()
        for kind, make in (("forward", _forward), ("tape", _tape))
        # Its gradient loses the small parts, as its products do.
        if not (kind == "tape" and "bfloat16" in name)
    }
    first_calls(functions)
    seconds = take_turns(functions, max(3, arguments.repeats // 3))
    scale = 1e9 / COORDINATES / UNROLL
    records = []
    for name in steps:
        record = {"row": name}
        for kind in ("forward", "tape"):
            if (name, kind) in seconds:
                time = seconds[name, kind]
                record[f"{kind}_nanoseconds"] = time * scale
                record[f"{kind}_relative"] = time / seconds[chosen, kind]
        records.append(record)
    return records


def _forward(step, weights, gradients, last_axis):
    @tf.function(autograph=False)
    def run():
        def body(t, state, total):
            update, state = step(gradients[t], state, weights)
            return t + 1, state, total + update

        start = (tf.constant(0), _zeros(last_axis), tf.zeros([COORDINATES]))
        _, _, total = tf.while_loop(
            lambda t, *_: t < UNROLL, body, start, parallel_iterations=1
        )
        return tf.reduce_sum(total)

    return run


def _tape(step, weights, gradients, last_axis):
    @tf.function(autograph=False)
    def run():
        state, total, objective = _zeros(last_axis), 0.0, 0.0
        with tf.GradientTape() as tape:
            for t in range(UNROLL):
                update, state = step(gradients[t], state, weights)
                total += update
                objective += tf.reduce_sum(gradients[t + 1] * total)
        parts = tape.gradient(objective, weights)
        return tf.add_n([tf.reduce_sum(part) for part in parts])

    return run


def _zeros(last_axis):
    shape = [UNITS, COORDINATES] if last_axis else [COORDINATES, UNITS]
    return [tf.zeros(shape)] * 4


def _of_rule(rule, call):
    """The rule itself, which knows its weights."""
    keys = list(rule.initial_coordinate_state(1))

    def step(gradient, state, _):
        wrapped = rule.initial_state([gradient])._replace(
            local=[dict(zip(keys, state))]
        )
        (update,), wrapped = call([gradient], [gradient], wrapped)
        return update, [wrapped.local[0][key] for key in keys]

    return step


def _step(cell, last_axis, gradient, state, weights):
    """One step of the same rule with another cell."""
    kernel_0, bias_0, kernel_1, bias_1, output_kernel, output_bias = weights
    inputs = preprocessing.log_and_sign(gradient)
    if last_axis:
        inputs = tf.transpose(inputs)
    hidden, memory = cell(inputs, *state[:2], kernel_0, bias_0)
    next_state = [hidden, memory]
    hidden, memory = cell(hidden, *state[2:], kernel_1, bias_1)
    next_state += [hidden, memory]
    if last_axis:
        update = tf.matmul(output_kernel, hidden, transpose_a=True)[0]
    else:
        update = tf.matmul(hidden, output_kernel)[:, 0]
    return 0.1 * (update + output_bias), next_state


def _gates(gates, memory, axis):
    input_gate, forget, candidate, output_gate = tf.split(gates, 4, axis=axis)
    memory = tf.sigmoid(forget) * memory + tf.sigmoid(input_gate) * tf.tanh(
        candidate
    )
    return tf.sigmoid(output_gate) * tf.tanh(memory), memory


def _textbook(inputs, hidden, memory, kernel, bias):
    joined = tf.concat([inputs, hidden], -1)
    return _gates(joined @ kernel + bias, memory, -1)


def _two_products(inputs, hidden, memory, kernel, bias):
    size = inputs.shape[-1]
    gates = inputs @ kernel[:size] + hidden @ kernel[size:] + bias
    return _gates(gates, memory, -1)


def _last_axis(inputs, hidden, memory, kernel, bias):
    joined = tf.concat([inputs, hidden], 0)
    gates = tf.matmul(kernel, joined, transpose_a=True) + bias[:, None]
    return _gates(gates, memory, 0)


def _bfloat16(inputs, hidden, memory, kernel, bias):
    joined = tf.cast(tf.concat([inputs, hidden], -1), tf.bfloat16)
    gates = tf.cast(joined @ tf.cast(kernel, tf.bfloat16), tf.float32)
    return _gates(gates + bias, memory, -1)


def _one_tanh(inputs, hidden, memory, kernel, bias):
    scale = tf.constant([0.5] * 40 + [1.0] * 20 + [0.5] * 20)
    joined = tf.concat([inputs, hidden], -1)
    gates = tf.tanh(joined @ (kernel * scale) + bias * scale)
    input_gate, forget, candidate, output_gate = tf.split(gates, 4, axis=-1)
    memory = 0.5 * ((forget + 1) * memory + (input_gate + 1) * candidate)
    return 0.5 * (output_gate + 1) * tf.tanh(memory), memory


_CELLS = {
    "textbook": (_textbook, False),
    "two products a layer": (_two_products, False),
    "coordinates along the last axis": (_last_axis, True),
    "products in bfloat16": (_bfloat16, False),
    "one tanh, automatic gradient": (_one_tanh, False),
}
