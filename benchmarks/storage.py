"""How the data should lie under DVC: as files, or as one archive for each split. Both are measured in one run on a data set of AffectNet's size.

Run it with `make bench-storage`. It draws noise in a temporary folder, with a label file of its own for each picture, and writes reports/benchmarks/storage.json.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from record import circumstances, write

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "storage.json"
SHARES = {"train": 17_101, "valid": 5_406, "test": 2_755}  # AffectNet's splits
CHANGED = 10  # pictures of train that a new version changes


def picture(number: int) -> bytes:
    """A 96×96 JPEG of about 10 KB, as AffectNet's are: the same bytes for the same number."""
    coarse = np.random.default_rng(number).integers(0, 256, (48, 48, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_LINEAR), [cv2.IMWRITE_JPEG_QUALITY, 97])[1].tobytes()


def draw(folder: Path, pictures: int) -> None:
    """Write a data set in the layout of AffectNet."""
    random, number, started = np.random.default_rng(0), 0, time.monotonic()
    for split, share in SHARES.items():
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for _ in range(max(CHANGED, round(pictures * share / sum(SHARES.values())))):
            box = " ".join(f"{value:.6f}" for value in random.uniform(0.4, 0.6, 4))
            (folder / split / "images" / f"image{number:07d}.jpg").write_bytes(picture(number))
            (folder / split / "labels" / f"image{number:07d}.txt").write_text(f"{number % 8} {box}")
            number += 1
            if number % 5000 == 0:
                print(f"  {number} pictures drawn in {time.monotonic() - started:.0f} s", flush=True)


def pack(source: Path, archive: Path) -> None:
    """Put a split into an uncompressed archive, which is the same for the same files."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted(source.rglob("*")):
            entry = tar.gettarinfo(path, path.relative_to(source.parent).as_posix())
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
            if path.is_file():
                with path.open("rb") as file:
                    tar.addfile(entry, file)


def size(folder: Path) -> int:
    """The bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Project:
    """A project under DVC with a folder as its remote; every step is timed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.remote = folder / "project", folder / "project" / "data", folder / "remote"
        self.seconds: dict[str, float] = {}
        self.data.mkdir(parents=True)
        self.environment = os.environ | {"DVC_SITE_CACHE_DIR": str(folder / "site"), "DVC_NO_ANALYTICS": "1"}
        self.dvc("init", "--no-scm")
        self.dvc("remote", "add", "--default", "kept", str(self.remote))

    def dvc(self, *arguments: str) -> None:
        """Run DVC."""
        done = subprocess.run([sys.executable, "-m", "dvc", *arguments, "--quiet"], cwd=self.folder, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"bench-storage: `dvc {' '.join(arguments)}` failed ({done.stderr.strip()}); mend that and run again.")

    def time(self, step: str, work: Callable[[], object]) -> None:
        """Do a step and note what it took."""
        started = time.monotonic()
        work()
        self.seconds[step] = time.monotonic() - started
        print(f"  {step:<16}{self.seconds[step]:8.1f} s", flush=True)


def measure(folder: Path, source: Path, archives: bool) -> dict[str, float]:
    """Seconds of each step, and the bytes that a small change pushes."""
    project = Project(folder)
    splits = list(SHARES)

    def pack_splits(names: list[str]) -> None:
        for split in names:
            pack(source / split, project.data / f"{split}.tar")

    def unpack() -> None:
        for split in splits:
            with tarfile.open(project.data / f"{split}.tar") as tar:
                tar.extractall(folder / "unpacked", filter="data")

    if archives:
        project.time("pack", lambda: pack_splits(splits))
    else:
        shutil.copytree(source, project.data, dirs_exist_ok=True)
    project.time("add", lambda: project.dvc("add", "data"))
    project.time("push", lambda: project.dvc("push"))
    project.dvc("stage", "add", "--name", "reads", "--deps", "data", "--outs", "done.txt", "echo done > done.txt")
    project.time("repro", lambda: project.dvc("repro"))
    project.time("repro again", lambda: project.dvc("repro"))
    project.time("status", lambda: project.dvc("status"))
    for gone in (project.data, project.folder / ".dvc" / "cache"):
        shutil.rmtree(gone)
    project.time("pull", lambda: project.dvc("pull"))
    if archives:
        project.time("unpack", unpack)
    before = size(project.remote)
    for number, path in enumerate(sorted((source / "train" / "images").iterdir())[:CHANGED]):
        place = path if archives else project.data / path.relative_to(source)
        place.write_bytes(picture(10**9 + number))
    if archives:
        project.time("pack one", lambda: pack_splits(["train"]))
    project.time("add change", lambda: project.dvc("add", "data"))
    project.time("push change", lambda: project.dvc("push"))
    project.time("repro change", lambda: project.dvc("repro"))
    steps = {step: round(seconds, 2) for step, seconds in project.seconds.items()}
    return steps | {"pushed_bytes": size(project.remote) - before}


def main() -> None:
    """Measure both, print them side by side and write them down."""
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    top.add_argument("--pictures", type=int, default=sum(SHARES.values()), help="pictures of the data set, from 30")
    pictures, begun = top.parse_args().pictures, circumstances()
    with tempfile.TemporaryDirectory() as name:
        root, source = Path(name), Path(name) / "source"
        print(f"drawing {pictures} pictures", flush=True)
        draw(source, pictures)
        bytes_drawn, count = size(source), sum(1 for _ in source.glob("*/images/*"))
        found = {}
        for layout in ("files", "archive"):
            print("files" if layout == "files" else "one archive for each split", flush=True)
            found[layout] = measure(root / layout, source, archives=layout == "archive")
            shutil.rmtree(root / layout)
    files, archive = found["files"], found["archive"]
    steps = {  # what a person waits for: packing and unpacking belong to the archive
        "first version stored": ([files["add"], files["push"]], [archive["pack"], archive["add"], archive["push"]]),
        "unchanged status": ([files["status"]], [archive["status"]]),
        "first repro": ([files["repro"]], [archive["repro"]]),  # of a stage that depends on the data and does nothing
        "unchanged repro": ([files["repro again"]], [archive["repro again"]]),
        "pulled, ready to train": ([files["pull"]], [archive["pull"], archive["unpack"]]),
        f"{CHANGED} pictures changed, stored": ([files["add change"], files["push change"]], [archive["pack one"], archive["add change"], archive["push change"]]),
        f"repro after {CHANGED} changed": ([files["repro change"]], [archive["repro change"]]),
    }
    compared = {step: {"files": round(sum(one), 2), "archive": round(sum(two), 2), "files_to_archive": round(sum(one) / sum(two), 2)} for step, (one, two) in steps.items()}
    pushed = {"files": files["pushed_bytes"], "archive": archive["pushed_bytes"], "files_to_archive": round(files["pushed_bytes"] / archive["pushed_bytes"], 4)}
    measured = {"cores": os.cpu_count(), "pictures": count, "bytes": bytes_drawn, "seconds": compared, "bytes_pushed_by_the_change": pushed, "steps": found}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write(RESULT, measured, begun)
    print(f"\n{count} pictures with as many label files, {bytes_drawn / 1e6:.0f} MB, on {os.cpu_count()} cores\n{'seconds':<32}{'files':>9}{'archive':>9}{'ratio':>9}")
    for step, row in compared.items():
        print(f"{step:<32}{row['files']:>9.1f}{row['archive']:>9.1f}{row['files_to_archive']:>9.2f}")
    print(f"{'MB pushed by the change':<32}{pushed['files'] / 1e6:>9.2f}{pushed['archive'] / 1e6:>9.2f}{pushed['files_to_archive']:>9.4f}")


if __name__ == "__main__":
    main()
