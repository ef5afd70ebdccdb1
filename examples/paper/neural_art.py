"""Neural art: pictures with the content of one and the style of another.

    python examples/paper/neural_art.py         # to see that it runs
    python examples/paper/neural_art.py --full  # ten minutes on one core

The preset `lstm-art`, which was trained with one style at 64×64 pixels, paints
contents that it has not seen: in that style and size, and then in another style
at 128×128. Rivals are SGD, NAG, RMSprop and Adam, tuned for each problem. The
photographs come with scikit-learn and Matplotlib, the features from a small
network trained on CIFAR-10 (`feature_network.py`), in place of the paper's VGG.

Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474, section 3.4.
"""

import numpy as np
from matplotlib.figure import Figure

from keras_l2l import presets, rules, tasks
from keras_l2l.inner_loop.episode import start, unpack
from keras_l2l.inner_loop.unroll import compile_unroll
from keras_l2l.reports import plots
from keras_l2l.reproduction import paper

LEARNED = "LSTM"
# Title → style, size.
SETTINGS = {
    "The style of training": ("flower", 64),
    "Another style, twice the size": ("flag", 128),
}


def main(output, full=False, seed=0):
    rule = presets.load("lstm-art")
    comparisons, pictures = {}, []
    for title, (style, size) in SETTINGS.items():
        task = tasks.neural_art(
            style, split="test", size=size if full else size // 4
        )
        comparison = paper.run_comparison(
            output,
            task.name,
            {LEARNED: rule},
            task,
            steps=128 if full else 8,
            seeds=10 if full else 2,
            sweep_seeds=2 if full else 1,
            seed=seed,
            baselines=paper.baselines(full),
        )
        comparisons[title] = comparison
        pictures.append(pictures_of(task, rule, comparison))
    plots.plot_comparisons(comparisons, output / "neural_art.png")
    plot_pictures(pictures, output / "pictures.png")


def pictures_of(task, rule, comparison):
    """Dict from titles to what the first run of a comparison began and made."""
    (adam,) = {r.learning_rate for r in comparison.records_of("Adam")}
    seed = comparison.records[0].seed
    return {
        "Content": task.content(seed),
        "Style": task.style,
        LEARNED: paint(rule, task, seed, comparison.steps),
        f"Adam, learning rate {adam:.3g}": paint(
            rules.Adam(adam), task, seed, comparison.steps
        ),
    }


def paint(rule, task, seed, steps):
    """Array `[size, size, 3]`: the picture after some steps."""
    carry, _ = compile_unroll(rule, task)(start(rule, task, seed), steps)
    (picture,) = unpack(rule, task, carry.parameters)
    return np.clip(picture[0], 0.0, 1.0)


def plot_pictures(rows, path):
    """Draws the pictures of each dict in a row, under their titles."""
    columns = len(rows[0])
    figure = Figure(
        figsize=(2.6 * columns, 2.8 * len(rows)), dpi=150, layout="constrained"
    )
    axes = figure.subplots(len(rows), columns)
    for panels, pictures in zip(axes, rows):
        for panel, (title, picture) in zip(panels, pictures.items()):
            panel.imshow(picture)
            panel.set_title(title, fontsize="medium")
            panel.set_axis_off()
    figure.savefig(path)


if __name__ == "__main__":
    paper.run_script(main)
