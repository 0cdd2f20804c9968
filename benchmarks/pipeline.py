"""How long the pipeline takes in a fresh clone, stage by stage, and how long a second run takes that has nothing to do.

Run it with `make bench-pipeline`. It writes reports/benchmarks/pipeline.json, from which the README takes its figures.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from record import circumstances, write

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "pipeline.json"


def repro(folder: Path) -> tuple[dict[str, float], float]:
    """Run `dvc repro`, showing what it prints: seconds by stage, and in all."""
    started = time.monotonic()
    begun: dict[str, float] = {}
    with subprocess.Popen(["dvc", "repro"], cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if line.startswith("Running stage '"):
                begun[line.split("'")[1]] = time.monotonic()
    ended = time.monotonic()
    if process.returncode:
        raise SystemExit(f"bench-pipeline: `dvc repro` exited with {process.returncode}; mend what it says above and run again.")
    limits = [*begun.values(), ended][1:]
    return {stage: limit - start for (stage, start), limit in zip(begun.items(), limits, strict=True)}, ended - started


def main() -> None:
    """Measure both runs in a clone of the last commit, print them and write them down."""
    begun = circumstances()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "emodetect"
        subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(clone)], check=True)
        stages, first = repro(clone)
        again, second = repro(clone)
    if again:
        raise SystemExit(f"bench-pipeline: the second run ran {', '.join(again)} again; it should have had nothing to do.")
    measured = {
        "cores": os.cpu_count(),
        "first_run_seconds": round(first),
        "stage_seconds": {stage: round(seconds, 1) for stage, seconds in stages.items()},
        "second_run_seconds": round(second, 1),
        "first_to_second": round(first / second, 1),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write(RESULT, measured, begun)
    print(f"\nfirst run {first:.0f} s, second run {second:.1f} s: {first / second:.0f} to 1, on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
