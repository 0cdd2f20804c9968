"""`emodetect.check` finds what was planted: each defect, exactly as often."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from PIL import Image
from planter import SET_DEFECTS, Planter, label_of, relabel, write_clean
from scipy.stats.contingency import association

from emodetect.check import SEVERITIES, check_dataset, refuse_faults
from emodetect.core import DataError
from emodetect.inspection import Fault, label_faults, picture_faults
from emodetect.labels import EMOTIONS, OVERHANG, SMALLEST_SIDE, Face, RowError, parse_row, read_labels, write_labels
from emodetect.repair import clip_face

SEEDS = [int(seed) for seed in os.environ.get("PLANTER_SEEDS", "0 1").split()]
REFUSING = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"scipy", "cleanlab", "sklearn", "pandas", "yaml", "torch", "imagehash"}:
            raise ModuleNotFoundError("refused", name=name)
sys.meta_path.insert(0, Refuse())
from emodetect.cli import main
sys.exit(main(sys.argv[1:]))
"""


CALLING = "import sys; from emodetect.cli import main; sys.exit(main(sys.argv[1:]))"
ANY = settings(max_examples=150, deadline=None, database=None, derandomize=True)


def emodetect(*arguments: str | Path, code: str = CALLING, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set without defects. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("clean")
    write_clean(folder, seed=0)
    return folder


@pytest.fixture
def copy(clean: Path, tmp_path: Path) -> Path:
    """A copy of the clean set to spoil."""
    return Path(shutil.copytree(clean, tmp_path / "copy"))


@pytest.fixture(scope="module", params=SEEDS)
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Planter:
    """A set with every defect that files can have."""
    planter = Planter(tmp_path_factory.mktemp("planted"), request.param)
    planter.all_files()
    return planter


def test_a_clean_set_has_no_defect(clean: Path) -> None:
    assert {defect: count for defect, count in check_dataset(clean).counts.items() if count} == {}


def test_each_defect_is_counted_as_often_as_it_was_planted(planted: Planter) -> None:
    counts = check_dataset(planted.folder).counts
    assert {defect: count for defect, count in counts.items() if count} == planted.planted


def test_every_defect_of_the_table_is_planted_by_some_test(planted: Planter) -> None:
    assert planted.planted.keys() | SET_DEFECTS.keys() | {"label_suspect", "label_other_class"} == SEVERITIES.keys()


@pytest.mark.parametrize("defect", SET_DEFECTS)
def test_a_defect_of_the_whole_set_is_found(copy: Path, defect: str) -> None:
    plant, times = SET_DEFECTS[defect]
    plant(copy)
    report = check_dataset(copy)
    assert report.counts[defect] == times == len(report.of(defect))
    assert {name for name, count in report.counts.items() if count} <= {defect, "class_shift"}, "a class that is taken out of train shifts the classes too"


def test_classes_of_another_name_are_mapped_and_others_refused_or_dropped(copy: Path) -> None:
    before = check_dataset(copy)
    (copy / "data.yaml").write_text(f"names: [yawn, Freude, {', '.join(name for name in EMOTIONS if name != 'happy')}]\n")
    named = ["yawn", "happy", *(name for name in EMOTIONS if name != "happy")]
    for path in copy.glob("*/labels/*.txt"):
        rows = [row.split(" ", 1) for row in path.read_text().splitlines()]
        path.write_text("".join(f"{named.index(EMOTIONS[int(emotion)])} {box}\n" for emotion, box in rows))
    rest = {"classes": {"Freude": "happy"}}
    assert check_dataset(copy, **rest, extra_classes="drop").faces == before.faces
    for path in sorted(copy.glob("train/labels/*.txt"))[:3]:
        path.write_text(path.read_text() + "0 0.5 0.5 0.2 0.2\n")
    refused, dropped = check_dataset(copy, **rest), check_dataset(copy, **rest, extra_classes="drop")
    assert (refused.counts["names_wrong"], refused.counts["label_other_class"]) == (1, 3) and "names yawn" in refused.of("names_wrong")[0].detail
    assert (dropped.counts["names_wrong"], dropped.counts["label_other_class"]) == (0, 3) and dropped.faces == before.faces
    told = emodetect("check", copy, "--class", "Freude=happy", "--drop")
    assert told.returncode == 0 and " 3  label_other_class" in told.stdout
    wrong = emodetect("check", copy, "--class", "Freude=joy")
    assert wrong.returncode == 2 and "to 'joy'; choose one of" in wrong.stderr and "Traceback" not in wrong.stderr


def test_many_pictures_are_checked_in_processes_with_the_same_report(planted: Planter, monkeypatch: pytest.MonkeyPatch) -> None:
    text = check_dataset(planted.folder, workers=1).to_json()
    monkeypatch.setattr("emodetect.check.MANY", 1)
    assert check_dataset(planted.folder, workers=2).to_json() == text


def test_every_fault_names_a_file_that_can_be_found(planted: Planter) -> None:
    for fault in check_dataset(planted.folder).faults:
        assert not Path(fault.file).is_absolute() and str(planted.folder) not in fault.detail
        assert (planted.folder / fault.file).exists(), fault


def test_the_report_depends_neither_on_threads_nor_on_the_process_nor_on_the_place(planted: Planter, tmp_path: Path) -> None:
    text = check_dataset(planted.folder, workers=4).to_json()
    moved = Path(shutil.copytree(planted.folder, tmp_path / "elsewhere"))
    assert check_dataset(moved, workers=1).to_json() == text
    assert emodetect("check", moved, "--json", tmp_path / "report.json", hash_seed="7").returncode == 1
    assert (tmp_path / "report.json").read_text() == text
    assert json.loads(text)["counts"] == {defect: planted.planted.get(defect, 0) for defect in SEVERITIES} | {"label_suspect": None}, "nobody asked for suspects"


def test_turned_labels_are_suspected_more_often_than_others(copy: Path) -> None:
    turned: set[str] = set()

    def change(split: str, emotion: int) -> int:
        number[0] += 1
        return (emotion + 4) % len(EMOTIONS) if number[0] % 15 == 0 else emotion

    number = [0]
    before = {path: path.read_text() for path in copy.glob("*/labels/*.txt")}
    relabel(copy, change)
    turned = {path.relative_to(copy).as_posix() for path, text in before.items() if path.read_text() != text}
    report = check_dataset(copy, suspects=True)
    suspected = {fault.file for fault in report.of("label_suspect")}
    assert len(turned & suspected) / len(turned) > 2 * len(suspected) / len(before) > 0
    assert report.suspects and report.suspects.accuracy > 2 * report.suspects.commonest
    assert report.to_json() == check_dataset(copy, suspects=True, workers=1).to_json()


def test_suspects_of_a_set_that_is_too_small_are_none(tmp_path: Path) -> None:
    write_clean(tmp_path, 0, {"train": 4, "valid": 2, "test": 2})
    report = check_dataset(tmp_path, suspects=True)
    assert report.suspects and report.suspects.judged == 0 and report.counts["label_suspect"] == 0


def test_exit_codes_and_what_is_printed(clean: Path, planted: Planter, tmp_path: Path) -> None:
    good = emodetect("check", clean, "--workers", "1")
    assert good.returncode == 0 and good.stdout.splitlines()[-1].endswith("0 errors, 0 warnings, 0 notes")
    bad = emodetect("check", planted.folder)
    lines = bad.stdout.splitlines()
    assert bad.returncode == 1 and "Traceback" not in bad.stderr and not (planted.folder / "report.json").exists()
    for defect, count in planted.planted.items():
        line = next(number for number, text in enumerate(lines) if f" {defect} " in text)
        assert lines[line].split()[:2] == [SEVERITIES[defect].level, str(count)] and SEVERITIES[defect].remedy in lines[line + 1]
    levels = [line.split()[0] for line in lines if line.split(" ")[0] in ("error", "warning", "note")]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    table = next(number for number, text in enumerate(lines) if text.startswith("split"))
    assert lines[table].split()[1:] == list(EMOTIONS) and [line.split()[0] for line in lines[table + 1 : table + 4]] == ["train", "valid", "test"]


@pytest.mark.parametrize("arguments", [["check"], ["check", "nowhere"], ["check", "nowhere", "--workers", "many"], ["check", __file__]])
def test_a_wrong_call_exits_with_2(arguments: list[str]) -> None:
    done = emodetect(*arguments)
    assert done.returncode == 2 and done.stderr and "Traceback" not in done.stderr and not done.stdout


def test_the_base_install_says_what_the_check_needs(clean: Path) -> None:
    done = emodetect("check", clean, code=REFUSING)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "install emodetect[train]" in done.stderr
    assert emodetect("predict", "nowhere.jpg", code=REFUSING).returncode == 1


def test_wrong_numbers_are_refused(clean: Path) -> None:
    for options in ({"workers": -1}, {"correlation": 1.0}):
        with pytest.raises(Exception, match="give a"):
            check_dataset(clean, **options)


@pytest.mark.parametrize("split", ["valid", "val"])
def test_valid_may_be_called_val_and_a_missing_split_is_named(copy: Path, split: str) -> None:
    (copy / "valid").rename(copy / split)
    shutil.rmtree(copy / "test")
    assert [(fault.defect, fault.file) for fault in check_dataset(copy).faults] == [("split_empty", "test")]


rows = st.lists(st.one_of(st.text(max_size=30), st.lists(st.one_of(st.floats(width=32), st.integers(-9, 9)), max_size=7).map(lambda row: " ".join(map(str, row)))), max_size=6)


@ANY
@given(rows.map("\n".join).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=80))
def test_any_label_file_is_read_or_refused_and_the_check_agrees(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(data)
    faults, faces = label_faults(path, "any.txt")
    harmless = {"label_empty", "label_duplicate_row", "box_whole_frame"}
    assert {fault.defect for fault in faults} <= SEVERITIES.keys()
    try:
        read = read_labels(path)
    except DataError:
        assert {fault.defect for fault in faults} - harmless
    else:
        assert {fault.defect for fault in faults} <= harmless
        assert faces == list(dict.fromkeys(read)) and bool(read) != ("label_empty" in {fault.defect for fault in faults})


@st.composite
def labelled_faces(draw: Callable) -> Face:
    """A face whose box lies in the frame, or overhangs it by no more than is accepted."""
    left, top = draw(st.floats(-OVERHANG, 0.99)), draw(st.floats(-OVERHANG, 0.99))
    width, height = (draw(st.floats(SMALLEST_SIDE, 1 - max(first, 0))) + max(-first, 0) for first in (left, top))
    face = Face(draw(st.integers(0, len(EMOTIONS) - 1)), left + width / 2, top + height / 2, width, height)
    try:
        return clip_face(parse_row(" ".join(map(repr, (face.emotion, face.x, face.y, face.width, face.height)))))
    except RowError:  # a rounding error beyond what is accepted
        return reject()


@ANY
@given(st.lists(labelled_faces(), max_size=6))
def test_written_labels_are_read_as_they_were_and_have_no_fault(tmp_path_factory: pytest.TempPathFactory, faces: list[Face]) -> None:
    path = tmp_path_factory.getbasetemp() / "written.txt"
    write_labels(path, faces)
    read = read_labels(path)
    text = path.read_text()
    write_labels(path, read)
    assert path.read_text() == text, "a second time, nothing changes"
    assert [face.emotion for face in read] == [face.emotion for face in faces]
    for old, new in zip(faces, read, strict=True):
        assert max(abs(a - b) for a, b in zip(old.corners(1, 1), new.corners(1, 1), strict=True)) < 2e-6
    assert {fault.defect for fault in label_faults(path, "written.txt")[0]} <= {"label_empty", "label_duplicate_row", "box_whole_frame"}


def encoded(kind: str) -> bytes:
    """A small picture as the bytes of a file."""
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, kind)
    return file.getvalue()


@ANY
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(
    st.sampled_from([encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.integers(0, 4000),
)
def test_any_picture_is_judged_and_never_raises(data: bytes, changes: list[tuple[int, int]], length: int) -> None:
    spoilt = bytearray(data)
    for place, value in changes:
        spoilt[place % len(spoilt)] = value
    faults, picture = picture_faults(bytes(spoilt[:length]), "any.png")
    broken = {"picture_unreadable", "picture_truncated", "picture_too_large"} & {fault.defect for fault in faults}
    assert (picture is None) == bool(broken) and {fault.defect for fault in faults} <= SEVERITIES.keys()


def test_what_is_absurdly_large_is_not_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, other = sorted((copy / "train" / "images").iterdir())[:2]
    picture.write_bytes(picture.read_bytes() + bytes(1_000_000))
    label_of(other).write_text("4 0.5 0.5 0.4 0.4\n" * 60_000)
    monkeypatch.setattr("emodetect.inspection.MAX_BYTES", picture.stat().st_size - 1)
    report = check_dataset(copy)
    found = {defect: [(fault.file, fault.detail) for fault in report.of(defect)] for defect, count in report.counts.items() if count}
    assert found == {
        "picture_too_large": [(picture.relative_to(copy).as_posix(), f"more than {picture.stat().st_size - 1:,} bytes")],
        "label_unreadable": [(label_of(other).relative_to(copy).as_posix(), "is larger than 1,000,000 bytes")],
    }
    with pytest.raises(DataError, match=r"the label file is larger than 1,000,000 bytes; replace it or remove its picture\.$"):
        read_labels(label_of(other))


def test_bad_rows_without_end_are_counted_and_a_few_are_listed(copy: Path) -> None:
    many, long = sorted(copy.glob("train/labels/*.txt"))[:2]
    many.write_text(many.read_text() + "9 .5 .5 1 1\n" * 50_000 + "4 0.5\n" * 30_000)
    long.write_text(long.read_text() + f"4 0.5 0.5 0.4 {'x' * 900_000}\n")
    report = check_dataset(copy)
    assert {defect: count for defect, count in report.counts.items() if count} == {"label_wrong_class": 50_000, "label_missing_columns": 30_000, "label_not_a_number": 1}
    assert report.levels["error"] == 80_001 == sum(defect["count"] for defect in report.to_dict()["defects"].values())
    assert len(report.faults) < 200 and len(report.to_json()) < 100_000 and max(len(fault.detail) for fault in report.faults) < 200
    name = many.relative_to(copy).as_posix()
    assert {Fault("label_missing_columns", name, "not listed: 30000 lines", 30_000), Fault("label_wrong_class", name, "not listed: 49900 lines", 49_900)} <= set(report.faults)
    entries = [entry for one in report.to_dict()["defects"].values() for entry in one["found"]]
    assert [entry["times"] for entry in entries if "times" in entry] == [30_000, 49_900] and sum(entry.get("times", 1) for entry in entries) == 80_001
    with pytest.raises(DataError, match="; and 49997 more: `emodetect check --json FILE` counts them all, and lists up to 100 of each label file"):
        refuse_faults(copy, report)


def test_a_label_that_two_pictures_share_is_told_once(copy: Path) -> None:
    picture = sorted((copy / "train" / "images").iterdir())[0]
    with Image.open(picture) as image:
        image.rotate(90).save(picture.with_suffix(".png"))
    label_of(picture).write_text("9 0.5 0.5 0.4 0.4\n")
    counts = check_dataset(copy).counts
    assert (counts["stem_shared"], counts["label_wrong_class"]) == (1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_text_is_told_in_escapes(copy: Path) -> None:
    picture = sorted((copy / "train" / "images").iterdir())[0]
    picture.rename(os.fsdecode(os.fsencode(picture.parent) + b"/caf\xe9.jpg"))
    report = check_dataset(copy)
    assert report.counts["label_missing"] == report.counts["label_orphan"] == 1
    assert json.loads(report.to_json())["defects"]["label_missing"]["found"][0]["file"] == "train/images/caf\udce9.jpg"
    done = emodetect("check", copy)
    assert done.returncode == 1 and "caf\\udce9.jpg" in done.stdout, done.stderr


REAL = Path(__file__).parents[2] / "shared" / "data" / "real8"  # real faces, which lie beside the project where somebody has them and are no part of it


@pytest.mark.skipif(not REAL.exists(), reason="the real faces are not beside the project")
def test_what_is_said_of_real_faces_is_what_their_own_list_and_labels_say() -> None:
    """Counted by other means: the list that came with them, and the text of the labels."""
    with (REAL / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    report, data = check_dataset(REAL / "YOLO_format"), REAL / "YOLO_format"
    listed = Counter((row["split"], row["class"].lower()) for row in rows)
    assert {(split, emotion): count for split, emotions in report.faces.items() for emotion, count in emotions.items() if count} == dict(listed)
    assert report.pictures == dict(Counter(row["split"] for row in rows)) and sum(report.pictures.values()) == 4976
    boxes = [[float(number) for number in path.read_text().split()[3:]] for path in sorted(data.glob("*/labels/*.txt"))]
    whole = sum(min(box) >= 0.98 for box in boxes)
    assert {name: count for name, count in report.counts.items() if count} == {"box_whole_frame": whole, "class_imbalance": 1, "class_shift": 1} and whole == 5
    table = np.array([[listed[split, emotion] for emotion in EMOTIONS] for split in report.pictures])
    assert report.shift and report.shift.cramers_v == pytest.approx(association(table, method="cramer"))
