"""Reading a rule back from its directory."""

from keras_l2l.rules.base import UpdateRule
from keras_l2l.serialization import saved_model


def load_rule(path, *, custom_objects=None):
    """Reads a rule from its variables and its manifest; runs no graph.

    The network is built by the code of this package, so a directory from a
    stranger is data and nothing else.

    Args:
        path: String or path of a directory that `rule.export(path)` wrote.
        custom_objects: Dict from registered names to classes: rules and
            initializers that are neither of this package nor of Keras.
            Nothing else is looked up or imported. Defaults to `None`.

    Returns:
        An `UpdateRule`, equal to the exported one.

    Raises:
        FileNotFoundError: If `path` does not exist.
        NotADirectoryError: If `path` is no directory.
        RuleFormatError: If the directory is no rule export, or if its
            manifest and its variables do not fit each other or this package.

    Example:

    >>> rule = keras_l2l.load_rule("my_rule")
    """
    return saved_model.load_rule(
        path, base_class=UpdateRule, custom_objects=custom_objects
    )
