"""What looks at commits and pull requests: the stages that lag behind, and what a branch changes."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import PROJECT, Copy
from emodetect.gates import OUTCOMES_FILE
from emodetect.outcomes import Outcome, write_outcomes

IMPORTED = """
import io, json, runpy, sys, types
from contextlib import redirect_stdout
from pathlib import Path

faults, paths, usual, peer = {}, [Path(each) for each in sys.argv[1:]], sys.path[1:], types.ModuleType("fer.fer")
peer.FER = object
sys.modules |= {"fer": types.ModuleType("fer"), "fer.fer": peer}  # `make peer` has it in an environment of its own
for path in paths:
    takes_arguments = "ArgumentParser(" in path.read_text()
    sys.path[:], sys.argv, said = [str(path.parent), *usual], [str(path), "--help"], io.StringIO()
    try:
        with redirect_stdout(said):
            runpy.run_path(str(path), run_name="__main__" if takes_arguments else "imported")
        ended = "it went on after --help" if takes_arguments else ""
    except SystemExit as error:
        ended = "" if takes_arguments and not error.code and said.getvalue().startswith("usage: ") else f"exited with {error.code}"
    except Exception as error:
        ended = repr(error)
    faults |= {path.name: ended} if ended else {}
print(json.dumps(faults))
"""


@pytest.mark.parametrize("folder", ["benchmarks", "tools"])
def test_every_benchmark_and_tool_can_be_started(folder: str, tmp_path: Path) -> None:
    """Each as it is run, up to where its work begins: with --help where it takes arguments, imported otherwise."""
    from emodetect.yolo import build_model, save_checkpoint

    paths = sorted((PROJECT / folder).glob("*.py"))
    save_checkpoint(build_model("yolo11n"), tmp_path / "model.pt", "yolo11n", 64)
    command = [sys.executable, "-c", IMPORTED, *map(str, paths)]
    done = subprocess.run(command, cwd=PROJECT, env=os.environ | {"CHECKPOINT": str(tmp_path / "model.pt")}, capture_output=True, text=True, timeout=240)  # the plain server's
    assert len(paths) > 3 and done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}


def test_both_precisions_are_compared_seed_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    import gpu

    figures = {"fp32": [0.5, 0.51, 0.52], "bf16": [0.6, 0.61, 0.64]}

    def run(what: str, **task: Any) -> tuple[dict[str, float], float]:
        return {"map50_95": figures[task["precision"]][task["seed"]]}, 1.0

    monkeypatch.setattr(gpu, "run", run)
    found = gpu.accuracy({"data": "here"}, 3)
    low, high = found["bf16_less_fp32"]["interval"]
    assert found["map50_95"] == figures and found["bf16_less_fp32"]["mean"] == 0.1067 and 0.07 < low < 0.1067 < high < 0.14


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


def test_goals_are_held_against_the_figures_of_the_benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "tools"))
    import goals

    shutil.copytree(goals.PROJECT / "reports" / "benchmarks", tmp_path / "reports" / "benchmarks")
    monkeypatch.setattr(goals, "PROJECT", tmp_path)
    place, aims = tmp_path / "reports" / "benchmarks" / "data.json", []
    for ratio in (1.25, 1.26):
        place.write_text(json.dumps(json.loads(place.read_text()) | {"prepare_to_least": ratio, "ultralytics_to_prepare": 4 - ratio}))
        aims.append({goal.what: goal.reached for goal in goals.goals() if goal.command == "bench-data"})
    assert [list(some.values()) for some in aims] == [[True, False], [False, False]]
    goals.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(goals.goals()) and printed[0].split()[:4] == ["missed", "1.26", "≤", "1.25"]
    assert {goal.command for goal in goals.goals()} <= {line.split(":")[0] for line in (PROJECT / "Makefile").read_text().splitlines()}


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
