"""Inner steps a second of a recipe's meta-training, everything included.

```
python benchmarks/meta_training.py general-2
python benchmarks/meta_training.py general-2 --tasks random-table --steps 20
```

For each task, in a trainer of its own: the seconds of the first outer step,
most of which XLA compiles; then, over some outer steps, the inner steps of all
particles a second, by the wall clock and by processor time, and the seconds
that the start of an episode takes. The last line is the whole mixture: tasks
take part equally often, so it is the harmonic mean.
"""

import argparse
import dataclasses
import statistics
import time

import processes


def main():
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--tasks", nargs="*", help="parts of their names")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--optimizees", type=int)
    parser.add_argument("--vectorize", choices=["yes", "no"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    processes.set_threads(arguments.threads)

    from keras_l2l.reproduction import recipe_files, runner

    recipe = recipe_files.load(arguments.recipe)
    changes = {"tasks_per_step": 1}
    if arguments.optimizees:
        changes["optimizees"] = arguments.optimizees
    if arguments.vectorize:
        changes["vectorize"] = arguments.vectorize == "yes"
    stage = dataclasses.replace(recipe.stages[-1], **changes)
    tasks = runner.make_task(recipe)
    tasks = tasks if isinstance(tasks, list) else [tasks]
    if arguments.tasks:
        tasks = [t for t in tasks if any(a in t.name for a in arguments.tasks)]
    rates = []
    print(f"{'task':<40}{'coordinates':>12}{'compile s':>10}", end="")
    print(f"{'start s':>9}{'steps/s':>9}{'steps/CPU s':>12}", flush=True)
    for task in tasks:
        trainer = runner._make_trainer(
            runner.make_rule(recipe), task, recipe, stage
        )
        rates.append(_measure(trainer, task, arguments.steps))
    print(f"mixture: {statistics.harmonic_mean(rates):.0f} a CPU second")


def _measure(trainer, task, steps):
    """Prints a line; returns inner steps a processor second."""
    pool = trainer._pool
    begin = time.perf_counter()
    pool.step()
    compiled = time.perf_counter() - begin
    begin = time.perf_counter()
    task.initial_parameters(1)
    start = time.perf_counter() - begin
    begin, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        _, gradients = pool.step()
        trainer._apply_function(gradients)
    seconds = time.perf_counter() - begin
    processor = time.process_time() - processor
    # Two particles an optimizee.
    inner = 2 * pool.inner_steps * steps
    size = sum(s.shape.num_elements() for s in task.parameter_specs)
    print(f"{task.name:<40}{size:>12}{compiled:>10.1f}{start:>9.3f}", end="")
    print(f"{inner / seconds:>9.0f}{inner / processor:>12.0f}", flush=True)
    return inner / processor


if __name__ == "__main__":
    main()
