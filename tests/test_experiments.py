"""Experiments as a user runs and compares them: a grid of groups and values in DVC's queue, half of it doomed."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conftest import Copy

WITHOUT_PANDAS = """
import sys
sys.modules["pandas"] = None
from emodetect.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def grid(pipeline: Copy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A copy with four experiments in the queue of which two are worked off, one of them doomed; their data are prepared."""
    copy = Copy.of(pipeline.folder, tmp_path_factory.mktemp("grid") / "own")
    figures = copy.folder / "reports" / "evaluate" / "metrics.json"  # other ones than an experiment's, which must not be taken for them
    figures.write_text(json.dumps(json.loads(figures.read_text()) | {"pictures": 320, "map50": 0.9, "map50_95": 0.8, "recall": 0.7}))
    copy.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--all", "--message=other figures")
    copy.run("dvc", "exp", "run", "--queue", "--name", "grid", "-S", "train.lr0=0.01,-1", "-S", "model=yolo11n,yolo26n", "evaluate")
    copy.queued = emodetect(copy, "experiments").stdout
    copy.run("dvc", "queue", "remove", "grid-1", "grid-4")
    try:
        copy.run("dvc", "queue", "start")
        deadline = time.monotonic() + 280
        while {"Queued", "Running"} & set(copy.run("dvc", "queue", "status").stdout.split()) and time.monotonic() < deadline:
            time.sleep(1)
        yield copy
    finally:
        copy.run("dvc", "queue", "stop", "--kill", check=False)


def emodetect(copy: Copy, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in the copy."""
    return copy.run(str(Path(sys.executable).with_name("emodetect")), *arguments, check=False)


def test_a_grid_of_groups_and_values_is_queued(grid: Copy) -> None:
    rows = [line.split() for line in grid.queued.splitlines()]
    assert rows[0] == ["name", "architecture", "lr0", "valid", "mAP50", "mAP50-95", "precision", "recall", "state"]
    assert sorted(row for row in rows if row and row[-1] == "queued") == [
        ["grid-1", "yolo11n", "0.01", "queued"],
        ["grid-2", "yolo26n", "0.01", "queued"],
        ["grid-3", "yolo11n", "-1", "queued"],
        ["grid-4", "yolo26n", "-1", "queued"],
    ]


def test_the_table_shows_what_tells_experiments_apart_and_what_came_of_them(grid: Copy, tmp_path: Path) -> None:
    done = emodetect(grid, "experiments", "--csv", str(tmp_path / "table.csv"), "--html", str(tmp_path / "page.html"), "--pictures", str(tmp_path))
    assert done.returncode == 0, done.stdout
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "table.csv").open())}
    assert {name: (row["architecture"], float(row["lr0"]), row["state"]) for name, row in rows.items()} == {
        "grid-2": ("yolo26n", 0.01, "done"),
        "grid-3": ("yolo11n", -1, "failed"),
        "main": ("yolo11n", 0.0008, "done"),
    }, grid.run("dvc", "queue", "logs", "grid-2", check=False).stdout
    assert rows["grid-2"]["valid"] and rows["grid-2"]["mAP50"]
    assert not rows["grid-3"]["valid"] and not rows["grid-3"]["mAP50"], "DVC gives a failed experiment the metrics of its commit"
    assert "`dvc queue logs grid-3` says why grid-3 failed." in done.stdout.splitlines()
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("parallel.png", "curves.png"))
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64") == 2 and "http" not in page


def test_the_trials_of_a_sweep_stand_in_the_same_table(grid: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal as `emodetect sweep` writes it; what its trainings would give is made up."""
    from emodetect import sweep as module
    from emodetect.training import Hyperparameters

    outcomes = iter([module.Outcome({"valid": 0.625}, {"metrics/mAP50-95": [0.5, 0.625]}), module.Outcome({}, {}, failure="the loss was lost.")])
    monkeypatch.setattr(module, "run_trial", lambda *given: next(outcomes))
    fixed = module.Fixed("", "", "", "", "yolo11s", Hyperparameters(), seed=0, threads=1, device="cpu", missing_emotions="refuse")
    space = {"train.lr0": module.declared_values("train.lr0", {"low": 0.001, "high": 0.01, "log": True})}
    trials = module.sweep(fixed, space, tmp_path / "made.journal", trials=2)
    done = emodetect(grid, "experiments", "--sweep", str(tmp_path / "made.journal"), "--csv", str(tmp_path / "table.csv"))
    assert done.returncode == 0 and "made-1: the loss was lost." in done.stdout.splitlines(), done.stdout
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert {row["name"] for row in rows} == {"main", "grid-2", "grid-3", "made-0", "made-1"} and rows[0]["name"] == "made-0", "the best first"
    found = rows[0]["architecture"], float(rows[0]["lr0"]), float(rows[0]["valid"]), rows[0]["mAP50"], rows[0]["state"]
    assert found == ("yolo11s", trials[0].parameters["train.lr0"], 0.625, "", "done")
    assert next(row["state"] for row in rows if row["name"] == "made-1") == "failed"


def test_a_failed_member_leaves_a_log_that_says_why(grid: Copy) -> None:
    log = grid.run("dvc", "queue", "logs", "grid-3").stdout
    assert "train: lr0 is -1.0; give a value from 1e-07 to 1.0." in log.splitlines() and "Traceback" not in log


def test_the_figures_are_those_of_the_experiments_own_files(grid: Copy) -> None:
    from emodetect.experiments import read_experiments

    known = {one.name: one for one in read_experiments(grid.folder)}
    found = known["grid-2"]
    assert known["main"].figures["mAP50"] == 0.9 and known["main"].curves["val/cls_loss"] != found.curves["val/cls_loss"]
    assert found.valid == max(found.curves["metrics/mAP50-95"]) and len(found.curves["val/cls_loss"]) == 1
    reference = grid.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/**/grid-2").stdout.strip()
    metrics = json.loads(grid.run("git", "show", f"{reference}:reports/evaluate/metrics.json").stdout)
    assert metrics["pictures"] == 12 and [found.figures[name] for name in ("mAP50", "mAP50-95", "recall")] == [metrics[name] for name in ("map50", "map50_95", "recall")]


def test_a_queued_experiment_trains_to_the_bits_of_a_plain_run_in_another_folder(grid: Copy, pipeline: Copy, tmp_path: Path) -> None:
    reference = grid.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/**/grid-2").stdout.strip()
    queued, params = (yaml.safe_load(grid.run("git", "show", f"{reference}:{name}").stdout) for name in ("dvc.lock", "params.yaml"))
    plain = Copy.of(pipeline.folder, tmp_path / "own")
    (plain.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert "Running stage 'train'" in plain.repro("train"), "nothing was taken from a cache"
    trained = {one["path"]: one["md5"] for one in yaml.safe_load((plain.folder / "dvc.lock").read_text())["stages"]["train"]["outs"]}
    assert trained == {one["path"]: one["md5"] for one in queued["stages"]["train"]["outs"]}
    assert {"models/emodetect.pt", "reports/train/metrics.json", "reports/notebooks/train.ipynb"} <= set(trained)


def test_every_architecture_of_configs_is_known_and_has_weights_that_fit() -> None:
    from emodetect.weights import PINS
    from emodetect.yolo import build_model

    project = Path(__file__).parent.parent
    for path in (project / "configs" / "model").glob("*.yaml"):
        described = yaml.safe_load(path.read_text())
        assert described["architecture"] == path.stem and build_model(path.stem)
        assert described["weights"] == "none" or described["weights"] in PINS


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(None, "is not a folder under DVC; name the one with dvc.yaml"), (WITHOUT_PANDAS, "`emodetect experiments` needs pandas, which this install lacks; install emodetect[train]")],
    ids=["no project", "base install"],
)
def test_what_cannot_be_compared_is_one_sentence(code: str | None, sentence: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", code] if code else [str(Path(sys.executable).with_name("emodetect"))]
    done = subprocess.run([*command, "experiments"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (1, 2) and sentence in done.stderr and len(done.stderr.splitlines()) == 1
