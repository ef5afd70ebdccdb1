"""Train on a small table, and stop early.

    python examples/table.py

A fast optimizer learns a small table by heart: keep some data out, and stop
where their loss is lowest. The data are scikit-learn's diabetes patients, 442
of them. Writes the curves to `table.png`.
"""

import argparse

import keras
import matplotlib.pyplot as plt
import sklearn.datasets
from keras import layers
from sklearn.model_selection import train_test_split

from keras_l2l import L2LOptimizer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=100)
arguments = parser.parse_args()

x, y = sklearn.datasets.load_diabetes(return_X_y=True)
y = (y - y.mean()) / y.std()
x_train, x_test, y_train, y_test = train_test_split(
    x.astype("float32"), y, random_state=0
)


def build_model():
    keras.utils.set_random_seed(0)  # the same start for all
    normalization = layers.Normalization()
    normalization.adapt(x_train)
    return keras.Sequential(
        [
            keras.Input((x.shape[1],)),
            normalization,
            layers.Dense(32, activation="relu", kernel_regularizer="l2"),
            layers.Dense(1),
        ]
    )


figure, axes = plt.subplots()
for name, optimizer in {
    "L2LOptimizer()": L2LOptimizer(),
    "Adam()": keras.optimizers.Adam(),
}.items():
    model = build_model()
    model.compile(optimizer, "mse", metrics=["mse"])
    early_stopping = keras.callbacks.EarlyStopping(
        "val_mse", patience=10, restore_best_weights=True
    )
    history = model.fit(
        *(x_train, y_train),
        epochs=arguments.epochs,
        validation_data=(x_test, y_test),
        callbacks=[early_stopping],
        verbose=0,
    ).history
    held_out = model.evaluate(x_test, y_test, verbose=0)[1]
    (line,) = axes.plot(history["mse"], label=f"{name}, training")
    axes.plot(
        *(history["val_mse"], "--"),
        color=line.get_color(),
        label=f"{name}, held out",
    )
    print(
        f"{name}: stopped after epoch {len(history['mse'])}; held-out loss "
        f"{held_out:.3f} with the weights of epoch "
        f"{early_stopping.best_epoch + 1}"
    )
axes.set(xlabel="epoch", ylabel="mean squared error")
axes.legend()
figure.savefig("table.png", dpi=150)
