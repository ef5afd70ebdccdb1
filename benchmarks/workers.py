"""Inner steps a second of a meta-training on 1 and on several workers.

```
python benchmarks/workers.py
python benchmarks/workers.py --workers 1 2 4 --steps 50 --tasks table linear
```

Each worker is a process of one thread on a core of its own, all on this
machine, and trains 4 optimizees of each task: with twice the workers, an outer
step has twice the optimizees. Tasks are those of a recipe, trained by truncated
backpropagation and by persistent evolution strategies. Printed are the inner
steps a second of all workers, their ratio to that of one, and the milliseconds
of an all-reduce of 721 and of 5,000 floats.

To trace and compile takes up to a minute for each task, estimator and number
of workers, before anything is measured: so there is one task unless asked for.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time

SIZES = (721, 5000)


def main():
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--recipe", default="general-4")
    parser.add_argument("--tasks", nargs="*", help="parts of their names")
    parser.add_argument("--most-tasks", type=int, default=1)
    parser.add_argument("--optimizees", type=int, default=4, help="a worker")
    parser.add_argument("--steps", type=int, default=40, help="outer steps")
    parser.add_argument("--as-worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_worker:
        print(json.dumps(_measure(arguments)))
        return
    results = {n: _run(n) for n in arguments.workers}
    first = results[arguments.workers[0]]
    print(f"{'':<28}" + "".join(f"{n:>12}" for n in results))
    for name in first:
        line = "".join(f"{result[name]:>12.2f}" for result in results.values())
        print(f"{name:<28}{line}")
        if name.endswith("/s"):
            ratios = [result[name] / first[name] for result in results.values()]
            print(" " * 28 + "".join(f"{ratio:>11.2f}x" for ratio in ratios))


def _run(workers):
    """What the chief of some workers measured."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
    cluster = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    cores = sorted(os.sched_getaffinity(0))
    started = []
    for index in range(workers):
        config = {
            "cluster": {"worker": cluster},
            "task": {"type": "worker", "index": index},
        }
        core = str(cores[-1 - index % len(cores)])
        started.append(
            subprocess.Popen(
                [sys.executable, *sys.argv, "--as-worker", core],
                env=os.environ | {"TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        sys.exit("a worker failed")
    return json.loads(printed[0].splitlines()[-1])


def _measure(arguments):
    os.sched_setaffinity(0, [int(arguments.as_worker)])
    import processes

    processes.set_threads(1)
    os.sched_setaffinity(0, [int(arguments.as_worker)])
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import keras
    import numpy as np

    from keras_l2l import MetaTrainer, meta_gradients
    from keras_l2l.meta_training.config import task_list
    from keras_l2l.meta_training.replicas import Replicas
    from keras_l2l.reproduction import recipe_files, runner

    recipe = recipe_files.load(arguments.recipe)
    tasks = task_list("task", runner.make_task(recipe))
    if arguments.tasks:
        tasks = [t for t in tasks if any(a in t.name for a in arguments.tasks)]
    tasks = tasks[: arguments.most_tasks]
    result = {}
    for estimator in (
        meta_gradients.TruncatedBackpropagation(),
        meta_gradients.PersistentES(vectorize=True),
    ):
        with strategy.scope():
            trainer = MetaTrainer(
                runner.make_rule(recipe),
                tasks,
                optimizees=arguments.optimizees * strategy.num_replicas_in_sync,
                estimator=estimator,
            )
            trainer.compile(keras.optimizers.Adam(1e-4))
        begin = time.perf_counter()
        trainer.fit(epochs=1, steps_per_epoch=1, verbose=0)  # compiles
        compiled = time.perf_counter()
        history = trainer.fit(
            epochs=1, steps_per_epoch=arguments.steps, verbose=0
        )
        (rate,) = history.history["inner_steps_per_second"]
        name = type(estimator).__name__
        result[f"{name} steps/s"] = rate
        if trainer.is_chief:
            print(
                f"{strategy.num_replicas_in_sync} workers, {name}:",
                f"{compiled - begin:.0f} s to compile,",
                f"{time.perf_counter() - compiled:.0f} s measured",
                file=sys.stderr,
                flush=True,
            )
    replicas = Replicas(strategy, trainer.rule)
    for size in SIZES:
        array = np.ones(size)
        replicas.sum(array)
        begin = time.perf_counter()
        for _ in range(100):
            replicas.sum(array)
        result[f"all-reduce {size}, ms"] = (time.perf_counter() - begin) * 10
    return result


if __name__ == "__main__":
    main()
