"""The pipeline itself, run for real on a small sample in folders of its own."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import nbformat
import psutil
import pytest
import yaml

from conftest import Copy
from emodetect.checkout import origin_of
from emodetect.detector import load_session
from emodetect.manifest import MANIFEST, pictures_of
from emodetect.provenance import read_provenance
from emodetect.stages import QUICK

STAGES = ["fetch", "weights", "prepare", "train", "calibrate", "evaluate", "export", "report"]


def ran(output: str) -> set[str]:
    """The stages that a run of DVC says to have run."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")}


def test_every_stage_leaves_its_outputs(pipeline: Copy) -> None:
    assert list(pipeline.lock) and set(pipeline.lock) == set(STAGES)
    for stage in pipeline.lock.values():
        for out in stage["outs"]:
            assert (pipeline.folder / out["path"]).exists() and out["md5"]
    assert (pipeline.folder / "models" / "emodetect.onnx").stat().st_size > 1_000_000


def test_the_model_carries_what_was_calibrated(pipeline: Copy) -> None:
    calibration = json.loads((pipeline.folder / "models" / "calibration.json").read_text())
    described = load_session(pipeline.folder / "models" / "emodetect.onnx")[1]
    assert {name: described[name] for name in ("share", "temperature", "confirm")} == {name: calibration[name] for name in ("share", "temperature", "confirm")}


def test_a_second_repro_runs_nothing(pipeline: Copy) -> None:
    assert ran(pipeline.repro()) == set()
    assert pipeline.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize("stage", STAGES)
def test_executed_notebook_is_worth_reading_and_holds_no_times_or_paths(pipeline: Copy, stage: str) -> None:
    path = pipeline.folder / "reports" / "notebooks" / f"{stage}.ipynb"
    text, notebook = path.read_text(), nbformat.read(path, as_version=4)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert len(shown) >= 2 and any("text/html" in output.get("data", {}) for output in shown)
    assert stage == "weights" or any("image/png" in output.get("data", {}) for output in shown)
    assert not [output for output in shown if output.output_type == "error" or output.get("name") == "stderr"]
    for trace in (str(pipeline.folder), str(Path.home()), "start_time", "duration"):
        assert trace not in text, f"{path.name} holds {trace!r}"
    assert "0x7f" not in re.sub("[A-Za-z0-9+/=]{60,}", "", text), "an object's address in memory, outside of pictures, whose letters are chance"
    assert [cell.id for cell in notebook.cells] == [f"cell-{number}" for number in range(len(notebook.cells))]


def test_metrics_count_every_face_and_name_data_and_model(pipeline: Copy) -> None:
    metrics = json.loads((pipeline.folder / "reports" / "evaluate" / "metrics.json").read_text())
    assert metrics["pictures"] == 12 == len(pictures_of(pipeline.folder / "data" / "prepared", "test"))
    assert {"map50", "map50_95", "precision", "recall", "ap50", "faces", "data_sha256", "checkpoint_sha256"} <= metrics.keys()
    assert sum(metrics["faces_of"].values()) == metrics["faces"]
    record = json.loads((pipeline.folder / "reports" / "export" / "parity.json").read_text())
    assert record["checkpoint_sha256"] == metrics["checkpoint_sha256"] and record["parity"]["pictures"] == 4


def test_report_is_one_page_that_works_offline_says_what_it_cannot_judge_and_comes_again(pipeline: Copy) -> None:
    files = [pipeline.folder / "reports" / name for name in ("report.html", "model_card.md", "report/metrics.json", "notebooks/report.ipynb")]
    before = [path.read_bytes() for path in files]
    text, card = (content.decode() for content in before[:2])
    assert "<script" not in text and all(address.startswith(("#", "data:")) for address in re.findall(r'(?:src|href)="([^"]*)"', text))
    opening = text[text.index('class="verdict"'):].split("</p>")[0]
    assert "On 12 pictures (drawn faces)" in opening and "Nothing can be said of anger" in opening
    assert text.count("<figure>") + text.count("<table>") == text.count("<figcaption>") + text.count("<caption>") >= 6, "every picture and table says what to see"
    assert yaml.safe_load(card.split("---")[1])["license"] == "agpl-3.0" and "Article 5(1)(f)" in card
    groups = json.loads(before[2])["slices"]
    assert all(any(name.startswith(trait) for name in groups) for trait in ("emotion", "size", "head turn", "head tilt")), groups.keys()
    assert "of this kind and size answers was not measured" in text, "the kept times are those of another network"
    assert re.search("Left out, since it was asked about other answers: fer [0-9.]+; `make peer` asks again", text), "the kept answers are about other faces"
    assert pipeline.stage("report").returncode == 0 and [path.read_bytes() for path in files] == before


def test_gate_prints_each_figure_and_refuses_a_model_that_has_learnt_nothing(pipeline: Copy) -> None:
    done = pipeline.run(sys.executable, "-c", "import sys; from emodetect.cli import main; sys.exit(main(['gate']))", check=False)
    lines = {line[7:39].strip(): line.split()[0] for line in done.stdout.splitlines()}
    assert done.returncode == 1 and lines["mAP50"] == "FAIL" == lines["lead over the nearest baseline"]
    assert lines["parity of answers"] == lines["right of the worst emotion"] == lines["against production"] == "pass", "three faces by themselves fail nobody"


def test_dvc_shows_metrics_plots_and_experiments(pipeline: Copy, tmp_path: Path) -> None:
    shown = json.loads(pipeline.run("dvc", "metrics", "show", "--json").stdout)
    files = shown[""]["data"]
    assert "map50" in files["reports/evaluate/metrics.json"]["data"] and files["reports/train/metrics.json"]["data"]["step"] == 0
    drawn = json.loads(pipeline.run("dvc", "plots", "show", "--json", "--out", str(tmp_path / "plots")).stdout.splitlines()[-1])
    assert not drawn.get("errors"), drawn.get("errors")
    names = set(drawn["data"])
    assert {"box loss", "class loss", "average precision", "confusion matrix", "precision and recall"} <= names, names
    assert any(name.endswith("mistakes.png") for name in names) and any("answers.png" in name for name in names)
    experiments = json.loads(pipeline.run("dvc", "exp", "show", "--json").stdout)
    assert "reports/evaluate/metrics.json" in experiments[0]["data"]["metrics"]


def test_dvclive_keeps_every_epoch(pipeline: Copy) -> None:
    folder = pipeline.folder / "reports" / "train"
    assert {path.stem for path in (folder / "plots" / "metrics").rglob("*.tsv")} >= {"box_loss", "cls_loss", "precision", "recall", "mAP50", "mAP50-95", "lr"}
    assert (folder / "plots" / "metrics" / "lr.tsv").read_text().splitlines()[0] == "step\tlr"
    assert yaml.safe_load((folder / "params.yaml").read_text())["epochs"] == 1
    assert not list(folder.rglob("*.html"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"evaluate": {"gallery": 5}}, {"evaluate"}),
        ({"export": {"parity_pictures": 3}}, {"export"}),
        ({"report": {"gallery": 5}}, {"report"}),
        ({"detector": {"confidence": 0.2}}, {"calibrate", "evaluate", "export"}),
        ({"detector": {"mode": "frame"}}, {"weights", "calibrate", "evaluate", "export"}),
        ({"train": {"lr0": 0.02}}, {"train"}),
        ({"threads": 1}, {"train", "calibrate", "evaluate", "export", "report"}),
        ({"prepare": {"seed": 9}}, {"prepare"}),
        ({"data": {"seed": 9}}, {"fetch"}),
        ({"serve": {"port": 9}}, set()),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_parameter_changes_the_stages_that_depend_on_it(pipeline: Copy, change: dict, expected: set[str]) -> None:
    try:
        pipeline.change(change)
        assert set(json.loads(pipeline.run("dvc", "status", "--json").stdout)) == expected
    finally:
        pipeline.run("git", "checkout", "--quiet", "--", ".")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"evaluate": {"gallery": 5}}, {"evaluate", "report"}),  # its provenance, and so its metrics, name the parameter
        ({"export": {"parity_pictures": 3}}, {"export", "report"}),
        ({"report": {"gallery": 5}}, {"report"}),
        ({"detector": {"confidence": 0.2}}, {"calibrate", "evaluate", "export", "report"}),
        ({"prepare": {"seed": 9}}, {"prepare"}),  # it keeps all pictures, so its outputs and all that follows stay
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_follows_runs_again_only_if_its_inputs_changed(pipeline: Copy, change: dict, expected: set[str]) -> None:
    try:
        pipeline.change(change)
        assert ran(pipeline.repro()) == expected
    finally:
        pipeline.run("git", "checkout", "--quiet", "--", ".")
        pipeline.run("dvc", "checkout", "--force")
    assert ran(pipeline.repro()) == set(), "going back to the old value needs no work"


def test_experiments_import_their_own_copy_of_the_package(pipeline: Copy, tmp_path: Path) -> None:
    """Queued and temporary experiments run the code of their commit, though another checkout's package is installed."""
    queued = pipeline.run("dvc", "exp", "run", "--queue", "--name", "queued", "-S", "evaluate.gallery=7", "evaluate").stdout
    assert "Queued experiment" in queued
    started = pipeline.run("dvc", "exp", "run", "--run-all", "--jobs", "1").stdout
    temporary = pipeline.run("dvc", "exp", "run", "--temp", "--name", "temporary", "-S", "evaluate.gallery=6", "evaluate").stdout
    names = {row["name"] for row in json.loads(pipeline.run("dvc", "exp", "show", "--json").stdout)[1]["experiments"] or []}
    assert names == {"queued", "temporary"}, started + temporary
    for name, gallery in (("queued", 7), ("temporary", 6)):
        composed = yaml.safe_load(pipeline.run("git", "show", f"refs/exps/{reference(pipeline, name)}:params.yaml").stdout)
        assert composed["evaluate"]["gallery"] == gallery
        commit = pipeline.run("git", "rev-parse", f"refs/exps/{reference(pipeline, name)}").stdout.strip()
        (tmp_path / "metrics.json").write_text(pipeline.run("git", "show", f"{commit}:reports/evaluate/metrics.json").stdout)
        assert origin_of(pipeline.folder, read_provenance(tmp_path / "metrics.json").steps).commit == commit, "its workspace is gone, its commit is known"
    assert pipeline.run("git", "status", "--porcelain").stdout == ""
    pipeline.run("dvc", "exp", "remove", "--all-commits")


def reference(copy: Copy, name: str) -> str:
    """The git reference of an experiment, below refs/exps."""
    lines = copy.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.splitlines()
    return next(line.removeprefix("refs/exps/") for line in lines if line.endswith(f"/{name}"))


def test_a_kernel_that_imports_another_package_is_refused(pipeline: Copy) -> None:
    environment = os.environ | {"EMODETECT_PROJECT": str(pipeline.folder)}
    code = "from emodetect.stages import workspace; workspace('.')"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment | {"PYTHONPATH": ""}, capture_output=True, text=True)
    assert done.returncode == 1 and "was imported from" in done.stderr


def test_the_data_report_shows_what_changed_since_a_version(pipeline: Copy) -> None:
    folder, first = pipeline.folder / "scratch" / "second", pipeline.run("git", "rev-parse", "HEAD").stdout.strip()
    shutil.copytree(pipeline.folder / "data" / "raw", folder)
    labels = sorted(path for path in (folder / "train" / "labels").iterdir() if len(path.read_text().splitlines()) == 1)
    for label in labels[:3]:
        emotion, box = label.read_text().split(" ", 1)
        label.write_text(f"{(int(emotion) + 1) % 8} {box}")
    for number in range(2):  # the same pixels in other bytes would be found as duplicates, so these are turned upside down
        picture = cv2.imread(str(folder / "train" / "images" / f"{labels[number].stem}.jpg"))
        cv2.imwrite(str(folder / "train" / "images" / f"new{number}.png"), picture[::-1])
        (folder / "train" / "labels" / f"new{number}.txt").write_text(labels[number].read_text())
    try:
        pipeline.change({"data": {"source": "folder", "path": "scratch/second"}, "prepare": {"since": first}})
        pipeline.repro("prepare")
        changes = json.loads((pipeline.folder / "reports" / "prepare" / "changes.json").read_text())
        assert {kind: count for kind, count in changes["counts"].items() if count} == {"added": 2, "relabelled": 3}
        assert {change["picture"] for change in changes["changes"]["added"]} == {"train/images/new0.png", "train/images/new1.png"}
        notebook = (pipeline.folder / "reports" / "notebooks" / "prepare.ipynb").read_text()
        assert "2  added" in notebook and "3  relabelled" in notebook and "5 changes" in notebook and "24 → 26" in notebook
        pipeline.change({"prepare": {"since": "0123456"}})
        assert "the revision '0123456' is unknown to git here" in pipeline.repro("prepare", check=False)
    finally:
        pipeline.run("git", "checkout", "--quiet", "--", ".")
        pipeline.run("dvc", "checkout", "--force")
        shutil.rmtree(folder)


def test_two_folders_give_the_same_lock(pipeline: Copy, new_copy: Callable[[], Copy]) -> None:
    other = new_copy()
    other.repro()
    assert other.folder != pipeline.folder and other.lock == pipeline.lock


def test_a_pipeline_killed_half_way_stops_whole_and_is_run_again(pipeline: Copy) -> None:
    before = pipeline.lock
    try:
        pipeline.change({"train": {"epochs": 10_000}})  # hours: it cannot be over before it is killed
        environment = {name: value for name, value in os.environ.items() if name != "SHELL"}  # DVC then runs a stage by `sh -c`, and some shells wait beside it
        dvc = psutil.Popen(["dvc", "repro", "train"], cwd=pipeline.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        table, deadline = pipeline.folder / "reports" / "train" / "plots" / "metrics" / "lr.tsv", time.monotonic() + 120
        while dvc.poll() is None and time.monotonic() < deadline and not (table.exists() and len(table.read_text().splitlines()) > 2):
            time.sleep(0.05)
        family = dvc.children(recursive=True)
        assert dvc.poll() is None and len(family) >= 2 and len(table.read_text().splitlines()) > 2, "the training did not begin"
        dvc.kill()
        dvc.wait()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, "a stage or its kernel goes on without DVC and would write into the next run's outputs"
        assert not (pipeline.folder / "models" / "emodetect.pt").exists()
    finally:
        pipeline.run("git", "checkout", "--quiet", "--", ".")
    pipeline.repro()
    assert pipeline.lock == before and (pipeline.folder / "models" / "emodetect.pt").exists()
    assert pipeline.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize(
    ("change", "stage", "sentence"),
    [
        ({"train": {"epochs": "ten"}}, "train", "params.yaml: train.epochs is 'ten', but a whole number is expected"),
        ({"train": {"lrO": 0.1}}, "train", "params.yaml: train.lrO is unknown to the stage train"),
        ({"trian": {"lr0": 0.1}}, "prepare", "params.yaml: trian belongs to no stage"),
        ({"data": {"source": "folder", "path": "no/such/folder"}}, "fetch", "no/such/folder: there is no such folder"),
        ({"data": {"source": "kagle"}}, "fetch", "data.source is 'kagle'"),
        ({"model": {"architecture": "yolo99"}}, "train", "model.architecture 'yolo99' is unknown"),
        ({"train": {"lr0": -1.0}}, "train", "lr0 is -1.0; give a value from"),
        ({"export": {"max_score_difference": 0.0}}, "export", "the exported model does not answer as the checkpoint does"),
        ({"evaluate": {"split": "night"}}, "evaluate", "the split 'night'"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_bad_parameter_stops_the_stage_with_one_sentence(pipeline: Copy, change: dict, stage: str, sentence: str) -> None:
    path = pipeline.folder / "params.yaml"
    try:
        parameters = yaml.safe_load(path.read_text())
        for group, values in change.items():
            parameters[group] = parameters.get(group, {}) | values
        path.write_text(yaml.safe_dump(parameters, sort_keys=False))
        done = pipeline.stage(stage)
    finally:
        pipeline.run("git", "checkout", "--quiet", "--", ".")
        pipeline.run("dvc", "checkout", "--force")
    lines = [line for line in done.stdout.splitlines() if line.startswith(f"{stage}: ")]
    assert done.returncode == 1 and len(lines) == 1 and sentence in lines[0], done.stdout
    assert "Traceback" not in done.stdout


def test_missing_parameter_stops_the_stage_with_one_sentence(pipeline: Copy) -> None:
    path = pipeline.folder / "params.yaml"
    try:
        parameters = yaml.safe_load(path.read_text())
        del parameters["evaluate"]["gallery"]
        path.write_text(yaml.safe_dump(parameters, sort_keys=False))
        done = pipeline.stage("evaluate")
    finally:
        pipeline.run("git", "checkout", "--quiet", "--", ".")
    assert done.returncode == 1 and "the stage evaluate misses evaluate_gallery" in done.stdout and "Traceback" not in done.stdout


def break_label(text: str) -> Callable[[Path], str]:
    """A fault that writes a label row, and the name of the file that must be reported."""

    def fault(data: Path) -> str:
        label = sorted((data / "train" / "labels").iterdir())[3]
        label.write_text(text)
        return label.name

    return fault


def cut_picture(data: Path) -> str:
    """A fault that cuts a JPEG in half."""
    picture = sorted((data / "valid" / "images").iterdir())[0]
    picture.write_bytes(picture.read_bytes()[: picture.stat().st_size // 2])
    return picture.name


def empty_split(data: Path) -> str:
    """A fault that leaves a split without pictures."""
    for picture in (data / "test" / "images").iterdir():
        picture.unlink()
    return "data/raw/test: has no picture"


DEFECTS = {
    "class 8": "label_wrong_class",
    "four numbers": "label_missing_columns",
    "NaN": "label_not_a_number",
    "outside": "label_out_of_frame",
    "truncated": "picture_truncated",
    "empty split": "split_empty",
}
FAULTS = {
    "class 8": break_label("8 .5 .5 .5 .5"),
    "four numbers": break_label("3 .5 .5 .5"),
    "NaN": break_label("3 nan .5 .5 .5"),
    "outside": break_label("3 .9 .5 .5 .5"),
    "truncated": cut_picture,
    "empty split": empty_split,
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_data_stop_the_stage_with_one_sentence(pipeline: Copy, name: str) -> None:
    raw, prepared = pipeline.folder / "data" / "raw", pipeline.folder / "data" / "prepared"
    try:
        shutil.copytree(raw, raw.with_name("faces"))
        shutil.rmtree(raw)  # a file may be one with DVC's own
        raw.with_name("faces").rename(raw)
        shutil.rmtree(prepared)  # as DVC does before it runs the stage
        named = FAULTS[name](raw)
        done = pipeline.stage("prepare")
        assert not prepared.exists(), "nothing half-prepared is left"
        counts = json.loads((pipeline.folder / "reports" / "prepare" / "check.json").read_text())["counts"]
        assert counts[DEFECTS[name]] == 1, "the whole list is there when the stage refuses"
    finally:
        pipeline.run("git", "checkout", "--quiet", "--", ".")
        pipeline.run("dvc", "checkout", "--force")
    told = [line for line in done.stdout.splitlines() if line.startswith("prepare: ")]
    assert done.returncode == 1 and len(told) == 1 and named in told[0] and "Traceback" not in done.stdout, done.stdout


@pytest.mark.parametrize("name", ["truncated", "empty split"])  # told by prepare, and by fetch before it; every fault stops the stage, above
def test_bad_data_stop_the_pipeline_which_goes_on_when_they_are_mended(pipeline: Copy, name: str, tmp_path: Path) -> None:
    good = shutil.copytree(pipeline.folder / "data" / "raw", tmp_path / "good")
    faces = shutil.copytree(good, tmp_path / "faces")
    named = FAULTS[name](faces)
    try:
        pipeline.change({"data": {"source": "folder", "path": str(faces)}})
        stopped = pipeline.run("dvc", "repro", "prepare", check=False)
        assert stopped.returncode != 0 and "Traceback" not in stopped.stdout, stopped.stdout
        assert named in stopped.stdout or (name == "empty split" and "the split 'test' is empty" in stopped.stdout), stopped.stdout
        shutil.rmtree(faces)
        shutil.copytree(good, faces)
        assert {"fetch"} <= ran(pipeline.repro("prepare")) <= {"fetch", "prepare"}  # what it prepared once, DVC remembers
    finally:
        pipeline.run("git", "checkout", "--quiet", "--", ".")
        pipeline.run("dvc", "checkout", "--force")
    assert ran(pipeline.repro()) == set()


def test_weights_that_differ_or_cannot_be_had_stop_the_pipeline(pipeline: Copy, tmp_path: Path) -> None:
    from emodetect.weights import PINS

    nowhere = {"EMODETECT_CACHE": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    try:
        pipeline.change({"model": {"weights": "yolo11n-seg"}})
        command = [sys.executable, "-m", "emodetect.stages", "weights"]
        offline = pipeline.run(*command, check=False, env=os.environ | nowhere)
        cached = tmp_path / PINS["yolo11n-seg"].sha256 / "yolo11n-seg.pt"
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(b"other weights")
        tampered = pipeline.run(*command, check=False, env=os.environ | nowhere)
    finally:
        pipeline.run("git", "checkout", "--quiet", "--", ".")
        pipeline.run("dvc", "checkout", "--force")
    assert offline.returncode == 1 and "the weights yolo11n-seg.pt cannot be had" in offline.stdout and "set model.weights to none" in offline.stdout
    assert tampered.returncode == 1 and "is pinned; remove the file and run again" in tampered.stdout
    assert "Traceback" not in offline.stdout + tampered.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file-size limit as Linux has it")
def test_no_space_stops_the_stage_with_one_sentence(pipeline: Copy) -> None:
    try:
        done = pipeline.run("bash", "-c", f"ulimit -f 64; exec {sys.executable} -m emodetect.stages export", check=False)
    finally:
        pipeline.run("dvc", "checkout", "--force")
    assert done.returncode == 1 and "Traceback" not in done.stdout, done.stdout
    assert "File too large" in done.stdout and "`dvc repro`" in done.stdout


def test_stage_notebook_run_by_hand_leaves_the_pipeline_alone(pipeline: Copy) -> None:
    notebook = pipeline.folder / "nbs" / "stages" / "prepare.ipynb"
    source = str(pipeline.folder)
    pipeline.run("jupyter", "nbconvert", "--to", "notebook", "--execute", "--stdout", str(notebook), env=os.environ | {"PYTHONPATH": source})
    assert (pipeline.folder / "scratch" / "prepare" / "data" / "prepared" / MANIFEST).exists()
    assert pipeline.run("git", "status", "--porcelain").stdout == "" and ran(pipeline.repro()) == set()


def test_a_library_that_prints_much_from_c_does_not_stop_a_stage(pipeline: Copy) -> None:
    path = pipeline.folder / "nbs" / "stages" / "weights.ipynb"
    notebook = nbformat.read(path, as_version=4)
    printing = "import ctypes\nctypes.PyDLL(None).write(1, b'.' * 200_000, 200_000)"  # without giving up Python's lock, as PyTorch's exporter does
    notebook.cells.append(nbformat.v4.new_code_cell(printing))
    try:
        nbformat.write(notebook, path)
        done = pipeline.run(sys.executable, "-m", "emodetect.stages", "weights", timeout=120)
    finally:
        pipeline.run("git", "checkout", "--quiet", "--", ".")
        pipeline.run("dvc", "checkout", "--force")
    assert "." * 200_000 in done.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the environment of a stage speaks to the GNU C library")
def test_stage_keeps_its_memory_and_what_the_user_set(pipeline: Copy) -> None:
    path = pipeline.folder / "nbs" / "stages" / "weights.ipynb"
    notebook = nbformat.read(path, as_version=4)
    memory = "int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')"
    source = f"import os\nbefore = {memory}\nblocks = [b'x' * 2**24 for _ in range(16)]\ndel blocks\nprint('kept', {memory} - before > 2**27, os.environ['GOMP_SPINCOUNT'])"
    notebook.cells.append(nbformat.v4.new_code_cell(source))
    given = {name: value for name, value in os.environ.items() if name not in QUICK}
    chosen = ({"GOMP_SPINCOUNT": "77"}, {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"})
    try:
        nbformat.write(notebook, path)
        printed = [pipeline.run(sys.executable, "-m", "emodetect.stages", "weights", env=given | more).stdout for more in chosen]
    finally:
        pipeline.run("git", "checkout", "--quiet", "--", ".")
        pipeline.run("dvc", "checkout", "--force")
    assert "kept True 77" in printed[0] and f"kept False {QUICK['GOMP_SPINCOUNT']}" in printed[1], printed
