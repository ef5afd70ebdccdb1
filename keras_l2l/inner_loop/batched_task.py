"""Several optimizees of one task, trained side by side."""

import functools
import warnings

import tensorflow as tf


class BatchedTask:
    """Optimizees of a task as one, whose tensors have one more axis in front.

    To the inner loop it is a task, except that it takes one seed for each
    optimizee and that its loss is a vector, with one number for each. So one
    step of the loop trains all of them, with one call of the rule, and what
    a step costs beyond arithmetic is paid once.

    Each optimizee sees what it would see alone: the same initialisation and
    the same batches. The rule sees their coordinates as those of one, so it
    must be one that `keras_l2l.inner_loop.episode.is_stackable`.

    Args:
        task: A `Task`.
        count: Integer. Number of optimizees, `K`.
        largest_count: Integer. The largest number of optimizees to which
            these may be added: their carries have the same blocks of
            coordinates. Defaults to `None`, for `count`.
    """

    def __init__(self, task, count, largest_count=None):
        self.task = task
        self.count = count
        self.largest_count = largest_count or count
        self._vectorizes = True

    def initial_parameters(self, seeds):
        """Fresh optimizees.

        Args:
            seeds: List of `K` integers in [0, 2³¹).

        Returns:
            Tuple `(parameters, model_state)` of lists of tensors `[K, …]`.
        """
        starts = [self.task.initial_parameters(seed) for seed in seeds]
        parameters, model_state = (
            [tf.stack(tensors) for tensors in zip(*lists)]
            for lists in zip(*starts)
        )
        return parameters, model_state

    def sample_batch(self, seeds):
        """The data of one inner step.

        Args:
            seeds: Integer tensor `[K, 2]`.

        Returns:
            A structure of tensors `[K, …]`.
        """
        return _each(self.task.sample_batch, seeds, self._batch_specs)

    def sample_held_out_batch(self, seeds):
        """The held-out data of one inner step.

        Args:
            seeds: Integer tensor `[K, 2]`.

        Returns:
            A structure of tensors `[K, …]`.
        """
        return _each(
            self.task.sample_held_out_batch, seeds, self._held_out_specs
        )

    def loss(self, parameters, model_state, batch):
        """The losses of the optimizees.

        Args:
            parameters: List of tensors `[K, …]`.
            model_state: List of tensors `[K, …]`.
            batch: From `sample_batch`.

        Returns:
            Tuple `(losses, model_state)`: tensor `[K]`, and a list of tensors
            `[K, …]`.
        """

        def loss(arguments):
            parameters, model_state, batch = arguments
            loss, model_state = self.task.loss(parameters, model_state, batch)
            return loss, list(model_state)

        signature = (
            tf.TensorSpec((), self._loss_dtype),
            [tf.TensorSpec(s.shape[1:], s.dtype) for s in model_state],
        )
        arguments = (list(parameters), list(model_state), batch)
        return self._side_by_side(loss, arguments, signature)

    def held_out_loss(self, parameters, model_state, batch):
        """The held-out losses of the optimizees.

        Args:
            parameters: List of tensors `[K, …]`.
            model_state: List of tensors `[K, …]`.
            batch: From `sample_held_out_batch`.

        Returns:
            Tensor `[K]`.
        """
        return self._side_by_side(
            lambda arguments: self.task.held_out_loss(*arguments),
            (list(parameters), list(model_state), batch),
            tf.TensorSpec((), self._loss_dtype),
        )

    def _side_by_side(self, function, arguments, signature):
        """A function of each optimizee's row of the arguments."""
        if self._vectorizes:
            try:
                return tf.vectorized_map(function, arguments)
            except (ValueError, TypeError, NotImplementedError) as error:
                self._vectorizes = False
                warnings.warn(
                    f"Task {self.task.name!r} has an operation that "
                    "TensorFlow cannot vectorise; its optimizees are trained "
                    f"one after the other, which is slower: {error}",
                    stacklevel=2,
                )
        return tf.map_fn(function, arguments, fn_output_signature=signature)

    @functools.cached_property
    def parameter_specs(self):
        """List of `tf.TensorSpec` `[K, …]`, one for each parameter."""
        return [
            tf.TensorSpec((self.count, *spec.shape), spec.dtype)
            for spec in self.task.parameter_specs
        ]

    @functools.cached_property
    def _batch_specs(self):
        return _specs(self.task.sample_batch)

    @functools.cached_property
    def _held_out_specs(self):
        return _specs(self.task.sample_held_out_batch)

    @functools.cached_property
    def _loss_dtype(self):
        with tf.init_scope():
            parameters, model_state = self.task.initial_parameters(0)
            batch = self.task.sample_batch(tf.constant([0, 0]))
            loss, _ = self.task.loss(parameters, model_state, batch)
        return loss.dtype


def _specs(sample):
    """The shapes and dtypes of what a function of a seed returns."""
    with tf.init_scope():
        batch = sample(tf.constant([0, 0]))
    return tf.nest.map_structure(
        lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), batch
    )


def _each(sample, seeds, specs):
    """A function of a seed, for each seed."""
    if not tf.nest.flatten(specs):
        return specs
    return tf.map_fn(sample, seeds, fn_output_signature=specs)
