"""The MNIST perceptron, and how far the learned rule carries beyond it.

    python examples/paper/mnist.py         # to see that it runs
    python examples/paper/mnist.py --full  # ten minutes on one core

The preset `lstm-mnist`, which was trained on one hidden layer of 20 sigmoid
units: on that network, with twice the steps, twice the units, twice the layers,
and ReLU; on ReLU for 2,000 steps, where it fails, beside RNNprop; and over
widths and depths. Rivals are SGD, NAG, RMSprop and Adam, tuned for each
problem. Stopped, it goes on from the last comparison.

Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474, section 3.2; Lv et
al., 2017, https://arxiv.org/abs/1703.03633.
"""

from keras_l2l import presets, tasks
from keras_l2l.reports import plots
from keras_l2l.reproduction import paper

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

    def compare(name, learned, steps, seeds, sweep_seeds, **arguments):
        return paper.run_comparison(
            output,
            name,
            learned,
            tasks.mnist_mlp(**arguments),
            steps=steps,
            seeds=seeds if full else 2,
            sweep_seeds=sweep_seeds if full else 1,
            seed=seed,
            baselines=paper.baselines(full),
        )

    settings = {
        title: compare(title, lstm, steps * hundred, 10, 5, **arguments)
        for title, (arguments, steps) in SETTINGS.items()
        if full or title == "20 units"
    }
    plots.plot_comparisons(settings, output / "mnist.png")

    relu = compare("ReLU-long", both, 20 * hundred, 10, 2, activation="relu")
    plots.plot_learning_curves(relu, output / "relu.png")

    sizes = {
        f"{depth} hidden layer{'s' * (depth > 1)}": {
            units: compare(
                f"{units}x{depth}",
                lstm,
                hundred,
                5,
                2,
                units=units,
                depth=depth,
            )
            for units in (WIDTHS if full else WIDTHS[:1])
        }
        for depth in (DEPTHS if full else DEPTHS[:1])
    }
    plots.plot_final_losses(
        sizes, "Units of a hidden layer", output / "sizes.png"
    )


if __name__ == "__main__":
    paper.run_script(main)
