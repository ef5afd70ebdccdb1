"""Sections of an outer step: `meta-step`, `threads`, `allocator` and more.

The workload of all but `scaling`: the paper's MNIST optimizee on random images
(784-20-10, batch 128, 15,910 coordinates), `CoordinatewiseLSTM(20, 2)`, and an
unroll of 20 steps.
"""

import argparse
import json
import math
import resource
import statistics
import time

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
from keras_l2l.inner_loop.episode import start
from keras_l2l.inner_loop.unroll import unroll
from keras_l2l.meta_gradients.meta_loss import MetaLoss
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)

SEED = 1
TOLERANCE = 1e-4
_TURNS = 3
EXACT, SHARE = "ours", "ours, coordinate_share=0.1"
TAPE = "outer GradientTape"
PLAIN_JAX, MLP_LOPT = "plain JAX", "MLPLOpt, learned_optimization"
INSTALL_JAX = {"cpu": "pip install jax", "gpu": "pip install 'jax[cuda12]'"}
INSTALL_MLP_LOPT = (
    "pip install git+https://github.com/google/learned_optimization"
)


def meta_step_section(arguments):
    """An outer step, ours and others', each in a process of its own."""
    measured = _measure_in_turns(
        list(_ROWS), arguments, {"": {"threads": arguments.threads}}
    )
    seconds = {
        row: statistics.median(r["seconds"] for r in results)
        for (row, _), results in measured.items()
        if "seconds" in results[0]
    }
    records = []
    for (row, _), results in measured.items():
        record = {"row": row}
        if row in seconds:
            record |= {
                "first_call_seconds": statistics.median(
                    r["first_call_seconds"] for r in results
                ),
                "milliseconds_per_inner_step": seconds[row] / UNROLL * 1e3,
                "relative_to_tape": seconds[row] / seconds[TAPE],
            }
        if "note" in results[0]:
            record["note"] = results[0]["note"]
        records.append(record)
    return records


def threads_section(arguments):
    """The same outer step in processes of one thread and of two."""
    if len(processes.CORES) < 2:
        return [{"row": EXACT, "note": "needs two cores"}]
    measured = _measure_in_turns(
        [EXACT, SHARE], arguments, {n: {"threads": n} for n in (1, 2)}
    )
    milliseconds = _milliseconds(measured)
    return [
        {
            "row": row,
            "milliseconds_one_thread": milliseconds[row, 1],
            "milliseconds_two_threads": milliseconds[row, 2],
            "speedup": milliseconds[row, 1] / milliseconds[row, 2],
        }
        for row in (EXACT, SHARE)
    ]


def allocator_section(arguments):
    """An outer step with malloc and with TensorFlow's own allocator."""
    settings = {
        name: {
            "threads": arguments.threads,
            "environment": {"TF_CPU_ALLOCATOR_USE_BFC": value},
        }
        for name, value in (("malloc", "false"), ("its own", "true"))
    }
    measured = _measure_in_turns([EXACT, SHARE, TAPE], arguments, settings)
    milliseconds = _milliseconds(measured)
    return [
        {
            "row": f"{row}, {name}",
            "page_faults": statistics.median(r["page_faults"] for r in results),
            "milliseconds_per_inner_step": milliseconds[row, name],
            "relative_to_malloc": (
                milliseconds[row, name] / milliseconds[row, "malloc"]
            ),
        }
        for (row, name), results in measured.items()
    ]


def _milliseconds(measured):
    """Of an inner step, for each key of what `_measure_in_turns` returns."""
    return {
        key: statistics.median(r["seconds"] for r in results) / UNROLL * 1e3
        for key, results in measured.items()
    }


def _measure_in_turns(rows, arguments, settings):
    """Each row in a process of its own, which take turns.

    In one process they would share the memory that the allocator holds: the
    outer tape then takes twice its time, or not, as the order has it.

    Args:
        rows: List of names in `_ROWS`.
        arguments: Those of the benchmark.
        settings: Dict from name to arguments of `processes.run_script`.

    Returns:
        Dict from `(row, name)` to a list of what the processes print.
    """
    measured = {(row, name): [] for row in rows for name in settings}
    for _ in range(_TURNS):
        for (row, name), results in measured.items():
            results.append(
                processes.run_script(
                    "outer_step.py",
                    f"--row={row}",
                    f"--threads={settings[name]['threads']}",
                    f"--device={arguments.device}",
                    f"--repeats={arguments.repeats}",
                    **settings[name],
                )
            )
    return measured


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
    step = tf.function(
        lambda c: unroll(rule, task, c, steps, compiled=True)[1].losses[-1]
    )
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
    return estimator(
        rule, task, carry, MetaLoss(tf.ones(steps)), tf.constant([0, 0])
    )


class _MissingError(Exception):
    """A row that cannot be measured here, and why."""


def _import_jax(device):
    try:
        import jax
        import jax_reference
    # A broken installation raises anything, and stops no other row.
    except Exception as error:
        raise _MissingError(f"not run: {error}; pip install jax") from error
    if jax.default_backend() != device:
        raise _MissingError(
            f"not run: JAX has no {device}; pip install 'jax[cuda12]'"
        )
    return jax_reference


def _workload(task):
    parameters = [p.numpy() for p in task.initial_parameters(SEED)[0]]
    return parameters, make_data(), UNROLL


def _plain_jax(task, device):
    jax_reference = _import_jax(device)
    deviation = _check_meta_gradient(task, jax_reference)
    phi = [w.numpy() for w in make_rule().trainable_variables]
    function = jax_reference.meta_step(
        jax_reference.lstm(), phi, *_workload(task)
    )
    return function, f"its meta-gradient is ours to {deviation:.0e}"


def _mlp_lopt(task, device):
    jax_reference = _import_jax(device)
    try:
        rule, phi = jax_reference.mlp_lopt()
    except ModuleNotFoundError as error:
        raise _MissingError(
            f"not installed ({error.name}): pip install "
            "git+https://github.com/google/learned_optimization"
        ) from error
    return jax_reference.meta_step(rule, phi, *_workload(task)), None


def _ours(**arguments):
    def build(task, device):
        estimator = TruncatedBackpropagation(**arguments)
        return meta_step(task, UNROLL, estimator), None

    return build


# Name → function from task and device to what is timed, and a note.
_ROWS = {
    EXACT: _ours(),
    SHARE: _ours(coordinate_share=0.1),
    TAPE: lambda task, _: (tape_step(task, UNROLL), None),
    PLAIN_JAX: _plain_jax,
    MLP_LOPT: _mlp_lopt,
    "training, the rule alone": lambda task, _: (
        forward(task, make_rule(), UNROLL),
        None,
    ),
    "training, rules.Adam": lambda task, _: (
        forward(task, rules.Adam(), UNROLL),
        None,
    ),
    "training, keras's Adam": lambda task, _: (keras_adam(task, UNROLL), None),
}


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


def _page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main():
    """A process that measures one row and prints what it found."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--row", choices=_ROWS, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    processes.set_threads(arguments.threads)
    processes.set_device(arguments.device)
    try:
        function, note = _ROWS[arguments.row](make_task(), arguments.device)
    except _MissingError as error:
        print(json.dumps({"note": str(error)}))
        return
    first = first_calls({"": function})[""]
    function()  # The allocator has seen what a step needs.
    faults, processor = -_page_faults(), -time.process_time()
    seconds = take_turns({"": function}, arguments.repeats)[""]
    faults, processor = (
        faults + _page_faults(),
        processor + time.process_time(),
    )
    found = {
        "first_call_seconds": first,
        "seconds": seconds,
        # For a machine that others use, too: the mean, over all threads.
        "processor_seconds": processor / arguments.repeats,
        "page_faults": faults / (arguments.repeats * UNROLL),  # an inner step
    }
    print(json.dumps(found | ({"note": note} if note else {})))


if __name__ == "__main__":
    main()
