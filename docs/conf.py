"""The site: `sphinx-build -W --keep-going docs build/site`."""

import inspect
import re

import keras_l2l

project = "keras_l2l"
author = "the authors of keras_l2l"
release = keras_l2l.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "pydata_sphinx_theme"
html_title = "keras_l2l"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
# Pages without pages below them.
html_sidebars = {
    name: []
    for name in (
        *("benchmarks", "changelog", "command_line", "contributing"),
        *("gallery", "get_started", "learn_your_own", "paper"),
    )
}
html_theme_options = {
    "header_links_before_dropdown": 5,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
}
exclude_patterns = ["output"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it
napoleon_custom_sections = [("Reference", "References")]
napoleon_use_ivar = True

_INLINE = re.compile(r"`([^`]+)`(?=(\w?))")
_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)]+)\)")


def _inline(text: str) -> str:
    """Code and links of Markdown → those of reStructuredText."""
    text = text.replace("\\", "\\\\")
    text = _INLINE.sub(
        lambda match: f"``{match[1]}``" + ("\\ " if match[2] else ""), text
    )
    return _LINK.sub(r"`\1 <\2>`__", text)


def _docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings are Markdown, as those of Keras are."""
    converted, block, is_fenced, is_doctest = [], [], False, False

    def end_of_text() -> None:
        # At once, as code and links may go over the end of a line.
        converted.extend(_inline("\n".join(block)).split("\n") if block else [])
        block.clear()

    for line in lines:
        text = line.strip()
        indent = line[: len(line) - len(line.lstrip())]
        if text.startswith("```"):
            end_of_text()
            is_fenced = not is_fenced
            if is_fenced:
                language = text.strip("`") or "text"
                converted += [f"{indent}.. code-block:: {language}", ""]
            else:
                converted.append("")
        elif is_fenced:
            converted.append(f"   {line}")
        else:
            is_doctest = bool(text) and (is_doctest or text.startswith(">>>"))
            if is_doctest:
                end_of_text()
                converted.append(line)
            else:
                block.append(line)
    end_of_text()
    lines[:] = converted


def _skip(app, what, name, obj, skip, options):
    """Fields of named tuples are in the docstring of their class."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _signature(app, what, name, obj, options, signature, returns):
    """That of `__init__`, which Keras hides behind one of `__new__`."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
    plain = [p.replace(annotation=p.empty) for p in parameters]
    return str(inspect.Signature(plain)), returns


def setup(app) -> None:
    # Before napoleon, which reads the sections.
    app.connect("autodoc-process-docstring", _docstring, priority=100)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
