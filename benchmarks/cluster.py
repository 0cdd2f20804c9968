"""What Dask costs a sweep: the same trials in a plain loop, in processes of their own and on one worker, and what two workers gain.

Trainings of two lengths tell what a trial costs more whatever its length from what grows with it. Run it with `make bench-cluster`.
It writes reports/benchmarks/cluster.json, from which the guide on clusters takes its figures.
"""

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml
from record import circumstances, write

from emodetect.cluster import cluster
from emodetect.prepare import prepare
from emodetect.sample import write_sample
from emodetect.sweep import FIELDS, Fixed, declared_values, read_fixed, run_apart, sweep
from emodetect.training import Hyperparameters

if TYPE_CHECKING:
    from distributed import Client

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "cluster.json"
TRIALS = 4
EPOCHS = (1, 4)  # of the short trainings and of the long ones
PICTURES = {"train": 96, "valid": 32, "test": 4}
SPACE = {"train.lr0": declared_values("train.lr0", {"low": 0.001, "high": 0.01, "log": True})}


def small_project(folder: Path) -> Fixed:
    """A project whose training takes a few seconds on one thread."""
    write_sample(folder / "drawn", PICTURES, seed=0)
    prepare(folder / "drawn", folder / "data" / "prepared")
    (folder / "models").mkdir()
    (folder / "models" / "pretrained.pt").touch()
    parameters: dict[str, dict] = {"model": {"architecture": "yolo11n"}, "train": {"seed": 0, "device": "cpu", "missing_emotions": "allow"}}
    chosen = Hyperparameters(image_size=64, epochs=EPOCHS[0], batch=16)
    for name, field in FIELDS.items():
        parameters[name.split(".")[0]][field] = getattr(chosen, field)
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters | {"threads": 1}))
    return read_fixed(folder)


def a_trial(fixed: Fixed, journal: Path, client: "Client | None" = None, trials: int = 0) -> tuple[float, list[Any]]:
    """The wall-clock seconds for each trial of a new study, and the trials."""
    started = time.perf_counter()
    found = sweep(fixed, SPACE, journal, trials or TRIALS, client=client)
    return (time.perf_counter() - started) / len(found), found


def a_process(fixed: Fixed, like: list[Any]) -> tuple[float, list[Any]]:
    """The same for trials like these in processes of their own, as a worker starts them, without Dask."""
    started = time.perf_counter()
    found = [run_apart(fixed, {name: one.parameters[name] for name in SPACE}, lambda curve: True) for one in like]
    return (time.perf_counter() - started) / len(found), found


def parted(seconds: list[float]) -> dict[str, float]:
    """What trainings of the two lengths take: the part that they have in common, and what each epoch adds."""
    each = (seconds[1] - seconds[0]) / (EPOCHS[1] - EPOCHS[0])
    return {"fixed_seconds": seconds[0] - each * EPOCHS[0], "seconds_an_epoch": each}


def rounded(value: Any) -> Any:
    """All numbers with two decimals."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else round(value, 2)


def megabytes(processes: list[psutil.Process]) -> int:
    """The resident memory of processes."""
    return round(sum(process.memory_info().rss for process in processes) / 1e6)


def main() -> None:
    """Run the same study in four ways and two lengths, print what Dask adds and write it down."""
    begun = circumstances()
    ways: dict[str, list[float]] = {"loop": [], "process": [], "worker": [], "two_workers": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fixed = small_project(folder)
        lengths = [replace(fixed, parameters=replace(fixed.parameters, epochs=epochs)) for epochs in EPOCHS]
        a_trial(fixed, folder / "warm.journal", trials=1)  # the first training of a process imports PyTorch and Ultralytics
        before, started = megabytes([psutil.Process()]), time.perf_counter()
        with cluster(workers=1) as client:
            start, scheduler = time.perf_counter() - started, megabytes([psutil.Process()]) - before
            worker = megabytes([psutil.Process(pid) for pid in client.run(os.getpid).values()])
            a_trial(fixed, folder / "warm_worker.journal", client, trials=1)  # likewise
            for long, each in enumerate(lengths):
                loop, found = a_trial(each, folder / f"loop{long}.journal")
                process, apart = a_process(each, found)
                one, dask = a_trial(each, folder / f"worker{long}.journal", client)
                if not [trial.curves for trial in found] == [trial.curves for trial in apart] == [trial.curves for trial in dask]:
                    raise SystemExit("bench-cluster: the plain loop, processes of their own and one worker gave different trials; they should be the same to the bit.")
                for way, seconds in (("loop", loop), ("process", process), ("worker", one)):
                    ways[way].append(seconds)
        with cluster(workers=2) as client:
            a_trial(fixed, folder / "warm_workers.journal", client, trials=2)
            ways["two_workers"] = [a_trial(each, folder / f"workers{long}.journal", client)[0] for long, each in enumerate(lengths)]
    measured = {"cores": os.cpu_count() or 0, "trials": TRIALS, "epochs": list(EPOCHS), "seconds_a_trial": ways}
    measured["more_than_loop"] = {way: parted([more - less for more, less in zip(ways[way], ways["loop"], strict=True)]) for way in ("process", "worker")}
    for way in ("worker", "two_workers"):
        measured[f"{way}_to_loop"] = [more / less for more, less in zip(ways[way], ways["loop"], strict=True)]
    measured |= {"start_seconds": start, "scheduler_megabytes": scheduler, "idle_worker_megabytes": worker}
    measured = rounded(measured)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write(RESULT, measured, begun)
    for long, epochs in enumerate(EPOCHS):
        print(f"{epochs} epochs: a trial takes " + ", ".join(f"{measured['seconds_a_trial'][way][long]} s ({way.replace('_', ' ')})" for way in ways))
    for way, more in measured["more_than_loop"].items():
        print(f"more than in the loop ({way}): {more['fixed_seconds']} s a trial, and {more['seconds_an_epoch']:+} s an epoch")
    print(f"the cluster is up in {measured['start_seconds']} s; its scheduler takes {measured['scheduler_megabytes']} MB, an idle worker {measured['idle_worker_megabytes']} MB")


if __name__ == "__main__":
    main()
