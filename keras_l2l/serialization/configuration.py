"""The configuration of a rule, read as data.

It can come from a stranger. A name in it is looked up among known classes,
and never imported. Which classes may be built is an argument, `base_class`:
this module knows no rule.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from keras_l2l.serialization.errors import format_error
from keras_l2l.serialization.variable_budget import (
    Budget,
    BudgetError,
    variable_budget,
)

# A rule within a rule takes three levels.
MAX_DEPTH = 64

_PACKAGE = "keras_l2l>"
_END_OF_KERAS_ERROR = "Exception encountered: "


def build_rule(
    class_name: str,
    config: dict[str, Any],
    *,
    base_class: type,
    custom_objects: Mapping[str, Any],
    budget: Budget | None,
) -> keras.layers.Layer:
    """Builds a rule from its configuration, with fresh meta-parameters.

    Args:
        class_name: String, the registered name of its class.
        config: Dict, from `rule.get_config()`.
        base_class: The class from which the rule, and those within it, must
            derive.
        custom_objects: Dict from registered names to classes.
        budget: The variables that it may have; see `variable_budget`.

    Returns:
        An instance of `base_class`.

    Raises:
        RuleFormatError: If it asks for a class that is not known, for more
            variables than the budget has, or for what its class refuses.
    """
    rule_class = _rule_class(class_name, base_class, custom_objects)
    if rule_class is None:
        raise format_error(
            "a rule of this package, or one passed in `custom_objects`",
            f"the rule class {class_name!r}",
            f"Pass `custom_objects={{{class_name!r:.200}: ...}}` with its "
            "class.",
        )
    config = checked_config(config, base_class, custom_objects)
    try:
        with (
            variable_budget(budget),
            keras.saving.custom_object_scope(custom_objects),
        ):
            return rule_class.from_config(config)
    except Exception as error:  # Whatever a constructor may raise.
        # Keras puts the whole configuration before the reason.
        reason = str(error).rpartition(_END_OF_KERAS_ERROR)[2]
        expected = (
            f"a configuration of `{class_name}` that fits the stored variables"
            if _is_caused_by(error, BudgetError)
            else f"a configuration that `{class_name}` accepts"
        )
        raise format_error(expected, reason) from error


def checked_config(
    config: dict[str, Any],
    base_class: type,
    custom_objects: Mapping[str, Any],
) -> dict[str, Any]:
    """Checks that each nested object of a configuration has a known class.

    Keras looks up, and may import, what a nested `{"module": ...,
    "class_name": ...}` names, and calls registered objects by their name
    alone. So both are checked here, before Keras sees them.

    Args:
        config: Dict of what JSON has.
        base_class: The class from which rules within it must derive.
        custom_objects: Dict from registered names to classes.

    Returns:
        The configuration, with the modules and names of the known classes.

    Raises:
        RuleFormatError: If it names anything else, or is nested too deeply.
    """
    check_depth(config)
    return _checked(config, base_class, custom_objects)


def check_depth(value: Any) -> None:
    """Refuses dicts and lists that are nested more than `MAX_DEPTH` deep.

    Whatever walks through them by recursion is then safe.

    Raises:
        RuleFormatError: If they are.
    """
    level, depth = [value], 0
    while level:
        level = [
            item
            for node in level
            if isinstance(node, dict | list | tuple)
            for item in (node.values() if isinstance(node, dict) else node)
        ]
        depth += 1
        if depth > MAX_DEPTH:
            raise format_error(
                f"dicts and lists nested at most {MAX_DEPTH} deep", "deeper"
            )


def _rule_class(name, base_class, custom_objects):
    """The class of that name, if it is known to derive from `base_class`."""
    found = custom_objects.get(name)
    if found is None and name.startswith(_PACKAGE):
        found = keras.saving.get_registered_object(name)
    is_rule = isinstance(found, type) and issubclass(found, base_class)
    return found if is_rule else None


def _checked(value, base_class, custom_objects):
    if isinstance(value, dict) and "class_name" in value:
        return _checked_object(value, base_class, custom_objects)
    if isinstance(value, dict):
        return {
            key: _checked(item, base_class, custom_objects)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_checked(item, base_class, custom_objects) for item in value]
    if isinstance(value, str) and value in keras.saving.get_custom_objects():
        raise format_error(
            "no name of a registered object as a bare string", value
        )
    return value


def _checked_object(value, base_class, custom_objects):
    class_name = value["class_name"]
    name = value.get("registered_name") or class_name
    module = value.get("module")
    config = value.get("config")
    names_are_text = isinstance(class_name, str) and isinstance(name, str)
    if not (names_are_text and isinstance(config, dict)):
        raise format_error("nested objects with a name", value)
    rule_class = _rule_class(name, base_class, custom_objects)
    if rule_class is not None:
        module, class_name = rule_class.__module__, rule_class.__name__
    elif name in custom_objects:
        module = None
    elif name == class_name and _is_built_in(module, class_name):
        name = None
        config = _known_entries(class_name, config)
    else:
        raise format_error(
            "nested objects that are Keras initializers, rules of this "
            "package, or passed in `custom_objects`",
            value,
            f"If you trust it, pass `custom_objects={{{name!r:.200}: ...}}`.",
        )
    return {
        "module": module,
        "class_name": class_name,
        "registered_name": name,
        "config": _checked(config, base_class, custom_objects),
    }


def _is_built_in(module, class_name):
    """Whether it is an initializer of Keras, or the seed of one."""
    if (module, class_name) == ("keras.random", "SeedGenerator"):
        return True
    found = getattr(keras.initializers, class_name, None)
    return (
        module == "keras.initializers"
        and isinstance(found, type)
        and issubclass(found, keras.initializers.Initializer)
    )


def _known_entries(class_name, config):
    """The configuration of an initializer, as an older Keras takes it, too.

    A newer one has added arguments, which it writes at their `None`.
    """
    initializer = getattr(keras.initializers, class_name, None)
    if initializer is None:  # A seed.
        return config
    known = inspect.signature(initializer).parameters
    return {
        key: value
        for key, value in config.items()
        if value is not None or key in known
    }


def _is_caused_by(error, kind):
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None
