"""Every public name has a docstring that tells its arguments and results.

Public is what `__all__` of the package or of a subpackage names, and the
methods and properties of its classes that have no underscore in front.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap

import pytest

import keras_l2l

SECTION = re.compile(r"^(\w+):$", re.MULTILINE)
ENTRY = re.compile(r"^    (\*{0,2}\w+): ", re.MULTILINE)

# What is not documented in full today. A strict list, which only shrinks.
INCOMPLETE = {"keras_l2l.optimizers.L2LOptimizer"}


def _public_modules():
    yield keras_l2l
    for info in pkgutil.iter_modules(keras_l2l.__path__, "keras_l2l."):
        module = importlib.import_module(info.name)
        if hasattr(module, "__all__"):
            yield module


def _public_objects():
    """Name → class or function of this package, each once."""
    found = {}
    for module in _public_modules():
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found[id(value)] = (f"{module.__name__}.{name}", value)
    return dict(found.values())


def _sections(doc):
    """Title of a section → its text; `""` → what stands before the first."""
    title, *rest = SECTION.split(doc)
    return {"": title, **dict(zip(rest[::2], rest[1::2]))}


def _documented(doc, title="Args"):
    return ENTRY.findall(_sections(doc).get(title, ""))


def _arguments(function):
    """Names of arguments, with their stars, without `self`."""
    stars = {
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    return [
        stars.get(parameter.kind, "") + parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in ("self", "cls")
    ]


def _argument_problems(what, doc, arguments, inherited=()):
    """Differences of the documented arguments to those of the signature.

    `**kwargs` may be documented as such, or by the arguments of the base
    class that it passes on, `inherited`.
    """
    documented = _documented(doc)
    own = [name for name in arguments if name != "**kwargs"]
    if "**kwargs" not in arguments:
        inherited = ()
    missing = [name for name in own if name not in documented]
    unknown = [
        name for name in documented if name not in {*arguments, *inherited}
    ]
    in_order = [name for name in documented if name in own]
    if missing:
        yield f"{what}: not documented: {missing}"
    if unknown:
        yield f"{what}: documented, but no argument: {unknown}"
    if not missing and in_order != own:
        yield f"{what}: documented in another order than {own}"
    if "**kwargs" in arguments and set(documented) <= set(own):
        yield f"{what}: tells nothing of `**kwargs`"


def _returns_a_value(function):
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    pending = list(node.body)
    while pending:
        inner = pending.pop()
        if isinstance(inner, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(inner, ast.Return) and not (
            inner.value is None
            or (isinstance(inner.value, ast.Constant) and not inner.value.value)
        ):
            return True
        pending.extend(ast.iter_child_nodes(inner))
    return False


def _function_problems(what, function):
    doc = inspect.getdoc(function)
    if not doc:
        yield f"{what}: no docstring"
        return
    yield from _argument_problems(what, doc, _arguments(function))
    if _returns_a_value(function) and "Returns" not in _sections(doc):
        yield f"{what}: tells nothing of what it returns"


def _is_ours(value):
    return value.__module__.split(".")[0] == "keras_l2l"


def _member_problems(what, cls):
    """Problems of the methods and properties that a class defines itself."""
    for name, member in vars(cls).items():
        if name.startswith("_"):
            continue
        bases = [base for base in cls.__mro__ if name in vars(base)]
        if not _is_ours(bases[-1]):
            continue  # Keras says what it does.
        function = getattr(member, "__func__", member)
        if inspect.isfunction(function) and function.__doc__:
            yield from _function_problems(f"{what}.{name}", function)
        elif hasattr(member, "__get__") and not inspect.getdoc(
            getattr(cls, name)  # An override may leave it to its base.
        ):
            yield f"{what}.{name}: no docstring"


def _class_problems(what, cls):
    doc = cls.__doc__
    if not doc:
        yield f"{what}: no docstring"
        return
    if hasattr(cls, "_fields") or hasattr(cls, "__dataclass_fields__"):
        expected = list(
            getattr(cls, "_fields", None) or cls.__dataclass_fields__
        )
        doc = inspect.cleandoc(doc)
        received = _documented(doc, "Attributes") or _documented(doc)
        if received != expected:
            yield f"{what}: documents {received}, has fields {expected}"
        return
    inits = [
        base.__init__
        for base in cls.__mro__
        if _is_ours(base) and "__init__" in vars(base)
    ]
    inherited = {name for init in inits for name in _arguments(init)}
    arguments = _arguments(inits[0]) if inits else []
    yield from _argument_problems(
        what, inspect.cleandoc(doc), arguments, inherited
    )
    yield from _member_problems(what, cls)


def _problems(name, value):
    check = _class_problems if inspect.isclass(value) else _function_problems
    return list(check(name, value))


OBJECTS = _public_objects()


@pytest.mark.parametrize("name", OBJECTS)
def test_a_public_name_is_documented(name):
    problems = _problems(name, OBJECTS[name])
    if name in INCOMPLETE:
        assert problems, f"{name} is complete: take it off the list"
    else:
        assert not problems


@pytest.mark.parametrize("name", OBJECTS)
def test_a_public_class_is_abstract_or_final(name):
    """So a method is either declared or implemented, and in one place."""
    value = OBJECTS[name]
    bases = value.__mro__[1:] if inspect.isclass(value) else ()
    for base in bases:
        if base in OBJECTS.values():
            assert inspect.isabstract(base), f"{name} derives from {base}"
