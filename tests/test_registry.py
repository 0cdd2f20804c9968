"""The registry on a model of the pipeline: one clone registers, promotes and rolls back, another takes the model by its name."""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from conftest import Copy
from emodetect.checkout import Checkout
from emodetect.cli import main
from emodetect.core import ModelError, sha256_file
from emodetect.detector import load_detector
from emodetect.gates import METRICS, OUTCOMES_FILE, PARITY, REPORT
from emodetect.provenance import dvc_id, read_provenance
from emodetect.registry import Registry, check_registrable, gate, promote, register, resolve_model, rollback

MODEL = Path("models/emodetect.onnx")


@dataclass(frozen=True)
class Clone:
    """A clone of the pipeline that has run."""

    folder: Path

    def run(self, *command: str) -> str:
        """Run a command in it; what it prints."""
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def commit(self) -> None:
        """Commit all changes."""
        self.run("git", "commit", "--quiet", "--all", "--message=change")

    def demand(self, map50: float) -> None:
        """Set the mAP50 that a version must have; the other gates let a model pass that has learnt nothing."""
        path = self.folder / "params.yaml"
        limits = {"min_map50": map50, "min_lead": -1.0, "min_recall": 0.0, "max_calibration_error": 1.0}
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"registry": limits}, sort_keys=False))

    def another_model(self) -> None:
        """Export again with other parameters, which the file carries, so that it is another file; commit and push it."""
        path = self.folder / "params.yaml"
        parameters = yaml.safe_load(path.read_text())
        parameters["export"]["parity_pictures"] += 1
        path.write_text(yaml.safe_dump(parameters, sort_keys=False))
        self.run("dvc", "repro", "--quiet")
        self.commit()
        self.run("dvc", "push", "--quiet")


@pytest.fixture
def new_clone(pipeline: Copy, tmp_path: Path) -> Callable[[str], Clone]:
    """A function that makes a clone of the pipeline, with its outputs and a remote that has them."""

    def make(name: str) -> Clone:
        clone = Clone(tmp_path / name)
        subprocess.run(["git", "clone", "--quiet", pipeline.folder, clone.folder], check=True)
        for key, value in {"user.name": "test", "user.email": "test@example.org"}.items():
            clone.run("git", "config", key, value)
        shutil.copytree(pipeline.folder / ".dvc" / "cache", clone.folder / ".dvc" / "cache")
        clone.run("dvc", "checkout", "--quiet")
        clone.run("dvc", "remote", "add", "--quiet", "--default", "kept", str(tmp_path / "remote"))
        clone.demand(0.0)
        clone.commit()
        clone.run("dvc", "push", "--quiet")
        return clone

    return make


def refusal(act: Callable, *arguments: object) -> str:
    """What an act says when it refuses."""
    with pytest.raises(ModelError) as caught:
        act(*arguments)
    return str(caught.value)


def test_register_promote_refuse_roll_back_and_take_it_elsewhere(new_clone: Callable[[str], Clone], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maker = new_clone("maker")
    first = dvc_id(maker.folder / MODEL)
    assert gate(maker.folder)[-1].figure == "none there"
    assert register(maker.folder) == ("v1.0.0", ["emodetect@v1.0.0", "emodetect#candidate#1"])
    assert promote(maker.folder) == ("v1.0.0", ["emodetect#production#2"])
    assert "registered already, as emodetect v1.0.0" in refusal(register, maker.folder)

    maker.another_model()
    assert register(maker.folder, "patch")[0] == "v1.0.1" and dvc_id(maker.folder / MODEL) != first
    maker.demand(0.5)
    assert refusal(promote, maker.folder) == "params.yaml, which holds the limits of the gates, has changes that are not committed; commit them first."
    maker.commit()
    assert refusal(promote, maker.folder) == "emodetect v1.0.1 is not promoted: mAP50 is 0, at least 0.5 is required (registry.min_map50)."
    assert [version.stages for version in Registry(maker.folder).versions] == [("production",), ("candidate",)]
    maker.demand(0.0)
    maker.commit()
    compared = gate(maker.folder)[-1]
    assert compared.name == "against production" and compared.figure.endswith("no change") and compared.passed, "the same checkpoint answers the same"
    assert promote(maker.folder, "v1.0.1")[0] == "v1.0.1" and Registry(maker.folder).find("production").name == "v1.0.1"
    assert "in production already" in refusal(promote, maker.folder)

    taker = tmp_path / "taker"
    subprocess.run(["git", "clone", "--quiet", maker.folder, taker], check=True)
    newest = resolve_model("emodetect@production", taker, tmp_path / "cache")
    assert newest.read_bytes().startswith((maker.folder / MODEL).read_bytes())
    assert rollback(maker.folder)[0] == "v1.0.0"
    assert "has no former production version before v1.0.0" in refusal(rollback, maker.folder)
    told = maker.run("git", "tag", "--list", "--format=%(contents)", "emodetect#production#4").splitlines()
    assert told[0] == "emodetect v1.0.1 goes into production" and [line[:4] for line in told[2:] if line] == ["pass"] * len(gate(maker.folder))
    assert told[2] == str(gate(maker.folder)[0]), "the tag keeps what was asked"
    acts = {"emodetect@v1.0.0", "emodetect@v1.0.1", "emodetect#candidate#1", "emodetect#production#2", "emodetect#candidate#3", "emodetect#production#4", "emodetect#production#5"}
    assert set(maker.run("git", "tag").split()) == acts, "every act is kept"

    assert resolve_model("emodetect@production", taker, tmp_path / "cache") == newest, "a clone knows of it once it fetched the tags"
    subprocess.run(["git", "fetch", "--quiet", "--tags"], cwd=taker, check=True)
    older = resolve_model("emodetect@production", taker, tmp_path / "cache")
    assert older == resolve_model("emodetect@v1.0.0", taker, tmp_path / "cache") != newest and first in str(older)
    release = read_provenance(older).release
    assert release == {"version": "v1.0.0", "commit": Registry(taker).find("v1.0.0").commit, "clean": True, "md5": first}
    assert load_detector(older).image_size == 64 and not (taker / MODEL).exists()

    by_dvc = tmp_path / "by_dvc.onnx"
    subprocess.run(["dvc", "artifacts", "get", "--quiet", "--rev", "v1.0.0", "--out", by_dvc, taker, "emodetect"], check=True, capture_output=True)
    assert dvc_id(by_dvc) == first, "DVC reads the same tags"
    assert main(["registry", "list", "--project", str(taker)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["v1.0.0", "v1.0.1"]


def test_a_model_taken_once_is_there_offline_and_is_checked_at_each_use(new_clone: Callable[[str], Clone], tmp_path: Path) -> None:
    maker = new_clone("maker")
    register(maker.folder)
    taker, remote, hidden = tmp_path / "taker", tmp_path / "remote", tmp_path / "hidden"
    subprocess.run(["git", "clone", "--quiet", maker.folder, taker], check=True)
    remote.rename(hidden)
    lacking = refusal(resolve_model, "emodetect@candidate", taker, tmp_path / "cache")
    assert "models/emodetect.onnx of the commit" in lacking and "is in neither the cache nor the remote" in lacking and not list((tmp_path / "cache").rglob("*.onnx"))
    hidden.rename(remote)
    model = resolve_model("emodetect@candidate", taker, tmp_path / "cache")
    content = model.read_bytes()
    remote.rename(hidden)
    assert resolve_model("emodetect@candidate", taker, tmp_path / "cache") == model
    for damaged in (content[:-1], content[:5000] + b"x" + content[5001:], b""):
        model.write_bytes(damaged)
        assert "in neither the cache nor the remote" in refusal(resolve_model, "emodetect@candidate", taker, tmp_path / "cache")
    hidden.rename(remote)
    assert resolve_model("emodetect@candidate", taker, tmp_path / "cache").read_bytes() == content, "it is fetched again"

    identity = Checkout(maker.folder).made[str(MODEL)]
    kept = remote / "files" / "md5" / identity[:2] / identity[2:]
    kept.chmod(0o644)
    kept.write_bytes(b"another model")
    shutil.rmtree(taker / ".dvc" / "cache", ignore_errors=True)
    assert "came with other bytes than dvc.lock names" in refusal(resolve_model, "emodetect@candidate", taker, tmp_path / "other")
    assert not list((tmp_path / "other").rglob("*.onnx"))


def test_what_cannot_be_made_again_by_others_is_not_registered(new_clone: Callable[[str], Clone], tmp_path: Path) -> None:
    clone = new_clone("clone")
    folder = clone.folder
    check_registrable(folder)
    (folder / "notes.txt").write_text("mine")
    assert "not committed (notes.txt); commit them first" in refusal(register, folder)
    (folder / "notes.txt").unlink()

    parameters = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(parameters.replace("confidence: 0.25", "confidence: 0.3"))
    clone.commit()
    assert "dvc.lock is not what this commit makes (calibrate: detector; evaluate: detector; export: detector); run `dvc repro`" in refusal(register, folder)
    clone.run("git", "reset", "--quiet", "--hard", "HEAD~1")

    model = (folder / MODEL).read_bytes()
    (folder / MODEL).unlink()
    (folder / MODEL).write_bytes(model + b"\0")
    assert "is not the file that dvc.lock names; run `dvc checkout`" in refusal(register, folder)
    (folder / MODEL).unlink()
    check_registrable(folder)

    (tmp_path / "remote").rename(tmp_path / "gone")
    (tmp_path / "remote").mkdir()
    assert "the DVC remote does not have" in (lacking := refusal(register, folder)) and str(MODEL) in lacking and "run `dvc push`" in lacking
    clone.run("dvc", "remote", "remove", "kept")
    clone.commit()
    assert "there is no DVC remote from which others could take the model" in refusal(register, folder)
    assert "no version of emodetect is registered here" in refusal(promote, folder)
    assert clone.run("git", "tag") == ""


def test_gates_are_read_from_the_version_and_not_from_the_folder(new_clone: Callable[[str], Clone]) -> None:
    clone = new_clone("clone")
    register(clone.folder)
    report = clone.folder / "reports" / "evaluate" / "metrics.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | {"map50": 0.99}))
    clone.demand(0.9)
    clone.commit()
    assert "mAP50 is 0, at least 0.9 is required" in refusal(promote, clone.folder)
    path = clone.folder / "params.yaml"
    parameters = yaml.safe_load(path.read_text())
    parameters["export"] |= {"max_score_difference": -1.0, "max_box_difference": -1.0}
    path.write_text(yaml.safe_dump(parameters))
    clone.commit()
    said = refusal(promote, clone.folder)
    assert "parity of scores is" in said and "at most -1 is required (export.max_score_difference)" in said and "parity of boxes is" in said and "parity of answers" not in said
    assert Registry(clone.folder).find("candidate").stages == ("candidate",)


@pytest.mark.parametrize("name", [METRICS, REPORT, OUTCOMES_FILE, PARITY])
def test_what_was_changed_by_hand_is_neither_registered_nor_promoted(new_clone: Callable[[str], Clone], name: str) -> None:
    clone = new_clone("clone")
    content = (clone.folder / name).read_bytes()
    (clone.folder / name).unlink()  # DVC may have linked it to its cache
    (clone.folder / name).write_bytes(content + b"\n")  # as good a file of figures as before
    clone.run("git", "add", "--force", name)
    clone.commit()
    changed = "is not the file that dvc.lock names, so that it is no evidence; run `make pipeline`"
    assert refusal(register, clone.folder) == f"{name} of the commit HEAD {changed}, commit what it makes and register that."
    for tag in ("emodetect@v1.0.0", "emodetect#candidate#1"):
        clone.run("git", "tag", "--annotate", "--message=by hand", tag)
    assert f"{name} of the commit {Registry(clone.folder).find('v1.0.0').commit[:10]} {changed}" in refusal(promote, clone.folder)
    assert refusal(gate, clone.folder) == f"{name} {changed}."


def test_what_was_changed_in_production_is_called_so_and_not_other_pictures(new_clone: Callable[[str], Clone]) -> None:
    clone = new_clone("clone")
    content = (clone.folder / OUTCOMES_FILE).read_bytes()

    def commit(changed: bytes) -> None:
        (clone.folder / OUTCOMES_FILE).unlink()  # DVC may have linked it to its cache
        (clone.folder / OUTCOMES_FILE).write_bytes(changed)
        clone.run("git", "add", "--force", OUTCOMES_FILE)
        clone.commit()

    commit(content + b"\n")
    for tag in ("emodetect@v1.0.0", "emodetect#production#1"):
        clone.run("git", "tag", "--annotate", "--message=by hand", tag)
    commit(content)
    told = gate(clone.folder)[-1]
    made = f"{OUTCOMES_FILE} of the commit {Registry(clone.folder).find('production').commit[:10]} is not the file that dvc.lock names, so that it is no evidence"
    assert not told.passed and told.figure.startswith(f"not known: the outcomes of the version in production are not on record as they were made ({made}; ")
    assert "--accept-other-pictures" not in str(told) and "in common" not in str(told)


def test_a_model_that_was_judged_on_its_training_split_is_not_promoted(new_clone: Callable[[str], Clone]) -> None:
    clone = new_clone("clone")
    path = clone.folder / "params.yaml"
    parameters = yaml.safe_load(path.read_text())
    parameters["evaluate"]["split"] = "train"
    path.write_text(yaml.safe_dump(parameters, sort_keys=False))
    clone.run("dvc", "repro", "--quiet")
    clone.commit()
    clone.run("dvc", "push", "--quiet")
    assert "labelled faces that it was trained on, the detector finds" in (clone.folder / "reports" / "model_card.md").read_text()
    register(clone.folder)
    with pytest.raises(ModelError, match=r"is not promoted: evaluated split is train, test is required \(evaluate\.split\)\.$"):
        promote(clone.folder, accept_other_pictures=True)


def test_unknown_names_say_what_there_is(new_clone: Callable[[str], Clone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clone = new_clone("clone")
    assert "no version of emodetect is registered here; run `git fetch --tags`" in refusal(resolve_model, "emodetect@production", clone.folder)
    register(clone.folder)
    for name in ("emodetect@v9.0.0", "emodetect@production"):
        assert refusal(resolve_model, name, clone.folder) == f"emodetect has no version or stage '{name.split('@')[1]}'; there are v1.0.0 (candidate)."
    assert "no version of somebody is registered here" in refusal(resolve_model, "somebody@production", clone.folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert "is not in a git repository" in refusal(resolve_model, "emodetect@production", tmp_path)

    monkeypatch.chdir(clone.folder)
    monkeypatch.setenv("EMODETECT_CACHE", str(tmp_path / "cache"))
    pictures = "data/prepared/test/images"
    assert main(["predict", pictures, "--model", "emodetect@candidate", "--confidence", "0"]) == 0 == main(["predict", pictures, "--model", str(MODEL), "--confidence", "0"])
    named, by_path = capsys.readouterr().out.split("picture  ")[1:]
    assert named == by_path
    assert main(["predict", pictures, "--model", "emodetect@v2.0.0"]) == 1 and "no version or stage 'v2.0.0'" in capsys.readouterr().err

    serve = [str(Path(sys.executable).with_name("emodetect")), "serve", "--port", "0", "--model"]
    with subprocess.Popen([*serve, "emodetect@candidate"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            with urllib.request.urlopen(f"{server.stdout.readline().strip()}/v1/model", timeout=30) as answer:
                described = json.load(answer)
        finally:
            server.terminate()
    assert described["version"] == "v1.0.0" and described["sha256"] == sha256_file(resolve_model("emodetect@candidate", clone.folder))
    unknown = subprocess.run([*serve, "emodetect@v2.0.0"], capture_output=True, text=True)
    assert unknown.returncode and "no version or stage 'v2.0.0'" in unknown.stderr and "Traceback" not in unknown.stderr


def test_a_tag_needs_a_name_to_stand_in_it(new_clone: Callable[[str], Clone], monkeypatch: pytest.MonkeyPatch) -> None:
    clone = new_clone("clone")
    clone.run("git", "config", "--unset", "user.email")
    clone.run("git", "config", "user.useConfigOnly", "true")
    for name in ("GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    assert "git does not know who you are" in refusal(register, clone.folder) and clone.run("git", "tag") == ""


def test_logging_of_the_program_stays_open(tmp_path: Path) -> None:
    program = (
        "import logging, sys; from pathlib import Path; from emodetect.registry import Registry\n"
        "stream = open(sys.argv[1], 'w'); handler = logging.StreamHandler(stream); handler.close = stream.close\n"
        "logging.getLogger().addHandler(handler); Registry(Path(sys.argv[2])).versions\n"
        "import gto.tag; logging.getLogger().warning('still here')"
    )
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    subprocess.run([sys.executable, "-c", program, tmp_path / "log", tmp_path], capture_output=True, text=True)
    assert (tmp_path / "log").read_text() == "still here\n"
