"""The task: a distribution of optimizees with its data."""

import abc
import functools

import numpy as np
import tensorflow as tf


class Task(abc.ABC):
    """Base class of all tasks: a distribution of optimizees and their data.

    A task holds no state: the same seeds give the same numbers, always.
    Parameters, and whatever else changes while an optimizee trains (batch-norm
    statistics, dropout seeds), are passed in and returned.

    Args:
        name: String. What tables and plots call it.
    """

    def __init__(self, name):
        self.name = name

    @abc.abstractmethod
    def initial_parameters(self, seed):
        """A fresh optimizee. Runs eagerly, once an episode.

        Args:
            seed: Integer in [0, 2³¹).

        Returns:
            Tuple `(parameters, model_state)`: two lists of tensors, whose
            shapes and dtypes do not depend on the seed.
        """

    @abc.abstractmethod
    def sample_batch(self, seed):
        """The data of one inner step. Runs inside a `tf.function`.

        Args:
            seed: Integer tensor `[2]`.

        Returns:
            A structure of tensors of static shapes, perhaps empty.
        """

    @abc.abstractmethod
    def loss(self, parameters, model_state, batch):
        """The loss of the optimizee. Runs inside a `tf.function`.

        Args:
            parameters: List of tensors, from `initial_parameters`, updated.
            model_state: List of tensors, from the last call.
            batch: From `sample_batch`.

        Returns:
            Tuple `(loss, model_state)`: a scalar, and the list of tensors for
            the next call.
        """

    @abc.abstractmethod
    def test_loss(self, parameters, model_state):
        """The loss on held-out data, in inference mode. Runs eagerly.

        Args:
            parameters: List of tensors.
            model_state: List of tensors.

        Returns:
            A float.
        """

    @functools.cached_property
    def parameter_specs(self):
        """List of `tf.TensorSpec`, one for each parameter."""
        parameters, _ = self.initial_parameters(0)
        return [tf.TensorSpec(p.shape, p.dtype) for p in parameters]

    @property
    def parameter_paths(self):
        """List of strings, one for each parameter: where in a model it is.

        As in `variable.path`. Defaults to `None`: there is no model.
        """
        return None

    def __repr__(self):
        return f"<{type(self).__name__} {self.name!r}>"


# The streams of seeds that must not share an episode.
SEED_STREAMS = ("train", "validation", "sweep", "test")


def episode_seed(seed, stream, index):
    """The seed of one episode: a hash, so that streams do not meet.

    Args:
        seed: Non-negative integer, the seed of the whole run.
        stream: One of `SEED_STREAMS`.
        index: Non-negative integer, which episode of the stream.

    Returns:
        An integer in [0, 2³¹).
    """
    entropy = [seed, SEED_STREAMS.index(stream), index]
    word = np.random.SeedSequence(entropy).generate_state(1)[0]
    return int(word) & 0x7FFFFFFF
