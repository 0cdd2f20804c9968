"""What looks at commits and pull requests: the stages that lag behind, and what a branch changes."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import PROJECT, Copy
from emodetect.gates import OUTCOMES_FILE
from emodetect.outcomes import Outcome, write_outcomes


def test_lagging_stages_are_named(new_copy: Callable[[], Copy]) -> None:
    copy = new_copy()
    shutil.copy(PROJECT / "dvc.lock", copy.folder)
    weights = copy.lock["weights"]["deps"]
    known = next(dependency["path"] for dependency in weights if dependency["path"].startswith("emodetect/weights"))
    (copy.folder / known).write_text("changed\n")
    told = copy.run(sys.executable, "tools/pipeline_lag.py", known, "README.md").stdout
    stages, _, changed = told.partition(" ran before these changed: ")
    assert "weights" in stages.split(", ") and changed.startswith(f"{known};")
    assert copy.run(sys.executable, "tools/pipeline_lag.py", "README.md").stdout == ""
    (copy.folder / "dvc.lock").unlink()
    assert copy.run(sys.executable, "tools/pipeline_lag.py", known).stdout == "", "nothing ran yet"


def test_comparison_names_parameters_outputs_and_figures(new_copy: Callable[[], Copy]) -> None:
    copy = new_copy()
    shutil.copy(PROJECT / "dvc.lock", copy.folder)
    outcomes = copy.folder / OUTCOMES_FILE
    write_outcomes(outcomes, [Outcome(f"{number:016x}", 1, 1, int(number < 70)) for number in range(100)])
    copy.run("git", "add", "--all")
    copy.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--message=ran")
    same = copy.run(sys.executable, "tools/compare.py", "HEAD").stdout
    assert same.count("No change.") == 3 and "| 100 pictures in common | 0.700 | 0.700 | +0.000 (+0.000 to +0.000) | no change |" in same
    copy.change({"train": {"epochs": 7}})
    lock = copy.folder / "dvc.lock"
    digest = next(out["md5"] for out in copy.lock["train"]["outs"] if out["path"] == "models/emodetect.pt")
    lock.write_text(lock.read_text().replace(digest, "f" * 32))
    metrics = copy.folder / "reports" / "evaluate" / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"map50": 0.', '"map50": 1.'))
    write_outcomes(outcomes, [Outcome(f"{number:016x}", 1, 1, int(number < 90)) for number in range(100)])
    told = copy.run(sys.executable, "tools/compare.py", "HEAD").stdout
    assert told.splitlines()[-2].endswith("| better |") and "| 0.700 | 0.900 | +0.200" in told
    assert "train.epochs" in told and f"| models/emodetect.pt | {digest[:12]} | ffffffffffff |" in told and "map50" in told
    assert (copy.folder / "reports" / "comparison.md").read_text() + "\n" == told


def test_ml_test_score_has_the_28_checks_and_tells_proof_from_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "tools"))
    import ml_test_score as score

    assert [sum(check.section == section for check in score.CHECKS) for section in score.SECTIONS] == [7, 7, 7, 7]
    assert all(bool(check.command) != bool(check.because) for check in score.CHECKS)
    tests = {name for check in score.CHECKS for name in re.findall(r"(?:tests|nbs)/[\w/]+\.(?:py|ipynb)", check.command)}
    assert all((PROJECT / name).is_file() for name in tests)
    checks = [score.Check(section, "it runs", "true") for section in score.SECTIONS]
    failing, lacking = score.Check("data", "it fails", "false"), score.Check("data", "no", because="of nothing")
    for extra, code, told in (((), 0, "ML Test Score: 1,"), ((failing,), 1, "| FAILED |"), ((lacking,), 0, "not met: of nothing")):
        monkeypatch.setattr(score, "CHECKS", (*checks, *extra))
        monkeypatch.setattr(score, "TARGET", tmp_path / "score.json")
        assert score.main([]) == code and told in capsys.readouterr().out
    assert json.loads((tmp_path / "score.json").read_text()) == {"score": 1, "sections": dict.fromkeys(score.SECTIONS, 1), "failed": 0}


@pytest.mark.parametrize("tag", ["v9.9.9", "0.1.0", ""])
def test_a_tag_that_is_not_the_version_is_no_release(tag: str, tmp_path: Path) -> None:
    called = tmp_path / "gh"
    called.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    called.chmod(0o755)
    version = re.search(r"^version = (.+)$", (PROJECT / "settings.ini").read_text(), re.M)[1]

    def release(tag: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["make", "release"], cwd=PROJECT, env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TAG": tag}, capture_output=True, text=True)

    refused = release(tag)
    assert refused.returncode and f"the tag is '{tag}', but settings.ini says v{version}" in refused.stderr and not (tmp_path / "called").exists()
    assert release(f"v{version}").returncode == 0 and (tmp_path / "called").exists()
