"""What energy the training takes, and a thousand answers of the exported model beside as many of `YOLO.predict`, as CodeCarbon estimates it.

Run it with `make bench-energy`, after `make pipeline`; COUNTRY=FRA takes the electricity of another country than Germany (ISO 3166-1 alpha-3). It writes
reports/benchmarks/energy.json, which the model card repeats as long as data and parameters of the training are those that were measured.

It is an estimate of the whole machine, not a reading: without a counter in the processor (RAPL) CodeCarbon multiplies the processor's load by its nominal power. It asks
nothing of the network. Nothing else should run meanwhile.
"""

import base64
import json
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from record import circumstances, write

from emodetect.core import cores
from emodetect.detector import FINDER_KEY, SETTINGS, decode_picture, load_detector, load_session
from emodetect.export import describe, export_onnx
from emodetect.model_card import training_of
from emodetect.provenance import read_provenance
from emodetect.yolo import load_checkpoint, quiet_ultralytics

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "energy.json"
COUNTRY = os.environ.get("COUNTRY") or "DEU"
SECONDS = 30  # of answering


def estimated(work: Callable[[], None]) -> Any:
    """What CodeCarbon says of the machine while some work is done; an `EmissionsData`."""
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    tracker = OfflineEmissionsTracker(country_iso_code=COUNTRY, measure_power_secs=1, save_to_file=False, allow_multiple_runs=True, log_level="error")
    tracker.start()
    work()
    tracker.stop()
    return tracker.final_emissions_data


def train(folder: Path) -> None:
    """Run the stage train in a clone of the last commit, with the data that is here."""
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(folder)], check=True)
    shutil.copytree(PROJECT / "data" / "prepared", folder / "data" / "prepared")
    shutil.copyfile(PROJECT / "models" / "pretrained.pt", folder / "models" / "pretrained.pt")
    done = subprocess.run(["dvc", "repro", "--single-item", "--force", "train"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench-energy: `dvc repro train` failed:\n{done.stdout}{done.stderr}")


def answering(folder: Path) -> dict[str, Callable[[], None]]:
    """Both ways to look at the whole of 32 pictures of the test split, one after the other."""
    import torch

    quiet_ultralytics()
    from ultralytics import YOLO

    trained, described = load_checkpoint(PROJECT / "models" / "emodetect.pt")
    session, known = load_session(PROJECT / "models" / "emodetect.onnx")
    finder = base64.b64decode(session.get_modelmeta().custom_metadata_map[FINDER_KEY])
    export_onnx(trained, folder / "whole.onnx", describe(described["image_size"], {name: known[name] for name in SETTINGS if name in known}), finder=finder)
    torch.save({"model": trained, "train_args": {}}, folder / "yolo.pt")
    detector, yolo = load_detector(folder / "whole.onnx", threads=cores(), mode="frame"), YOLO(folder / "yolo.pt")
    pictures = [decode_picture(path) for path in sorted((PROJECT / "data" / "prepared" / "test" / "images").glob("*"))[:32]]
    turned = [picture[:, :, ::-1].copy() for picture in pictures]

    def predict() -> None:
        for picture in turned:
            yolo.predict(picture, imgsz=described["image_size"], verbose=False, device="cpu")

    def detect() -> None:
        for picture in pictures:
            detector([picture])

    predict()  # sets a number of threads of its own
    torch.set_num_threads(cores())
    return {"emodetect": detect, "YOLO.predict": predict}


def kilojoules_of_a_thousand(work: Callable[[], None]) -> float:
    """The energy for a thousand pictures."""
    done = 0

    def go_on() -> None:
        nonlocal done
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            work()
            done += 32

    return estimated(go_on).energy_consumed * 3600 / done * 1000


def main() -> None:
    """Measure, print and write down."""
    begun = circumstances()
    if not (PROJECT / "models" / "emodetect.onnx").is_file():
        raise SystemExit("bench-energy: there is no model; run `make pipeline` first.")
    with tempfile.TemporaryDirectory() as name:
        answers = {way: round(kilojoules_of_a_thousand(work), 3) for way, work in answering(Path(name)).items()}
        print("kilojoules for a thousand pictures: " + ", ".join(f"{way} {value:.2f}" for way, value in answers.items()), flush=True)
        data = estimated(lambda: train(Path(name) / "clone"))
    measured = {
        "codecarbon": version("codecarbon"),
        "country": COUNTRY,
        "processor": data.cpu_model,
        "training": {"watt_hours": round(1000 * data.energy_consumed, 2), "grams_co2e": round(1000 * data.emissions, 2), "minutes": round(data.duration / 60, 1)},
        "training_of": training_of(read_provenance(PROJECT / "models" / "emodetect.onnx").steps),
        "kilojoules_of_a_thousand": answers,
        "yolo_to_emodetect": round(answers["YOLO.predict"] / answers["emodetect"], 2),
    }
    print(json.dumps(measured, indent=2))
    write(RESULT, measured, begun)


if __name__ == "__main__":
    main()
