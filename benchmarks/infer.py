"""How fast faces are found and named: each engine and precision against `YOLO(...).predict` on the same pictures, and against the bare engine on a ready tensor.

Run it with `make bench-infer`, after `make pipeline`; `ROUNDS=3 make bench-infer` is shorter. It writes reports/benchmarks/infer.json, from which the README takes its figures.

Every contestant is a process of its own with the same number of threads, and they take turns, in batches of 1 and 32, at 96 pixels and at the size that the model was trained at:

* `YOLO.predict` on pictures that lie in memory,
* the `Detector` in the mode `frame`, which does the same work, with each engine and precision; and in the mode `faces`, which looks for faces first,
* the bare engine: the network alone on a tensor that lies ready, in the same process.

Start-up is from the start of the process to the first answer; memory is the most that the process ever took.
What a precision costs in accuracy is measured on the validation split, at both sizes, as the detector is delivered (mode `faces`);
`taken` says whether the stage export would take the file.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from record import circumstances, write

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "infer.json"
ULTRALYTICS = "YOLO.predict"
CHOICES = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "int8"), ("openvino", "int8"))
BATCHES = (1, 32)
PASSES = {1: 40, 32: 4}  # of each way in one turn
ROUNDS = int(os.environ.get("ROUNDS", "9"))
STARTS = min(3, ROUNDS)


def seconds_a_picture(work: Callable[[int], object], batch: int) -> float:
    """The time of one pass over a batch, for each of its pictures."""
    started = time.perf_counter()
    work(batch)
    return (time.perf_counter() - started) / batch


def alone(work: Callable[[int], object], batch: int) -> list[float]:
    """The times of some passes, once the threads of another way no longer look for work, which would keep a core from this one."""
    time.sleep(0.1)
    work(batch)
    return [seconds_a_picture(work, batch) for _ in range(PASSES[batch])]


def ultralytics_ways(task: dict[str, Any], pictures: Sequence[np.ndarray]) -> dict[str, Callable[[int], object]]:
    """`YOLO.predict` with the trained weights and the thresholds of the detector."""
    import torch
    from ultralytics import YOLO

    yolo = YOLO(task["checkpoint"])
    turned = [picture[:, :, ::-1].copy() for picture in pictures]  # it takes OpenCV's order of the colours

    def predict(batch: int) -> object:
        return yolo.predict(turned[:batch], imgsz=task["size"], conf=0.25, iou=0.5, agnostic_nms=True, verbose=False, device="cpu")

    predict(1)  # sets a number of threads of its own
    torch.set_num_threads(task["threads"])
    return {"frame": predict}


def detector_ways(task: dict[str, Any], pictures: Sequence[np.ndarray]) -> dict[str, Callable[[int], object]]:
    """The detector in two modes, and the engine alone on what the first of them hands to it."""
    from emodetect.detector import letterbox, load_detector, to_tensor

    detectors = {mode: load_detector(task["model"], threads=task["threads"], mode=mode) for mode in ("frame", "faces")}
    detector = detectors["frame"]
    network, size = detector.network, detector.image_size
    ready = {batch: to_tensor([letterbox(picture, size)[0] for picture in pictures[:batch]]) for batch in BATCHES}
    ways = {mode: lambda batch, detector=detector: detector(pictures[:batch]) for mode, detector in detectors.items()}
    return ways | {"bare": lambda batch: network(ready[batch])}


def contestant() -> None:
    """Answer one picture, then take turns for as long as the parent asks."""
    task = json.loads(sys.stdin.readline())
    ways = detector_ways if "model" in task else ultralytics_ways
    from emodetect.detector import decode_picture, load_detector

    pictures = [decode_picture(path) for path in task["pictures"]]
    if "model" in task:
        load_detector(task["model"], threads=task["threads"], mode="frame")(pictures[:1])
    else:
        ways(task, pictures[:1])
    print(json.dumps("first answer"), flush=True)
    if (batch := json.loads(sys.stdin.readline())) is None:
        return
    own = ways(task, pictures)
    while batch:
        print(json.dumps({name: alone(work, batch) for name, work in own.items()}), flush=True)
        batch = json.loads(sys.stdin.readline())
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())  # getrusage would count what the parent had, too
    print(json.dumps(1024 * int(peak[1]) if peak else 0), flush=True)


class Contestant:
    """A process that takes turns."""

    def __init__(self, task: dict[str, Any]) -> None:
        starts = []
        for left in range(STARTS, 0, -1):
            started = time.perf_counter()
            self.process = subprocess.Popen([sys.executable, __file__, "--contestant"], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.ask(task)
            starts.append(time.perf_counter() - started)
            if left > 1:
                self.process.communicate("null\n")
        self.start = statistics.median(starts)
        for batch in BATCHES:
            self.ask(batch)  # warms up

    def ask(self, question: Any) -> Any:
        """A question, and the answer."""
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def end(self) -> int:
        """Let the process end; the most memory that it took, bytes."""
        return json.loads(self.process.communicate("null\n")[0])


def installed_megabytes(*names: str) -> int:
    """What packages and all that they require take on disk."""
    todo, seen, size = list(names), set(), 0
    while todo:
        name = re.split(r"[<>=!~\[;( ]", todo.pop())[0].lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another system
        size += sum(path.stat().st_size for file in package.files or [] if (path := Path(package.locate_file(file))).is_file())
        todo += [need for need in package.requires or [] if "extra ==" not in need]
    return round(size / 1e6)


Taken = dict[int, dict[str, list[dict[str, list[float]]]]]  # batch → contestant → round → way → seconds a picture of each pass


def turns(contestants: dict[str, Contestant]) -> Taken:
    """Let all take their turns."""
    taken: Taken = {batch: {name: [] for name in contestants} for batch in BATCHES}
    for batch, told in taken.items():
        for _ in range(ROUNDS):
            for name, one in contestants.items():
                told[name].append(one.ask(batch))
    return taken


def medians(taken: Taken) -> dict[str, dict[str, dict[str, float]]]:
    """Batch → contestant → way → the median of the rounds' medians, milliseconds a picture."""
    def median(rounds: list[dict[str, list[float]]], way: str) -> float:
        return round(1000 * statistics.median(statistics.median(one[way]) for one in rounds), 3)

    return {str(batch): {name: {way: median(rounds, way) for way in rounds[0]} for name, rounds in told.items()} for batch, told in taken.items()}


def latencies(taken: Taken) -> dict[str, dict[str, dict[str, float]]]:
    """Contestant → way → within how many milliseconds 50, 95 and 99 in a hundred single pictures were answered."""
    def within(rounds: list[dict[str, list[float]]], way: str) -> dict[str, float]:
        values = [1000 * value for one in rounds for value in one[way]]
        return {f"p{share}": round(float(np.percentile(values, share)), 3) for share in (50, 95, 99)}

    return {name: {way: within(rounds, way) for way in rounds[0] if way != "bare"} for name, rounds in taken[1].items()}


def ratios(table: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Batch → contestant → how many times as fast as `YOLO.predict`, and how much longer than the bare engine."""
    def compared(row: dict[str, dict[str, float]], ways: dict[str, float]) -> dict[str, float]:
        return {"times_as_fast_as_yolo": round(row[ULTRALYTICS]["frame"] / ways["frame"], 2), "over_bare": round(ways["frame"] / ways["bare"] - 1, 3)}

    return {batch: {name: compared(row, ways) for name, ways in row.items() if name != ULTRALYTICS} for batch, row in table.items()}


def main() -> None:
    """Measure every contestant, print the tables and write them down."""
    begun = circumstances()
    import torch

    from emodetect.core import cores, print_progress
    from emodetect.yolo import load_checkpoint
    from models import judge_models, write_model

    threads = cores()
    pictures = [str(path) for path in sorted((PROJECT / "data" / "prepared" / "test" / "images").glob("*"))[: max(BATCHES)]]
    checkpoint = PROJECT / "models" / "emodetect.pt"
    if not checkpoint.is_file() or len(pictures) < max(BATCHES):
        raise SystemExit("bench-infer: there is no model, or there are too few pictures; run `make pipeline` first.")
    trained, described = load_checkpoint(checkpoint)
    own = described["image_size"]
    measured: dict[str, Any] = {"cores": cores(), "threads": threads, "rounds": ROUNDS, "own_size": own, "architecture": described["architecture"]}
    measured |= {"milliseconds_a_picture": {}, "latency_milliseconds": {}, "ratios": {}, "accuracy": {}, "accuracy_lost": {}, "taken": {}}
    with tempfile.TemporaryDirectory() as name:
        plain = Path(name) / "yolo.pt"
        torch.save({"model": trained, "train_args": {}}, plain)  # as Ultralytics itself writes and reads it
        for size in sorted({96, own}):
            files = {
                f"{engine} {precision}": write_model(Path(name) / f"{engine}-{precision}-{size}.onnx", trained, size, engine=engine, precision=precision)
                for engine, precision in CHOICES
            }
            told, contestants = print_progress(f"contestants started at {size} px"), {}
            for label, file in [(ULTRALYTICS, None), *files.items()]:
                task = {"size": size, "threads": threads, "pictures": pictures} | ({"model": str(file)} if file else {"checkpoint": str(plain)})
                contestants[label] = Contestant(task)
                told(len(contestants), len(files) + 1)
            taken = turns(contestants)
            measured["milliseconds_a_picture"][str(size)], measured["latency_milliseconds"][str(size)] = medians(taken), latencies(taken)
            measured["ratios"][str(size)] = ratios(measured["milliseconds_a_picture"][str(size)])
            measured["start_seconds"] = {label: round(one.start, 2) for label, one in contestants.items()}
            measured["memory_megabytes"] = {label: round(one.end() / 1e6) for label, one in contestants.items()}
            judged = judge_models(files, trained)
            for figure, key in (("accuracy", "accuracy"), ("accuracy_lost", "lost"), ("taken", "taken")):
                measured[figure][str(size)] = {label: one[key] for label, one in judged.items()}
            if size == own:
                measured["file_megabytes"] = {label: round(file.stat().st_size / 1e6, 1) for label, file in files.items()}
    installs = {"emodetect": ("emodetect",), "emodetect[openvino]": ("emodetect", "openvino"), "ultralytics": ("ultralytics-opencv-headless", "torch", "torchvision")}
    measured["installed_megabytes"] = {name: installed_megabytes(*packages) for name, packages in installs.items()}
    print(json.dumps(measured, indent=2))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write(RESULT, measured, begun)


if __name__ == "__main__":
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--contestant", action="store_true", help=argparse.SUPPRESS)
    contestant() if given.parse_args().contestant else main()
