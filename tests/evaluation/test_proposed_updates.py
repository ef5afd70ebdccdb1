"""Proposed updates are those of training, with one gradient replaced."""

import numpy as np
import pytest

from keras_l2l import rules, tasks
from keras_l2l.evaluation.proposed_updates import (
    Proposals,
    proposed_updates,
    update_history,
)
from keras_l2l.inner_loop.episode import start, unpack
from keras_l2l.inner_loop.unroll import inner_step, unroll
from keras_l2l.reports.update_plots import (
    plot_proposed_updates,
    plot_update_history,
)
from tests import components

SEED = 3
COORDINATES = ((0, 7), (3, 2))
STEPS = (0, 2)


# One whose carry is packed; one that needs all coordinates at once.
@pytest.mark.parametrize("name", ["CoordinatewiseLSTM", "NTMBFGS"])
def test_at_the_gradient_of_training_it_is_the_update_of_training(name):
    task = components.shared_task("KerasTask-mlp")
    rule = components.shared_rule(name)

    def propose(gradients):
        return proposed_updates(
            {"mine": rule}, task, COORDINATES, STEPS, gradients, SEED
        )

    proposals = propose(propose([0.0]).seen.ravel())
    received = np.diagonal(proposals.updates.reshape(4, 4)).reshape(2, 2)
    carry, path = start(rule, task, SEED), []
    for _ in range(max(STEPS) + 2):
        path.append(unpack(rule, task, carry.parameters))
        carry, _, _ = inner_step(rule, task, carry)
    expected = [
        [
            np.ravel(path[step + 1][i])[j] - np.ravel(path[step][i])[j]
            for step in STEPS
        ]
        for i, j in COORDINATES
    ]
    np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-7)


def test_other_rules_have_the_same_history():
    task, sgd, adam = tasks.Quadratic(3), rules.SGD(0.01), rules.Adam(0.1)
    proposals = proposed_updates(
        {"SGD": sgd, "Adam": adam}, task, [(0, 1)], [4], seed=SEED
    )
    of_sgd, of_adam = proposals.updates[:, 0, 0]
    (grid,) = proposals.gradients
    np.testing.assert_allclose(of_sgd, -0.01 * grid, rtol=1e-5)
    # Adam after the gradients that SGD met.
    _, trajectory = unroll(
        sgd, task, start(sgd, task, SEED), 4, record_gradients=True
    )
    history = trajectory.gradients[0][:, 1].numpy()
    assert proposals.seen.item() == pytest.approx(history[-1], rel=1e-5)
    first, second = 0.0, 0.0
    for gradient in history[:-1]:
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
    first = (0.9 * first + 0.1 * grid) / (1 - 0.9**5)
    second = (0.999 * second + 0.001 * grid**2) / (1 - 0.999**5)
    np.testing.assert_allclose(
        of_adam, -0.1 * first / np.sqrt(second), rtol=1e-3, atol=1e-5
    )
    assert np.abs(proposals.seen).max() < grid.max() == -grid.min()


def test_figure(tmp_path):
    gradients = np.linspace([-1.0, -2.0], [1.0, 2.0], 5, axis=1)
    proposals = Proposals(
        rules=("mine", "SGD"),
        coordinates=COORDINATES,
        steps=STEPS,
        gradients=gradients,
        updates=np.random.default_rng(0).normal(size=(2, 2, 2, 5)),
        seen=np.full((2, 2), 0.5),
    )
    figure = plot_proposed_updates(proposals, tmp_path / "updates.png")
    assert (tmp_path / "updates.png").stat().st_size > 0
    panels = np.reshape(figure.axes, (2, 2))
    mine, sgd, mark = panels[1, 1].get_lines()
    np.testing.assert_array_equal(mine.get_ydata(), proposals.updates[0, 1, 1])
    np.testing.assert_array_equal(sgd.get_ydata(), proposals.updates[1, 1, 1])
    assert mark.get_xdata()[0] == 0.5
    assert panels[0, 1].get_title() == "after step 2"
    assert "parameter 3, no. 2" in panels[1, 0].get_ylabel()
    texts = panels[0, 0].get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["mine", "SGD"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rules": {"mine": "adam"}}, TypeError, "`rules` must be a dict"),
        ({"rules": {}}, TypeError, "`rules` must be a dict"),
        ({"coordinates": [(0, 3)]}, ValueError, r"have \[3\] coordinates"),
        ({"coordinates": [(1, 0)]}, ValueError, r"Received: \(1, 0\)"),
        ({"steps": [-1]}, ValueError, "`steps` must have integers"),
        ({"steps": []}, ValueError, "`steps` must have integers"),
    ],
)
def test_refuses(changes, error, message):
    arguments = {
        "rules": {"SGD": rules.SGD()},
        "coordinates": [(0, 0)],
        "steps": [1],
    }
    with pytest.raises(error, match=message):
        proposed_updates(task=tasks.Quadratic(3), **{**arguments, **changes})


def test_a_history_is_that_of_training(tmp_path):
    task = tasks.Quadratic(3)
    lstm = components.shared_rule("CoordinatewiseLSTM")
    compared = {"mine": lstm, "SGD": rules.SGD(0.5)}
    history = update_history(compared, task, [(0, 2), (0, 0)], 4, seed=SEED)
    assert history.rules == ("mine", "SGD")
    assert history.updates.shape == (2, 2, 4)
    carry = start(lstm, task, SEED)
    for step in range(4):
        before = carry.parameters[0].numpy()
        carry, loss, gradients = inner_step(lstm, task, carry)
        np.testing.assert_allclose(history.losses[step], loss, rtol=1e-5)
        for index, j in enumerate((2, 0)):
            np.testing.assert_allclose(
                history.gradients[index, step], gradients[0][j], rtol=1e-5
            )
            np.testing.assert_allclose(
                history.updates[0, index, step],
                carry.parameters[0][j] - before[j],
                rtol=1e-3,
                atol=1e-6,
            )
    np.testing.assert_allclose(
        history.updates[1], -0.5 * history.gradients, rtol=1e-6
    )
    figure = plot_update_history(history, tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 0
    gradient, _, update, _ = figure.axes
    np.testing.assert_array_equal(
        gradient.get_lines()[0].get_ydata(), history.gradients[0]
    )
    assert len(update.get_lines()) == 2
    with pytest.raises(ValueError, match="`steps` must be a positive"):
        update_history(compared, task, [(0, 2)], 0)
