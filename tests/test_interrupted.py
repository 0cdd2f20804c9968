"""The stage prepare, killed at ten moments drawn from a seed and run again."""

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from conftest import Copy
from emodetect.core import fingerprint, sha256_file

KILLS = 10


def outputs(folder: Path) -> dict[str, str]:
    """The hashes of everything that the stage makes."""
    made = {name: fingerprint(folder / name) for name in ("data/prepared", "reports/prepare")}
    return made | {"notebook": sha256_file(folder / "reports" / "notebooks" / "prepare.ipynb")}


def test_prepare_killed_ten_times_ends_with_the_same_hashes(new_copy: Callable[[], Copy]) -> None:
    copy, moments = new_copy(), random.Random(3)
    copy.repro("fetch", "weights")
    raw, started = fingerprint(copy.folder / "data" / "raw"), time.monotonic()
    copy.repro("prepare")
    duration, expected, cut_short = time.monotonic() - started, outputs(copy.folder), 0
    while cut_short < KILLS:
        stage = psutil.Popen(["dvc", "repro", "--force", "--single-item", "prepare"], cwd=copy.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(duration * moments.random())
        family = [*stage.children(recursive=True), stage]
        if stage.poll() is None:
            cut_short += 1
        else:
            duration *= 0.8  # the run is quicker than the first was
        for process in family:
            if process.is_running():
                process.kill()
        stage.wait()
        assert not psutil.wait_procs(family, timeout=30)[1]
        copy.run("make", "unlock")
    copy.repro("prepare")
    assert outputs(copy.folder) == expected
    assert fingerprint(copy.folder / "data" / "raw") == raw, "the raw data are what they were"
