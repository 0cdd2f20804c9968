"""Is the pipeline reproducible here? Run it in three fresh clones, the third with a training that is killed and goes on, and compare every output.

Run it with `make repro-check`. On a CPU the outputs must be the same to the bit. Where a GPU trains, it says how far the figures and weights are apart.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from emodetect.training import find_device
from tests.soak import run_and_kill

PROJECT = Path(__file__).parent.parent
RUNS = ("first", "second", "killed")


def run(clone: Path, kill: bool) -> None:
    """Run the whole pipeline, showing what it prints; if asked to, kill it when half of the epochs are over, and run it again."""
    if kill:
        epochs = yaml.safe_load((clone / "params.yaml").read_text())["train"]["epochs"]
        killed, printed = run_and_kill(clone, ["dvc", "repro", "--force"], (epochs + 1) // 2, 0)
        print(printed, "\nKILLED" if killed else "\nended before it could be killed", flush=True)
    subprocess.run(["dvc", "repro", *([] if kill else ["--force"])], cwd=clone, check=True)


def outputs(clone: Path) -> dict[str, str]:
    """The hash of each output of each stage."""
    stages = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def numbers(value: Any) -> list[float]:
    """Every number of a nested value, in its order."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    return [float(value)] if isinstance(value, int | float) else []


def tolerance(one: Path, other: Path) -> tuple[float, float]:
    """The largest absolute difference of any figure of training and evaluation, and of any weight."""
    figures = [[numbers(json.loads((clone / "reports" / stage / "metrics.json").read_text())) for stage in ("train", "evaluate")] for clone in (one, other)]
    weights = [torch.load(clone / "models" / "emodetect.pt", weights_only=True)["state"] for clone in (one, other)]
    apart = [abs(a - b) for left, right in zip(*figures, strict=True) for a, b in zip(left, right, strict=True)]
    return max(apart), max(float((weights[0][name].double() - weights[1][name].double()).abs().max()) for name in weights[0])


def verdict(folder: Path) -> int:
    """Print the hash of each output and how the runs compare; 0 if they are the same, or if a GPU trained, which promises no bits."""
    found = {name: outputs(folder / name) for name in RUNS}
    for path, digest in found["first"].items():
        same = all(found[name].get(path) == digest for name in RUNS)
        print(f"  {'same' if same else 'DIFFERENT':<11}{digest[:16]}  {path}" + ("" if same else "".join(f"  {name} {found[name].get(path, 'missing')[:16]}" for name in RUNS[1:])))
    device = find_device(yaml.safe_load((folder / "first" / "params.yaml").read_text())["train"]["device"])
    if found["first"] == found["second"] == found["killed"]:
        print(f"REPRODUCED: two runs, and one that was killed and went on, gave the same {len(found['first'])} outputs on the device {device}")
        return 0
    for name in RUNS[1:]:
        figures, weights = tolerance(folder / "first", folder / name)
        print(f"  the {name} run is apart by at most {figures:.3g} in a figure and {weights:.3g} in a weight")
    print(f"NOT THE SAME BITS on the device {device}" + ("" if device == "cpu" else ", where only a tolerance can be told"))
    return int(device == "cpu")


def main() -> int:
    """Run the pipeline in clones of the last commit and give the verdict."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for clone in RUNS:
            subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(folder / clone)], check=True)
        for clone in RUNS:
            print(f"== the {clone} run", flush=True)
            run(folder / clone, kill=clone == "killed")
        code = verdict(folder)
        lock = PROJECT / "dvc.lock"
        committed = lock.exists() and lock.read_text() == (folder / "first" / "dvc.lock").read_text()
    print("and dvc.lock is the committed one" if committed else "but dvc.lock is not the committed one: another CPU, thread count or library version gives other bits")
    return code


if __name__ == "__main__":
    sys.exit(main())
