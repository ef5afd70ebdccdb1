import math

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from keras_l2l.evaluation import Comparison, Record
from keras_l2l.reports import (
    plot_comparisons,
    plot_final_losses,
    plot_learning_curves,
)


def comparison(losses, test_steps=None, rate=0.05):
    """Optimizers with the given losses `[S][T + 1]`, the learned one first."""
    steps = len(next(iter(losses.values()))[0]) - 1
    return Comparison(
        task="toy",
        learned=next(iter(losses)),
        steps=steps,
        seed=0,
        selection="",
        sweeps=(),
        records=tuple(
            Record(
                task="toy",
                optimizer=name,
                learning_rate=rate if index else None,
                seed=seed,
                losses=tuple(run),
                test_losses={step: run[step] for step in test_steps or [steps]},
            )
            for index, (name, runs) in enumerate(losses.items())
            for seed, run in enumerate(runs)
        ),
    )


GOOD = [[8.0, 4.0, 2.0, 1.0, 0.5], [8.0, 5.0, 3.0, 2.0, 1.5]]
TURNING = [[8.0, 9.0, math.inf, math.nan, 1.0], GOOD[1]]


def test_figure(tmp_path):
    before = dict(matplotlib.rcParams), matplotlib.get_backend()
    path = tmp_path / "curves.png"
    figure = plot_learning_curves(
        comparison({"mine": GOOD, "Adam": TURNING}), path
    )
    assert (dict(matplotlib.rcParams), matplotlib.get_backend()) == before
    (axes,) = figure.axes
    mine, adam = axes.get_lines()
    np.testing.assert_allclose(mine.get_ydata(), np.mean(GOOD, 0))
    assert mine.get_linewidth() > adam.get_linewidth()
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "Step"
    assert "toy" in figure.get_suptitle()
    assert "standard error" in figure.get_suptitle()
    # The curve ends before the divergence, and the legend says why.
    assert list(adam.get_xdata()) == [0, 1]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [
        "mine",
        "Adam (learning rate 0.05), 1 of 2 runs diverged",
    ]
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 400
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


def test_long_curves_are_running_means():
    losses = [2.0, *[1.0, 3.0] * 100]  # 200 steps, a window of four
    figure = plot_learning_curves(comparison({"mine": [losses]}))
    (axes,) = figure.axes
    (line,) = axes.get_lines()
    expected = [2.0, 1.5, 2.0, 1.75, *[2.0] * 197]
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert axes.get_ylabel() == "Loss on batches, mean of 4 steps"


def test_held_out_data_has_a_panel_of_its_own():
    figure = plot_learning_curves(comparison({"mine": GOOD}, (2, 4)))
    _, panel = figure.axes
    np.testing.assert_array_equal(panel.get_lines()[0].get_xdata(), [2, 4])
    assert "held-out" in panel.get_ylabel()


@pytest.mark.parametrize(
    "runs",
    [
        [GOOD[0]],  # no spread
        [[math.nan] * 5] * 2,  # nothing to draw
        [[1.0, 0.0, 0.0, 0.0, 0.0]] * 2,  # no logarithm
        [[1e38] * 5, [1e-38] * 5],
    ],
)
def test_odd_curves_are_drawn(tmp_path, runs):
    plot_learning_curves(comparison({"mine": runs}), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_several_comparisons(tmp_path):
    made = {
        "first": comparison({"mine": GOOD, "Adam": TURNING}),
        "second": comparison({"mine": GOOD}),
    }
    figure = plot_comparisons(made, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("first", "second")
    assert len(first.get_lines()) == 2
    five = dict.fromkeys("abcde", made["second"])
    panels = plot_comparisons(five).axes
    assert [panel.get_title() for panel in panels] == list("abcde")
    assert panels[0].get_position().y0 > panels[3].get_position().y0
    (mine,) = second.get_lines()
    np.testing.assert_allclose(mine.get_ydata(), np.mean(GOOD, 0))


def test_final_losses(tmp_path):
    diverged = comparison({"mine": GOOD, "Adam": TURNING})
    panels = {
        "one layer": {
            5: comparison({"mine": GOOD, "Adam": GOOD[::-1]}),
            10: diverged,
        }
    }
    figure = plot_final_losses(panels, "Units", tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").stat().st_size > 0
    (axes,) = figure.axes
    assert axes.get_xlabel() == "Units"
    assert axes.get_title() == "one layer"
    mine, adam = (container[0] for container in axes.containers)
    np.testing.assert_array_equal(mine.get_xdata(), [5, 10])
    np.testing.assert_allclose(mine.get_ydata(), [1.0, 1.0])
    np.testing.assert_allclose(adam.get_ydata(), [1.0, math.nan])
