"""What Dask costs a sweep: the same trials in a plain loop and on one worker, and what two workers gain.

Run it with `make bench-cluster`. It writes reports/benchmarks/cluster.json, from which the guide on clusters takes its figures.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml
from record import write

from emodetect.cluster import cluster
from emodetect.prepare import prepare
from emodetect.sample import write_sample
from emodetect.sweep import FIELDS, Fixed, declared_values, read_fixed, read_study, sweep
from emodetect.training import Hyperparameters

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "cluster.json"
TRIALS = 4
SPACE = {"train.lr0": declared_values("train.lr0", {"low": 0.001, "high": 0.01, "log": True})}


def small_project(folder: Path) -> Fixed:
    """A project whose training takes a few seconds on one thread."""
    write_sample(folder / "drawn", {"train": 160, "valid": 32, "test": 4}, seed=0)
    prepare(folder / "drawn", folder / "data" / "prepared")
    (folder / "models").mkdir()
    (folder / "models" / "pretrained.pt").touch()
    parameters: dict[str, dict] = {"model": {"architecture": "yolo11n"}, "train": {"seed": 0, "device": "cpu", "missing_emotions": "allow"}}
    chosen = Hyperparameters(image_size=64, epochs=3, batch=16)
    for name, field in FIELDS.items():
        parameters[name.split(".")[0]][field] = getattr(chosen, field)
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters | {"threads": 1}))
    return read_fixed(folder)


def seconds(work: Callable[[], object]) -> float:
    """The wall-clock time of some work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def megabytes(processes: list[psutil.Process]) -> int:
    """The resident memory of processes."""
    return round(sum(process.memory_info().rss for process in processes) / 1e6)


def main() -> None:
    """Run the same study three times, print what Dask adds and write it down."""
    measured: dict[str, float] = {"cores": os.cpu_count() or 0, "trials": TRIALS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fixed = small_project(folder)
        sweep(fixed, SPACE, folder / "warm.journal", trials=1)  # the first training of a process imports PyTorch and Ultralytics
        measured["loop_seconds"] = seconds(lambda: sweep(fixed, SPACE, folder / "loop.journal", TRIALS))
        before = megabytes([psutil.Process()])
        for workers in (1, 2):
            started = time.perf_counter()
            with cluster(workers=workers) as client:
                if workers == 1:
                    measured["start_seconds"] = time.perf_counter() - started
                    measured["scheduler_megabytes"] = megabytes([psutil.Process()]) - before
                    measured["idle_worker_megabytes"] = megabytes([psutil.Process(pid) for pid in client.run(os.getpid).values()])
                measured[f"workers_{workers}_seconds"] = seconds(lambda: sweep(fixed, SPACE, folder / f"dask{workers}.journal", TRIALS, client=client))  # noqa: B023  (called at once)
        same = [[one.curves for one in read_study(folder / f"{study}.journal")] for study in ("loop", "dask1")]
        if same[0] != same[1]:
            raise SystemExit("bench-cluster: one worker and the plain loop gave different trials; they should be the same to the bit.")
    measured["overhead_seconds_a_trial"] = (measured["workers_1_seconds"] - measured["loop_seconds"]) / TRIALS
    measured["one_worker_to_loop"] = measured["workers_1_seconds"] / measured["loop_seconds"]
    measured["one_worker_to_two"] = measured["workers_1_seconds"] / measured["workers_2_seconds"]
    measured = {name: round(value, 2) for name, value in measured.items()}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write(RESULT, measured)
    print(f"{TRIALS} trials in a loop {measured['loop_seconds']} s, on one worker {measured['workers_1_seconds']} s: {measured['one_worker_to_loop']} times as long")
    print(f"that is {measured['overhead_seconds_a_trial']} s a trial, for a process of its own that imports PyTorch; it does not grow with the length of the training")
    print(f"two workers are {measured['one_worker_to_two']} times as fast as one, on {os.cpu_count()} cores")
    print(f"the cluster is up in {measured['start_seconds']} s; its scheduler takes {measured['scheduler_megabytes']} MB, an idle worker {measured['idle_worker_megabytes']} MB")


if __name__ == "__main__":
    main()
