"""The stage export with another engine and fewer bits: what is let out, and what is refused."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from conftest import Copy
from emodetect import detector as module
from emodetect.core import EmodetectError
from emodetect.dataset import image_files
from emodetect.detector import ENGINES, decode_picture, load_detector, load_session


@pytest.fixture
def other(pipeline: Copy, tmp_path: Path) -> Copy:
    """A copy of the copy whose pipeline has run, to be changed."""
    changed = copy.copy(pipeline)
    changed.folder = Path(shutil.copytree(pipeline.folder, tmp_path / "other", symlinks=True))
    return changed


@pytest.mark.parametrize("engine", ENGINES)
def test_eight_bits_are_exported_calibrated_and_judged(other: Copy, engine: str) -> None:
    before = (other.folder / "models" / "emodetect.onnx").stat().st_size
    other.change({"export": {"precision": "int8", "engine": engine, "calibration_pictures": 8, "max_accuracy_drop": 1.0}})
    done = other.stage("export")
    assert done.returncode == 0, done.stdout
    path = other.folder / "models" / "emodetect.onnx"
    assert path.stat().st_size < before / 2 and load_session(path)[1] | {"precision": "int8", "engine": engine} == load_session(path)[1]
    graph = onnx.load(path).graph
    activations = {node.output[0] for node in graph.node if node.op_type == "Sigmoid" and "/act/" in node.name}
    followed_by = {node.op_type for node in graph.node if activations.intersection(node.input)}
    assert followed_by == {"QuantizeLinear" if engine == "onnxruntime" else "Mul"}, "the file is made for its engine"
    report = json.loads((other.folder / "reports" / "export" / "parity.json").read_text())
    assert list(report["accuracy"]) == ["fp32, onnxruntime", f"int8, {engine}"] and report["model_bytes"] == path.stat().st_size
    pictures = [decode_picture(picture) for picture in image_files(other.folder / "data" / "prepared", "test")]
    here, there = (load_detector(path, engine=name)(pictures) for name in (None, ENGINES[1 - ENGINES.index(engine)]))
    assert sum(len(faces) for faces in here) == sum(len(faces) for faces in there) > 0


def test_a_precision_that_loses_too_much_is_refused_and_the_model_stays(other: Copy) -> None:
    before = (other.folder / "models" / "emodetect.onnx").read_bytes()
    other.change({"export": {"precision": "int8", "calibration_pictures": 1, "max_accuracy_drop": -1.0}})
    done = other.stage("export")
    assert done.returncode != 0 and "the reduced precision loses more than -1 on the validation split: map50 falls from" in done.stdout
    assert (other.folder / "models" / "emodetect.onnx").read_bytes() == before and [path.name for path in (other.folder / "models").glob("*.onnx")].count("candidate.onnx") == 0


def test_a_choice_that_cannot_be_is_refused_before_anything_is_read(other: Copy) -> None:
    other.change({"export": {"precision": "bf16"}})
    done = other.stage("export")
    assert done.returncode != 0 and "which ONNX Runtime does not calculate in on a processor" in done.stdout


def test_without_openvino_the_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EmodetectError, match=r"install emodetect\[openvino\], or choose the engine onnxruntime"):
        module.run_openvino(b"any")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_no_engine_keeps_an_id_or_calls_an_address(pipeline: Copy, tmp_path: Path, engine: str) -> None:
    """Both would write an id into the home folder when they are imported, and report to their makers."""
    code = """
import socket, sys
def refuse(*_): raise AssertionError("a connection was tried")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from emodetect.detector import decode_picture, load_detector
load_detector(sys.argv[1], engine=sys.argv[3])([decode_picture(sys.argv[2])])
"""
    picture = image_files(pipeline.folder / "data" / "prepared", "test")[0]
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, pipeline.folder / "models" / "emodetect.onnx", picture, engine], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


ALL_AT_ONCE = """
import sys, threading
import numpy as np
from emodetect.detector import run_openvino
sys.setswitchinterval(1e-9)  # threads take turns as often as they can
network = run_openvino(open(sys.argv[1], "rb").read(), 1)
start, answers = threading.Barrier(16), []
def ask():
    start.wait()
    answers.append(network(np.zeros((2, 3, 64, 64), np.float32)))
threads = [threading.Thread(target=ask) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(answers))
"""


def test_threads_that_ask_openvino_first_at_the_same_moment_are_all_answered(pipeline: Copy) -> None:
    for _ in range(3):  # unguarded, about nine in ten such processes hang
        assert pipeline.run(sys.executable, "-c", ALL_AT_ONCE, "models/emodetect.onnx", timeout=120).stdout == "16\n"
