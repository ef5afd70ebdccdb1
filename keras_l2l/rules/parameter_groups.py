"""Selection of parameters into groups by rank, shape, size or path."""

import collections.abc
import fnmatch
import glob
import math
import re

import keras

# The number at the end of a name in a path: `conv2d_1`.
_NUMBERS = re.compile(r"_\d+(?=/|$)")
# Keras's own containers are subclasses of these.
_CONTAINERS = list | tuple | set | dict


def paths_of(model: keras.Model, *layers: type | str) -> list[str]:
    """Returns patterns for the paths of all variables in some layers.

    Layers are selected by their class, which the path of a variable does not
    tell if the layer was given a name. The patterns hold the names of the
    layers, without the numbers that Keras appends to them unless two layers
    would become indistinguishable. The patterns of layers without a name of
    their own therefore fit other models, too: `paths_of(model, "Conv2D")`
    is `["conv2d/bias", "conv2d/kernel"]`.

    Args:
        model: A built `keras.Model`.
        *layers: Classes of layers, or their names. Subclasses are included,
            and so are the layers inside them.

    Returns:
        List of strings, for the argument `paths` of `Grouped`.

    Raises:
        ValueError: If the model has no variable in such a layer, or if other
            variables have the same names.

    Example:

    >>> layers = [
    ...     keras.Input((8, 8, 1)),
    ...     keras.layers.Conv2D(4, 3, name="first"),
    ...     keras.layers.Flatten(),
    ...     keras.layers.Dense(10),
    ... ]
    >>> paths = keras_l2l.rules.paths_of(keras.Sequential(layers), "Conv2D")
    >>> paths
    ['first/bias', 'first/kernel']
    >>> rule = keras_l2l.rules.Grouped(
    ...     {
    ...         "convolutions": keras_l2l.rules.CoordinatewiseLSTM(),
    ...         "others": keras_l2l.rules.CoordinatewiseLSTM(),
    ...     },
    ...     paths={"convolutions": paths},
    ... )
    """
    known = layers_of(model)
    found = [
        (layer.name, variable.path)
        for layer in known
        if any(_is_of(layer, wanted) for wanted in layers)
        for variable in layer.trainable_variables
    ]
    if not found:
        raise ValueError(
            "Argument `layers` must be classes of layers, or their names, "
            "that have trainable variables in the model, which must be built. "
            f"Received: layers={layers}, a model of layers of "
            f"{sorted({type(layer).__name__ for layer in known})}"
        )
    others = {v.path for v in model.trainable_variables}
    others -= {path for _, path in found}
    return sorted({_pattern(name, path, others) for name, path in found})


def layers_of(model):
    """Returns a model and all layers in it, at any depth.

    A model lists its layers; those inside another layer, such as a wrapper,
    are its attributes, or in lists, tuples, sets and dicts there. Keras finds
    variables in these places, and in no others.

    Args:
        model: A `keras.Model`, or another layer.

    Returns:
        List of layers, each once, beginning with `model`.
    """
    found, seen, pending = [], set(), [model]
    while pending:
        value = pending.pop()
        if isinstance(value, keras.layers.Layer | _CONTAINERS):
            if id(value) in seen:
                continue
            seen.add(id(value))
        if isinstance(value, keras.layers.Layer):
            found.append(value)
            is_model = isinstance(value, keras.Model)
            pending.extend(value.layers if is_model else vars(value).values())
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, _CONTAINERS):
            pending.extend(value)
    return found


def fits(pattern, path):
    """Whether a pattern fits a path, or the last names in it.

    Args:
        pattern: String, a glob.
        path: String.

    Returns:
        A boolean.
    """
    return any(
        fnmatch.fnmatchcase(f"/{candidate}", f"*/{pattern}")
        for candidate in (path, without_numbers(path))
    )


def without_numbers(path):
    """Removes the numbers that Keras appends to the names in a path.

    Args:
        path: String.

    Returns:
        A string.
    """
    return _NUMBERS.sub("", path)


def are_of_one_model(paths, others):
    """Whether two lists of paths may belong to one model, saved and loaded.

    Loading drops the names of the layers around a layer and gives numbered
    layers new numbers.

    Args:
        paths: List of strings, or `None`, which belongs to no model.
        others: List of strings.

    Returns:
        A boolean.
    """

    def ends(paths):
        return [without_numbers(path).split("/")[-2:] for path in paths]

    return paths is not None and ends(paths) == ends(others)


class Selection:
    """Assigns each parameter to one group.

    A plain object, since Keras would wrap the containers of a layer.

    Args:
        groups: Set of strings, the names of all groups.
        ranks: As for `Grouped`.
        shapes: As for `Grouped`.
        sizes: As for `Grouped`.
        paths: As for `Grouped`.

    Raises:
        ValueError: If the criteria do not name all groups but one.
    """

    def __init__(self, groups, ranks, shapes, sizes, paths):
        self._criteria = {
            "ranks": _as_lists("ranks", ranks, _is_size, "integers"),
            "shapes": _as_lists(
                "shapes", shapes, _is_shape, "tuples of integers and `None`"
            ),
            "sizes": _as_lists(
                "sizes", sizes, _is_range, "pairs of integers or `None`"
            ),
            "paths": _as_lists("paths", paths, _is_pattern, "strings"),
        }
        self._selected = {
            name for lists in self._criteria.values() for name in lists
        }
        rest = groups - self._selected
        if self._selected - groups or len(rest) != 1:
            raise ValueError(
                "Arguments `ranks`, `shapes`, `sizes` and `paths` must "
                f"together name all groups but one of {sorted(groups)}. "
                f"Received: {self.get_config()}"
            )
        (self._rest,) = rest

    @property
    def reads_paths(self):
        """Whether a group is selected by path."""
        return bool(self._criteria["paths"])

    def group_of(self, shape, path):
        """Returns the name of the group of a parameter.

        Args:
            shape: Tuple of integers; `None` where it is not known.
            path: String, or `None` if it is not known.

        Returns:
            A string.

        Raises:
            ValueError: If the parameter fits more than one group, or if its
                path is needed and not known.
        """
        names = [
            name
            for name in sorted(self._selected)
            if self._is_in(name, shape, path)
        ]
        if len(names) > 1:
            raise ValueError(
                "Each parameter must be in one group of a `Grouped`. "
                f"Received: a parameter at {path!r} of shape {shape}, which "
                f"is in {names}. Select them by more than one criterion, or "
                "by narrower ones"
            )
        return names[0] if names else self._rest

    def get_config(self):
        """Returns a dict of the arguments that are not empty, as plain data."""
        return {kind: lists for kind, lists in self._criteria.items() if lists}

    def _is_in(self, name, shape, path):
        def is_any(kind, is_fit):
            items = self._criteria[kind].get(name)
            return items is None or any(is_fit(item) for item in items)

        if not (
            is_any("ranks", lambda rank: rank == len(shape))
            and is_any("shapes", lambda pattern: _has_shape(shape, pattern))
            and is_any("sizes", lambda bounds: _is_within(shape, *bounds))
        ):
            return False
        if path is None and name in self._criteria["paths"]:
            raise ValueError(
                f"Argument `paths` of `Grouped` has the group {name!r} "
                "selected by path, so the path of each parameter must be "
                f"known. Received: a tensor of shape {shape} without one. "
                "`L2LOptimizer` and `KerasTask` know the paths; other tasks "
                "need a property `parameter_paths`, and lists of tensors "
                "`rule.named_initial_state(parameters, paths)`"
            )
        return is_any("paths", lambda pattern: fits(pattern, path))


def _is_of(layer, wanted):
    if isinstance(wanted, str):
        return any(kind.__name__ == wanted for kind in type(layer).__mro__)
    return isinstance(layer, wanted)


def _pattern(name, path, others):
    """A pattern that fits this path and no others, without outer layers."""
    names = path.split("/")
    if name in names:
        start = len(names) - 1 - names[::-1].index(name)
        path = "/".join(names[start:])
    for candidate in (without_numbers(path), path):
        pattern = glob.escape(candidate)
        if not any(fits(pattern, other) for other in others):
            return pattern
    raise ValueError(
        "Argument `model` must have layers that can be told apart by their "
        f"names. Received: a model in which {path!r} fits variables of other "
        "layers, too. Give the layers names that differ"
    )


def _has_shape(shape, pattern):
    return len(shape) == len(pattern) and all(
        wanted in (None, size) for size, wanted in zip(shape, pattern)
    )


def _is_within(shape, low, high):
    """Whether the number of coordinates is known to be in a range."""
    if None in shape:
        return False
    return (
        (low or 0) <= math.prod(shape) <= (math.inf if high is None else high)
    )


def _as_lists(argument, criteria, is_item, expected):
    """Checks criteria of groups, and puts single items into lists."""
    lists = {}
    for name, value in (criteria or {}).items():
        items = [value] if is_item(value) else value
        if (
            not isinstance(items, collections.abc.Sequence)
            or not items
            or not all(is_item(item) for item in items)
            or len({str(item) for item in items}) < len(items)
        ):
            raise ValueError(
                f"Argument `{argument}` must be a dict from the names of "
                f"groups to {expected} that differ, one or several. "
                f"Received: {argument}={criteria}"
            )
        lists[name] = [
            list(item) if isinstance(item, tuple) else item for item in items
        ]
    return lists


def _is_size(value):
    return type(value) is int and value >= 0


def _is_shape(value):
    return isinstance(value, list | tuple) and all(
        size is None or _is_size(size) for size in value
    )


def _is_range(value):
    return _is_shape(value) and len(value) == 2


def _is_pattern(value):
    return isinstance(value, str) and value != ""
