"""`L2LOptimizer`: an update rule as a Keras optimizer."""

import contextlib
import functools
import math
import os

import keras
import tensorflow as tf
from keras import ops, tree

from keras_l2l import presets
from keras_l2l.optimizers import distribution, rule_config
from keras_l2l.optimizers.blockwise_update import update_in_blocks
from keras_l2l.optimizers.divergence_guard import Guard
from keras_l2l.optimizers.schedules import Cooldown
from keras_l2l.optimizers.state_variables import Slots, dtype_of, initial_state
from keras_l2l.rules import RuleState, UpdateRule
from keras_l2l.rules.parameter_groups import are_of_one_model
from keras_l2l.serialization.digest import digest

_STATE_DTYPES = ("float32", "bfloat16", "float16")


@keras.saving.register_keras_serializable(package="keras_l2l")
class L2LOptimizer(keras.optimizers.Optimizer):
    """Optimizer whose update is computed by a learned update rule.

    The rule maps the gradients of all trainable variables and a hidden state
    to an update, which is multiplied by the learning rate and added. The rule
    is copied: training the model never changes it, and neither does
    meta-training the original later.

    Each trainable variable gets one optimizer variable for each part of the
    rule's hidden state: for the default rule three numbers a coordinate, 12
    bytes in float32, and one more for the guard; for the LSTM of 2016 80. Of
    rules whose coordinates are independent, such as that LSTM, large variables
    are updated in blocks, so that whatever else a step needs is bounded. Every
    step updates every coordinate, so that gradients of embeddings, which
    TensorFlow keeps sparse, are made dense.

    The model holds the parameters at which gradients are taken, during `fit()`
    and after it, so that training goes on exactly where it ended. Those of
    `rules.ScheduleFreeAdamW` are near the average that is to be evaluated
    (`UpdateRule.evaluation_parameters`), but they are not it.

    Args:
        rule: A `keras_l2l.rules.UpdateRule`, the name of a preset, or the
            path of an exported rule. Defaults to the preset
            `"general"`.
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
        total_steps: Integer. If set, the learning rate falls linearly to zero
            over the last two fifths of so many steps, which averages out the
            noise of the batches. For other schedules pass one as
            `learning_rate`. Defaults to `None`, as the rule itself needs no
            number of steps.
        state_dtype: `"float32"`, `"bfloat16"` or `"float16"`. The dtype in
            which the hidden state is kept from step to step; the rule
            computes in its own. `"bfloat16"` halves the memory.
            Defaults to `None`, the rule's own.
        guard: Boolean. Whether to leave out steps whose gradients are not
            finite or explode, and to go back to a snapshot of the variables
            if that does not end; see `interventions`. Keeps one more number
            a coordinate. Defaults to `True`.
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
        total_steps=None,
        state_dtype=None,
        guard=True,
        name=None,
        **kwargs,
    ):
        if state_dtype not in (None, *_STATE_DTYPES):
            raise ValueError(
                f"Argument `state_dtype` must be one of {_STATE_DTYPES} or "
                f"`None`. Received: state_dtype={state_dtype!r}"
            )
        if keras.config.backend() != "tensorflow":
            raise RuntimeError(
                "`L2LOptimizer` needs the TensorFlow backend of Keras. Set "
                "the environment variable KERAS_BACKEND=tensorflow before "
                "importing keras. "
                f"Received: backend={keras.config.backend()!r}"
            )
        super().__init__(
            learning_rate=_until(total_steps, learning_rate),
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
        self.total_steps = total_steps
        self._first_learning_rate = learning_rate
        self.state_dtype = state_dtype
        self.guard = bool(guard)
        self._guard = _Box(None)
        self._preset = None
        if isinstance(rule, UpdateRule):
            self.rule = rule.copy()
        elif isinstance(rule, (str, os.PathLike)):
            self.rule = presets.resolve_rule(rule)
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
        self._preset_digest = digest(self.rule)
        # Of the variables, if the rule goes by them, as it first saw them.
        self._paths = _Box(None)

    def build(self, variables):
        """Creates the hidden state of the rule.

        Args:
            variables: List of model variables to update.
        """
        if self.built:
            return
        distribution.check_same(
            self._distribution_strategy, [_native(v) for v in variables]
        )
        learned = [
            i
            for i, variable in enumerate(variables)
            if not self._overwrite_variable_with_gradient(variable)
        ]
        # A replica may build while it traces a function; the values must not
        # belong to that function.
        with tf.init_scope():
            state = self._initial_state(variables, learned)
        with _scope_of_variables():
            self._create_variables(variables, learned, state)

    def _create_variables(self, variables, learned, state):
        super().build(variables)
        local, dtypes = [None] * len(variables), [None] * len(variables)
        for i, initial in zip(learned, state.local):
            dtypes[i] = tree.map_structure(dtype_of, initial)
            with self._distribution_strategy.extended.colocate_vars_with(
                _native(variables[i])
            ):
                local[i] = self._add_slots(
                    _path(variables[i]).replace("/", "_"), initial, variables[i]
                )
        self._slots = Slots(
            RuleState(local, self._add_slots("shared", state.shared)),
            RuleState(dtypes, tree.map_structure(dtype_of, state.shared)),
        )
        if self.guard:
            self._guard = _Box(self._make_guard(variables, learned))

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None):
        distribution.check_update(self)
        super().apply([_dense(g) for g in grads], trainable_variables)

    @property
    def interventions(self):
        """What the guard has done: a dict of two integers.

        `"skipped"` counts the steps that were left out, `"rewound"` how often
        the variables went back to a snapshot. Both are zero in a training
        that went well.
        """
        guard = self._guard.value
        if guard is None:
            return {"skipped": 0, "rewound": 0}
        return {
            "skipped": int(guard.skipped.numpy()),
            "rewound": int(guard.rewound.numpy()),
        }

    def get_config(self):
        config = super().get_config()
        if self.total_steps is not None:
            config["learning_rate"] = self._first_learning_rate
        return {
            **config,
            "total_steps": self.total_steps,
            "state_dtype": self.state_dtype,
            "guard": self.guard,
            "rule": self._rule_config(),
            **({"paths": paths} if (paths := self._paths.value) else {}),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        # Keras answers a TypeError with the whole config on the screen.
        try:
            if isinstance(config.get("rule"), dict):
                config["rule"] = rule_config.deserialize(
                    config["rule"], custom_objects
                )
            paths = config.pop("paths", None)
            optimizer = super().from_config(config, custom_objects)
        except TypeError as error:
            raise ValueError(
                f"`{cls.__name__}` cannot be made from its config: {error}"
            ) from error
        optimizer._paths = _Box(paths)
        return optimizer

    def _distributed_tf_update_step(
        self, distribution, grads_and_vars, learning_rate
    ):
        # Keras calls this across replicas with all-reduced gradients, and
        # would update variable by variable. A rule takes all of them at once,
        # once a device.
        gradients, variables = zip(*grads_and_vars)
        indices = [self._get_variable_index(v) for v in variables]
        distribution.extended.update(
            variables[0],
            functools.partial(
                self._update_device, self._slots.of("dtypes", indices)
            ),
            args=(
                gradients,
                variables,
                tree.map_structure(_native, self._slots.of("values", indices)),
                self._guard_of(indices),
                learning_rate,
            ),
            group=False,
        )

    def _update_device(
        self, dtypes, _, gradients, variables, slots, guard, learning_rate
    ):
        def step(scale):
            updates = update_in_blocks(
                self.rule,
                gradients,
                variables,
                slots,
                dtypes,
                tf.cast(learning_rate, tf.float32) * scale,
            )
            for variable, update in zip(variables, updates):
                self.assign_add(variable, update)

        if guard is None:
            step(1.0)
        else:
            guard.run(gradients, variables, step)

    def _make_guard(self, variables, learned):
        def add(name, dtype, value=0):
            return self.add_variable(
                shape=(),
                dtype=dtype,
                initializer=keras.initializers.Constant(value),
                name=f"guard_{name}",
            )

        snapshots = [None] * len(variables)
        for i in learned:
            with self._distribution_strategy.extended.colocate_vars_with(
                _native(variables[i])
            ):
                snapshots[i] = self.add_variable_from_reference(
                    variables[i], name="guard_snapshot"
                )
        return Guard(
            snapshots=snapshots,
            scale=add("scale", "float32", 1.0),
            peak=add("peak", "float32"),
            streak=add("streak", "int32"),
            age=add("age", "int32"),
            skipped=add("skipped", "int32"),
            rewound=add("rewound", "int32"),
        )

    def _guard_of(self, indices):
        """The guard of some variables, its variables TensorFlow's own."""
        guard = self._guard.value
        if guard is None:
            return None
        chosen = guard._replace(snapshots=[guard.snapshots[i] for i in indices])
        return tree.map_structure(_native, chosen)

    def _initial_state(self, variables, learned):
        paths = [_path(variable) for variable in variables]
        if self.rule.reads_paths:
            # A model that was loaded from a file may have others than before.
            if are_of_one_model(self._paths.value, paths):
                paths = self._paths.value
            self._paths = _Box(paths)
        return initial_state(
            self.rule,
            [variables[i] for i in learned],
            [paths[i] for i in learned],
        )

    def _add_slots(self, prefix, initial, variable=None):
        """A structure of tensors → the same of optimizer variables."""

        def add(path, value):
            shape, dtype = tuple(value.shape), dtype_of(value)
            if variable is not None and "float" in dtype:
                # What is shared, such as a step count, stays what it is.
                dtype = self.state_dtype or dtype
            if variable is not None and self.rule.granularity == "coordinate":
                shape = (math.prod(variable.shape), *shape[1:])
            return self.add_variable(
                shape=shape,
                dtype=dtype,
                initializer=lambda shape, dtype: ops.broadcast_to(
                    ops.cast(value, dtype), shape
                ),
                name="_".join([prefix, *map(str, path)]),
            )

        slots = [
            add(path, value) for path, value in tree.flatten_with_path(initial)
        ]
        return tree.pack_sequence_as(initial, slots)

    def _rule_config(self):
        # A `.keras` file may have brought other meta-parameters than those
        # that this version ships under the preset's name.
        if self._preset and digest(self.rule) == self._preset_digest:
            return self._preset
        return rule_config.serialize(self.rule)


def _until(total_steps, learning_rate):
    """The learning rate, or the schedule along which it falls to zero."""
    if total_steps is None:
        return learning_rate
    if not isinstance(learning_rate, (int, float)):
        raise ValueError(
            "Argument `learning_rate` must be a float where `total_steps` is "
            "set, which makes a schedule of it. "
            f"Received: learning_rate={learning_rate!r}, "
            f"total_steps={total_steps}"
        )
    return Cooldown(learning_rate, total_steps)


def _scope_of_variables():
    """Out of a function that `fit()` traces, to create variables in.

    In it each takes long to create, and under XLA none may begin with a large
    constant. Those of replicas cannot leave it.
    """
    if tf.distribute.has_strategy():
        return contextlib.nullcontext()
    return tf.init_scope()


class _Box:
    """Holds what Keras and TensorFlow would wrap in a container of theirs."""

    def __init__(self, value):
        self.value = value


def _native(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable


def _path(variable):
    # A `tf.Variable` has a name alone, with the number of an output.
    return getattr(variable, "path", variable.name).partition(":")[0]


def _dense(gradient):
    # Adds up repeated indices, which norms and sums of slices would not.
    if isinstance(gradient, tf.IndexedSlices):
        return tf.convert_to_tensor(gradient)
    return gradient
