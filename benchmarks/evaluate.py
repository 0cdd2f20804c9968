"""How long it takes to judge a detector on as many pictures as AffectNet's test split has, beside Ultralytics' own validation of the same pictures.

Run it with `make bench-evaluate`, after `make pipeline`; PICTURES=500 takes fewer than 2,755. It writes reports/benchmarks/evaluate.json.

It runs the stages evaluate and report in a clone of the last commit, with the model that is here and pictures that are drawn, without the disturbances of the stage report.
Ultralytics' validation finds mean average precision and no more; the two stages find faces, name them, and give intervals, slices, baselines, invariances and explanations.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from record import circumstances, write

from emodetect.core import cores
from emodetect.yolo import load_checkpoint, quiet_ultralytics

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "evaluate.json"
PICTURES = int(os.environ.get("PICTURES") or 2755)


def seconds(folder: Path, *command: str) -> float:
    """The time that a command takes in a folder."""
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench-evaluate: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return time.monotonic() - started


def main() -> None:
    """Measure both, print the ratio and write them down."""
    begun = circumstances()
    models = [PROJECT / "models" / name for name in ("emodetect.pt", "emodetect.onnx", "calibration.json", "pretrained.pt", "yunet.onnx")]
    if not all(path.is_file() for path in models):
        raise SystemExit("bench-evaluate: there is no model; run `make pipeline` first.")
    quiet_ultralytics()  # a settings folder for this process, and offline
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "clone"
        seconds(PROJECT, "git", "clone", "--quiet", str(PROJECT), str(folder))
        parameters = yaml.safe_load((folder / "params.yaml").read_text())
        parameters["data"] |= {"train": 400, "valid": 64, "test": PICTURES}
        parameters["report"] |= {"strained_pictures": 0}
        (folder / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
        for path in models:
            shutil.copyfile(path, folder / "models" / path.name)
        for stage in ("fetch", "prepare"):
            seconds(folder, sys.executable, "-m", "emodetect.stages", stage)
        taken = {stage: round(seconds(folder, sys.executable, "-m", "emodetect.stages", stage), 1) for stage in ("evaluate", "report")}
        trained, described = load_checkpoint(models[0])
        torch.save({"model": trained, "train_args": {}}, folder / "yolo.pt")
        given = ["model=yolo.pt", "data=data/prepared/data.yaml", "split=test", f"imgsz={described['image_size']}", f"project={folder / 'scratch'}"]
        validation = round(seconds(folder, str(Path(sys.executable).with_name("yolo")), "detect", "val", *given), 1)
    measured = {"cores": cores(), "pictures": PICTURES, "seconds": taken, "yolo_val_seconds": validation, "evaluate_to_yolo_val": round(taken["evaluate"] / validation, 2)}
    write(RESULT, measured, begun)
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
