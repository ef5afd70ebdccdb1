"""Section `memory`: the peak memory of processes that do one thing each.

    python benchmarks/memory.py update

runs such a process alone.
"""

import argparse
import json
import math
import os
import pathlib
import resource

import processes
import tensorflow as tf
from outer_step import SEED, meta_step, tape_step
from updates import VARIABLES, make_variables
from workloads import UNROLL, count_coordinates, make_rule, make_task

from keras_l2l import L2LOptimizer
from keras_l2l.inner_loop.episode import start
from keras_l2l.meta_gradients.truncated_backpropagation import (
    TruncatedBackpropagation,
)

MEGABYTE = 1e6
SMALL, LARGE = "126", "1024-200"  # hidden layers: 100,180 and 1,010,850
UPDATED = 25_000_000  # coordinates


def memory_section(arguments):
    """Peak resident memory, that of the process, and what it holds."""
    records = [
        _record("ours", "ours", SMALL),
        small := _record("GradientTape", "tape", SMALL),
        large := _record("ours", "ours", LARGE),
    ]
    estimate = (
        small["beside_megabytes"] * large["coordinates"] / small["coordinates"]
    )
    if estimate * MEGABYTE < _available():
        records.append(_record("GradientTape", "tape", LARGE))
    else:
        records.append(
            {
                "row": f"outer GradientTape, {large['coordinates']:,}",
                "note": f"not measured: about {estimate:,.0f} MB, if it grows "
                "with the coordinates; there are "
                f"{_available() / MEGABYTE:,.0f} MB",
            }
        )
    return [
        *records,
        _record("update, bfloat16, ten variables", "update", VARIABLES),
        _record("update, bfloat16, one variable", "update", 1),
    ]


def _record(row, *case):
    measured = processes.run_script("memory.py", *case, threads=1)
    coordinates = measured.pop("coordinates")
    beside = measured["peak"] - measured["process"] - measured["held"]
    return {
        "row": row,
        "coordinates": coordinates,
        **{f"{k}_megabytes": v / MEGABYTE for k, v in measured.items()},
        "beside_megabytes": beside / MEGABYTE,
        "bytes_beside_per_coordinate": beside / coordinates,
    }


def _measure_outer_step(case, hidden):
    """An outer step; held are the parameters and the hidden state."""
    task = make_task([int(units) for units in hidden.split("-")])
    process = _peak()
    if case == "tape":
        step = tape_step(task, UNROLL)
    else:
        step = meta_step(task, UNROLL, TruncatedBackpropagation())
    float(step())
    peak = _peak()
    return {
        "coordinates": count_coordinates(task),
        "peak": peak,
        "process": process,
        "held": _bytes(tf.nest.flatten(start(make_rule(), task, SEED))),
    }


def _measure_update(variables):
    """An update; held are variables, gradients, and the hidden state."""
    optimizer = L2LOptimizer(make_rule(), state_dtype="bfloat16")
    process = _peak()
    variables, gradients = make_variables(UPDATED, variables)
    optimizer.build(variables)
    built = _peak()
    tf.function(lambda: optimizer.apply(gradients, variables))()
    return {
        "coordinates": UPDATED,
        "peak": _peak(),
        "process": process,
        "built": built,
        "held": _bytes([*variables, *gradients, *optimizer.variables]),
    }


def _bytes(tensors):
    return sum(math.prod(t.shape) * tf.as_dtype(t.dtype).size for t in tensors)


def _peak():
    """Bytes that this process has been resident with at most."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        # `ru_maxrss` of a process starts with that of the one it was started
        # by, which may be larger.
        (line,) = [
            line
            for line in status.read_text().splitlines()
            if line.startswith("VmHWM:")
        ]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _available():
    """Bytes of memory that nothing uses now."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=["ours", "tape", "update"])
    parser.add_argument(
        "size", nargs="?", help="hidden layers, or number of variables"
    )
    arguments = parser.parse_args()
    processes.set_threads(1)
    processes.set_device("cpu")
    if arguments.case == "update":
        measured = _measure_update(int(arguments.size or VARIABLES))
    else:
        measured = _measure_outer_step(arguments.case, arguments.size or SMALL)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
