"""What a GPU gives: speed, accuracy with 32 and with 16 bits, and whether a training repeats there, also after it was killed.

Run it with `make bench-gpu` where there is a CUDA device; it needs the pictures and weights of `make pipeline`. In turns, each in a process of its own:

* the training of the stage train, by the parameters of params.yaml, with each precision: twice from the start, and once killed half-way and gone on with,
* `yolo train` with nothing set but model, data, size, batch, epochs and device: mixed precision is its default there.

On a CPU two runs give the same bits. Here the same is asked, and where the answer is no, how far weights and figures are apart.
`--seeds 5` compares the accuracy of both precisions, seed by seed, with the hyperparameters of `make bench-train` and the paired test of `make bench-accuracy`.
It writes reports/benchmarks/gpu.json; what an interrupted run has measured stands in scratch/gpu.json, and the next run on such a machine with the same
options, parameters, pictures and weights goes on from there.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from accuracy import compare  # this and the next stand beside this file
from record import circumstances, write
from train import PRECISIONS, run, yolo_train

from emodetect.core import ParameterError, cores, fingerprint, sha256_file, written_whole
from emodetect.training import Hyperparameters, Snapshots, find_device, train

PROJECT = Path(__file__).parent.parent
PARAMETERS = yaml.safe_load((PROJECT / "params.yaml").read_text())
RESULT = PROJECT / "reports" / "benchmarks" / "gpu.json"
UNFINISHED = PROJECT / "scratch" / "gpu.json"


def train_here(task: dict[str, Any]) -> None:
    """Train as the stage does; prints a line of JSON an epoch, with its figures and the time."""
    given = PARAMETERS["train"] | {name: task[name] for name in ("image_size", "batch", "epochs", "precision")}
    parameters = Hyperparameters(**{field.name: given[field.name] for field in fields(Hyperparameters)})
    folder = Path(task["folder"])
    folder.mkdir(exist_ok=True)
    train(
        task["data"],
        task["weights"],
        folder / "trained.pt",
        parameters=parameters,
        seed=task["seed"],
        threads=task["threads"],
        device=task["device"],
        on_epoch=lambda epoch: print(json.dumps({"at": time.monotonic(), "figures": epoch.metrics}), flush=True),
        snapshots=Snapshots(folder / "snapshot.pt", resume=task["resume"]),
    )


def follow(task: dict[str, Any], kill_after: int = 0) -> list[dict[str, Any]]:
    """What a training in a process of its own tells of its epochs; if asked to, it is killed with all that it started once so many are over."""
    process = subprocess.Popen([sys.executable, __file__, "--here", json.dumps(task)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    told: list[dict[str, Any]] = []
    with process:
        for line in process.stdout or ():
            if line.startswith("{"):
                told.append(json.loads(line))
            if kill_after and len(told) == kill_after:
                os.killpg(process.pid, signal.SIGKILL)
                break
    if process.returncode and not kill_after:
        raise SystemExit(f"bench-gpu: the training exited with {process.returncode}; see above.")
    return told


def apart(one: Path, other: Path, figures: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Whether two trainings left the same bits, and the largest difference of a weight, and of a figure of the last epoch."""
    import torch

    states = [torch.load(folder / "trained.pt", weights_only=True)["state"] for folder in (one, other)]
    weights = max(float((states[0][name].double() - states[1][name].double()).abs().max()) for name in states[0])
    last = [told[-1]["figures"] for told in figures]
    return {
        "same_bits": (one / "trained.pt").read_bytes() == (other / "trained.pt").read_bytes() and last[0] == last[1],
        "largest_difference_of_a_weight": float(f"{weights:.3g}"),
        "largest_difference_of_a_figure": float(f"{max(abs(last[0][name] - last[1][name]) for name in last[0]):.3g}"),
    }


def measure(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train with one precision: from the start, again, and killed and gone on with."""
    first, again, killed = (folder / f"{task['precision']}-{name}" for name in ("first", "again", "killed"))
    started = time.monotonic()
    told = follow(task | {"folder": str(first)})
    seconds = time.monotonic() - started
    repeated = follow(task | {"folder": str(again)})
    follow(task | {"folder": str(killed)}, kill_after=(task["epochs"] + 1) // 2)
    gone_on = follow(task | {"folder": str(killed), "resume": "must"})
    best = max(told, key=lambda epoch: epoch["figures"]["metrics/mAP50-95"])["figures"]
    return {
        "map50": round(best["metrics/mAP50"], 4),
        "map50_95": round(best["metrics/mAP50-95"], 4),
        "images_per_second": round(task["pictures"] * task["epochs"] / seconds, 1),
        "images_per_second_between_epochs": round(task["pictures"] * (len(told) - 1) / (told[-1]["at"] - told[0]["at"]), 1),
        "again": apart(first, again, [told, repeated]),
        "killed": apart(first, killed, [told, gone_on]),
    }


def accuracy(task: dict[str, Any], seeds: int) -> dict[str, Any]:
    """The mAP50-95 of both precisions, seed by seed, and how they compare."""
    found: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for seed in range(seeds):
        for precision in PRECISIONS:
            found[precision].append(run("train", **task | {"seed": seed, "precision": precision})[0]["map50_95"])
        print(f"seed {seed}: mAP50-95 " + ", ".join(f"{precision} {values[-1]:.4f}" for precision, values in found.items()), flush=True)
    return {"map50_95": found, "bf16_less_fp32": compare(found["bf16"], found["fp32"])}


def known(facts: dict[str, Any]) -> dict[str, Any]:
    """What an interrupted run has measured under the same facts, or the facts alone."""
    found = json.loads(UNFINISHED.read_text()) if UNFINISHED.is_file() else {}
    return found if facts.items() <= found.items() else dict(facts)


def keep(measured: dict[str, Any]) -> None:
    """Write down what is measured so far."""
    with written_whole(UNFINISHED) as part:
        part.write_text(json.dumps(measured, indent=2) + "\n")


def main() -> None:
    """Measure, print and write down."""
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    top.add_argument("--here", metavar="TASK", help=argparse.SUPPRESS)
    top.add_argument("--device", default="0", help="a device of PyTorch; cpu tries the benchmark itself")
    top.add_argument("--epochs", type=int, default=PARAMETERS["train"]["epochs"], help="of each training, from 2")
    top.add_argument("--batch", type=int, default=PARAMETERS["train"]["batch"], help="pictures a step")
    top.add_argument("--image-size", type=int, default=PARAMETERS["model"]["image_size"], help="pixels, a multiple of 32")
    top.add_argument("--seeds", type=int, default=0, help="compare the accuracy of both precisions with so many seeds, from 2")
    top.add_argument("--data", type=Path, default=PROJECT / "data" / "prepared", help="a prepared data set")
    top.add_argument("--weights", type=Path, default=PROJECT / "models" / "pretrained.pt", help="pre-trained weights")
    options = top.parse_args()
    if options.here:
        train_here(json.loads(options.here))
        return
    begun = circumstances()
    import torch
    import torchvision

    try:
        device = find_device(options.device)
    except ParameterError as error:
        raise SystemExit(f"bench-gpu: {error}") from error
    if device != "cpu" and not device.isdigit():
        raise SystemExit(f"bench-gpu: --device is {device}; give the number of one CUDA device, or cpu.")
    if options.epochs < 2 or not options.weights.is_file() or not (options.data / "train" / "images").is_dir():
        raise SystemExit(f"bench-gpu: it takes 2 epochs or more, pictures in {options.data} and weights in {options.weights}; `make pipeline` makes both.")
    pictures = len(list((options.data / "train" / "images").iterdir()))
    task = {"data": str(options.data.resolve()), "weights": str(options.weights.resolve()), "threads": 2, "device": device, "seed": 0, "resume": "never"}
    task |= {"image_size": options.image_size, "batch": options.batch, "epochs": options.epochs, "pictures": pictures}
    measured = known({
        "gpu": "none" if device == "cpu" else torch.cuda.get_device_name(int(device)),
        "cores": cores(),
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()},
        "train": PARAMETERS["train"],
        "data_sha256": fingerprint(options.data),
        "weights_sha256": sha256_file(options.weights),
    } | {name: task[name] for name in ("pictures", "epochs", "batch", "image_size")})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for precision in PRECISIONS:
            measured[precision] = measured.get(precision) or measure(task | {"precision": precision}, folder)
            keep(measured)
            print(f"{precision}: {json.dumps(measured[precision])}", flush=True)
        copy = shutil.copytree(options.data, folder / "data")  # Ultralytics writes beside the labels
        measured["yolo_train_images_per_second"] = round(pictures * options.epochs / yolo_train(task | {"data": str(copy)}), 1)
        print(f"yolo train: {measured['yolo_train_images_per_second']} images/s", flush=True)
    measured["to_yolo_train"] = {precision: round(measured[precision]["images_per_second"] / measured["yolo_train_images_per_second"], 2) for precision in PRECISIONS}
    if options.seeds > 1:
        measured["precision"] = accuracy(task, options.seeds)
    if device != "cpu":
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        write(RESULT, measured, begun)
    UNFINISHED.unlink()
    for precision in PRECISIONS:
        for what in ("again", "killed"):
            found = measured[precision][what]
            weight, figure = found["largest_difference_of_a_weight"], found["largest_difference_of_a_figure"]
            print(f"{precision}, {what}: " + ("the same bits" if found["same_bits"] else f"apart by {weight} in a weight and {figure} in a figure"))


if __name__ == "__main__":
    main()
