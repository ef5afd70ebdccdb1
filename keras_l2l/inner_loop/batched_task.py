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
        specs = self._batch_specs
        if not tf.nest.flatten(specs):
            return specs
        return tf.map_fn(
            self.task.sample_batch, seeds, fn_output_signature=specs
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

        arguments = (list(parameters), list(model_state), batch)
        if self._vectorizes:
            try:
                return tf.vectorized_map(loss, arguments)
            except (ValueError, TypeError, NotImplementedError) as error:
                self._vectorizes = False
                warnings.warn(
                    f"Task {self.task.name!r} has an operation that "
                    "TensorFlow cannot vectorise; its optimizees are trained "
                    f"one after the other, which is slower: {error}",
                    stacklevel=2,
                )
        signature = (
            tf.TensorSpec((), self._loss_dtype),
            [tf.TensorSpec(s.shape[1:], s.dtype) for s in model_state],
        )
        return tf.map_fn(loss, arguments, fn_output_signature=signature)

    @functools.cached_property
    def parameter_specs(self):
        """List of `tf.TensorSpec` `[K, …]`, one for each parameter."""
        return [
            tf.TensorSpec((self.count, *spec.shape), spec.dtype)
            for spec in self.task.parameter_specs
        ]

    @functools.cached_property
    def _batch_specs(self):
        with tf.init_scope():
            batch = self.task.sample_batch(tf.constant([0, 0]))
        return tf.nest.map_structure(
            lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), batch
        )

    @functools.cached_property
    def _loss_dtype(self):
        with tf.init_scope():
            parameters, model_state = self.task.initial_parameters(0)
            batch = self.task.sample_batch(tf.constant([0, 0]))
            loss, _ = self.task.loss(parameters, model_state, batch)
        return loss.dtype
