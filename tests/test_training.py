"""Training that is killed and goes on to the same bits, and training that cannot go well and says so."""

import errno
import json
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from ultralytics.data import base as ultralytics_data
from ultralytics.models.yolo.detect import DetectionTrainer

from emodetect import training
from emodetect.core import DataError, EmodetectError, ModelError, ParameterError, sha256_file
from emodetect.manifest import MANIFEST, read_manifest
from emodetect.prepare import prepare
from emodetect.sample import write_sample
from emodetect.trainer import Epoch, Run, Snapshots, Trainer
from emodetect.training import Hyperparameters, Trained, check_trainable, dependencies, find_device, train, ultralytics_arguments
from emodetect.yolo import build_model, data_file, fix_randomness, load_checkpoint
from tests.repro_check import RUNS, verdict
from tests.soak import EPOCHS, Target

SEED = 5  # of the moments at which something is killed
TINY = {"image_size": 64, "epochs": 3, "batch": 8}


class Killed(Exception):
    """As if the process had ended."""


class Place:
    """A small prepared data set, and a folder for what is trained on it."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.weights, self.snapshot = folder / "none.pt", folder / "snapshots" / "train.pt"
        self.weights.touch()

    def train(self, name: str, values: dict[str, Any] | None = None, on_epoch: Callable[[Epoch], None] = lambda epoch: None, **options: Any) -> Trained:
        """Train with small values and write the checkpoint of that name."""
        parameters = Hyperparameters(**TINY | (values or {}))
        return train(self.data, self.weights, self.folder / name, parameters=parameters, on_epoch=on_epoch, **options)

    def hash(self, name: str) -> str:
        """The SHA-256 of a checkpoint."""
        return sha256_file(self.folder / name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "raw", {"train": 24, "valid": 8, "test": 8}, seed=2)
    prepare(folder / "raw", folder / "data")
    return folder / "data"


@pytest.fixture
def place(tmp_path: Path, data: Path) -> Place:
    return Place(tmp_path, data)


def test_stage_that_was_killed_leaves_the_same_bits_and_never_goes_on_with_another_run(tmp_path: Path) -> None:
    chance, target = random.Random(SEED), Target(tmp_path)
    target.copy.change({"train": {"lr0": 0.003}})
    target.kill(1, 0)
    target.copy.change({"train": {"lr0": 0.002}})
    target.kill(1 + chance.randrange(2), chance.random())
    assert "starts anew: the snapshot scratch/snapshots/train.pt is of another run: lr0 was 0.003 and is 0.002" in target.printed
    left = target.snapshot.exists()
    target.finish()
    assert left == (f"of {EPOCHS}: scratch/snapshots/train.pt is a snapshot of this very run" in target.printed)
    assert target.outputs() == target.expected and not target.snapshot.exists()


CHILD = """
import resource, signal, sys
from pathlib import Path
from emodetect.trainer import Snapshots
from emodetect.training import Hyperparameters, train

folder, data, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def limited(epoch):
    "From now on a file that grows beyond the limit kills the process while it writes."
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

tiny, snapshots = Hyperparameters(image_size=64, epochs=3, batch=8), Snapshots(folder / "snapshots" / "train.pt")
train(data, folder / "none.pt", folder / "killed.pt", parameters=tiny, on_epoch=limited, snapshots=snapshots)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a file-size limit as Linux has it")
def test_killed_while_it_writes_a_snapshot_it_goes_on_from_the_one_before(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.train("whole.pt")
    limit = random.Random(SEED).randrange(1_000_000, 30_000_000)
    done = subprocess.run([sys.executable, "-c", CHILD, str(place.folder), str(place.data), str(limit)], capture_output=True, text=True)
    half = list(place.snapshot.parent.glob(".train-*"))
    assert done.returncode == -signal.SIGXFSZ and len(half) == 1 and half[0].stat().st_size <= limit < place.snapshot.stat().st_size, done.stderr
    place.train("killed.pt", snapshots=Snapshots(place.snapshot))
    assert "goes on after epoch 1 of 3" in capsys.readouterr().err
    assert place.hash("killed.pt") == place.hash("whole.pt") and list(place.snapshot.parent.iterdir()) == [place.snapshot]


@pytest.mark.parametrize(
    "values",
    [
        {"mosaic": 1.0, "close_mosaic": 1, "degrees": 10.0, "downscale": 0.5, "cover": 0.5, "optimizer": "AdamW"},
        {"optimizer": "SGD", "lr0": 1.0, "warmup_epochs": 2.0, "cosine": True, "freeze": 2, "class_weight_power": 0.5, "precision": "bf16", "epochs": 2},
        {"optimizer": "SGD", "lr0": 1.0, "warmup_epochs": 0.0, "epochs": 8, "patience": 1},
    ],
    ids=["mosaic", "bf16", "early stopping"],
)
def test_every_epoch_can_be_gone_on_from(place: Place, values: dict[str, Any]) -> None:
    whole = place.train("whole.pt", values)

    def killed(epoch: Epoch) -> None:
        if epoch.number == len(seen) + 1:
            seen.append(epoch)
            raise Killed

    seen: list[Epoch] = []
    for _ in whole.epochs:
        with pytest.raises(Killed):
            place.train("parts.pt", values, killed, snapshots=Snapshots(place.snapshot))
    told: list[Epoch] = []
    parts = place.train("parts.pt", values, told.append, snapshots=Snapshots(place.snapshot))
    assert parts == whole and told == seen == whole.epochs and place.hash("parts.pt") == place.hash("whole.pt")
    if "patience" in values:
        assert len(whole.epochs) < values["epochs"] and any(epoch.metrics["metrics/mAP50"] for epoch in whole.epochs)


def test_pictures_and_boxes_are_those_that_ultralytics_would_show(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(Trainer):
        build_dataset = DetectionTrainer.build_dataset
        _close_dataloader_mosaic = DetectionTrainer._close_dataloader_mosaic
        preprocess_batch = DetectionTrainer.preprocess_batch

    values = {"image_size": 96, "mosaic": 1.0, "close_mosaic": 1, "hsv_h": 0.1}  # no power of two: a division that is rounded
    ours = place.train("ours.pt", values)
    monkeypatch.setattr(training, "Trainer", Plain)
    monkeypatch.setattr(training, "pictures_kept", nullcontext)
    theirs = place.train("theirs.pt", values)
    losses = [[{name: value for name, value in epoch.metrics.items() if name.startswith("train/")} for epoch in trained.epochs] for trained in (ours, theirs)]
    assert losses[0] == losses[1] and len(losses[0]) == TINY["epochs"]


def test_each_picture_is_read_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    usual = ultralytics_data.imread

    def imread(path: str, **options: Any) -> Any:
        read.append(path)
        return usual(path, **options)

    monkeypatch.setattr(ultralytics_data, "imread", imread)
    place.train("a.pt")
    assert len(read) == len(set(read)) == 24 + 8


def test_validation_sees_pictures_as_large_as_the_training_does(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    forward = training.build_model("yolo11n").__class__.predict

    def predict(model: Any, pictures: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        seen.add((model.training, *pictures.shape[2:]))
        return forward(model, pictures, *arguments, **options)

    monkeypatch.setattr("ultralytics.nn.tasks.DetectionModel.predict", predict)
    place.train("a.pt", {"epochs": 1})
    assert seen - {(True, 256, 256), (False, 256, 256)} == {(True, 64, 64), (False, 64, 64)}, "256 pixels are for finding the strides"


def test_model_without_suppression_goes_on_with_its_two_losses(place: Place) -> None:
    def killed(epoch: Epoch) -> None:
        raise Killed

    place.train("whole.pt", architecture="yolo26n")
    with pytest.raises(Killed):
        place.train("parts.pt", on_epoch=killed, architecture="yolo26n", snapshots=Snapshots(place.snapshot))
    place.train("parts.pt", architecture="yolo26n", snapshots=Snapshots(place.snapshot))
    assert place.hash("parts.pt") == place.hash("whole.pt")


def test_repro_check_tells_the_same_from_the_different(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    def clone(name: str, seed: int, device: str = "cpu") -> None:
        folder = place.folder / name
        trained = place.train(f"{name}/models/emodetect.pt", {"epochs": 1}, seed=seed)
        for stage in ("train", "evaluate"):
            (folder / "reports" / stage).mkdir(parents=True, exist_ok=True)
            (folder / "reports" / stage / "metrics.json").write_text(json.dumps({"train": trained.epochs[-1].metrics, "data_sha256": "5f"}))
        outs = [{"path": "models/emodetect.pt", "md5": place.hash(f"{name}/models/emodetect.pt")}]
        (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": {"train": {"outs": outs}}}))
        (folder / "params.yaml").write_text(yaml.safe_dump({"train": {"device": device}}))

    for name in RUNS:
        clone(name, seed=0)
    assert verdict(place.folder) == 0 and "REPRODUCED: two runs, and one that was killed and went on, gave the same 1 outputs" in capsys.readouterr().out
    clone("killed", seed=1)
    assert verdict(place.folder) == 1
    printed = capsys.readouterr().out
    assert "DIFFERENT" in printed and "the second run is apart by at most 0 in a figure and 0 in a weight" in printed and "NOT THE SAME BITS on the device cpu" in printed
    assert "the killed run is apart by at most 0 in" not in printed
    clone("first", seed=0, device="0")
    assert verdict(place.folder) == 0 and "where only a tolerance can be told" in capsys.readouterr().out


def test_snapshots_now_and_then_and_none(place: Place) -> None:
    found: list[bool] = []
    place.train("a.pt", on_epoch=lambda epoch: found.append(place.snapshot.exists()), snapshots=Snapshots(place.snapshot, every=2))
    assert found == [False, True, True]
    place.snapshot.unlink()
    place.train("b.pt", snapshots=Snapshots(place.snapshot, every=0))
    assert not place.snapshot.exists() and place.hash("a.pt") == place.hash("b.pt")


def test_process_of_a_gpu_gets_the_whole_run(place: Place) -> None:
    """Ultralytics starts a process for each GPU from a file. Here the same file runs on the CPU, as one process, and gives the same bits."""
    from ultralytics.utils.dist import ddp_cleanup, generate_ddp_file

    place.train("whole.pt")
    parameters, arguments = Hyperparameters(**TINY), {"architecture": "yolo11n", "seed": 0, "threads": 2, "device": "cpu"}
    run = Run(dependencies(place.data, place.weights, parameters, **arguments), Snapshots(place.snapshot), print)
    fix_randomness(0, 2)
    model = build_model("yolo11n")
    trainer = Trainer(overrides=ultralytics_arguments(parameters, data_file(place.data), place.folder / "work", 0, "cpu"), _callbacks=defaultdict(list, run=[run]))
    trainer.model = model
    file = generate_ddp_file(trainer)
    try:
        done = subprocess.run([sys.executable, file], capture_output=True, text=True)
    finally:
        ddp_cleanup(trainer, file)
    assert done.returncode == 0, done.stderr
    run.load()
    whole = load_checkpoint(place.folder / "whole.pt")[0].state_dict()
    assert run.finished and len(run.epochs) == 3 and all(torch.equal(whole[name], tensor.to(whole[name].dtype)) for name, tensor in run.best.items())


def test_loss_that_is_no_number_stops_before_it_reaches_the_weights(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.train("good.pt", {"epochs": 2})

    def preprocess_batch(self: Trainer, batch: dict[str, Any]) -> dict[str, Any]:
        batch = original(self, batch)
        if self.epoch == 2 and self.batch_number == 1:
            batch["img"] = batch["img"] * torch.nan
        return batch

    original = Trainer.preprocess_batch
    monkeypatch.setattr(Trainer, "preprocess_batch", preprocess_batch)
    with pytest.raises(ModelError) as caught:
        place.train("broken.pt", {"epochs": 3})
    assert str(caught.value).startswith("the loss is not a finite number in epoch 3, batch 2; lower train.lr0 (0.001)")
    assert str(caught.value).endswith(f"; the weights of epoch 2, the best so far, stand in {place.folder / 'broken.pt'}.")
    assert all(tensor.isfinite().all() for tensor in load_checkpoint(place.folder / "broken.pt")[0].state_dict().values())


@pytest.mark.skipif(sys.platform != "linux", reason="needs a memory limit as Linux has it")
def test_memory_that_runs_out_is_said_with_what_to_lower(place: Place) -> None:
    code = """
import resource, sys
from emodetect.core import ParameterError
from emodetect.training import Hyperparameters, train
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, used + 2**31))
try:
    train(sys.argv[1], sys.argv[2], sys.argv[3], parameters=Hyperparameters(image_size=1280, epochs=1, batch=24))
except ParameterError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(place.data), str(place.weights), str(place.folder / "a.pt")], capture_output=True, text=True)
    assert done.stdout == "memory ran out in epoch 1; lower train.batch (24) or model.image_size (1280).\n", done.stderr
    assert not (place.folder / "a.pt").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a file-size limit as Linux has it")
def test_full_disk_is_an_error_of_the_disk_and_the_last_snapshot_stays(place: Place) -> None:
    """The child's limit, but as an error: Python ignores the signal unless told otherwise."""
    code = CHILD.replace("    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n", "")
    done = subprocess.run([sys.executable, "-c", code, str(place.folder), str(place.data), "20000000"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(f"OSError: [Errno {errno.EFBIG}]"), done.stderr
    assert list(place.snapshot.parent.iterdir()) == [place.snapshot]
    run = Run({}, Snapshots(place.snapshot))
    run.load()
    assert [epoch.number for epoch in run.epochs] == [1]


def test_emotion_without_a_face_is_refused_unless_allowed(place: Place, tmp_path: Path) -> None:
    table = read_manifest(place.data)
    emotions = ["happy" if emotion == "fear" else emotion for emotion in table["emotion"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("emotion"), table.schema.field("emotion"), [emotions]), tmp_path / MANIFEST)
    with pytest.raises(DataError, match=r"the training split has no face of fear; add pictures, or set train\.missing_emotions to allow"):
        check_trainable(tmp_path, Hyperparameters(**TINY))
    check_trainable(tmp_path, Hyperparameters(**TINY), "allow")
    check_trainable(place.data, Hyperparameters(**TINY))
    with pytest.raises(ParameterError, match=r"train\.missing_emotions is 'ignore'; choose one of refuse, allow"):
        check_trainable(place.data, Hyperparameters(**TINY), "ignore")


def test_devices_are_those_of_the_machine_and_share_the_batch(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [find_device(device) for device in ("auto", 0, "1", [0, 1], "0, 1", "cpu")] == ["0", "0", "1", "0,1", "0,1", "cpu"]
    with pytest.raises(ParameterError, match=r"train\.device is '2', but PyTorch finds 2 CUDA devices here; choose auto or cpu"):
        find_device(2)
    with pytest.raises(ParameterError, match=r"train\.batch is 7, but 2 devices share it; give a multiple of 2"):
        place.train("a.pt", {"batch": 7}, device=[0, 1])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == find_device("mps") == "mps"


def test_data_that_changed_are_another_run(place: Place, tmp_path: Path) -> None:
    def killed(epoch: Epoch) -> None:
        raise Killed

    with pytest.raises(Killed):
        place.train("a.pt", on_epoch=killed, snapshots=Snapshots(place.snapshot))
    write_sample(tmp_path / "raw", {"train": 24, "valid": 8, "test": 8}, seed=3)
    prepare(tmp_path / "raw", tmp_path / "other")
    other = Place(tmp_path, tmp_path / "other")
    with pytest.raises(EmodetectError, match=r"is of another run: data was [0-9a-f]{16} and is [0-9a-f]{16}; mend that, or set train.resume to auto"):
        other.train("a.pt", snapshots=Snapshots(place.snapshot, resume="must"))
