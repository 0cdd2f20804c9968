"""How fast the training is: against `yolo train` as its documentation starts it, and against the bare limit of the machine.

Run it with `make bench-train`. All are run in turns, each in a process of its own, on the same drawn pictures with the same model, size, batch and number of epochs:

* `yolo train` with nothing set but these and the device,
* the training of the stage train (`emodetect.training.train`), in 32 and in 16 bits,
* the bare limit: forward, backward and optimizer step on one batch that lies in memory, with the same arithmetic.

It also says where the time of a training goes, and what DVC, Papermill and DVCLive add. How well both learn, `make bench-accuracy` compares.
It writes reports/benchmarks/train.json, from which the README takes its figures.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from record import circumstances, write

from emodetect.stages import QUICK

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "train.json"
PRECISIONS = ("fp32", "bf16")
TEN_MINUTES = 600  # seconds


def train_here(task: dict[str, Any]) -> dict[str, Any]:
    """Train as the stage does; when each epoch was told, and the best figure."""
    from emodetect.training import Hyperparameters, Snapshots, train

    told: list[float] = []
    parameters = Hyperparameters(**{"lr0": 0.002} | task.get("parameters", {}) | {name: task[name] for name in ("image_size", "batch", "epochs", "precision")})
    with tempfile.TemporaryDirectory() as folder:
        trained = train(
            task["data"],
            task["weights"],
            Path(folder) / "trained.pt",
            parameters=parameters,
            seed=task["seed"],
            threads=task["threads"],
            device=task["device"],
            on_epoch=lambda epoch: told.append(time.monotonic()),
            snapshots=Snapshots(Path(folder) / "snapshot.pt"),
        )
        if "keep" in task:
            shutil.copyfile(Path(folder) / "trained.pt", task["keep"])
    return {"told": told, "map50_95": trained.epochs[trained.best_epoch - 1].metrics["metrics/mAP50-95"]}


def profile_here(task: dict[str, Any]) -> dict[str, float]:
    """Train as the stage does and say which share of the time between the first epoch and the last each part takes."""
    from importlib import import_module

    import torch

    from emodetect.trainer import Run, Trainer

    loaders = import_module("ultralytics.data.build").InfiniteDataLoader  # not before emodetect.trainer, which imports it quietly
    models = import_module("ultralytics.nn.tasks").DetectionModel
    spent: dict[str, float] = defaultdict(float)
    open_parts: list[str] = []

    def timed(part: str, function: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            if open_parts:  # it is part of another
                return function(*arguments, **options)
            open_parts.append(part)
            started = time.monotonic()
            try:
                return function(*arguments, **options)
            finally:
                spent[part] += time.monotonic() - started
                open_parts.pop()

        return call

    batches = loaders.__iter__

    def timed_batches(loader: Any) -> Iterator[Any]:
        iterator = batches(loader)
        advance = timed("reading and augmenting", lambda: next(iterator, None))
        while (batch := advance()) is not None:
            yield batch

    loaders.__iter__ = timed_batches
    parts = [
        (models, "forward", "forward and loss"),
        (torch.Tensor, "backward", "backward"),
        (Trainer, "optimizer_step", "optimizer and average"),
        (Trainer, "preprocess_batch", "reading and augmenting"),
        (Trainer, "validate", "validation"),
        (Run, "save", "snapshot"),
    ]
    for owner, name, part in parts:
        setattr(owner, name, timed(part, getattr(owner, name)))
    told: list[tuple[float, dict[str, float]]] = []
    original = Trainer._end_epoch

    def end_epoch(self: Trainer) -> None:
        original(self)
        told.append((time.monotonic(), dict(spent)))

    Trainer._end_epoch = end_epoch
    train_here(task)
    (start, before), (end, after) = told[0], told[-1]
    shares = {part: round((after[part] - before.get(part, 0.0)) / (end - start), 3) for part in sorted(after, key=after.get, reverse=True)}
    return shares | {"the rest": round(1 - sum(shares.values()), 3)}


def bare_here(task: dict[str, Any]) -> dict[str, float]:
    """Forward, backward and optimizer step on one batch in memory; pictures a second."""
    from types import SimpleNamespace

    import torch

    from emodetect.yolo import build_model, fix_randomness

    fix_randomness(0, task["threads"])
    model, size, batch = build_model("yolo11n").to(memory_format=torch.channels_last).train(), task["image_size"], task["batch"]
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    faces = {"batch_idx": torch.arange(batch), "cls": torch.zeros(batch, 1), "bboxes": torch.tensor([0.5, 0.5, 0.6, 0.6]).repeat(batch, 1)}
    content = faces | {"img": torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)}

    def steps(count: int) -> float:
        started = time.monotonic()
        for _ in range(count):
            with torch.autocast("cpu", enabled=task["precision"] == "bf16"):
                loss = model(content)[0].sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.monotonic() - started

    warm = steps(3) / 3
    count = max(3, round(task["seconds"] / warm))
    return {"images_per_second": count * batch / steps(count)}


def draw_here(task: dict[str, Any]) -> dict[str, Any]:
    """Draw and prepare the pictures."""
    from emodetect.prepare import prepare
    from emodetect.sample import write_sample

    folder = Path(task["folder"])
    write_sample(folder / "raw", {"train": task["pictures"], "valid": max(8, task["pictures"] * 4 // 25), "test": 8}, seed=0)
    prepare(folder / "raw", folder / "data")
    (folder / "none.pt").touch()
    return {}


def live_here(task: dict[str, Any]) -> dict[str, float]:
    """What DVCLive takes for the figures of an epoch, in seconds."""
    from dvclive import Live

    with tempfile.TemporaryDirectory() as folder:
        live = Live(folder, dvcyaml=None, report=None, save_dvc_exp=False, monitor_system=False)
        started = time.monotonic()
        for _ in range(task["epochs"]):
            for number in range(11):
                live.log_metric(f"metrics/{number}", 0.5)
            live.next_step()
        return {"seconds_per_epoch": (time.monotonic() - started) / task["epochs"]}


HERE = {"train": train_here, "profile": profile_here, "bare": bare_here, "draw": draw_here, "live": live_here}


def run(what: str, **task: Any) -> tuple[dict[str, Any], float]:
    """Do one of `HERE` in a process of its own; its answer and its seconds."""
    started = time.monotonic()
    with tempfile.NamedTemporaryFile("r") as answer:
        environment = QUICK | os.environ  # as the stage does
        done = subprocess.run([sys.executable, __file__, "--here", what, json.dumps(task), answer.name], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"bench-train: {what} failed:\n{done.stdout}{done.stderr}")
        return json.load(answer), time.monotonic() - started


def yolo_train(task: dict[str, Any]) -> float:
    """Train with Ultralytics' command line as its documentation does, on the device; seconds. With `keep` in the task, from its weights and seed, and the best model goes there."""
    from emodetect.yolo import quiet_ultralytics

    quiet_ultralytics()  # a settings folder for this process, and offline: else it fetches a font
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", *QUICK)}
    with tempfile.TemporaryDirectory() as folder:
        given = {"model": "yolo11n.yaml", "data": f"{task['data']}/data.yaml", "imgsz": task["image_size"]} | {name: task[name] for name in ("batch", "epochs", "device")}
        if "keep" in task:
            given |= {"pretrained": task["weights"], "seed": task["seed"]}
        command = ["yolo", "detect", "train", *(f"{name}={value}" for name, value in given.items()), f"project={folder}"]
        started = time.monotonic()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"bench-train: `yolo detect train` failed:\n{done.stdout}{done.stderr}")
        if "keep" in task:
            shutil.copyfile(next(Path(folder).rglob("best.pt")), task["keep"])
        return time.monotonic() - started


def stage_seconds(task: dict[str, Any], folder: Path) -> float:
    """The stage train as `dvc repro` runs it, in a clone of the last commit with the same data and parameters; seconds."""
    import yaml

    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(folder)], check=True)
    parameters = yaml.safe_load((folder / "params.yaml").read_text())
    parameters["model"] |= {"image_size": task["image_size"]}
    parameters["train"] |= {name: task[name] for name in ("batch", "epochs", "precision", "seed")} | {"cover": 0.0, "downscale": 0.0}
    parameters["threads"] = task["threads"]
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
    shutil.copytree(task["data"], folder / "data" / "prepared")
    shutil.copyfile(task["weights"], folder / "models" / "pretrained.pt")
    started = time.monotonic()
    done = subprocess.run(["dvc", "repro", "--single-item", "--force", "train"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench-train: `dvc repro train` failed:\n{done.stdout}{done.stderr}")
    return time.monotonic() - started


def main() -> None:
    """Measure in turns, print the ratios and write them down."""
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    top.add_argument("--here", nargs=3, metavar=("WHAT", "TASK", "ANSWER"), help=argparse.SUPPRESS)
    top.add_argument("--pictures", type=int, default=1000, help="of the training split, from 32")
    top.add_argument("--epochs", type=int, default=6, help="of each training, from 2")
    top.add_argument("--batch", type=int, default=32, help="pictures a step")
    top.add_argument("--image-size", type=int, default=96, help="pixels, a multiple of 32; AffectNet's pictures have 96")
    top.add_argument("--rounds", type=int, default=3, help="of all in turn")
    options = top.parse_args()
    if options.here:
        what, task, answer = options.here
        Path(answer).write_text(json.dumps(HERE[what](json.loads(task))))
        return
    begun = circumstances()
    rates: dict[str, list[float]] = defaultdict(list)
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("draw", folder=name, pictures=options.pictures)
        task = {"data": str(folder / "data"), "weights": str(folder / "none.pt"), "threads": threads, "device": "cpu", "seed": 0, "precision": "fp32", "seconds": 10}
        task |= {"image_size": options.image_size, "batch": options.batch, "epochs": options.epochs}
        shown, seconds = options.pictures * options.epochs, 0.0
        for number in range(options.rounds):
            rates["yolo train"].append(shown / yolo_train(task))
            for precision in PRECISIONS:
                answer, seconds = run("train", **task | {"precision": precision})
                told = answer["told"]
                rates[precision].append(shown / seconds)
                rates[f"{precision} between epochs"].append(options.pictures * (len(told) - 1) / (told[-1] - told[0]))
                rates[f"{precision} bare"].append(run("bare", **task | {"precision": precision})[0]["images_per_second"])
            print(f"round {number + 1} of {options.rounds}: " + ", ".join(f"{what} {values[-1]:.0f}" for what, values in rates.items()) + " images/s", flush=True)
        shares = {precision: run("profile", **task | {"precision": precision})[0] for precision in PRECISIONS}
        plain = run("train", **task)[1]
        whole = stage_seconds(task, folder / "clone")
        live = run("live", **task)[0]["seconds_per_epoch"]

    def ratio(one: str, other: str) -> float:
        return round(statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True)), 2)

    epoch = options.pictures / statistics.median(rates["fp32 between epochs"])
    added = whole - plain + live * max(0.0, TEN_MINUTES / epoch - options.epochs)
    measured = {
        "cores": threads,
        "pictures": options.pictures,
        "epochs": options.epochs,
        "batch": options.batch,
        "image_size": options.image_size,
        "images_per_second": {what: round(statistics.median(values), 1) for what, values in rates.items()},
        "to_yolo_train": {precision: ratio(precision, "yolo train") for precision in PRECISIONS},
        "to_bare_limit": {precision: ratio(f"{precision} between epochs", f"{precision} bare") for precision in PRECISIONS},
        "shares": shares,
        "stage_adds_seconds": round(whole - plain, 1),
        "dvclive_seconds_per_epoch": round(live, 4),
        "stage_adds_to_ten_minutes": round(added / TEN_MINUTES, 3),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write(RESULT, measured, begun)
    print(f"\n{'':<24}{'images/s':>10}{'to yolo train':>16}{'to bare limit':>16}")
    print(f"{'yolo train':<24}{measured['images_per_second']['yolo train']:>10.0f}{1:>16.2f}")
    for precision in PRECISIONS:
        print(f"{precision:<24}{measured['images_per_second'][precision]:>10.0f}{measured['to_yolo_train'][precision]:>16.2f}{measured['to_bare_limit'][precision]:>16.2f}")
        print(f"{precision + ', bare limit':<24}{measured['images_per_second'][precision + ' bare']:>10.0f}")
    print(f"\n{'share of the time':<24}" + "".join(f"{precision:>10}" for precision in PRECISIONS))
    for part in shares["fp32"]:
        print(f"{part:<24}" + "".join(f"{shares[precision].get(part, 0.0):>10.1%}" for precision in PRECISIONS))
    print(f"\nDVC, Papermill and DVCLive, with the pictures that the stage draws: {whole - plain:.1f} s here, {added / TEN_MINUTES:.1%} of a training of ten minutes (computed)")


if __name__ == "__main__":
    main()
