"""The trained network as a file of any size, engine and precision, and whether that file passes the accuracy gate of the stage export."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from emodetect.core import ModelError, cores
from emodetect.detector import FINDER_KEY, SETTINGS, load_detector, load_session

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

PROJECT = Path(__file__).parent.parent
DATA = PROJECT / "data" / "prepared"


def write_model(target: Path, trained: "DetectionModel", size: int, **changes: str) -> Path:
    """Export the trained network at a size, with the settings of the exported model but for some; what only looks at whole pictures gets no face finder."""
    from emodetect.export import describe, export_onnx
    from emodetect.precision import quantise, seen_squares

    session, described = load_session(PROJECT / "models" / "emodetect.onnx")
    description = describe(size, {name: described[name] for name in SETTINGS if name in described} | changes)
    finder = b"" if changes.get("mode") == "frame" else base64.b64decode(session.get_modelmeta().custom_metadata_map[FINDER_KEY])
    export_onnx(trained, target, description, finder=finder)
    if description["precision"] == "int8":
        network = load_detector(target, engine="onnxruntime").network
        quantise(target, target, seen_squares(network, description, finder, DATA, _export_parameter("calibration_pictures")), description["engine"])
    return target


def _export_parameter(name: str) -> Any:
    """A parameter of the stage export."""
    return yaml.safe_load((PROJECT / "params.yaml").read_text())["export"][name]


def judge_models(files: dict[str, Path], trained: "DetectionModel") -> dict[str, dict[str, Any]]:
    """By its label, the accuracy of each file on the validation split, what it loses against the first, and whether the stage export, told to look in its mode, would take it."""
    from emodetect.precision import accuracy_of, check_accuracy

    most = _export_parameter("max_accuracy_drop")
    found = {label: accuracy_of(load_detector(file, threads=cores()), trained, DATA) for label, file in files.items()}
    full, judged = next(iter(found.values())), {}
    for label, one in found.items():
        try:
            check_accuracy(full, one, most)
            taken = True
        except ModelError:
            taken = False
        figures, best = one.to_dict(), full.to_dict()
        lost = {name: round(best[name] - value, 4) for name, value in figures.items()}
        judged[label] = {"accuracy": {name: round(value, 4) for name, value in figures.items()}, "lost": lost, "taken": taken}
    return judged
