"""Sphinx takes the comments behind parameters, results and fields for their documentation, as nbdev does."""

import inspect
import re
from typing import Any

from fastcore.docments import docments
from sphinx.application import Sphinx


def as_rst(text: str) -> str:
    """Text with `code` in it as reStructuredText."""
    return "".join(f"``{part}``" if number % 2 else re.sub(r"([\\*_|])", r"\\\1", part) for number, part in enumerate(text.split("`")))


def kind(annotation: Any) -> str:
    """An annotation as it stands in the source."""
    return "" if annotation in (inspect.Parameter.empty, None) else annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def document(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Write the comments under the docstring as fields."""
    lines[:] = [as_rst(line) for line in lines]
    if what not in ("function", "method", "class") or (what == "class" and issubclass(thing, BaseException)):
        return
    try:
        found = docments(thing, full=True)
    except (TypeError, OSError, SyntaxError):
        return
    lines.append("")
    for parameter, told in found.items():
        if parameter == "self":
            continue
        comment, type_ = as_rst(told.docment or ""), kind(told.anno)
        if parameter == "return":
            lines += [f":returns: {comment}"] * bool(comment) + [f":rtype: ``{type_}``"] * bool(type_ and type_ != "None")
        else:
            lines += [f":param {parameter}: {comment}"] + [f":type {parameter}: ``{type_}``"] * bool(type_)


def setup(app: Sphinx) -> dict[str, bool]:
    """Join Sphinx."""
    app.connect("autodoc-process-docstring", document)
    return {"parallel_read_safe": True}
