"""What looks at commits and pull requests: the stages that lag behind, and what a branch changes."""

import hashlib
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
import yaml

from conftest import PROJECT, Copy
from emodetect.gates import METRICS, OUTCOMES_FILE
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


COMPARED = {  # a pipeline of three stages that copy: the data are what a model answers
    "prepare": {"cmd": "cp drawn.csv prepared.csv", "deps": ["drawn.csv"], "outs": ["prepared.csv"]},
    "train": {"cmd": "cp prepared.csv model.csv", "deps": ["prepared.csv"], "params": ["train.epochs"], "outs": ["model.csv"]},
    "evaluate": {
        "cmd": f"cp model.csv {OUTCOMES_FILE} && printf '{{\"right\": %s}}' \"$(grep -c ',1$' model.csv)\" > {METRICS}",
        "deps": ["model.csv"], "outs": [{OUTCOMES_FILE: {"cache": False}}], "metrics": [{METRICS: {"cache": False}}],
    },
}


def test_comparison_names_parameters_outputs_and_figures_of_what_has_run(tmp_path: Path) -> None:
    """Of a stage that has not run, the files that are in git are those of before."""
    (tmp_path / "made" / ".dvc").mkdir(parents=True)
    copy = Copy.of(tmp_path / "made", tmp_path / "copy")
    (copy.folder / OUTCOMES_FILE).parent.mkdir(parents=True)
    (copy.folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (copy.folder / ".dvc" / ".gitignore").write_text("/tmp\n/cache\n")
    (copy.folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": COMPARED}, sort_keys=False))

    def given(right: int, epochs: int) -> None:
        write_outcomes(copy.folder / "drawn.csv", [Outcome(f"{number:016x}", 1, 1, int(number < right)) for number in range(100)])
        (copy.folder / "params.yaml").write_text(yaml.safe_dump({"train": {"epochs": epochs}}))

    def compared() -> str:
        return copy.run(sys.executable, str(PROJECT / "tools" / "compare.py"), "HEAD", stderr=subprocess.DEVNULL).stdout

    copy.run("git", "init", "--quiet")
    given(70, 2)
    copy.repro()
    copy.run("git", "add", "--all")
    copy.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--message=ran")
    same = compared()
    assert same.count("No change.") == 3 and "| 100 pictures in common | 0.700 | 0.700 | +0.000 (+0.000 to +0.000) | no change |" in same and "Not run" not in same
    given(90, 7)
    copy.repro("prepare")
    told = compared()
    assert "train.epochs" in told and re.search(r"^\| prepared\.csv \| \w{12} \| \w{12} \|$", told, re.M), "what has run is compared"
    assert re.findall(r"^Not run: (.+)\.$", told, re.M) == ["train, evaluate", "evaluate", "evaluate"], "of data and models, figures, noise: evaluate's own inputs are as before"
    assert "right" not in told and "0.700" not in told and "No change" not in told and "| model.csv" not in told
    copy.repro()
    told = compared()
    assert told.splitlines()[-2].endswith("| better |") and "| 0.700 | 0.900 | +0.200" in told and "Not run" not in told
    assert re.search(r"^\| model\.csv \| \w{12} \| \w{12} \|$", told, re.M) and re.search(r"metrics\.json +\| right +\| 70 +\| 90 +\| 20", told)
    assert (copy.folder / "reports" / "comparison.md").read_text() + "\n" == told


def test_goals_are_held_against_the_figures_of_the_benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "tools"))
    import goals

    shutil.copytree(goals.PROJECT / "reports" / "benchmarks", tmp_path / "reports" / "benchmarks")
    monkeypatch.setattr(goals, "PROJECT", tmp_path)
    place, aims = tmp_path / "reports" / "benchmarks" / "data.json", []
    for ratio in (1.25, 1.26):
        figures = {"prepare_to_least": ratio, "ultralytics_to_prepare": 4 - ratio, "peak_megabytes": {"5000": 100, "25000": 10 + 80 * ratio}}
        place.write_text(json.dumps(json.loads(place.read_text()) | figures))
        aims.append({goal.what: goal.reached for goal in goals.goals() if goal.command == "bench-data"})
    assert [list(some.values()) for some in aims] == [[True, False, True], [False, False, False]]
    goals.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(goals.goals()) and printed[0].split()[:4] == ["missed", "1.26", "≤", "1.25"]
    assert {goal.command for goal in goals.goals()} <= {line.split(":")[0] for line in (PROJECT / "Makefile").read_text().splitlines()}


def test_goals_take_the_lower_of_two_counts_and_people_on_whom_nothing_was_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "tools"))
    import goals

    shutil.copytree(goals.PROJECT / "reports" / "benchmarks", tmp_path / "reports" / "benchmarks")
    monkeypatch.setattr(goals, "PROJECT", tmp_path)
    serve, finding = (tmp_path / "reports" / "benchmarks" / f"{name}.json" for name in ("serve", "finding"))
    served, found = (json.loads(path.read_text()) for path in (serve, finding))
    name = "whole picture, 96 px"
    served["ratios"][name]["rate_to_plain_at_32"], served["wrk"][name]["rate_to_plain"] = 9.5, 7.25
    found["fresh"] = {"found_24_px_and_more": 0.5, "emotion_right_on_bare_portraits": 0.875, "emotion_right_of_found_24_px_and_more": 0.75}
    serve.write_text(json.dumps(served))
    finding.write_text(json.dumps(found))
    measured = [goal.measured for goal in goals.goals()]
    assert 7.25 in measured and 9.5 not in measured and 0.5 in measured and 0.125 in measured


def test_benchmarks_write_down_what_their_figures_are_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    import record

    (tmp_path / "metrics.json").write_text("{}")
    for command in (["init", "--quiet"], ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--allow-empty", "--message", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(record, "PROJECT", tmp_path)
    monkeypatch.setattr(record, "TRAINED", tmp_path / "metrics.json")
    record.write(tmp_path / "figures.json", {"seconds": 1.5})
    written = json.loads((tmp_path / "figures.json").read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()
    assert written["seconds"] == 1.5 and written["measured"]["commit"] == head and written["measured"]["changed"] == ["metrics.json"]
    assert written["measured"]["network"] == hashlib.sha256(b"{}").hexdigest() and written["measured"]["processor"] and "torch" in written["measured"]["libraries"]


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


NOTED = "# Changelog\n\n## Unreleased\n\n* Not yet.\n\n## {version}\n\n* Faces are found.\n* And named.\n\n## 0.0.1\n\n* Before.\n"


@pytest.mark.parametrize(("tag", "log", "refusal"), [
    ("v9.9.9", NOTED, "the tag is 'v9.9.9', but settings.ini says v{version};"),
    ("0.1.0", NOTED, "the tag is '0.1.0', but settings.ini says v{version};"),
    ("", NOTED, "the tag is '', but settings.ini says v{version};"),
    ("v{version}", NOTED.replace("{version}", "{version}0"), "CHANGELOG.md has nothing under '## {version}';"),
    ("v{version}", NOTED.replace("* Faces are found.\n* And named.\n", ""), "CHANGELOG.md has nothing under '## {version}';"),
    ("v{version}", NOTED, ""),
])  # fmt: skip
def test_a_release_is_of_the_version_and_says_what_the_changelog_says(tag: str, log: str, refusal: str, tmp_path: Path) -> None:
    for name in ("Makefile", "settings.ini"):
        shutil.copy(PROJECT / name, tmp_path)
    version = re.search(r"^version = (.+)$", (PROJECT / "settings.ini").read_text(), re.M)[1]
    (tmp_path / "CHANGELOG.md").write_text(log.format(version=version))
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "a.whl").touch()
    (tmp_path / "gh").write_text(f'#!/bin/sh\nfor each in "$@"; do echo "<$each>"; done > {tmp_path}/told\n')
    (tmp_path / "gh").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TAG": tag.format(version=version)}
    done = subprocess.run(["make", "release"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    if refusal:
        assert done.returncode and refusal.format(version=version) in done.stderr and not (tmp_path / "told").exists()
    else:
        assert done.returncode == 0, done.stderr
        told = ["release", "create", f"v{version}", "dist/a.whl", "--verify-tag", "--notes", "\n* Faces are found.\n* And named."]
        assert (tmp_path / "told").read_text() == "".join(f"<{each}>\n" for each in told)


def test_two_lengths_of_training_tell_what_grows_from_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    import cluster

    monkeypatch.setattr(cluster, "EPOCHS", (1, 4))
    assert cluster.parted([5.5, 7.0]) == {"fixed_seconds": 5.0, "seconds_an_epoch": 0.5}
    assert cluster.rounded({"a": [1.234, 2], "b": {"c": 0.126}}) == {"a": [1.23, 2], "b": {"c": 0.13}}
