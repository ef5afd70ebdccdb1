"""Train a Keras model with a learned optimizer.

    python examples/use_in_keras.py

The data are scikit-learn's handwritten digits, which need no download.
"""

import argparse

import keras
import sklearn.datasets
from sklearn.model_selection import train_test_split

from keras_l2l import L2LOptimizer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=20)
arguments = parser.parse_args()

images, labels = sklearn.datasets.load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(
    (images / 16).astype("float32"), labels, random_state=0
)

model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(20, activation="sigmoid"),
        keras.layers.Dense(10),
    ]
)
model.compile(
    optimizer=L2LOptimizer(),  # pretrained; there is nothing to tune
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(x_train, y_train, batch_size=128, epochs=arguments.epochs, verbose=2)
loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
print(f"test loss {loss:.3f}, test accuracy {accuracy:.3f}")
