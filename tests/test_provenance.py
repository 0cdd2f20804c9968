"""What the pipeline's files carry, held against git, DVC and the environment."""

import json
import os
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from conftest import Copy
from emodetect.checkout import Checkout, compare, origin_of, pipeline_steps
from emodetect.cli import CARRIERS, main
from emodetect.core import ModelError
from emodetect.detector import decode_picture, load_detector
from emodetect.provenance import Provenance, dvc_id, read_provenance
from emodetect.yolo import load_checkpoint

FILES = {
    "models/emodetect.pt": ["train"],
    "models/calibration.json": ["train", "calibrate"],
    "models/emodetect.onnx": ["train", "calibrate", "export"],
    "reports/evaluate/metrics.json": ["train", "calibrate", "evaluate"],
}


@pytest.fixture
def clone(pipeline: Copy, tmp_path: Path) -> Path:
    """A fresh clone of the pipeline that has run: no data, no model."""
    subprocess.run(["git", "clone", "--quiet", pipeline.folder, tmp_path / "clone"], check=True)
    return tmp_path / "clone"


def commits(folder: Path) -> list[str]:
    """The commits of a clone, the newest first."""
    return subprocess.run(["git", "log", "--format=%H"], cwd=folder, capture_output=True, text=True, check=True).stdout.split()


def differences(path: Path, folder: Path) -> dict[str, str]:
    """The facts in which a folder differs from what made a file."""
    return {row.fact: row.text for row in compare(path, read_provenance(path), folder) if row.agrees is False}


@pytest.mark.parametrize(("name", "stages"), FILES.items(), ids=lambda value: Path(value).suffix if isinstance(value, str) else "")
def test_a_file_carries_what_git_dvc_and_the_environment_say(pipeline: Copy, name: str, stages: list[str]) -> None:
    steps = read_provenance(pipeline.folder / name).steps
    assert [step.stage for step in steps] == stages
    tracked = {line.split("\t")[1]: line.split()[1] for line in pipeline.run("git", "ls-files", "--stage").stdout.splitlines()}
    for step in steps:
        entry = pipeline.lock[step.stage]
        made = {out["path"] for stage in pipeline.lock.values() for out in stage["outs"]}
        assert step.data == {dep["path"]: dep["md5"] for dep in entry["deps"] if dep["path"] in made} and step.data
        assert step.code == {dep["path"]: tracked[dep["path"]] for dep in entry["deps"] if dep["path"] not in made}
        assert step.parameters == entry["params"]["params.yaml"] and "requirements.txt" in step.code
        assert {name: version(name) for name in step.libraries} == step.libraries and {"torch", "numpy", "onnx", "ultralytics-opencv-headless"} <= step.libraries.keys()
    assert steps[0].parameters["train"]["seed"] == 0 and steps[0].parameters["threads"] == 2


@pytest.mark.parametrize("name", FILES, ids=lambda name: Path(name).suffix)
def test_the_commit_is_the_first_that_holds_the_inputs(pipeline: Copy, name: str) -> None:
    ran, start = commits(pipeline.folder)
    assert origin_of(pipeline.folder, read_provenance(pipeline.folder / name).steps).commit == start != ran


def test_a_fresh_clone_would_make_the_files_again(pipeline: Copy, clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in FILES:
        assert main(["provenance", str(pipeline.folder / name), "--verify", "--project", str(clone)]) == 0, name
    assert "DIFFERS" not in (printed := capsys.readouterr().out) and printed.count("agrees") >= 3 * 9
    assert not (clone / "data" / "prepared").exists(), "the data need not lie there"


@pytest.mark.parametrize("name", ["reports/train/metrics.json", "reports/report/metrics.json"])
def test_a_file_that_carries_nothing_is_told_which_ones_do(pipeline: Copy, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["provenance", str(pipeline.folder / name)]) == 1
    first, *others, last = FILES
    assert set(CARRIERS) == {first, *others, last}
    said = capsys.readouterr().err
    assert said.startswith(f"emodetect: {pipeline.folder / name}: carries no provenance; ") and all(carrier in said for carrier in FILES) and "by hand" not in said


def change_value(name: str, value: object) -> Callable[[Path], None]:
    """A change of one parameter in a clone."""

    def change(folder: Path) -> None:
        parameters = yaml.safe_load((folder / "params.yaml").read_text())
        *path, last = name.split(".")
        table = parameters
        for part in path:
            table = table[part]
        table[last] = value
        (folder / "params.yaml").write_text(yaml.safe_dump(parameters))

    return change


def add_line(name: str) -> Callable[[Path], None]:
    """A change of one file in a clone."""
    return lambda folder: (folder / name).write_text((folder / name).read_text() + "\n")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_value("train.seed", 1), {"parameters": "train.seed 0 → 1", "seed": "train.seed 0 → 1"}),
        (change_value("threads", 1), {"parameters": "threads 2 → 1", "threads": "threads 2 → 1"}),
        (change_value("data.seed", 5), {"data": "fetch would run again (data)"}),
        (change_value("model.weights", "yolo11n-seg"), {"weights": "weights would run again (model.weights)", "data": "weights would run again"}),  # it makes the face finder, too
        (add_line("emodetect/export.py"), {"code": "emodetect/export.py "}),
        (add_line("requirements.txt"), {"lock file": "requirements.txt ", "data": "prepare would run again", "weights": "weights would run again"}),
        (add_line("README.md"), {}),
        (change_value("evaluate.gallery", 3), {}),
    ],
    ids=["seed", "threads", "data", "weights", "code", "lock file", "readme", "another stage"],
)
def test_verify_names_what_a_checkout_would_do_otherwise(pipeline: Copy, clone: Path, change: Callable[[Path], None], expected: dict[str, str]) -> None:
    change(clone)
    found = differences(pipeline.folder / "models" / "emodetect.onnx", clone)
    assert found.keys() == expected.keys()
    assert all(text in found[fact] for fact, text in expected.items()), found


def test_other_libraries_and_other_commits_are_named(pipeline: Copy, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pipeline.folder / "models" / "emodetect.onnx"
    monkeypatch.setattr("emodetect.checkout.library_versions", lambda: read_provenance(model).steps[0].libraries | {"torch": "1.0"})
    found = differences(model, clone)
    assert found.keys() == {"libraries"} and found["libraries"].startswith("torch ") and found["libraries"].endswith("→ 1.0")
    monkeypatch.undo()
    add_line("emodetect/export.py")(clone)
    subprocess.run(["git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--all", "--message=other"], cwd=clone, check=True)
    found = differences(model, clone)
    assert found.keys() == {"commit", "code"} and commits(clone)[-1] in found["commit"] and "has other inputs" in found["commit"]


def test_a_model_from_changes_that_nobody_committed_says_so(pipeline: Copy, clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a stage would record in a dirty tree is found in no commit; once it is committed, it is."""
    shutil.copytree(pipeline.folder / "data" / "prepared", clone / "data" / "prepared")
    shutil.copyfile(pipeline.folder / "models" / "pretrained.pt", clone / "models" / "pretrained.pt")
    add_line("emodetect/training.py")(clone)
    made = clone / "dirty.json"
    made.write_text(json.dumps({"provenance": pipeline_steps(clone, "train")}))
    assert main(["provenance", str(made), "--json", "--project", str(clone)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["commit"] == "" and printed["clean"] is None
    assert main(["provenance", str(made), "--stamp", str(clone / "stamped.json"), "--project", str(clone)]) == 1
    assert "cannot be stamped: no commit here holds these inputs" in capsys.readouterr().err and not (clone / "stamped.json").exists()
    subprocess.run(["git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--all", "--message=after all"], cwd=clone, check=True)
    assert origin_of(clone, read_provenance(made).steps).commit == commits(clone)[0]


def test_without_git_the_rest_is_still_told(pipeline: Copy, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(clone / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(clone.parent))
    model = pipeline.folder / "models" / "emodetect.onnx"
    rows = {row.fact: row.agrees for row in compare(model, read_provenance(model), clone)}
    assert rows.pop("commit") is None and set(rows.values()) == {True}


@pytest.mark.parametrize("name", FILES, ids=lambda name: Path(name).suffix)
def test_a_stamped_copy_carries_the_commit_and_works_as_before(pipeline: Copy, tmp_path: Path, name: str) -> None:
    before = dvc_id(pipeline.folder / name)
    copy = tmp_path / Path(name).name
    assert main(["provenance", str(pipeline.folder / name), "--stamp", str(copy), "--project", str(pipeline.folder)]) == 0
    assert dvc_id(pipeline.folder / name) == before, "the pipeline's own file stays"
    assert read_provenance(copy) == Provenance(read_provenance(pipeline.folder / name).steps, {"commit": commits(pipeline.folder)[-1], "clean": True, "md5": before})
    assert not differences(copy, pipeline.folder) and main(["provenance", str(copy), "--stamp", str(tmp_path / f"again{copy.suffix}"), "--project", str(pipeline.folder)]) == 1
    picture = decode_picture(next((pipeline.folder / "data" / "prepared" / "test" / "images").iterdir()))
    if copy.suffix == ".onnx":
        assert load_detector(copy, 0.0)([picture]) == load_detector(pipeline.folder / name, 0.0)([picture])
    elif copy.suffix == ".pt":
        states = [load_checkpoint(path)[0].state_dict() for path in (copy, pipeline.folder / name)]
        assert all(states[0][key].equal(states[1][key]) for key in states[1])
    else:
        assert json.loads(copy.read_text()).items() >= json.loads((pipeline.folder / name).read_text()).items()


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch sprung",)


def test_a_checkpoint_is_read_without_running_anything_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("trap.pt", "w") as archive:
        archive.writestr("emodetect/data.pkl", pickle.dumps(Trap()))
        archive.writestr("emodetect/provenance.json", json.dumps([{"stage": "train", "code": {}, "data": {}, "parameters": {}, "libraries": {}}]))
    assert read_provenance("trap.pt").steps[0].stage == "train" and not Path("sprung").exists()
    with zipfile.ZipFile("bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("emodetect/provenance.json", "[" + " " * 20_000_000 + "]")
    with pytest.raises(ModelError, match=r"bomb.pt: carries no provenance of emodetect or is damaged \(ValueError\)"):
        read_provenance("bomb.pt")


def test_the_lock_holds_for_every_stage_as_dvc_says(pipeline: Copy) -> None:
    """`behind` and `dvc status` agree on the pipeline as it is."""
    from emodetect.checkout import behind

    checkout = Checkout(pipeline.folder)
    assert not [stage for stage in checkout.stages if behind(checkout, stage)]
    assert "up to date" in pipeline.run("dvc", "status").stdout
