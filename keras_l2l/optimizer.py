"""`L2LOptimizer`: an update rule as a Keras optimizer."""

import os

import keras
import tensorflow as tf
from keras import ops, tree

from keras_l2l import presets, rule_config
from keras_l2l.rules import RuleState, UpdateRule

_MIRRORED = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
)


@keras.saving.register_keras_serializable(package="keras_l2l")
class L2LOptimizer(keras.optimizers.Optimizer):
    """Optimizer whose update is computed by a learned update rule.

    The rule maps the gradients of all trainable variables and a hidden state
    to an update, which is multiplied by the learning rate and added. The rule
    is copied: training the model never changes it, and neither does
    meta-training the original later.

    Each trainable variable gets one optimizer variable for each part of the
    rule's hidden state (for the default rule 80 floats a coordinate). Every
    step updates every coordinate, so that gradients of embeddings, which
    TensorFlow keeps sparse, are made dense.

    Args:
        rule: A `keras_l2l.rules.UpdateRule`, the name of a preset, or the
            path of an exported rule. Defaults to the preset
            `"lstm-mnist"`.
        learning_rate: A float, a
            `keras.optimizers.schedules.LearningRateSchedule` instance, or a
            callable that takes no arguments and returns the value to use. A
            learned rule sets its own step size, and the learning rate only
            multiplies it: `1.0` is the rule as it was trained, and there is
            no need to tune it. Defaults to `1.0`.
        weight_decay: Float. If set, each step multiplies the variables by
            `1 - weight_decay * learning_rate`. Defaults to `None`.
        clipnorm: Float. If set, the gradient of each variable is clipped to
            this norm before the rule sees it. Defaults to `None`.
        clipvalue: Float. If set, each coordinate of the gradients is clipped
            to this magnitude. Defaults to `None`.
        global_clipnorm: Float. If set, the gradients of all variables are
            clipped so that their joint norm is no higher than this.
            Defaults to `None`.
        use_ema: Boolean. Whether to keep an exponential moving average of
            the variables, which replaces them at the end of `fit()`.
            Defaults to `False`.
        ema_momentum: Float in [0, 1]. `average = ema_momentum * average +
            (1 - ema_momentum) * variable`. Defaults to `0.99`.
        ema_overwrite_frequency: Integer. If set, the average replaces the
            variables every so many steps. Defaults to `None`.
        loss_scale_factor: Float. If set, the loss is multiplied and the
            gradients are divided by it. Defaults to `None`.
        gradient_accumulation_steps: Integer >= 2. If set, the rule runs once
            every so many steps, on the mean of their gradients.
            Defaults to `None`.
        name: String. The name of the optimizer. Defaults to `None`, which
            chooses one.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> rule = keras_l2l.rules.CoordinatewiseLSTM(seed=0)
    >>> model.compile(keras_l2l.L2LOptimizer(rule), loss="mse")
    >>> history = model.fit(keras.ops.ones((8, 4)), keras.ops.ones((8, 1)))

    Reference:
        [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474)
    """

    def __init__(
        self,
        rule=presets.DEFAULT,
        learning_rate=1.0,
        weight_decay=None,
        clipnorm=None,
        clipvalue=None,
        global_clipnorm=None,
        use_ema=False,
        ema_momentum=0.99,
        ema_overwrite_frequency=None,
        loss_scale_factor=None,
        gradient_accumulation_steps=None,
        name=None,
        **kwargs,
    ):
        if keras.config.backend() != "tensorflow":
            raise RuntimeError(
                "`L2LOptimizer` needs the TensorFlow backend of Keras. Set "
                "the environment variable KERAS_BACKEND=tensorflow before "
                "importing keras. "
                f"Received: backend={keras.config.backend()!r}"
            )
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )
        self._preset = None
        if isinstance(rule, UpdateRule):
            self.rule = rule.copy()
        elif isinstance(rule, (str, os.PathLike)):
            try:
                self.rule = presets.resolve_rule(rule)
            except ValueError as error:
                raise ValueError(
                    f"Argument `rule` names no rule. {error}"
                ) from error
            self._preset = rule if rule in presets.names() else None
        else:
            raise ValueError(
                "Argument `rule` must be an instance of "
                "`keras_l2l.rules.UpdateRule`, the name of a preset or the "
                "path of an exported rule. To train with a hand-designed "
                "rule, pass for instance `keras_l2l.rules.Adam()`. "
                f"Received: rule={rule!r} (of type {type(rule)})"
            )
        # `tf.train.Checkpoint` does not look into lists of a Keras layer.
        self._checkpointed = tf.Module()
        self._checkpointed.meta_parameters = self.rule.weights
        self._preset_digest = rule_config.digest(self.rule)

    def build(self, variables):
        """Creates the hidden state of the rule.

        Args:
            variables: List of model variables to update.
        """
        if self.built:
            return
        self._check_strategy(variables)
        learned = [
            i
            for i, variable in enumerate(variables)
            if not self._overwrite_variable_with_gradient(variable)
        ]
        # A replica may build while it traces a function; the values must not
        # belong to that function.
        with tf.init_scope():
            state = self.rule.initial_state([variables[i] for i in learned])
        super().build(variables)
        local = [None] * len(variables)
        for i, initial in zip(learned, state.local):
            with self._distribution_strategy.extended.colocate_vars_with(
                _native(variables[i])
            ):
                local[i] = self._add_slots(_path(variables[i]), initial)
        self._slots = _Slots(local, self._add_slots("shared", state.shared))

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None):
        self._check_can_update()
        super().apply([_dense(g) for g in grads], trainable_variables)

    def get_config(self):
        return {**super().get_config(), "rule": self._rule_config()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        # Keras answers a TypeError with the whole config on the screen.
        try:
            if isinstance(config.get("rule"), dict):
                config["rule"] = rule_config.deserialize(
                    config["rule"], custom_objects
                )
            return super().from_config(config, custom_objects)
        except TypeError as error:
            raise ValueError(
                f"`{cls.__name__}` cannot be made from its config: {error}"
            ) from error

    def _distributed_tf_update_step(
        self, distribution, grads_and_vars, learning_rate
    ):
        # Keras calls this across replicas with all-reduced gradients, and
        # would update variable by variable. A rule takes all of them at once,
        # once a device.
        gradients, variables = zip(*grads_and_vars)
        local = [
            self._slots.local[self._get_variable_index(variable)]
            for variable in variables
        ]
        slots = tree.map_structure(
            _native, RuleState(local, self._slots.shared)
        )
        distribution.extended.update(
            variables[0],
            self._update_device,
            args=(gradients, variables, slots, learning_rate),
            group=False,
        )

    def _update_device(self, _, gradients, variables, slots, learning_rate):
        updates, state = self.rule(
            list(gradients),
            [tf.convert_to_tensor(variable) for variable in variables],
            tree.map_structure(tf.convert_to_tensor, slots),
        )
        for variable, update in zip(variables, updates):
            self.assign_add(
                variable, update * ops.cast(learning_rate, update.dtype)
            )
        tree.map_structure(self.assign, slots, state)

    def _add_slots(self, prefix, initial):
        """A structure of tensors → the same of optimizer variables."""
        slots = [
            self.add_variable(
                shape=tuple(value.shape),
                dtype=keras.backend.standardize_dtype(value.dtype),
                initializer=value,
                name="_".join([prefix, *map(str, path)]),
            )
            for path, value in tree.flatten_with_path(initial)
        ]
        return tree.pack_sequence_as(initial, slots)

    def _check_strategy(self, variables):
        strategies = [
            getattr(_native(variable), "distribute_strategy", None)
            for variable in variables
        ]
        strategies = [tf.distribute.get_strategy(), *filter(None, strategies)]
        for strategy in strategies:
            if strategy is not self._distribution_strategy:
                raise ValueError(
                    "The model and its optimizer must be created under the "
                    "same `tf.distribute` strategy. Create both, and call "
                    "`compile()`, inside one `with strategy.scope():`. "
                    f"Received: an optimizer created under "
                    f"{type(self._distribution_strategy).__name__} for "
                    f"variables under {type(strategy).__name__}"
                )

    def _check_can_update(self):
        """Refuses what `tf.distribute` cannot do, before it fails strangely."""
        strategy = tf.distribute.get_strategy()
        if (
            not isinstance(strategy, _MIRRORED)
            or strategy.num_replicas_in_sync == 1
            or tf.executing_eagerly()
            # GPUs under XLA, where replicas need not wait for each other.
            or tf.__internal__.distribute.strategy_supports_no_merge_call()
        ):
            return
        if self.gradient_accumulation_steps:
            refused = "`gradient_accumulation_steps`"
        elif self.use_ema and self.ema_overwrite_frequency:
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

    def _rule_config(self):
        # A `.keras` file may have brought other meta-parameters than those
        # that this version ships under the preset's name.
        if (
            self._preset
            and rule_config.digest(self.rule) == self._preset_digest
        ):
            return self._preset
        return rule_config.serialize(self.rule)


class _Slots:
    """The optimizer variables as a `RuleState`.

    A plain object, as TensorFlow and Keras wrap the containers that they see
    in attributes.
    """

    def __init__(self, local, shared):
        self.local = local
        self.shared = shared


def _native(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable


def _path(variable):
    name = getattr(variable, "path", variable.name)
    return name.replace("/", "_").replace(":", "_")


def _dense(gradient):
    # Adds up repeated indices, which norms and sums of slices would not.
    if isinstance(gradient, tf.IndexedSlices):
        return tf.convert_to_tensor(gradient)
    return gradient


def _refused_surroundings():
    """What the function being traced is nested in, if replicas cannot be."""
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
