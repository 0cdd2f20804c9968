"""The workflows are well-formed, need no more rights than they use, and run what a user runs."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parent.parent
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a checker in the project's folder."""
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)


def test_workflows_follow_the_schema() -> None:
    done = run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))
    assert WORKFLOWS and done.returncode == 0, done.stdout + done.stderr
    done = run("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_finds_nothing() -> None:
    done = run("zizmor", "--offline", "--persona", "pedantic", ".github")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_steps_are_make_targets(path: Path) -> None:
    workflow, targets = yaml.safe_load(path.read_text()), set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.M))
    for job in workflow["jobs"].values():
        assert "uses" not in job or job["uses"].startswith("$/.github/workflows/"), "a reusable workflow of this project"
        for step in job.get("steps", []):
            assert "uses" in step or (step["run"].split()[0] == "make" and step["run"].split()[1] in targets), step
            assert "uses" not in step or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"]), step


def test_ci_runs_the_readmes_test_command() -> None:
    script = (PROJECT / ".ci" / "run").read_text()
    assert re.search(r"^make test$", script, re.M) and "make test" in (PROJECT / "README.md").read_text()


def test_style() -> None:
    done = run("ruff", "check", "--no-cache", ".")
    assert done.returncode == 0, done.stdout
