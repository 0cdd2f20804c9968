"""How many notebooks run from top to bottom, and how many give again exactly what is stored in them: texts, tables and pictures.

Run it with `make repeat`. It writes reports/benchmarks/repeat.json. Stage notebooks are kept without outputs; they run twice, and the two runs are compared.
Cells tagged `nbval-ignore-output` show figures of this machine or of the last pipeline; they run and are not compared.
For comparison: of 863,878 notebooks on GitHub 24 % ran and 4 % gave the same results (Pimentel et al., MSR 2019).
"""

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from record import circumstances, write

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "repeat.json"
sys.path.insert(0, str(PROJECT / "tools"))
from notebooks import cleaned  # noqa: E402 - found through the line above

Outputs = dict[str, list]


def executed(path: Path) -> Outputs | None:
    """The outputs of a notebook that is run where it stands; None if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    try:
        place = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place, extra_arguments=["--IPKernelApp.log_level=ERROR"]).execute()
    except CellExecutionError as error:
        print(f"{path.relative_to(PROJECT)}: {error.ename}: {error.evalue}", file=sys.stderr)
        return None
    return outputs_of(nbformat.writes(notebook))


def outputs_of(text: str) -> Outputs:
    """Cell → its outputs, of the cells that are compared."""
    cells = json.loads(cleaned(text, "any.ipynb"))["cells"]
    return {cell["id"]: cell["outputs"] for cell in cells if cell.get("outputs") and not {"nbval-ignore-output", "nbval-skip"} & set(cell["metadata"].get("tags", []))}


def judge(path: Path) -> dict:
    """Whether a notebook ran, and how many of its outputs came again."""
    now = executed(path)
    before = executed(path) if now is not None and path.parent.name == "stages" else outputs_of(path.read_text(encoding="utf-8"))
    equal = sum((now or {}).get(cell) == outputs for cell, outputs in (before or {}).items())
    name, outputs = path.relative_to(PROJECT).as_posix(), len(before or {})
    print(f"{name:<40} {'FAILED' if now is None else 'ran':<7} {equal:>3} of {outputs:>3} outputs equal", flush=True)
    return {"notebook": name, "ran": now is not None, "outputs": outputs, "equal": equal, "repeats": now is not None and now == before}


def main() -> int:
    """Run every notebook, print the shares and write them down; 1 if one failed or differed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="notebooks at once (default: %(default)s)")
    workers, begun = parser.parse_args().workers, circumstances()
    os.environ |= {"IN_TEST": "1", "PYTHONHASHSEED": "0"}  # nbdev then exports nothing
    paths = sorted(path for path in (PROJECT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(judge, paths))
    total, ran, repeat = len(results), sum(one["ran"] for one in results), sum(one["repeats"] for one in results)
    outputs, equal = sum(one["outputs"] for one in results), sum(one["equal"] for one in results)
    print(f"{ran} of {total} notebooks run, {repeat} of {total} repeat; {equal} of {outputs} outputs equal")
    differing = [one["notebook"] for one in results if not one["repeats"]]
    write(RESULT, {"notebooks": total, "run": ran, "repeat": repeat, "outputs": outputs, "outputs_equal": equal, "differing": differing}, begun)
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
