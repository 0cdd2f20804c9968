"""What of a notebook belongs to git: no counts, no editor's metadata, no outputs of stages. Used by JupyterLab when it saves, by git, by the hooks and by make.

    python tools/notebooks.py FILE…        clean files in place; exits with 1 if one had to be
    python tools/notebooks.py --filter NAME    clean standard input, as a git filter does
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from nbdev.clean import clean_nb


def clean(notebook: dict[str, Any], name: str) -> None:
    """Clean a notebook that stands in memory; those of stages lose their outputs, whose place is reports/notebooks."""
    clean_nb(notebook, allowed_cell_metadata_keys=["tags"])
    for cell in notebook["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [] if PurePath(name).parent.name == "stages" else list(joined(cell["outputs"]))


def joined(outputs: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Outputs in which consecutive pieces of one stream are one piece: how many there are depends on who ran the cell."""
    last: dict[str, Any] = {}
    for output in outputs:
        if output["output_type"] == "stream" and output.get("name") == last.get("name"):
            last["text"] = ("".join(last["text"]) + "".join(output["text"])).splitlines(keepends=True)
        else:
            yield (last := output)


def cleaned(text: str, name: str) -> str:
    """The text of a notebook's file after cleaning; any other text, such as one with conflict markers, as it is."""
    try:
        notebook = json.loads(text)
        clean(notebook, name)
    except (ValueError, KeyError, TypeError):
        return text
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    """Run the command; the exit code."""
    if arguments[:1] == ["--filter"]:
        sys.stdout.buffer.write(cleaned(sys.stdin.buffer.read().decode(), arguments[1]).encode())
        return 0
    dirty = 0
    for path in map(Path, arguments):
        text = path.read_text(encoding="utf-8")
        if (wanted := cleaned(text, str(path))) != text:
            path.write_text(wanted, encoding="utf-8", newline="\n")
            print(f"{path}: cleaned")
            dirty = 1
    return dirty


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
