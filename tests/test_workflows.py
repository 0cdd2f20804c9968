"""The workflows are well-formed, need no more rights than they use, and run what a user runs."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from benchmarks.image_root import instructions

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


def jobs(path: Path) -> list[list[str]]:
    """What the steps of each job of a workflow do, in their order."""
    return [[step.get("run") or step["uses"].partition("@")[0] for step in job.get("steps", [])] for job in yaml.safe_load(path.read_text())["jobs"].values()]


def test_who_runs_the_tests_has_the_programs_that_they_need() -> None:
    testing = [steps for path in WORKFLOWS for steps in jobs(path) if "make test" in steps]
    assert len(testing) >= 2 and all("make programs" in steps[: steps.index("make test")] for steps in testing)


def test_what_takes_long_runs_at_night() -> None:
    nightly = PROJECT / ".github" / "workflows" / "nightly.yml"
    content = yaml.safe_load(nightly.read_text())
    assert re.fullmatch(r"\d+ \d+ \* \* \*", content[True]["schedule"][0]["cron"])  # YAML takes `on` for true
    assert {"make repeat", "make repro-check", "make audit", "make attack", "make soak"} <= {step for steps in jobs(nightly) for step in steps}
    assert all(0 < job["timeout-minutes"] <= 120 for job in content["jobs"].values())


def test_what_is_delivered_comes_with_the_list_of_its_parts() -> None:
    (steps,) = jobs(PROJECT / ".github" / "workflows" / "release.yml")
    order = [steps.index(step) for step in ("make notes", "make test", "make dist", "make sbom", "actions/attest-build-provenance", "make release")]
    assert order == sorted(order), "a release without notes ends before the tests; the lists are attested and published with the rest of dist"
    images = yaml.safe_load((PROJECT / ".github" / "workflows" / "images.yml").read_text())["jobs"]["build"]["steps"]
    assert [step.get("run") for step in images[-3:-1]] == ["make images", "make sbom"] and images[-1]["with"]["path"] == "dist/*.cdx.json"


def paths(workflow: str) -> list[list[str]]:
    """The files whose change starts a workflow, of each event that has such a list."""
    events = yaml.safe_load((PROJECT / ".github" / "workflows" / f"{workflow}.yml").read_text())[True]  # YAML takes `on` for true
    return [event["paths"] for event in events.values() if event and "paths" in event]


def test_images_are_built_when_a_file_that_they_copy_changes() -> None:
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    made = {name for stage in stages.values() for out in stage["outs"] for name in ([out] if isinstance(out, str) else out)}
    dockerfiles = sorted((PROJECT / "dockerfiles").glob("*.Dockerfile"))
    copied = {source for path in dockerfiles for name, value in instructions(path) if name == "COPY" and not value.startswith("--from") for source in value.split()[:-1]}
    files = {path.relative_to(PROJECT).as_posix() for path in dockerfiles} | {f"{one}/any" if (PROJECT / one).is_dir() else one for one in copied - made}
    assert {"settings.ini", "emodetect/any", "requirements_serve.txt"} <= files and len(paths("images")) == 2
    for listed in paths("images"):
        assert not [file for file in files if not any(fnmatch(file, pattern) for pattern in listed)]


def test_a_pull_request_is_compared_when_what_a_stage_reads_changes() -> None:
    """Modules are generated from notebooks, which are what is changed."""
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    sources = {"emodetect/" + path.stem.partition("_")[2] + ".py": f"nbs/{path.name}" for path in (PROJECT / "nbs").glob("[0-9]*.ipynb")}
    read = {sources.get(name, name) for stage in stages.values() for name in stage["deps"] if name.startswith(("emodetect/", "nbs/", "requirements"))}
    assert {"nbs/90_stages.ipynb", "nbs/stages/report.ipynb", "requirements.txt"} <= read and not [name for name in read if name.startswith("emodetect/")]
    (data,), (model,) = paths("data-change"), paths("model-change")
    assert not [name for name in read if not any(fnmatch(name, pattern) for pattern in data + model)]
    assert {"dvc.yaml", "params.yaml", "nbs/90_stages.ipynb"} <= {*data} & {*model}, "they decide over stages of both kinds"


@pytest.fixture
def make_with(tmp_path: Path) -> Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]:
    """A function that runs make where no programs but some stand-ins are found, each written as a line of shell; what it printed, and what the stand-ins were told."""
    told, bin_folder = tmp_path / "told", tmp_path / "bin"

    def start(*arguments: str, **programs: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        shutil.rmtree(bin_folder, ignore_errors=True)
        told.write_text("")
        bin_folder.mkdir()
        (bin_folder / "id").symlink_to(shutil.which("id"))
        for name, line in programs.items():
            program = bin_folder / name.replace("_", "-")
            program.write_text(f'#!/bin/sh\necho "{program.name} $*" >> {told}\n{line}\n')
            program.chmod(0o755)
        (tmp_path / "venv").mkdir(exist_ok=True)
        (tmp_path / "venv" / ".synced").touch()
        done = subprocess.run([shutil.which("make"), f"VENV={tmp_path / 'venv'}", *arguments], cwd=PROJECT, env={"PATH": str(bin_folder)}, capture_output=True, text=True)
        return done, told.read_text().splitlines()

    return start


def test_programs_that_tests_need_are_installed_where_they_are_missing(make_with: Callable) -> None:
    done, told = make_with("programs", apt_get="", sudo='exec "$@"')
    assert done.returncode == 0 and told[-1].startswith("apt-get install ") and told[-1].endswith(" chromium prometheus"), done.stderr
    assert ("sudo" in "".join(told)) is (os.getuid() != 0)
    done, told = make_with("programs", apt_get="", sudo='exec "$@"', google_chrome="")
    assert done.returncode == 0 and told[-1].endswith(" prometheus") and "chromium" not in told[-1]
    done, told = make_with("programs", apt_get="", chromium="", promtool="")
    assert done.returncode == 0 and not told and "are here" in done.stdout
    done, told = make_with("programs")
    assert done.returncode == 0 and "chromium prometheus, the tests" in done.stdout
    assert make_with("programs", apt_get="exit 100", sudo='exec "$@"')[0].returncode != 0


def test_audit_asks_about_every_lock_and_names_what_failed(make_with: Callable) -> None:
    locks = sorted(path.name for path in PROJECT.glob("requirements*.txt"))
    done, told = make_with("audit", pip_audit="", npm="")
    assert done.returncode == 0 and [line.split()[-1] for line in told] == [*locks, "--omit=dev"], done.stderr
    assert "requirements_fer.txt" in locks and all("--require-hashes" in line for line in told[:-1])
    done, told = make_with("audit", pip_audit='case "$*" in *_fer.txt) exit 1;; esac', npm="exit 1")
    assert done.returncode != 0 and len(told) == len(locks) + 1 and "for requirements_fer.txt package-lock.json" in done.stderr
    done, told = make_with("audit", pip_audit="")
    assert done.returncode == 0 and len(told) == len(locks) and "npm is not here" in done.stdout


def test_each_workflow_edits_its_own_comment_alone(make_with: Callable, tmp_path: Path) -> None:
    """One pull request may change data and model: both comparisons stay under it."""
    project = tmp_path / "project"
    (project / "reports").mkdir(parents=True)
    shutil.copy(PROJECT / "Makefile", project)
    (project / "reports" / "comparison.md").write_text("## Figures\n\nNot run: train.\n")
    earlier = 'case "$*" in *--paginate*"<!-- emodetect: data-change -->"*) echo 11; echo 12;; esac'
    for workflow, call in (("data-change", "--method PATCH repos/{owner}/{repo}/issues/comments/11"), ("model-change", "--method POST repos/{owner}/{repo}/issues/7/comments")):
        done, told = make_with(f"--directory={project}", "comment", "PULL_REQUEST=7", f"GITHUB_WORKFLOW={workflow}", gh=earlier)
        assert done.returncode == 0, done.stderr
        assert told[0].startswith("gh api --paginate repos/{owner}/{repo}/issues/7/comments --jq .[] | select(.body | startswith(")
        assert told[1:] == [f"gh api --silent {call} --raw-field body=<!-- emodetect: {workflow} -->", f"# {workflow}", "", "## Figures", "", "Not run: train."]
    assert make_with(f"--directory={project}", "comment", "PULL_REQUEST=7", gh="exit 1")[0].returncode != 0, "no comment is made if it is not known whether there is one"


def test_ci_runs_the_readmes_test_command() -> None:
    script = (PROJECT / ".ci" / "run").read_text()
    assert re.search(r"^make test$", script, re.M) and "make test" in (PROJECT / "README.md").read_text()


def test_style() -> None:
    done = run("ruff", "check", "--no-cache", ".")
    assert done.returncode == 0, done.stdout
