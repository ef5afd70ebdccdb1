"""Each preset against the tuned Adam, on the task that it is scored at.

    python benchmarks/presets.py          # all of them, minutes
    python benchmarks/presets.py general  # one, the others stay as they are

Prints the ratio of the two losses on held-out data after the last step at which
the preset is scored, and writes it into `saved_models/against_adam.json`, from
where `keras-l2l presets` has it. After a preset was trained anew its figure is
no longer shown, until this has run.
"""

import argparse
import json

from keras_l2l import evaluation, packaged_files, presets
from keras_l2l.reproduction import recipe_files, runner

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("names", nargs="*", default=presets.names())
parser.add_argument("--seeds", type=int, default=10)
parser.add_argument("--sweep-seeds", type=int, default=2)
arguments = parser.parse_args()

file = packaged_files.root("presets") / presets.AGAINST_ADAM
figures = json.loads(file.read_text()) if file.exists() else {}
for name in arguments.names:
    recipe = recipe_files.load(name)
    steps = max(recipe.score_steps)
    comparison = evaluation.compare(
        presets.load(name),
        runner.make_score_task(recipe),
        steps=steps,
        seeds=arguments.seeds,
        sweep_seeds=arguments.sweep_seeds,
        seed=recipe.seed,
        baselines={"Adam": evaluation.BASELINES["Adam"]},
        name=name,
    )
    learned, adam = (
        summary.test_losses[steps].mean for summary in comparison.summaries()
    )
    figures[name] = {
        "ratio": round(learned / adam, 3),
        "task": comparison.task,
        "steps": steps,
        "manifest": presets.manifest_digest(name),
    }
    print(
        f"{name}: {learned:.4g} for {adam:.4g} after {steps} steps of "
        f"{comparison.task}, {learned / adam:.3f} times Adam's"
    )
    file.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
