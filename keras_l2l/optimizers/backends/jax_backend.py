"""JAX: variables keep their values outside of a step, which is pure."""

import jax
from keras import ops

from keras_l2l.optimizers.backends.base import Backend


class JaxBackend(Backend):
    """A step that `stateless_apply` may trace: no branch assigns anything."""

    def cond(self, condition, then, otherwise):
        # Outside of a trace, JAX would compile the branches at each call.
        if not isinstance(condition, jax.core.Tracer):
            return then() if condition else otherwise()
        return ops.cond(condition, then, otherwise)

    def assign_if(self, condition, values, variables):
        new = self.cond(
            condition,
            lambda: [
                ops.cast(value, variable.dtype)
                for value, variable in zip(values(), variables)
            ],
            lambda: [self.read(variable) for variable in variables],
        )
        for variable, value in zip(variables, new):
            variable.assign(value)

    def is_known(self, variable):
        # Keras takes the values out of variables while it trains. If that
        # fails, they have none, and the error must not be hidden by another.
        return variable._value is not None and not isinstance(
            self.read(variable), jax.core.Tracer
        )


BACKEND = JaxBackend()
