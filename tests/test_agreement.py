"""Our average precision is that of Ultralytics' validator and of faster-coco-eval, on the same predictions; a stranger's file is judged by it."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emodetect.cli import main
from emodetect.labels import EMOTIONS
from emodetect.predictions import Boxes, average_precisions, labelled_boxes, mean_precision
from emodetect.prepare import prepare
from emodetect.sample import write_sample
from emodetect.yolo import build_model, data_file, quiet_ultralytics

CLOSE = 1e-3
Sets = tuple[dict[str, Boxes], dict[str, Boxes]]  # labels and answers by picture


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of a hundred test pictures."""
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "raw", {"train": 2, "valid": 2, "test": 100}, seed=0)
    prepare(folder / "raw", folder / "prepared")
    return folder / "prepared"


def imperfect(labelled: dict[str, Boxes], seed: int = 0) -> dict[str, Boxes]:
    """Answers as a mediocre detector gives them: shifted boxes, wrong emotions, doubles, misses, boxes without a face.

    No two scores are equal: their order would be left to chance.
    """
    random, answered = np.random.default_rng(seed), {}
    for file, faces in labelled.items():
        repeated = np.repeat(np.arange(len(faces.scores)), random.integers(0, 4, len(faces.scores)))
        sides = np.tile(faces.corners[repeated, 2:] - faces.corners[repeated, :2], 2)
        shifted = faces.corners[repeated] + random.normal(0, 0.05, (len(repeated), 4)) * sides
        corners = np.concatenate([shifted, random.uniform([0, 0, 40, 40], [30, 30, 90, 90], (2, 4))])
        emotions = np.concatenate([np.where(random.random(len(repeated)) < 0.7, faces.emotions[repeated], random.integers(0, 8, len(repeated))), random.integers(0, 8, 2)])
        scores = random.random(len(emotions))
        answered[file] = Boxes(corners, emotions, scores)
    return answered


@pytest.fixture(scope="module")
def sets(data: Path) -> Sets:
    """Labels and answers by picture."""
    labelled = labelled_boxes(data, "test")
    return labelled, imperfect(labelled)


def test_average_precision_is_that_of_ultralytics_validator(data: Path, sets: Sets) -> None:
    quiet_ultralytics()
    from ultralytics.models.yolo.detect import DetectionValidator

    labelled, answered = sets

    class Given(DetectionValidator):
        """A validator to which the answers are given; what is done with them is its own."""

        def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
            self.now = super().preprocess(batch)
            return self.now

        def postprocess(self, preds: object) -> list[dict[str, torch.Tensor]]:
            found = []
            for path, (ratio, padding) in zip(self.now["im_file"], self.now["ratio_pad"], strict=True):
                boxes = answered[f"test/images/{Path(path).name}"]
                order = np.argsort(-boxes.scores, kind="stable")
                corners = torch.tensor(boxes.corners[order] * np.tile(ratio[::-1], 2) + np.tile(padding, 2))
                scores, emotions = torch.tensor(boxes.scores[order]), torch.tensor(boxes.emotions[order]).double()
                found.append({"bboxes": corners, "conf": scores, "cls": emotions, "extra": torch.zeros(len(order), 0)})
            return found

    with tempfile.TemporaryDirectory() as folder:
        options = {"data": str(data_file(data)), "split": "test", "imgsz": 96, "batch": 25, "rect": False, "workers": 0}
        validator = Given(args={"task": "detect", "mode": "val", "device": "cpu", "plots": False, "verbose": False, "project": folder} | options)
        validator(model=build_model("yolo11n"))
    box = validator.metrics.box
    ours = average_precisions(list(labelled.values()), [answered[file] for file in labelled])
    assert 0.2 < box.map < box.map50 < 0.8, "there is something to agree on"
    assert mean_precision(ours) == pytest.approx({"map50": box.map50, "map50_95": box.map}, abs=CLOSE)
    assert [ours[EMOTIONS[index]]["ap50"] for index in box.ap_class_index] == pytest.approx(box.ap50.tolist(), abs=CLOSE)
    assert [ours[EMOTIONS[index]]["ap50_95"] for index in box.ap_class_index] == pytest.approx(box.ap.tolist(), abs=CLOSE)


def as_coco(boxes: Sequence[Boxes]) -> list[dict[str, Any]]:
    """Boxes of pictures as COCO annotations."""
    rows = []
    for number, one in enumerate(boxes, start=1):
        for (left, top, right, bottom), emotion, score in zip(one.corners.tolist(), one.emotions.tolist(), one.scores.tolist(), strict=True):
            size = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            rows.append({"id": len(rows) + 1, "image_id": number, "category_id": emotion + 1, "iscrowd": 0, "score": score} | size)
    return rows


def test_average_precision_is_that_of_coco(sets: Sets) -> None:
    from faster_coco_eval import COCO, COCOeval_faster

    labelled, answered = ([boxes[file] for file in sets[0]] for boxes in sets)
    images, categories = [{"id": number} for number in range(1, len(labelled) + 1)], [{"id": number, "name": name} for number, name in enumerate(EMOTIONS, start=1)]
    truth = COCO({"images": images, "annotations": as_coco(labelled), "categories": categories})
    theirs = COCOeval_faster(truth, truth.loadRes(as_coco(answered)), iouType="bbox", print_function=lambda *_: None)
    for step in (theirs.evaluate, theirs.accumulate, theirs.summarize):
        step()
    ours = average_precisions(labelled, answered, "coco")
    assert mean_precision(ours) == pytest.approx({"map50": theirs.stats[1], "map50_95": theirs.stats[0]}, abs=CLOSE)
    by_class = theirs.eval["precision"][:, :, :, 0, -1]  # overlap × recall × class
    assert [values["ap50"] for values in ours.values()] == pytest.approx(by_class[0].mean(axis=0).tolist(), abs=CLOSE)


def test_strangers_predictions_are_evaluated_from_the_command_line(data: Path, sets: Sets, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled, answered = sets
    names = [Path(file).name for file in labelled]
    rows = [{"image_id": names[row["image_id"] - 1], **{key: row[key] for key in ("category_id", "bbox", "score")}} for row in as_coco([answered[file] for file in labelled])]
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(rows))
    assert main(["evaluate", "--predictions", str(path), "--data", str(data), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["map50"] == mean_precision(average_precisions(list(labelled.values()), [answered[file] for file in labelled]))["map50"]
    assert figures["pictures"] == 100 and figures["intervals"]["faces_found"][0] < figures["faces_found"] < 1
    assert main(["evaluate", "--predictions", str(path), "--data", str(data)]) == 0
    assert f"mAP50                              {figures['map50']:.3f}" in capsys.readouterr().out
    path.write_text(json.dumps([*rows, rows[0] | {"image_id": "elsewhere.jpg"}]))
    assert main(["evaluate", "--predictions", str(path), "--data", str(data)]) == 1
    told = f"prediction {len(rows) + 1} has image_id 'elsewhere.jpg', which is no picture of the split (such as '{names[0]}'); correct it."
    assert capsys.readouterr().err == f"emodetect: {path}: {told}\n"
