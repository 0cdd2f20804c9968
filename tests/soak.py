"""Kill the stage train at random moments, let it go on, and compare what it leaves with what it leaves undisturbed, to the bit.

`make test` does so at a few moments, `make soak` at many: KILLS=200 for more.
"""

import argparse
import os
import random
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from conftest import Copy

EPOCHS = 5
CHANGE = {"train": {"epochs": EPOCHS, "lr0": 0.002, "mosaic": 0.5, "close_mosaic": 2, "patience": 4}}
COMMAND = ["dvc", "repro", "--single-item", "--force", "--no-run-cache", "train"]


def run_and_kill(folder: Path, command: list[str], epochs: int, seconds: float) -> tuple[bool, str]:
    """Run DVC in a project and kill it with all that it started, some time after so many epochs were told. Whether it was killed before it ended, and what it printed."""
    record = folder / "reports" / "train" / "plots" / "metrics" / "lr.tsv"  # DVCLive's table of one figure, a line an epoch below a header
    record.unlink(missing_ok=True)  # that of the run before; DVC would remove it, too, but later
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE_", "EMODETECT_YOLO_", "YOLO_"))}
    with tempfile.TemporaryFile("w+") as printed:
        dvc = psutil.Popen(command, cwd=folder, env=environment, stdout=printed, stderr=subprocess.STDOUT)
        try:
            while epochs and dvc.poll() is None and not (record.exists() and len(record.read_text().splitlines()) > epochs):
                time.sleep(0.005)
            time.sleep(seconds)
        finally:
            ended = dvc.poll()
            family = [dvc, *dvc.children(recursive=True)] if ended is None else []
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=30)
        printed.seek(0)
        text = printed.read()
    assert not ended, f"the stage failed:\n{text}"
    return ended is None, text


class Target:
    """A copy of the project whose training was run once undisturbed."""

    def __init__(self, folder: Path, change: dict[str, Any] = CHANGE) -> None:
        self.copy = Copy(folder)
        self.copy.change(change)
        self.copy.repro("prepare", "weights")
        started = time.monotonic()
        self.copy.repro("train")
        self.pace = (time.monotonic() - started) / (EPOCHS + 3)  # seconds; starting and drawing take about as long as three epochs
        self.expected, self.printed = self.outputs(), ""

    @property
    def snapshot(self) -> Path:
        """Where a training keeps its state."""
        return self.copy.folder / "scratch" / "snapshots" / "train.pt"

    def outputs(self) -> dict[str, str]:
        """The hash of each output of the stage: checkpoint, DVCLive's record, executed notebook."""
        return {out["path"]: out["md5"] for out in self.copy.lock["train"]["outs"]}

    @property
    def record(self) -> Path:
        """DVCLive's table of one figure, a line an epoch below a header."""
        return self.copy.folder / "reports" / "train" / "plots" / "metrics" / "lr.tsv"

    def kill(self, epochs: int, fraction: float) -> bool:
        """Run the stage and kill it a fraction of an epoch's time after so many epochs were told; False if it ended before."""
        killed, self.printed = run_and_kill(self.copy.folder, COMMAND, epochs, fraction * self.pace * (1 if epochs else 3))
        return killed

    def finish(self) -> None:
        """Run the stage to its end."""
        self.printed = self.copy.run(*COMMAND).stdout


def main() -> None:
    """Kill so often, compare after each run that ends, and give the verdict."""
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    top.add_argument("--kills", type=int, default=40, help="kills in all, from 1")
    top.add_argument("--seed", type=int, default=0, help="of the moments")
    options = top.parse_args()
    chance, kills, runs, began = random.Random(options.seed), 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        target = Target(Path(folder))
        print(f"undisturbed: {target.expected}", flush=True)
        while kills < options.kills:
            moment = chance.randrange(EPOCHS + 1), chance.random()
            if target.kill(*moment):
                kills += 1
                print(f"  kill {kills} of {options.kills}: {moment[0]} epochs and {moment[1]:.2f} of one had passed", flush=True)
                if kills < options.kills and kills % 4:
                    continue
                target.finish()
            runs += 1
            if target.outputs() != target.expected:
                raise SystemExit(f"DIFFERENT after {kills} kills, the last at {moment}: {target.outputs()}")
            if target.snapshot.exists():
                raise SystemExit(f"LEFT BEHIND after {kills} kills: {target.snapshot}")
            print(f"  run {runs} ended with the same bits", flush=True)
    print(f"THE SAME BITS: {kills} kills in {runs} runs of {EPOCHS} epochs, in {time.monotonic() - began:.0f} s; every output of every run was that of the undisturbed one")


if __name__ == "__main__":
    main()
