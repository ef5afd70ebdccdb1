"""`L2LOptimizer`: an update rule as a Keras optimizer."""

import functools
import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from keras_l2l import checks, presets
from keras_l2l.optimizers import divergence_guard, rule_config, schedules
from keras_l2l.optimizers.backends import SUPPORTED, backend
from keras_l2l.optimizers.blockwise_update import update_in_blocks
from keras_l2l.optimizers.keras_variables import (
    Untracked,
    check_trainable,
    is_overwritten,
    path_of,
)
from keras_l2l.optimizers.state_variables import create_slots, initial_state
from keras_l2l.rules import UpdateRule
from keras_l2l.rules.parameter_groups import are_of_one_model
from keras_l2l.serialization import hub
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
        rule: A `keras_l2l.rules.UpdateRule`, the name of a preset, the path
            of an exported rule, or an address as for `load_rule`:
            `"hf://USER/NAME"`. Defaults to the preset `"general-4"`.
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
            variables whenever this number of steps is over. Defaults to `None`.
        loss_scale_factor: Float. If set, the loss is multiplied and the
            gradients are divided by it. Defaults to `None`.
        gradient_accumulation_steps: Integer >= 2. If set, the rule runs once
            on the mean of the gradients of this number of steps.
            Defaults to `None`.
        total_steps: Integer. If set, the learning rate falls linearly to zero
            over the last two fifths of this number of steps, which averages
            out the noise of the batches. For other schedules pass one as
            `learning_rate`. Defaults to `None`, as the rule itself needs no
            number of steps.
        state_dtype: `"float32"`, `"bfloat16"` or `"float16"`. The dtype in
            which the hidden state is kept from step to step; the rule
            computes in its own. `"bfloat16"` halves the memory.
            Defaults to `None`, the rule's own.
        guard: Boolean. Whether to leave out gradients that are not finite, to
            clip those that explode, and to move variables that have diverged
            back to a snapshot; see `interventions`. Keeps one more number a
            coordinate. Defaults to `True`.
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
        rule: "str | os.PathLike[str] | UpdateRule" = presets.DEFAULT,
        learning_rate: (
            "float | keras.optimizers.schedules.LearningRateSchedule"
            " | Callable[[], Any]"
        ) = 1.0,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        total_steps: int | None = None,
        state_dtype: str | None = None,
        guard: bool = True,
        name: str | None = None,
        **kwargs: Any,
    ):
        _check_environment(state_dtype)
        if total_steps is not None:
            total_steps = checks.positive_integer(total_steps=total_steps)
        super().__init__(
            learning_rate=schedules.until(total_steps, learning_rate),
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
        self._strategy = backend.strategy()
        self._guard = Untracked(None)
        self._is_reported = False
        self._known_interventions = sum(self.interventions.values())
        self.rule, self._origin = _resolve_rule(rule)
        self._first_digest = digest(self.rule)
        self._checkpointed = backend.checkpointed(self.rule.weights)
        # Paths of the variables as a rule that goes by them first saw them.
        self._paths = Untracked(None)
        # By what they update, and how.
        self._functions = Untracked({})

    def build(self, variables: list[Any]) -> None:
        """Creates the hidden state of the rule.

        Args:
            variables: List of model variables to update.

        Raises:
            ValueError: If a variable is complex or integer, or of another
                `tf.distribute` strategy than the optimizer.
        """
        if self.built:
            return
        check_trainable(variables)
        backend.check_same_strategy(self._strategy, variables)
        # Those without elements, too, have nothing to update.
        self._learned = [
            i
            for i, variable in enumerate(variables)
            if not is_overwritten(variable) and math.prod(variable.shape)
        ]
        # A replica may build while it traces a function; the values must not
        # belong to that function.
        with backend.outside_of_functions():
            state = self._initial_state(variables)
        with backend.scope_of_variables():
            super().build(variables)
            self._indices = Untracked(
                {id(backend.native(v)): i for i, v in enumerate(variables)}
            )
            self._slots = create_slots(self, variables, self._learned, state)
            if self.guard:
                self._guard = Untracked(
                    divergence_guard.create_guard(
                        self, variables, self._learned
                    )
                )

    @backend.do_not_convert
    def apply(
        self, grads: list[Any], trainable_variables: list[Any] | None = None
    ) -> None:
        """Updates variables by a step of the rule.

        Args:
            grads: List of gradients: tensors, `tf.IndexedSlices` or `None`.
            trainable_variables: List of variables, one for each gradient.
                Defaults to `None`, those that the optimizer was built for.
        """
        backend.check_update(self)
        super().apply([backend.dense(g) for g in grads], trainable_variables)
        self._report()

    @property
    def interventions(self) -> dict[str, int]:
        """What the guard has done: a dict of two integers.

        `"skipped"` counts the steps of which something was left out or
        clipped, `"rewound"` how often variables went back to a snapshot. Both
        are zero in a training that went well.
        """
        guard = self._guard.value
        if guard is None:
            return {"skipped": 0, "rewound": 0}
        return {
            "skipped": int(guard.skipped.numpy()),
            "rewound": int(guard.rewound.numpy()),
        }

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """What steers the steps of each tensor, at the last step.

        Returns:
            Dict from the paths of variables to what `UpdateRule.diagnostics`
            reads from their hidden state.
        """
        return self._slots.diagnostics(self.rule, self._trainable_variables)

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Ends a training, as Keras does at the end of `fit()`.

        With `use_ema` the average replaces the variables, if there was a step:
        before the first it is zero. If the guard had to intervene, a warning
        says so.

        Args:
            var_list: List of the trainable variables of the model.
        """
        # On JAX a training may have failed: no other error may hide that.
        is_known = backend.is_known(self._iterations)
        if is_known and int(backend.read(self.iterations)):
            super().finalize_variable_values(var_list)
        self._report()

    def get_config(self) -> dict[str, Any]:
        """The configuration, with the meta-parameters unless a preset's."""
        config = super().get_config()
        if self.total_steps is not None:
            config["learning_rate"] = self._first_learning_rate
        # A `.keras` file may have brought other meta-parameters than those
        # that this version ships under the preset's name.
        is_first = digest(self.rule) == self._first_digest
        origin = self._origin if is_first else None
        return {
            **config,
            "total_steps": self.total_steps,
            "state_dtype": self.state_dtype,
            "guard": self.guard,
            "rule": rule_config.serialize(self.rule, origin),
            **({"paths": paths} if (paths := self._paths.value) else {}),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict | None = None
    ) -> "L2LOptimizer":
        """Creates an optimizer from the configuration of another.

        Args:
            config: Dict, from `get_config()`.
            custom_objects: Dict from names to classes that are not registered
                with Keras. Defaults to `None`.

        Returns:
            An `L2LOptimizer`, without its hidden state.

        Raises:
            ValueError: If the config is damaged, or asks for what is unknown.
        """
        config = dict(config)
        # Keras answers a TypeError with the whole config on the screen.
        try:
            rule, paths = config.get("rule"), config.pop("paths", None)
            if "rule" in config:  # else the default of the class
                config["rule"] = rule_config.deserialize(rule, custom_objects)
            optimizer = super().from_config(config, custom_objects)
        except TypeError as error:
            raise ValueError(
                f"`{cls.__name__}` cannot be made from its config: {error}"
            ) from error
        optimizer._origin = rule_config.source(rule) or optimizer._origin
        optimizer._paths = Untracked(paths)
        return optimizer

    def load_own_variables(self, store: Any) -> None:
        """Loads the optimizer variables that a file holds.

        Args:
            store: Mapping from positions, as strings, to arrays.
        """
        super().load_own_variables(store)
        # Interventions in an earlier training have been reported there.
        self._known_interventions = sum(self.interventions.values())

    def _initial_state(self, variables):
        paths = [path_of(variable) for variable in variables]
        if self.rule.reads_paths:
            # A model that was loaded from a file may have others than before.
            if are_of_one_model(self._paths.value, paths):
                paths = self._paths.value
            self._paths = Untracked(paths)
        return initial_state(
            self.rule,
            [variables[i] for i in self._learned],
            [paths[i] for i in self._learned],
        )

    # Keras calls these between the gradients and the variables. A test
    # compares them with the installed version.

    def _apply_weight_decay(self, variables):
        """Does nothing: a step that is left out must not decay weights."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        # `all_reduce` has a custom gradient, which TensorFlow registers for
        # ever and with it the graph of the whole training step.
        if backend.has_strategy():
            return super()._all_reduce_sum_gradients(grads_and_vars)
        return grads_and_vars

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if self._strategy is not None:
            # Sums up the gradients of all replicas, and calls what follows.
            arguments = (grads, trainable_variables, learning_rate)
            super()._backend_update_step(*arguments)
            return
        with backend.no_gradient():
            self._update(
                zip(grads, trainable_variables),
                learning_rate,
                lambda variable, update, args: update(variable, *args),
            )

    def _distributed_tf_update_step(
        self, distribution, grads_and_vars, learning_rate
    ):
        self._update(
            grads_and_vars,
            learning_rate,
            functools.partial(distribution.extended.update, group=False),
        )

    def _update(self, grads_and_vars, learning_rate, run):
        """Updates all variables at once, where Keras would one by one.

        Args:
            grads_and_vars: Iterable of pairs of gradient and variable.
            learning_rate: Scalar tensor.
            run: Function from a variable, a function, and the arguments of
                that, to call it with on each device of the variable.
        """
        known = set(self._learned)
        step = {
            index: (gradient, variable)
            for gradient, variable in grads_and_vars
            if (index := self._indices.value[id(variable)]) in known
        }
        if not step:
            return
        indices = list(step)
        gradients, variables = zip(*step.values())
        guard = self._guard.value
        averages = self._model_variables_moving_average if self.use_ema else ()
        update = functools.partial(
            self._update_device, self._slots.of("dtypes", indices)
        )
        # What a user may set between two calls of `compile()`.
        key = (*indices, self.weight_decay)
        run(
            variables[0],
            backend.traced_once(self._functions.value, key, update),
            args=(
                gradients,
                variables,
                tree.map_structure(
                    backend.native, self._slots.of("values", indices)
                ),
                guard and tree.map_structure(backend.native, guard.of(indices)),
                [backend.native(averages[i]) for i in indices if averages],
                learning_rate,
            ),
        )

    def _update_device(
        self, dtypes, _, gradients, variables, slots, guard, averages, rate
    ):
        judgement = guard and guard.check(
            gradients, variables, averages, self.rule.is_scale_invariant
        )
        _decay_weights(self, variables, judgement and judgement.is_good, rate)
        updates = update_in_blocks(
            self.rule,
            gradients,
            variables,
            slots,
            dtypes,
            rate,
            judgement=judgement,
        )
        for variable, update in zip(variables, updates):
            self.assign_add(variable, update)

    def _update_model_variables_moving_average(self, trainable_variables):
        guard = self._guard.value
        if guard is None:
            super()._update_model_variables_moving_average(trainable_variables)
            return
        is_first = ops.equal(self.iterations, 0)
        momentum = ops.where(guard.left_out(), 1.0, self.ema_momentum)
        momentum = ops.where(is_first, 0.0, momentum)
        for variable, average in zip(
            trainable_variables, self._model_variables_moving_average
        ):
            if average is not None:
                share = ops.cast(momentum, average.dtype)
                average.assign(share * average + (1 - share) * variable)

    def _report(self):
        """Warns of interventions of the guard that were not reported yet."""
        if self._is_reported or not backend.is_known(self._iterations):
            return
        counts = self.interventions
        if sum(counts.values()) > self._known_interventions:
            self._is_reported = True
            warnings.warn(
                divergence_guard.describe(self.name, counts), stacklevel=3
            )


def _decay_weights(optimizer, variables, is_good, learning_rate):
    """Decays weights: of good variables, or of all if `is_good` is `None`."""
    if optimizer.weight_decay is None:
        return
    for i, variable in enumerate(variables):
        if optimizer._use_weight_decay(variable):
            factor = ops.cast(optimizer.weight_decay, variable.dtype)
            factor *= ops.cast(learning_rate, variable.dtype)
            if is_good is not None:
                factor *= ops.cast(is_good[i], variable.dtype)
            variable.assign_sub(backend.read(variable) * factor)


def _resolve_rule(rule):
    """Returns a rule of one's own, and its preset or pinned address if any."""
    if isinstance(rule, UpdateRule):
        return rule.copy(), None
    if hub.is_address(rule):
        rule = presets.pin(rule)
        return presets.resolve_rule(rule), rule
    if isinstance(rule, (str, os.PathLike)):
        is_preset = rule in presets.names()
        return presets.resolve_rule(rule), rule if is_preset else None
    raise ValueError(
        "Argument `rule` must be an instance of "
        "`keras_l2l.rules.UpdateRule`, the name of a preset or the path of an "
        "exported rule. To train with a hand-designed rule, pass for instance "
        "`keras_l2l.rules.Adam()`. "
        f"Received: rule={rule!r} (of type {type(rule)})"
    )


def _check_environment(state_dtype):
    if state_dtype not in (None, *_STATE_DTYPES):
        raise ValueError(
            f"Argument `state_dtype` must be one of {_STATE_DTYPES} or "
            f"`None`. Received: state_dtype={state_dtype!r}"
        )
    if keras.config.backend() not in SUPPORTED:
        raise RuntimeError(
            "`L2LOptimizer` needs the TensorFlow, JAX or PyTorch backend of "
            "Keras. Set the environment variable KERAS_BACKEND to one of "
            f"{SUPPORTED} before importing keras. "
            f"Received: backend={keras.config.backend()!r}"
        )
