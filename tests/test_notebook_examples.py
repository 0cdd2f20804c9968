"""Each notebook's examples, run over the generated module inside this process.

nbval runs a notebook's own definitions; this runs its examples over `emodetect/*.py`, which is what users import. It also makes the coverage true:
a notebook's kernel never imports the module that the notebook defines.
"""

import importlib
import os
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

IN_PROCESSES = {"13_experiments", "14_sweep", "90_stages"}  # their examples start processes, which import the generated module in nbval's run, too
LIBRARY = [path for path in sorted((Path(__file__).parent.parent / "nbs").glob("[0-9]*.ipynb")) if path.stem not in IN_PROCESSES]


def module_name(notebook: nbformat.NotebookNode) -> str:
    """The module that a notebook generates."""
    sources = "\n".join(cell.source for cell in notebook.cells)
    return next(line.split()[-1] for line in sources.splitlines() if line.startswith("#| default_exp"))


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_examples_hold_for_the_generated_module(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.read(path, as_version=4)
    module = importlib.import_module(f"emodetect.{module_name(notebook)}")
    names = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    environment, arguments = dict(os.environ), sys.argv
    shell = InteractiveShell(user_ns=names)
    try:
        for cell in notebook.cells:
            if cell.cell_type == "code" and not cell.source.startswith(("#| export", "#| default_exp", "#| hide")):
                shell.run_cell(cell.source, store_history=False).raise_error()
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = arguments
        InteractiveShell.clear_instance()
