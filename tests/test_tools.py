"""What looks at commits and pull requests: the stages that lag behind, and what a branch changes."""

import shutil
import sys
from collections.abc import Callable

from conftest import PROJECT, Copy


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
    copy.run("git", "add", "--all")
    copy.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--message=ran")
    same = copy.run(sys.executable, "tools/compare.py", "HEAD").stdout
    assert same.count("No change.") == 3
    copy.change({"train": {"epochs": 7}})
    lock = copy.folder / "dvc.lock"
    digest = next(out["md5"] for out in copy.lock["train"]["outs"] if out["path"] == "models/emodetect.pt")
    lock.write_text(lock.read_text().replace(digest, "f" * 32))
    metrics = copy.folder / "reports" / "evaluate" / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"map50": 0.', '"map50": 1.'))
    told = copy.run(sys.executable, "tools/compare.py", "HEAD").stdout
    assert "train.epochs" in told and f"| models/emodetect.pt | {digest[:12]} | ffffffffffff |" in told and "map50" in told
    assert (copy.folder / "reports" / "comparison.md").read_text() + "\n" == told
