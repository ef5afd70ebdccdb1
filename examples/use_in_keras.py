"""Train a Keras model on images with a learned optimizer, and with Adam.

    python examples/use_in_keras.py

The data are scikit-learn's handwritten digits, which need no download. Writes
the curves to `images.png`.
"""

import argparse

import keras
import matplotlib.pyplot as plt
import sklearn.datasets
from keras import layers
from sklearn.model_selection import train_test_split

from keras_l2l import L2LOptimizer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=10)
arguments = parser.parse_args()

images, labels = sklearn.datasets.load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
x_train, x_test, y_train, y_test = train_test_split(
    images, labels, random_state=0
)


def build_model():
    keras.utils.set_random_seed(0)  # the same start for both
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10),
        ]
    )


figure, axes = plt.subplots()
for name, optimizer in {
    "L2LOptimizer()": L2LOptimizer(),  # there is nothing to tune
    "Adam()": keras.optimizers.Adam(),
}.items():
    model = build_model()
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        *(x_train, y_train),
        batch_size=64,
        epochs=arguments.epochs,
        validation_data=(x_test, y_test),
        verbose=0,
    ).history
    (line,) = axes.plot(history["loss"], label=f"{name}, training")
    axes.plot(
        *(history["val_loss"], "--"),
        color=line.get_color(),
        label=f"{name}, held out",
    )
    print(
        f"{name}: test loss {history['val_loss'][-1]:.3f}, "
        f"test accuracy {history['val_accuracy'][-1]:.3f}"
    )
axes.set(xlabel="epoch", ylabel="loss", yscale="log")
axes.legend()
figure.savefig("images.png", dpi=150)
