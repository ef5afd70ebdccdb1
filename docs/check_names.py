"""Fails if a public name is missing on the pages of a built site.

    python docs/check_names.py build/site

Public is what `__all__` of the package or of a subpackage names. A name that
two packages have needs to be documented in one of them. Lists the links to
other sites, which nobody follows here.
"""

import importlib
import pathlib
import pkgutil
import re
import sys
import zlib

import keras_l2l


def documented(site: pathlib.Path) -> set[str]:
    """The names in the inventory of the site."""
    content = (site / "objects.inv").read_bytes()
    lines = zlib.decompress(content.split(b"\n", 4)[4]).decode().splitlines()
    return {line.split(" ", 1)[0] for line in lines}


def public() -> dict[str, object]:
    """Dict from qualified names to what they name."""
    names = ["keras_l2l"] + [
        info.name
        for info in pkgutil.iter_modules(keras_l2l.__path__, "keras_l2l.")
    ]
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in map(importlib.import_module, names)
        for name in getattr(module, "__all__", ())
    }


def main(site: pathlib.Path) -> None:
    found, names = documented(site), public()
    ours = {id(value) for name, value in names.items() if name in found}
    missing = [
        name
        for name, value in names.items()
        if name not in found and id(value) not in ours
    ]
    if missing:
        sys.exit(f"Not on any page of docs/api/: {', '.join(missing)}")
    links = {
        link
        for page in site.rglob("*.html")
        for link in re.findall(r'href="(https?://[^"#]+)', page.read_text())
    }
    print(f"{len(names)} public names are documented.")
    print("Links to other sites, not followed:", *sorted(links), sep="\n  ")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
