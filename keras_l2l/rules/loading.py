"""Reading a rule back from its directory."""

from keras_l2l.rules.base import UpdateRule
from keras_l2l.serialization import hub, saved_model


def load_rule(path, *, custom_objects=None):
    """Reads a rule from its variables and its manifest; runs no graph.

    The network is built by the code of this package, so a directory from a
    stranger is data and nothing else.

    Args:
        path: String or path of a directory that `rule.export(path)` wrote; or
            an address on Hugging Face, `"hf://USER/NAME[@REVISION]"`, or on
            Kaggle, `"kaggle://OWNER/MODEL/FRAMEWORK/VARIATION[/VERSION]"`,
            which need the extra `keras-l2l[hub]`.
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
        ValueError: If an address is not known.
        ConnectionError: If an address cannot be reached, and is not cached.
        ImportError: If the client of an address is not installed.

    Example:

    >>> rule = keras_l2l.load_rule("my_rule")
    """
    if hub.is_address(path):
        path = hub.download(path).path
    return saved_model.load_rule(
        path, base_class=UpdateRule, custom_objects=custom_objects
    )
