"""How long a person waits for `emodetect predict` on one picture, and how long for the same answer through PyTorch.

Run it with `make bench-startup`, after `make pipeline`. It writes reports/benchmarks/startup.json, from which the README takes its figures.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import circumstances, write

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "startup.json"
RUNS = 7
THROUGH_PYTORCH = """
import json, sys
from pathlib import Path
import yaml
from emodetect.cli import TABLE_HEADER, table_rows
from emodetect.detector import decode_picture, make_detector
from emodetect.evaluation import torch_network
from emodetect.yolo import load_checkpoint
model, described = load_checkpoint("models/emodetect.pt")
settings = yaml.safe_load(Path("params.yaml").read_text())["detector"] | json.loads(Path("models/calibration.json").read_text())
detector = make_detector(torch_network(model), described | settings, Path("models/yunet.onnx").read_bytes())
print(TABLE_HEADER)
print("\\n".join(table_rows(Path(sys.argv[1]), detector([decode_picture(sys.argv[1])])[0])))
"""  # the same mode, face finder, settings and table; only the network is run by PyTorch


def commands(picture: str) -> dict[str, list[str]]:
    """What is timed, by name."""
    python, console = sys.executable, str(Path(sys.executable).with_name("emodetect"))
    return {
        "python": [python, "-c", "pass"],
        "import emodetect": [python, "-c", "import emodetect"],
        "emodetect --version": [console, "--version"],
        "emodetect predict": [console, "predict", picture],
        "the same through PyTorch": [python, "-c", THROUGH_PYTORCH, picture],
    }


def printed(command: list[str]) -> str:
    """What a command prints."""
    return subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True).stdout


def seconds(command: list[str]) -> float:
    """The wall-clock time of one run."""
    started = time.perf_counter()
    printed(command)
    return time.perf_counter() - started


def main() -> None:
    """Time every command in turn, several times over, print the medians and write them down."""
    begun = circumstances()
    pictures = sorted((PROJECT / "data" / "prepared" / "test" / "images").glob("*"))
    if not pictures:
        raise SystemExit("bench-startup: there is no picture in data/prepared/test/images; run `make pipeline` first.")
    timed = commands(str(pictures[0].relative_to(PROJECT)))
    if printed(timed["emodetect predict"]) != printed(timed["the same through PyTorch"]):
        raise SystemExit("bench-startup: the two give different answers, so they cannot be compared; run `make pipeline` first.")
    rounds = [{name: seconds(command) for name, command in timed.items()} for _ in range(RUNS + 1)][1:]  # the first one warms the disk cache
    medians = {name: statistics.median(round_[name] for round_ in rounds) for name in timed}
    ratio = medians["the same through PyTorch"] / medians["emodetect predict"]
    for name, value in medians.items():
        print(f"{name:<26} {value:6.3f} s")
    print(f"PyTorch takes {ratio:.1f} times as long as `emodetect predict`, on {os.cpu_count()} cores, median of {RUNS}")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    measured = {"cores": os.cpu_count(), "runs": RUNS, "median_seconds": {name: round(value, 3) for name, value in medians.items()}, "pytorch_to_predict": round(ratio, 1)}
    write(RESULT, measured, begun)


if __name__ == "__main__":
    main()
