"""What it costs to check and prepare a data set of AffectNet's size and kinds of files, against the least that anyone must do with it, and against Ultralytics' own scan.

Run it with `make bench-data`; `PICTURES=5000 make bench-data` takes fewer. It writes reports/benchmarks/data.json.

The pictures are coloured noise of 96 × 96 pixels, seven tenths of them JPEG and three tenths PNG, each with one label, about as large as AffectNet's.
The least is to read, hash (SHA-256) and decode (OpenCV) every picture with as many processes. The whole work is the check for all defects, near
duplicates included, and then labels, links, manifest, Croissant file and fingerprint; no box is replaced, and the notebook, plots and data card of the
stage prepare are not made.
Memory is the most that a process of its own and all of its workers took together, what they share counted once (PSS, twenty times a second, so on Linux).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import psutil
from record import circumstances, write

from emodetect.check import check_dataset
from emodetect.core import cores, in_batches, print_progress
from emodetect.labels import EMOTIONS
from emodetect.prepare import prepare

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "data.json"
SHARES = {"train": 0.677, "valid": 0.214, "test": 0.109}  # AffectNet's


def write_pictures(folder: str, tasks: Sequence[tuple[str, int]]) -> Sequence[tuple[str, int]]:
    """Write some pictures with their labels."""
    for split, number in tasks:
        draw = np.random.default_rng([7, number])
        smooth = cv2.resize(draw.random((8, 8, 3), np.float32), (96, 96), interpolation=cv2.INTER_CUBIC) * 200 + 20
        picture = (smooth + draw.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        name, kind, options = (f"ffhq_{number}", ".png", []) if number % 10 < 3 else (f"image{number:07}", ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])
        cv2.imwrite(f"{folder}/{split}/images/{name}{kind}", picture, options)
        Path(f"{folder}/{split}/labels/{name}.txt").write_text(f"{draw.integers(len(EMOTIONS))} 0.499 0.499 0.999 0.999")
    return tasks


def write_set(folder: Path, pictures: int) -> None:
    """Write a data set of so many pictures."""
    for split in SHARES:
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
    (folder / "data.yaml").write_text(f"names: [{', '.join(EMOTIONS)}]\n")
    tasks = [(split, number) for number in range(pictures) for split in ["train" if number < pictures * 0.677 else "valid" if number < pictures * 0.891 else "test"]]
    for _ in in_batches(partial(write_pictures, str(folder)), tasks, 100, processes=True, progress=print_progress("pictures written", 4)):
        pass


def read_hash_decode(paths: Sequence[str]) -> list[bool]:
    """The least that must be done with some pictures."""
    done = []
    for path in paths:
        data = Path(path).read_bytes()
        sha256(data).hexdigest()
        done.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) is not None)
    return done


def least(folder: Path) -> None:
    """Read, hash and decode every picture on all cores."""
    paths = sorted(str(path) for path in folder.glob("*/images/*"))
    if not all(in_batches(read_hash_decode, paths, 128, processes=True)):
        raise SystemExit("bench-data: a picture cannot be decoded.")


def whole(folder: Path) -> dict[str, float]:
    """Check and prepare a data set; the seconds of the check and of the rest."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        started = time.perf_counter()
        report = check_dataset(folder)
        checked = time.perf_counter()
        prepare(folder, Path(place) / "prepared", report=report)
        report.to_json()
        return {"check": checked - started, "lay out": time.perf_counter() - checked}


def ultralytics_scan(folder: Path) -> None:
    """Let Ultralytics verify the pictures and labels, as it does before each training without its cache."""
    from emodetect.yolo import quiet_ultralytics

    quiet_ultralytics()
    from ultralytics.data import YOLODataset

    for split in SHARES:
        YOLODataset(img_path=str(folder / split / "images"), data={"names": dict(enumerate(EMOTIONS)), "channels": 3}, task="detect", imgsz=96, augment=False)
        (folder / split / "labels.cache").unlink()


def seconds(work: Callable[[], object]) -> float:
    """The wall-clock time of some work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_megabytes(folder: Path) -> int:
    """The most memory of a process that prepares a data set, with its workers."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; from data import whole; whole(Path({str(folder)!r}))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as started:
        process, peak = psutil.Process(started.pid), 0
        while started.poll() is None:
            taken, all_of_them = 0, [process]
            with suppress(psutil.Error):  # it has just ended, as may any of them below
                all_of_them += process.children(recursive=True)
            for one in all_of_them:
                with suppress(psutil.Error):
                    taken += one.memory_full_info().pss
            peak = max(peak, taken)
            time.sleep(0.05)
    if started.returncode:
        raise SystemExit(f"bench-data: preparing ended with {started.returncode}.")
    return round(peak / 1e6)


def main() -> None:
    """Time all three in turn, three times over, take each one's best, print the ratios and write them down."""
    begun = circumstances()
    pictures = int(os.environ.get("PICTURES", "25000"))
    folder = Path(tempfile.mkdtemp(dir=PROJECT / "scratch" if (PROJECT / "scratch").is_dir() else None))
    try:
        write_set(folder / "all", pictures)
        write_set(folder / "fifth", pictures // 5)
        ultralytics_scan(folder / "fifth")  # the first call imports PyTorch
        rounds = []
        for number in range(1, 4):
            parts = whole(folder / "all")
            others = {"least": seconds(lambda: least(folder / "all")), "Ultralytics' scan": seconds(lambda: ultralytics_scan(folder / "all"))}
            rounds.append(others | parts | {"prepare": sum(parts.values())})
            print(f"round {number} of 3: " + ", ".join(f"{name} {value:.2f} s" for name, value in rounds[-1].items()), flush=True)
        best = {name: round(min(each[name] for each in rounds), 2) for name in rounds[0]}
        memory = {str(count): peak_megabytes(folder / name) for name, count in (("fifth", pictures // 5), ("all", pictures))}
    finally:
        shutil.rmtree(folder)
    measured = {
        "pictures": pictures, "cores": cores(), "best_seconds_of_3": best, "prepare_to_least": round(best["prepare"] / best["least"], 2),
        "ultralytics_to_prepare": round(best["Ultralytics' scan"] / best["prepare"], 2), "peak_megabytes": memory,
    }
    print(json.dumps(measured, indent=2))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write(RESULT, measured, begun)


if __name__ == "__main__":
    main()
