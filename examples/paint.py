"""Neural art: paint one photograph in the style of another.

    python examples/paint.py
    python examples/paint.py --content me.jpg --style painting.jpg

The pixels are the parameters, and the preset `lstm-art` is the optimizer.
Photographs come with scikit-learn, and the features that are compared with the
package. Writes `painted.png`.
"""

import argparse

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np

from keras_l2l import presets, tasks
from keras_l2l.inner_loop import compile_unroll, start, unpack
from keras_l2l.tasks import datasets

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--content", help="An image file. Else a pagoda.")
parser.add_argument("--style", help="An image file. Else a flower.")
parser.add_argument("--size", type=int, default=128)
parser.add_argument("--steps", type=int, default=128)
arguments = parser.parse_args()


def image(file, photograph):
    if file is None:
        return datasets.photograph(photograph)
    pixels = matplotlib.image.imread(file)[..., :3]
    return pixels / 255.0 if pixels.dtype == np.uint8 else pixels


task = tasks.NeuralStyle(
    [image(arguments.content, "china")],
    image(arguments.style, "flower"),
    size=arguments.size,
)
rule, seed = presets.load("lstm-art"), 0
carry, trajectory = compile_unroll(rule, task)(
    start(rule, task, seed), arguments.steps
)
(painted,) = unpack(rule, task, carry.parameters)
losses = np.asarray(trajectory.losses)
print(f"loss {losses[0]:.3g} to {losses[-1]:.3g}")

figure, panels = plt.subplots(1, 3, figsize=(9, 3.2))
for panel, (title, pixels) in zip(
    panels,
    {
        "content": task.content(seed),
        "style": task.style,
        "painted": np.clip(painted[0], 0.0, 1.0),
    }.items(),
):
    panel.imshow(pixels)
    panel.set_title(title)
    panel.set_axis_off()
figure.savefig("painted.png", dpi=150)
