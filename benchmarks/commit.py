"""How long the checks before a commit take on a small change, one notebook and its module, and how long git alone takes.

Run it with `make bench-commit`. It writes reports/benchmarks/commit.json.
"""

import os
import statistics
import subprocess
import time
from pathlib import Path

from record import circumstances, write

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "commit.json"
CHANGED = ("nbs/04_dataset.ipynb", "emodetect/dataset.py")
RUNS = 5
TIMED = {"checks": ["pre-commit", "run", "--files", *CHANGED], "filter": ["git", "hash-object", CHANGED[0]], "git": ["git", "hash-object", "--no-filters", CHANGED[0]]}


def seconds(command: list[str]) -> float:
    """The wall-clock time of one run."""
    started = time.perf_counter()
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Time every command in turn, several times over, print the medians and write them down."""
    begun = circumstances()
    rounds = [{name: seconds(command) for name, command in TIMED.items()} for _ in range(RUNS + 1)][1:]  # the first one fills the caches
    medians = {name: round(statistics.median(one[name] for one in rounds), 3) for name in TIMED}
    print(f"the checks take {medians['checks']:.1f} s on a change of {' and '.join(CHANGED)}")
    print(f"to clean a notebook on its way to git takes {medians['filter']:.2f} s, git alone {medians['git']:.3f} s")
    write(RESULT, {"cores": os.cpu_count(), "runs": RUNS, "changed": CHANGED, "median_seconds": medians}, begun)


if __name__ == "__main__":
    main()
