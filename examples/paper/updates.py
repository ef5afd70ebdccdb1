"""What the learned update looks like, beside that of Adam.

    python examples/paper/updates.py         # to see that it runs
    python examples/paper/updates.py --full  # a minute on one core

The update that `lstm-mnist` proposes for single coordinates of the MNIST
perceptron, as a function of the gradient, at several steps of its training; and
the updates that it made there over time, each beside those of Adam.

Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474, appendix.
"""

from keras_l2l import evaluation, presets, reports, rules, tasks
from keras_l2l.reproduction import paper

# A weight and a bias of the output layer.
COORDINATES = [(2, 0), (3, 5)]


def main(output, full=False, seed=0):
    compared = {
        "LSTM": presets.load("lstm-mnist"),
        "Adam": rules.Adam(0.02),  # the best rate of examples/paper/mnist.py
    }
    steps = [1, 10, 20, 50, 100] if full else [1, 3]
    found = evaluation.proposed_updates(
        compared, tasks.mnist_mlp(), COORDINATES, steps, seed=seed
    )
    reports.plot_proposed_updates(found, output / "updates.png")
    history = evaluation.update_history(
        compared, tasks.mnist_mlp(), COORDINATES, steps[-1], seed=seed
    )
    reports.plot_update_history(history, output / "history.png")
    for name, updates in zip(history.rules, history.updates):
        for coordinate, of_one in zip(COORDINATES, updates):
            print(f"{name}, coordinate {coordinate}: last {of_one[-1]:.3g}")
    print(f"loss {history.losses[0]:.3g} to {history.losses[-1]:.3g}")


if __name__ == "__main__":
    paper.run_script(main)
