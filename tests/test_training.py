"""Training that is killed and goes on to the same bits, and training that cannot go well and says so."""

import errno
import json
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from ultralytics.data import base as ultralytics_data
from ultralytics.models.yolo.detect import DetectionTrainer

from emodetect import training
from emodetect.core import DataError, ModelError, ParameterError, fingerprint, sha256_file
from emodetect.manifest import MANIFEST, read_manifest
from emodetect.prepare import prepare
from emodetect.sample import write_sample
from emodetect.stages import LIMITS
from emodetect.trainer import Epoch, Run, Snapshots, Trainer
from emodetect.training import RANGES, Hyperparameters, Trained, check_trainable, dependencies, find_device, train, ultralytics_arguments
from emodetect.yolo import build_model, data_file, fix_randomness, load_checkpoint
from tests.repro_check import RUNS, verdict
from tests.soak import CHANGE, EPOCHS, Target

SEED = 5  # of the moments at which something is killed
TINY = {"image_size": 64, "epochs": 3, "batch": 8}


class Killed(Exception):
    """As if the process had ended."""


def killed_after(last: int, told: list[Epoch] | None = None) -> Callable[[Epoch], None]:
    """What ends a training once so many epochs are told."""

    def hear(epoch: Epoch) -> None:
        if told is not None:
            told.append(epoch)
        if epoch.number == last:
            raise Killed

    return hear


def state_of(snapshot: Path) -> dict[str, Any]:
    """What a training goes on with, from its snapshot."""
    run = Run({}, Snapshots(snapshot))
    run.load()
    return run.state


class Place:
    """A small prepared data set, and a folder for what is trained on it."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.weights, self.snapshot = folder / "none.pt", folder / "snapshots" / "train.pt"
        folder.mkdir(exist_ok=True)
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
    """Killed while it trains otherwise; then thrice: while it starts, in the middle, and when all epochs are over but not the stage."""
    chance, target, printed = random.Random(SEED), Target(tmp_path), ""
    target.copy.change({"train": {"lr0": 0.003}})
    assert target.kill(1, 0)
    target.copy.change(CHANGE)
    for moment in ((0, chance.random() / 2), (1 + chance.randrange(2), chance.random()), (EPOCHS, 0)):
        assert target.kill(*moment), f"the stage ended before it could be killed at {moment}"
        printed += target.printed
    assert "starts anew: the snapshot scratch/snapshots/train.pt is of another run: lr0 was 0.003 and is 0.002" in printed
    gone_on = "goes on after epoch {} of {}: scratch/snapshots/train.pt is a snapshot of this very run"
    assert any(gone_on.format(epoch, EPOCHS) in target.printed for epoch in range(1, EPOCHS)) and target.snapshot.exists()
    target.finish()
    assert gone_on.format(EPOCHS, EPOCHS) in target.printed
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


def test_frozen_layers_keep_what_they_had_and_the_others_learn(place: Place) -> None:
    fix_randomness(0, 2)
    model = build_model("yolo11n")
    before, learning = {name: tensor.clone() for name, tensor in model.state_dict().items()}, {name for name, each in model.named_parameters() if each.requires_grad}
    place.train("a.pt", {"epochs": 1, "freeze": 2}, snapshots=Snapshots(place.snapshot))
    after = state_of(place.snapshot)["model"]
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert {name.split(".")[1] for name in changed & learning} == {name.split(".")[1] for name in learning} - {"0", "1"}
    assert not [name for name in changed if name.startswith(("model.0.", "model.1."))], "nor do their running means move"


def test_class_weights_move_rare_classes_further(place: Place) -> None:
    """One step of plain gradient descent: what it moves in a class's row of the last layers is the gradient, which the weight multiplies."""
    data = Path(shutil.copytree(place.data, place.folder / "unbalanced"))
    for number, path in enumerate(sorted((data / "train" / "labels").iterdir())):
        lines = [line.split() for line in path.read_text().splitlines()]
        path.write_text("".join(f"{emotion if number % 3 else 0} {' '.join(box)}\n" for emotion, *box in lines))
    emotions = [int(line.split()[0]) for path in (data / "train" / "labels").iterdir() for line in path.read_text().splitlines()]
    counts = torch.bincount(torch.tensor(emotions), minlength=8)
    assert counts.min() > 0 and counts.max() >= 3 * counts.min()
    fix_randomness(0, 2)
    before = build_model("yolo11n").state_dict()
    rows = [name for name in before if re.fullmatch(r"model\.\d+\.cv3\.\d\.2\.weight", name)]
    one_step = {"epochs": 1, "batch": 24, "optimizer": "SGD", "lr0": 0.1, "weight_decay": 0.0, "warmup_epochs": 0.0}

    def moved(power: float) -> torch.Tensor:
        """How far each class's rows went."""
        own = Place(place.folder / str(power), data)
        own.train("a.pt", one_step | {"class_weight_power": power}, snapshots=Snapshots(own.snapshot))
        after = state_of(own.snapshot)["model"]
        return torch.cat([(after[name] - before[name]).flatten(1) for name in rows], dim=1).norm(dim=1)

    plain = moved(0.0)
    for power in (0.5, 1.0):
        further = moved(power) / plain * counts**power
        assert len(rows) == 3 and torch.allclose(further / further.mean(), torch.ones(8), rtol=0.01)


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


def test_repro_check_tells_the_same_from_the_different(place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
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
    for device in ("0", "auto"):
        clone("first", seed=0, device=device)
        with monkeypatch.context() as one_gpu:
            one_gpu.setattr(torch.cuda, "device_count", lambda: 1)
            assert verdict(place.folder) == 0 and "NOT THE SAME BITS on the device 0, where only a tolerance can be told" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert verdict(place.folder) == 1 and "NOT THE SAME BITS on the device cpu\n" in capsys.readouterr().out, "auto took the CPU, which promises bits"


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


class Elsewhere:
    """As Ultralytics with several GPUs: the training runs elsewhere and leaves a snapshot; if it shall end after some epochs, a process of it ends with an error."""

    ddp, epochs = True, 2

    def __init__(self, overrides: dict[str, Any], _callbacks: dict[str, list[Run]]) -> None:
        self.overrides, (self.run,) = overrides, _callbacks["run"]

    def train(self) -> None:
        run = pickle.loads(pickle.dumps(self.run))
        run.on_epoch = killed_after(self.epochs)
        if self.epochs:
            trainer = Trainer(overrides=self.overrides, _callbacks=defaultdict(list, run=[run]))
            trainer.model = self.model
            with suppress(Killed):
                trainer.train()
        if not run.finished:
            raise subprocess.CalledProcessError(1, "torchrun")


@pytest.mark.parametrize("kept", [True, False], ids=["a place for snapshots", "none"])
def test_lost_process_of_a_gpu_loses_no_epoch(place: Place, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected: list[Epoch] = []
    with pytest.raises(Killed):
        place.train("alone.pt", on_epoch=killed_after(2, expected))
    monkeypatch.setattr(training, "Trainer", Elsewhere)
    told: list[Epoch] = []
    with pytest.raises(ModelError) as caught:
        place.train("lost.pt", on_epoch=told.append, snapshots=Snapshots(place.snapshot) if kept else None)
    reason = r"a process of the GPUs cpu exited with 1 and says above why; lower train\.batch \(8\) if memory ran out, train\.lr0 \(0\.001\) if the loss was no number"
    assert re.fullmatch(rf"{reason}; the weights of epoch [12], the best so far, stand in {re.escape(str(place.folder / 'lost.pt'))}\.", str(caught.value))
    assert told == expected and place.hash("lost.pt") == place.hash("alone.pt")


def test_processes_of_gpus_bring_back_what_one_process_gives(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = place.train("alone.pt")
    monkeypatch.setattr(training, "Trainer", Elsewhere)
    monkeypatch.setattr(Elsewhere, "epochs", TINY["epochs"] + 1)
    told: list[Epoch] = []
    assert place.train("together.pt", on_epoch=told.append) == alone and told == alone.epochs
    assert place.hash("together.pt") == place.hash("alone.pt")


def test_lost_process_of_a_gpu_leaves_nothing_of_another_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.train("other.pt", seed=1, snapshots=Snapshots(place.snapshot))
    monkeypatch.setattr(training, "Trainer", Elsewhere)
    monkeypatch.setattr(Elsewhere, "epochs", 0)
    with pytest.raises(ModelError, match=r"if the loss was no number\.$"):
        place.train("lost.pt", on_epoch=lambda epoch: pytest.fail("an epoch of another run was told"), snapshots=Snapshots(place.snapshot))
    assert not (place.folder / "lost.pt").exists()


NO_ROOM = (
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "GET was unable to find an engine to execute this computation",
)


@pytest.mark.parametrize(("said", "refused"), [*((said, True) for said in NO_ROOM), ("mat1 and mat2 shapes cannot be multiplied", False)])
def test_every_way_of_a_gpu_to_say_that_memory_ran_out_is_understood(place: Place, said: str, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def preprocess_batch(self: Trainer, batch: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError(said)

    monkeypatch.setattr(Trainer, "preprocess_batch", preprocess_batch)
    sentence = "memory ran out in epoch 1; lower train.batch (8) or model.image_size (64)." if refused else said
    with pytest.raises(ParameterError if refused else RuntimeError, match=re.escape(sentence) + "$"):
        place.train("a.pt")


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
    refusal = "train.precision is 'bf16', but on the device mps only fp32 is computed; set train.precision to fp32, or train.device to cpu."
    for device in ("auto", "mps"):
        with pytest.raises(ParameterError, match=f"{re.escape(refusal)}$"):
            place.train("a.pt", {"precision": "bf16"}, device=device)


def test_data_that_changed_are_another_run(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`must` refuses; `auto`, the default when DVC runs the stage because the data changed, starts anew. Both name what was and what is."""
    with pytest.raises(Killed):
        place.train("a.pt", on_epoch=killed_after(1), snapshots=Snapshots(place.snapshot))
    write_sample(tmp_path / "raw", {"train": 24, "valid": 8, "test": 8}, seed=3)
    prepare(tmp_path / "raw", tmp_path / "other")
    other = Place(tmp_path, tmp_path / "other")
    was, now, before = fingerprint(place.data)[:16], fingerprint(other.data)[:16], sha256_file(place.snapshot)
    reason = f"the snapshot {place.snapshot} is of another run: data was {was} and is {now}"
    with pytest.raises(ParameterError, match=re.escape(f"{reason}; mend that, or set train.resume to auto")):
        other.train("a.pt", snapshots=Snapshots(place.snapshot, resume="must"))
    assert was != now and sha256_file(place.snapshot) == before
    capsys.readouterr()
    other.train("b.pt", snapshots=Snapshots(place.snapshot, resume="auto"))
    assert capsys.readouterr().err == f"starts anew: {reason}\n"
    other.train("c.pt")
    assert other.hash("b.pt") == other.hash("c.pt"), "nothing of the old run is in the new one"


def test_the_documented_ranges_are_those_that_hold() -> None:
    documented = {}
    for line in (Path(__file__).parent.parent / "configs" / "train" / "quick.yaml").read_text().splitlines():
        name, _, rest = line.partition(": ")
        if found := re.search(r"(\S+) to ([^\s,:;]+)(?:[,:;]|$)", rest.partition("  # ")[2]):
            documented[name] = tuple(map(float, found.groups()))
    assert documented == {name: limits for name, limits in RANGES.items() if name != "image_size"} | {"seed": LIMITS["train.seed"]}
