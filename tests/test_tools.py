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
from types import ModuleType
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


class Measured:
    """tools/goals.py and a copy of what the benchmarks wrote, to be changed."""

    def __init__(self, goals: ModuleType, folder: Path) -> None:
        self.goals, self.benchmarks, self.trained = goals, folder / "reports" / "benchmarks", folder / "reports" / "train" / "metrics.json"
        shutil.copytree(PROJECT / "reports" / "benchmarks", self.benchmarks)
        self.trained.parent.mkdir()
        shutil.copyfile(PROJECT / "reports" / "train" / "metrics.json", self.trained)

    def read(self, name: str) -> dict[str, Any]:
        """The figures of a benchmark."""
        return json.loads((self.benchmarks / f"{name}.json").read_text())

    def write(self, name: str, figures: dict[str, Any]) -> None:
        """Change what a benchmark wrote."""
        (self.benchmarks / f"{name}.json").write_text(json.dumps(figures))

    def of(self, command: str, said: str = "") -> list[Any]:
        """The goals of a benchmark in whose text something is said."""
        return [goal for goal in self.goals.goals() if goal.command == command and said in goal.what]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Measured:
    """Goals that read a copy of the figures."""
    monkeypatch.syspath_prepend(str(PROJECT / "tools"))
    import goals

    monkeypatch.setattr(goals, "PROJECT", tmp_path)
    return Measured(goals, tmp_path)


def test_goals_are_held_against_the_figures_of_the_benchmarks(measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    goals, aims = measured.goals, []
    for ratio in (1.25, 1.26):
        figures = {"pictures": 25_000, "prepare_to_least": ratio, "ultralytics_to_prepare": 4 - ratio, "peak_megabytes": {"5000": 100, "25000": 10 + 80 * ratio}}
        measured.write("data", measured.read("data") | figures)
        aims.append({goal.what: goal.reached for goal in measured.of("bench-data")})
    assert [list(some.values()) for some in aims] == [[True, False, True], [False, False, False]]
    goals.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(goals.goals()) and printed[0].split()[:4] == ["missed", "1.26", "≤", "1.25"]
    assert {goal.command for goal in goals.goals()} <= {line.split(":")[0] for line in (PROJECT / "Makefile").read_text().splitlines()}


def test_goals_take_the_lower_of_two_counts_and_people_on_whom_nothing_was_chosen(measured: Measured) -> None:
    served, found, name = measured.read("serve"), measured.read("finding"), "whole picture, 96 px"
    served["ratios"][name]["rate_to_plain_at_32"] = 9.5
    served["wrk"] = {name: {"rate_to_plain": 7.25}}
    found["fresh"] = {"found_24_px_and_more": 0.5, "emotion_right_on_bare_portraits": 0.875, "emotion_right_of_found_24_px_and_more": 0.75}
    measured.write("serve", served)
    measured.write("finding", found)
    figures = [goal.measured for goal in measured.goals.goals()]
    assert 7.25 in figures and 9.5 not in figures and 0.5 in figures and 0.125 in figures
    del served["wrk"]
    measured.write("serve", served)
    assert [goal.measured for goal in measured.of("bench-serve", "96 px, 32 bits, times")] == [9.5], "wrk is not installed everywhere"


def test_goals_of_a_reduced_precision_are_missed_where_none_is_taken(measured: Measured) -> None:
    served, inferred = measured.read("serve"), measured.read("infer")
    served["precisions"] = {name: one | {"taken": False} for name, one in served["precisions"].items()}
    inferred["taken"]["96"] = {name: name.endswith("fp32") for name in inferred["taken"]["96"]}
    measured.write("serve", served)
    measured.write("infer", inferred)
    reduced = measured.of("bench-serve", "reduced precision") + measured.of("bench-infer", "reduced precision")
    assert [(goal.measured, goal.reached) for goal in reduced] == [(0.0, False)] * 3


@pytest.mark.parametrize(
    ("seeds", "mean", "p", "reached"),
    [(5, -0.02, 0.05, True), (5, -0.02, 0.049, False), (5, 0.02, 0.001, True), (7, 0.0, 1.0, True), (4, -0.02, 0.9, False), (4, 0.02, 0.9, False)],
)
def test_accuracy_is_a_miss_if_it_is_less_beyond_chance_or_too_few_seeds_were_trained(measured: Measured, seeds: int, mean: float, p: float, reached: bool) -> None:
    measured.write("accuracy", measured.read("accuracy") | {"seeds": seeds, "less_yolo_train": {name: {"mean": mean, "p": p} for name in ("fp32", "bf16")}})
    goals = measured.of("bench-accuracy")
    assert [goal.reached for goal in goals] == [reached] * 2 and all(f" over {seeds} seeds" in goal.what and ("too few" in goal.what) == (seeds < 5) for goal in goals)


def test_fewer_pictures_than_the_goal_is_of_do_not_reach_it(measured: Measured) -> None:
    figures = {"pictures": 5_000, "prepare_to_least": 1.0, "ultralytics_to_prepare": 4.0, "peak_megabytes": {"1000": 100, "5000": 100}}
    measured.write("data", measured.read("data") | figures)
    assert [(goal.reached, "5,000 pictures (too few: the goal is of 25,000)" in goal.what) for goal in measured.of("bench-data")] == [(False, True)] * 3
    assert measured.of("bench-data", "over that for 1,000")
    measured.write("data", measured.read("data") | figures | {"pictures": 25_000})
    assert [(goal.reached, "too few" in goal.what) for goal in measured.of("bench-data")] == [(True, False)] * 3
    for seconds, reached in (([1, 2], False), ([1, 2, 3], True)):  # two points lie on a line whatever they are
        measured.write("score", measured.read("score") | {"pictures": [100, 200, 300][: len(seconds)], "seconds": seconds})
        assert [goal.reached for goal in measured.of("bench-score")] == [reached]


def test_goals_carry_whether_their_figures_are_of_an_earlier_network(measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("data", "train", "accuracy", "finding", "infer", "score", "serve"):
        figures = measured.read(name)
        figures.pop("wrk_measured", None)
        measured.write(name, figures | {"measured": {"network": hashlib.sha256(measured.trained.read_bytes()).hexdigest()}})
    assert not any(goal.earlier for goal in measured.goals.goals())
    measured.write("finding", measured.read("finding") | {"measured": {"network": "0" * 64}})
    measured.write("serve", measured.read("serve") | {"wrk_measured": {"network": "0" * 64}})
    score = measured.read("score")
    del score["measured"]  # of before it was written down
    measured.write("score", score)
    assert {goal.command for goal in measured.goals.goals() if goal.earlier} == {"bench-finding", "bench-serve", "bench-score"}
    measured.goals.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("at an earlier state of the project)")]
    assert len(lines) == sum(goal.earlier for goal in measured.goals.goals())
    measured.trained.write_text("{}")
    assert all(goal.earlier for goal in measured.goals.goals())


class Benchmark:
    """benchmarks/record.py in a repository of its own, whose network can be trained anew."""

    def __init__(self, record: ModuleType, folder: Path) -> None:
        self.record, self.folder, self.result = record, folder, folder / "figures.json"
        (folder / ".gitignore").write_text("figures.json\n")
        (folder / "reports" / "train").mkdir(parents=True)
        (folder / "models").mkdir()
        self.train("{}", b"weights")
        self.git("init", "--quiet")
        self.commit()

    def git(self, *arguments: str) -> str:
        """Run git."""
        return subprocess.run(["git", *arguments], cwd=self.folder, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> str:
        """Commit everything."""
        self.git("add", "--all")
        self.git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--allow-empty", "--message", "one")
        return self.git("rev-parse", "HEAD")

    def train(self, figures: str, weights: bytes) -> None:
        """What a training leaves."""
        (self.folder / "reports" / "train" / "metrics.json").write_text(figures)
        (self.folder / "models" / "emodetect.pt").write_bytes(weights)
        made = {"path": "models/emodetect.pt", "md5": hashlib.md5(weights, usedforsecurity=False).hexdigest()}
        (self.folder / "dvc.lock").write_text(yaml.safe_dump({"stages": {"train": {"cmd": "train", "outs": [made]}}}))

    def written(self) -> dict[str, Any]:
        """What was written down."""
        return json.loads(self.result.read_text())


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Benchmark:
    """A benchmark in a small repository."""
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    import record

    monkeypatch.setattr(record, "PROJECT", tmp_path)
    monkeypatch.setattr(record, "get_cpu_info", lambda: {"brand_raw": "a processor"})
    return Benchmark(record, tmp_path)


def test_benchmarks_write_down_what_their_figures_are_of(bench: Benchmark) -> None:
    head = bench.git("rev-parse", "HEAD")
    (bench.folder / "other.py").touch()
    begun = bench.record.circumstances()
    (bench.folder / "later.py").touch()
    bench.record.write(bench.result, {"seconds": 1.5}, begun)
    found = bench.written()
    assert found["seconds"] == 1.5 and list(found["measured"]) == ["commit", "changed", "network", "processor", "python", "libraries"]
    assert found["measured"]["commit"] == head and found["measured"]["changed"] == ["other.py"], "as it was when the benchmark began"
    assert found["measured"]["network"] == hashlib.sha256(b"{}").hexdigest() and found["measured"]["processor"] == "a processor" and "torch" in found["measured"]["libraries"]


def test_a_commit_while_a_benchmark_runs_is_named_and_a_training_stops_it(bench: Benchmark) -> None:
    head, begun = bench.git("rev-parse", "HEAD"), bench.record.circumstances()
    (bench.folder / "other.py").touch()
    now = bench.commit()
    bench.record.write(bench.result, {}, begun)
    assert (bench.written()["measured"]["commit"], bench.written()["measured"]["commit_at_end"]) == (head, now)
    bench.result.unlink()
    bench.train("{1}", b"other weights")
    with pytest.raises(SystemExit, match=r"^The network was trained anew while this benchmark ran, .+; run it again\.$"):
        bench.record.write(bench.result, {}, begun)
    assert not bench.result.exists()


def test_nothing_is_measured_with_a_model_that_is_not_the_one_of_the_checkout(bench: Benchmark) -> None:
    model = bench.folder / "models" / "emodetect.pt"
    bench.record.circumstances()
    model.write_bytes(b"weights of another commit")
    with pytest.raises(SystemExit, match=r"^models/emodetect\.pt: is not the model that dvc\.lock names, .+; run `dvc checkout`\.$"):
        bench.record.circumstances()
    model.unlink()
    assert bench.record.circumstances()["network"], "what needs no model is measured without one"


def test_every_benchmark_asks_for_its_circumstances_when_it_begins() -> None:
    texts = {path.stem: path.read_text() for path in (PROJECT / "benchmarks").glob("*.py")}
    writers = {name: text for name, text in texts.items() if re.search(r"^ +write\(RESULT", text, re.M)}
    assert len(writers) > 15
    assert not [name for name, text in writers.items() if not re.search(r"^def main\(.+\bbegun = .*circumstances\(\)\n.+ write\(RESULT, .+, begun\)\n", text, re.M | re.S)]


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


def test_clean_removes_what_killed_stages_left_and_nothing_that_git_tracks(tmp_path: Path) -> None:
    shutil.copy(PROJECT / "Makefile", tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    kept = {"data/.gitignore", "data/.tracked", "data/README.md", "models/.gitignore"}
    made = {"data/.raw-unpacked/content/train/a.jpg", "data/raw/data.yaml", "models/.emodetect.onnx-part", "models/emodetect.onnx"}
    for name in kept | made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(["git", "add", "data/.tracked"], cwd=tmp_path, check=True)
    for _ in range(2):  # where nothing is left, too
        subprocess.run(["make", "--silent", "clean"], cwd=tmp_path, check=True)
        assert {path.relative_to(tmp_path).as_posix() for folder in ("data", "models") for path in (tmp_path / folder).rglob("*")} == kept


def test_copies_of_the_project_are_the_same_whatever_was_chosen(monkeypatch: pytest.MonkeyPatch, new_copy: Callable[[], Copy], tmp_path: Path) -> None:
    usual = new_copy()
    chosen = Copy.of(usual.folder, tmp_path / "chosen")
    chosen.change({"threads": 1, "detector": {"mode": "frame", "confidence": 0.5}, "evaluate": {"split": "valid"}, "export": {"engine": "openvino", "precision": "bf16"}})
    config = chosen.folder / "configs" / "config.yaml"
    config.write_text(config.read_text().replace("data: sample", "data: folder").replace("train: quick", "train: full"))
    monkeypatch.setattr("conftest.PROJECT", chosen.folder)
    (tmp_path / "copy").mkdir()
    assert (Copy(tmp_path / "copy").folder / "params.yaml").read_text() == (usual.folder / "params.yaml").read_text()


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
