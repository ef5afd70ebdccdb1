"""The MNIST perceptron, and how far the learned rule carries beyond it.

    python examples/paper/mnist.py         # to see that it runs
    python examples/paper/mnist.py --full  # an hour on one core

The preset `lstm-mnist`, which was trained on one hidden layer of 20 sigmoid
units: on that network, with twice the steps, twice the units, twice the layers,
and ReLU; on ReLU for 2,000 steps, where it fails, beside RNNprop; and over
widths and depths. Rivals are SGD, NAG, RMSprop and Adam, tuned for each
problem.

Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474, section 3.2; Lv et
al., 2017, https://arxiv.org/abs/1703.03633.
"""

from keras_l2l import evaluation, experiments, plotting, presets, tasks

# Title → arguments of the task, steps in units of a hundred.
SETTINGS = {
    "20 units": ({}, 1),
    "200 steps": ({}, 2),
    "40 units": ({"units": 40}, 1),
    "2 layers": ({"depth": 2}, 1),
    "ReLU": ({"activation": "relu"}, 1),
}
WIDTHS, DEPTHS = (5, 10, 20, 35, 50), (1, 2)


def main(output, full=False, seed=1):
    lstm = {"LSTM": presets.load("lstm-mnist")}
    both = {"RNNprop": presets.load("rnnprop"), **lstm}
    hundred = 100 if full else 5

    def compare(learned, steps, seeds, sweep_seeds=3, **arguments):
        return evaluation.compare(
            learned,
            tasks.mnist_mlp(**arguments),
            steps=steps,
            seeds=seeds if full else 2,
            sweep_seeds=sweep_seeds if full else 1,
            seed=seed,
            baselines=experiments.baselines(full),
        )

    settings = {
        title: compare(lstm, steps * hundred, seeds=10, **arguments)
        for title, (arguments, steps) in SETTINGS.items()
        if full or title == "20 units"
    }
    for title, comparison in settings.items():
        experiments.show(comparison, output / f"{title.replace(' ', '-')}.json")
    plotting.plot_comparisons(settings, output / "mnist.png")

    relu = compare(
        both, 20 * hundred, seeds=10, sweep_seeds=1, activation="relu"
    )
    experiments.show(relu, output / "ReLU-long.json")
    plotting.plot_learning_curves(relu, output / "relu.png")

    sizes = {
        f"{depth} hidden layer{'s' * (depth > 1)}": {
            units: compare(
                lstm, hundred, 5, sweep_seeds=1, units=units, depth=depth
            )
            for units in (WIDTHS if full else WIDTHS[:1])
        }
        for depth in (DEPTHS if full else DEPTHS[:1])
    }
    for depth, comparisons in zip(DEPTHS, sizes.values()):
        for units, comparison in comparisons.items():
            experiments.show(comparison, output / f"{units}x{depth}.json")
    plotting.plot_final_losses(
        sizes, "Units of a hidden layer", output / "sizes.png"
    )


if __name__ == "__main__":
    experiments.run_script(main)
