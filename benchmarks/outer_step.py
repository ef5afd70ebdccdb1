"""Sections `meta-step`, `threads`, `scaling` and `gpu`: an outer step.

The workload of all but `scaling`: the paper's MNIST optimizee on random images
(784-20-10, batch 128, 15,910 coordinates), `CoordinatewiseLSTM(20, 2)`, and an
unroll of 20 steps.
"""

import argparse
import json
import math

import keras
import numpy as np
import processes
import tensorflow as tf
from workloads import (
    UNROLL,
    PlainLSTM,
    build_model,
    count_coordinates,
    first_calls,
    make_data,
    make_rule,
    make_task,
    take_turns,
)

from keras_l2l import rules
from keras_l2l.meta_gradient import TruncatedBackpropagation
from keras_l2l.unroll import start, unroll

SEED = 1
TOLERANCE = 1e-4
EXACT, SHARE = "ours", "ours, coordinate_share=0.1"
TAPE = "outer GradientTape"
PLAIN_JAX, MLP_LOPT = "plain JAX", "MLPLOpt, learned_optimization"
INSTALL_JAX = {"cpu": "pip install jax", "gpu": "pip install 'jax[cuda12]'"}
INSTALL_MLP_LOPT = (
    "pip install git+https://github.com/google/learned_optimization"
)


def meta_step_section(arguments):
    """An outer step, ours and others'."""
    task = make_task()
    rows = {
        EXACT: meta_step(task, UNROLL, TruncatedBackpropagation()),
        SHARE: meta_step(
            task, UNROLL, TruncatedBackpropagation(coordinate_share=0.1)
        ),
        TAPE: tape_step(task, UNROLL),
    }
    others, notes, deviation = _jax_rows(task, arguments.device)
    rows |= others
    rows |= {
        "training, the rule alone": forward(task, make_rule(), UNROLL),
        "training, rules.Adam": forward(task, rules.Adam(), UNROLL),
        "training, keras's Adam": keras_adam(task, UNROLL),
    }
    first = first_calls(rows)
    seconds = take_turns(rows, arguments.repeats)
    records = [
        {
            "row": name,
            "first_call_seconds": first[name],
            "milliseconds_per_inner_step": seconds[name] / UNROLL * 1e3,
            "relative_to_tape": seconds[name] / seconds[TAPE],
        }
        for name in rows
    ]
    for record in records:
        if record["row"] == PLAIN_JAX:
            record["meta_gradient_deviation"] = deviation
            record["note"] = f"its meta-gradient is ours to {deviation:.0e}"
    return records + [{"row": row, "note": note} for row, note in notes.items()]


def threads_section(arguments):
    """The same outer step in processes of one thread and of two."""
    if len(processes.CORES) < 2:
        return [{"row": EXACT, "note": "needs two cores"}]
    times = {name: {1: [], 2: []} for name in (EXACT, SHARE)}
    for _ in range(2):
        for threads in (1, 2):
            measured = processes.run_script(
                "outer_step.py",
                f"--threads={threads}",
                f"--repeats={arguments.repeats}",
                threads=threads,
            )
            for name, seconds in measured.items():
                times[name][threads].append(seconds / UNROLL * 1e3)
    records = []
    for name in times:
        one, two = (float(np.mean(times[name][n])) for n in (1, 2))
        records.append(
            {
                "row": name,
                "milliseconds_one_thread": one,
                "milliseconds_two_threads": two,
                "speedup": one / two,
            }
        )
    return records


def scaling_section(arguments):
    """Our outer step, per coordinate and inner step."""
    sizes = [(13, UNROLL), (13, 5), (13, 100), (126, UNROLL)]
    if arguments.all:
        sizes.append((1258, UNROLL))
    rows = {}
    for units, steps in sizes:
        task = make_task([units])
        size = (count_coordinates(task), steps)
        rows[size] = meta_step(task, steps, TruncatedBackpropagation())
    first = first_calls(rows)
    seconds = take_turns(rows, max(1, arguments.repeats // 3))
    each = {size: seconds[size] / math.prod(size) for size in rows}
    base = each[next(iter(rows))]
    return [
        {
            "row": EXACT,
            "coordinates": size[0],
            "unroll": size[1],
            "first_call_seconds": first[size],
            "nanoseconds_per_coordinate": each[size] * 1e9,
            "relative_to_first_row": each[size] / base,
        }
        for size in rows
    ]


def gpu_section(arguments):
    """The section `meta-step` on the GPU."""
    if not tf.config.list_physical_devices("GPU"):
        return [{"row": "gpu", "note": "TensorFlow finds no GPU"}]
    # TensorFlow hides or shows its GPUs once a process.
    records = processes.run_script(
        "engine.py",
        "--only=meta-step",
        "--device=gpu",
        "--json",
        f"--repeats={arguments.repeats}",
        f"--threads={arguments.threads}",
        threads=arguments.threads,
    )
    return [record | {"section": "gpu"} for record in records]


def meta_step(task, steps, estimator):
    """One outer step: an unroll and an update of the rule."""
    rule = make_rule()
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(rule.trainable_variables)

    @tf.function
    def step(carry):
        losses, gradients, _ = _estimate(rule, task, steps, estimator, carry)
        optimizer.apply(gradients, rule.trainable_variables)
        return losses[-1]

    carry = start(rule, task, SEED)
    return lambda: step(carry)


def tape_step(task, steps):
    """The same by an outer GradientTape, with nothing of the engine.

    As one writes it by hand: a loop in Python, the coordinates of all
    parameters in one vector, and a tape around everything.
    """
    rule = PlainLSTM(units=20, layers=2, seed=0)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(rule.trainable_variables)
    shapes = [spec.shape for spec in task.parameter_specs]
    sizes = [shape.num_elements() for shape in shapes]
    initial, model_state = task.initial_parameters(SEED)
    initial = tf.concat([tf.reshape(p, [-1]) for p in initial], 0)

    def loss_at(vector, index):
        parts = zip(tf.split(vector, sizes), shapes)
        parameters = [tf.reshape(part, shape) for part, shape in parts]
        batch = task.sample_batch([SEED, index])
        return task.loss(parameters, model_state, batch)[0]

    @tf.function
    def step(vector):
        losses, state = [], rule.initial_state([vector])
        with tf.GradientTape() as outer:
            for index in range(steps):
                with tf.GradientTape() as inner:
                    inner.watch(vector)
                    losses.append(loss_at(vector, index))
                gradient = inner.gradient(losses[-1], vector)
                (update,), state = rule(
                    [tf.stop_gradient(gradient)], [vector], state
                )
                vector += update
            losses.append(loss_at(vector, steps))
            meta_loss = tf.reduce_mean(losses[1:])
        variables = [v.value for v in rule.trainable_variables]
        gradients = outer.gradient(meta_loss, variables)
        optimizer.apply(gradients, rule.trainable_variables)
        return losses[-1]

    return lambda: step(initial)


def forward(task, rule, steps):
    """Inner steps alone: the optimizee's training, nothing learned."""
    carry = start(rule, task, SEED)
    step = tf.function(lambda c: unroll(rule, task, c, steps)[1].losses[-1])
    return lambda: step(carry)


def keras_adam(task, steps):
    """The same training steps by `keras.optimizers.Adam`."""
    model = build_model()
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step():
        loss = tf.constant(0.0)
        for index in tf.range(steps):
            x, y = task.sample_batch(tf.stack([SEED, index]))
            with tf.GradientTape() as tape:
                loss = loss_function(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
        return loss

    return step


def _estimate(rule, task, steps, estimator, carry):
    return estimator(rule, task, carry, tf.ones(steps), tf.constant([0, 0]))


def _jax_rows(task, device):
    """The rows of JAX, as far as it is there.

    Returns:
        Tuple: a dict of functions, a dict of notes on those that are missing,
        and the deviation of the plain reference's meta-gradient from ours.
    """
    try:
        import jax
        import jax_reference

        devices = jax.devices(device)
    # A broken installation raises anything, and stops no other row.
    except Exception as error:
        note = f"not run: {error}: {INSTALL_JAX[device]}"
        return {}, {PLAIN_JAX: note, MLP_LOPT: note}, None
    jax.config.update("jax_default_device", devices[0])
    deviation = _check_meta_gradient(task, jax_reference)
    phi = [w.numpy() for w in make_rule().trainable_variables]
    parameters = [p.numpy() for p in task.initial_parameters(SEED)[0]]
    workload = (parameters, make_data(), UNROLL)
    rows = {
        PLAIN_JAX: jax_reference.meta_step(jax_reference.lstm(), phi, *workload)
    }
    try:
        rule, phi = jax_reference.mlp_lopt()
    except Exception as error:
        note = f"not run: {error}"
        if isinstance(error, ModuleNotFoundError):
            note = f"not installed: {INSTALL_MLP_LOPT}"
        return rows, {MLP_LOPT: note}, deviation
    rows[MLP_LOPT] = jax_reference.meta_step(rule, phi, *workload)
    return rows, {}, deviation


def _check_meta_gradient(task, jax_reference):
    """The relative deviation of JAX's meta-gradient from ours.

    Raises where it is too large: the rows would not be of the same thing.
    """
    rule = make_rule()
    carry = start(rule, task, SEED)
    estimator = TruncatedBackpropagation()
    _, ours, _ = tf.function(_estimate)(rule, task, UNROLL, estimator, carry)
    batches = [task.sample_batch([SEED, t]) for t in range(UNROLL + 1)]
    theirs = jax_reference.meta_gradient(
        [w.numpy() for w in rule.trainable_variables],
        [p.numpy() for p in task.initial_parameters(SEED)[0]],
        tuple(np.stack(column) for column in zip(*batches)),
    )
    ours, theirs = (
        np.concatenate([np.ravel(g) for g in gradients]).astype("float64")
        for gradients in (ours, theirs)
    )
    deviation = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
    if not deviation < TOLERANCE:
        raise AssertionError(
            "The meta-gradient of the JAX reference must be ours up to "
            f"{TOLERANCE}. Received: a relative deviation of {deviation:.2e}"
        )
    return float(deviation)


def main():
    """A process of the section `threads`: prints seconds of an outer step."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    processes.set_threads(arguments.threads)
    processes.set_device("cpu")
    task = make_task()
    rows = {
        EXACT: meta_step(task, UNROLL, TruncatedBackpropagation()),
        SHARE: meta_step(
            task, UNROLL, TruncatedBackpropagation(coordinate_share=0.1)
        ),
    }
    first_calls(rows)
    print(json.dumps(take_turns(rows, arguments.repeats)))


if __name__ == "__main__":
    main()
