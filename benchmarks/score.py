"""What batch scoring costs as the number of pictures grows: time and memory of `emodetect score` for 1,000, 10,000 and 100,000 drawn pictures.

Run it with `make bench-score`, after `make pipeline`; `PICTURES=100,1000 make bench-score` takes other numbers. It writes reports/benchmarks/score.json.
If the cost is a straight line, 1,000 pictures cost the same however many there are; memory is the most that the process ever took.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from record import circumstances, write

from emodetect.core import cores, print_progress
from emodetect.sample import write_sample

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "score.json"
DRAWN = 200  # different pictures; the others are links to them


def album(folder: Path, drawn: list[Path], count: int) -> Path:
    """A folder of so many pictures."""
    folder.mkdir()
    for number in range(count):
        os.link(drawn[number % len(drawn)], folder / f"{number:07}{drawn[0].suffix}")
    return folder


def run(folder: Path) -> tuple[float, float]:
    """Score a folder in a process of its own: seconds, and the most memory in megabytes."""
    console = str(Path(sys.executable).with_name("emodetect"))
    started, memory = time.perf_counter(), 0
    with psutil.Popen([console, "score", str(folder), "--out", str(folder.with_suffix(".parquet"))], cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            memory = max(memory, process.memory_info().rss)
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit("bench-score: the scoring failed; run `make pipeline` first.")
    return time.perf_counter() - started, memory / 1e6


def main() -> None:
    """Score each number of pictures, fit a line, print and write down what it cost."""
    begun = circumstances()
    counts = [int(count) for count in os.environ.get("PICTURES", "1000,10000,100000").split(",")]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_sample(place / "drawn", {"train": DRAWN, "valid": 1, "test": 1}, seed=0)
        drawn, told = sorted((place / "drawn" / "train" / "images").iterdir()), print_progress("folders scored")
        taken = []
        for done, count in enumerate(counts, start=1):
            taken.append(run(album(place / str(count), drawn, count)))
            told(done, len(counts))
    seconds, memory = zip(*taken, strict=True)
    slope, start = np.polyfit(counts, seconds, 1)
    measured = {
        "cores": cores(),
        "pictures": counts,
        "seconds": [round(value, 1) for value in seconds],
        "seconds_for_1000": [round(1000 * value / count, 2) for value, count in zip(seconds, counts, strict=True)],
        "megabytes": [round(value) for value in memory],
        "line": {"start_seconds": round(float(start), 2), "seconds_for_1000": round(1000 * float(slope), 2), "r_squared": round(float(np.corrcoef(counts, seconds)[0, 1] ** 2), 5)},
    }
    print(json.dumps(measured, indent=2))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write(RESULT, measured, begun)


if __name__ == "__main__":
    main()
