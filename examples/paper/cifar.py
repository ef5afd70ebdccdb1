"""CIFAR-10, and transfer to data sets with fewer labels.

    python examples/paper/cifar.py         # to see that it runs
    python examples/paper/cifar.py --full  # four hours on a core

A convolutional network with batch normalisation, trained by two LSTMs, one
for the kernels of its convolutions and one for the rest. LSTM is the preset
`adam-lstm-cifar`, whose LSTMs correct Adam and were trained by evolution
strategies, and LSTM-sub is `adam-lstm-cifar-sub`, which has seen images of the
labels 5 to 9 alone; "LSTM, 2016" is `lstm-cifar`, the paper's rule trained by
backpropagation. On CIFAR-10, on CIFAR-5 (the labels 0 to 4) and on CIFAR-2
(0 and 1), with images of half the size, and on CIFAR-10 in full size. Rivals
are SGD, NAG, RMSprop and Adam, tuned for each data set, and, beyond the paper,
AdamW with a cosine, and LSTM with untrained meta-parameters, which is Adam
with a cosine of one given rate. Stopped, it goes on from the last run.

Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474, section 3.3.
"""

import dataclasses

from keras_l2l import evaluation, presets, tasks
from keras_l2l.reports import plots
from keras_l2l.reproduction import paper

# The labels and the side length of the images in pixels.
DATA = {
    "CIFAR-10": (None, 16),
    "CIFAR-5": (range(5), 16),
    "CIFAR-2": (range(2), 16),
    "CIFAR-10, 32 pixels": (None, 32),
}
# Half a decade apart: a run is a thousand steps. Grids whose best rate lies on
# their border are extended.
GRADIENT_DESCENT, ADAPTIVE = (0.01, 0.03, 0.1, 0.3), (1e-3, 3e-3, 0.01, 0.03)
RATES = {
    "SGD": GRADIENT_DESCENT,
    "NAG": GRADIENT_DESCENT,
    "RMSprop": ADAPTIVE,
    "Adam": ADAPTIVE,
    "AdamW+cosine": ADAPTIVE,
}


def main(output, full=False, seed=0):
    learned = {
        "LSTM": presets.load("adam-lstm-cifar"),
        "LSTM-sub": presets.load("adam-lstm-cifar-sub"),
        "LSTM, 2016": presets.load("lstm-cifar"),
    }
    baselines = {
        name: dataclasses.replace(
            evaluation.OPTIMIZERS[name],
            learning_rates=rates if full else rates[1:2],
        )
        for name, rates in RATES.items()
    }
    baselines["LSTM, untrained"] = evaluation.nominal_spec(learned["LSTM"])
    comparisons = {}
    for title, (labels, size) in DATA.items():
        if not full and title != "CIFAR-2":
            continue
        comparisons[title] = paper.run_comparison(
            output,
            title,
            learned,
            tasks.cifar_convnet(labels, size=size if full else 8),
            steps=1000 if full else 3,
            seeds=5 if full else 1,
            sweep_seeds=1,
            seed=seed,
            baselines=baselines,
        )
    plots.plot_comparisons(comparisons, output / "cifar.png")


if __name__ == "__main__":
    paper.run_script(main)
