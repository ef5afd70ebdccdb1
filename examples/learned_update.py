"""See what a learned update looks like, beside that of Adam.

    python examples/learned_update.py

The update that the optimizer of 2016 proposes for a weight and for a bias of a
small network, as a function of the gradient there, at several steps of a
training; and what it made of the gradients as they came. Writes `update.png`
and `history.png`.
"""

import argparse

from keras_l2l import evaluation, presets, reports, rules, tasks

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=50)
arguments = parser.parse_args()

compared = {"lstm-mnist": presets.load("lstm-mnist"), "Adam": rules.Adam(0.02)}
task = tasks.digits_mlp()
# The index of a parameter and of a coordinate in it: a weight and a bias of
# the last layer.
coordinates = [(2, 0), (3, 5)]
steps = sorted({1, arguments.steps // 5, arguments.steps})

proposals = evaluation.proposed_updates(compared, task, coordinates, steps)
reports.plot_proposed_updates(proposals, "update.png")
history = evaluation.update_history(compared, task, coordinates, steps[-1])
reports.plot_update_history(history, "history.png")
print(f"loss {history.losses[0]:.3g} to {history.losses[-1]:.3g}")
for name, of_rule in zip(proposals.rules, proposals.updates):
    largest = abs(of_rule[0, -1]).max()
    print(f"{name}: the largest update of the weight is {largest:.3g}")
