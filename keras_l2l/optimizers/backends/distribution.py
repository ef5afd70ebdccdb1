"""An optimizer under a `tf.distribute` strategy: what it can and cannot do."""

import tensorflow as tf

_MIRRORED = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
)


def check_same(strategy, variables):
    """Raises unless a model and its optimizer are of one strategy.

    Args:
        strategy: The `tf.distribute.Strategy` that the optimizer was created
            under.
        variables: List of the `tf.Variable`s of the model.

    Raises:
        ValueError: If they are of two.
    """
    strategies = [
        getattr(variable, "distribute_strategy", None) for variable in variables
    ]
    strategies = [tf.distribute.get_strategy(), *filter(None, strategies)]
    for other in strategies:
        if other is not strategy:
            raise ValueError(
                "The model and its optimizer must be created under the "
                "same `tf.distribute` strategy. Create both, and call "
                "`compile()`, inside one `with strategy.scope():`. "
                f"Received: an optimizer created under "
                f"{type(strategy).__name__} for "
                f"variables under {type(other).__name__}"
            )


def check_update(optimizer):
    """Refuses what `tf.distribute` cannot do, before it fails strangely.

    Args:
        optimizer: A `keras.optimizers.Optimizer`, about to update.

    Raises:
        ValueError: If it is used in a way that several replicas cannot be.
    """
    strategy = tf.distribute.get_strategy()
    if (
        not isinstance(strategy, _MIRRORED)
        or strategy.num_replicas_in_sync == 1
        or tf.executing_eagerly()
        # GPUs under XLA, where replicas need not wait for each other.
        or tf.__internal__.distribute.strategy_supports_no_merge_call()
    ):
        return
    if optimizer.gradient_accumulation_steps:
        refused = "`gradient_accumulation_steps`"
    elif optimizer.use_ema and optimizer.ema_overwrite_frequency:
        refused = "`ema_overwrite_frequency`"
    else:
        refused = _refused_surroundings()
    if refused:
        raise ValueError(
            f"{refused} cannot be used on several replicas in a "
            "`tf.function`, by any Keras optimizer. Turn it off, or "
            "train on one device. "
            "Received: a strategy with "
            f"{strategy.num_replicas_in_sync} replicas"
        )


def _refused_surroundings():
    """What the function being traced is nested in, if replicas cannot be.

    TensorFlow itself fails only when the function runs, and strangely. Its
    private names are guarded by the tests of what is refused.
    """
    graph = tf.compat.v1.get_default_graph()
    loop = False
    while graph is not None:
        context = graph._get_control_flow_context()
        if context is not None and context.IsXLAContext():
            return "`jit_compile=True`"
        # A user's own loop around `strategy.run` is fine; Keras's is not.
        loop = loop or type(graph).__name__ == "WhileBodyFuncGraph"
        if loop and getattr(graph, "name", "") == "multi_step_on_iterator":
            return "`steps_per_execution` greater than 1"
        graph = getattr(graph, "outer_graph", None)
    return None
