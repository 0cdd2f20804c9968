"""What every test needs: notebooks that nbval can compare, and a small pipeline in a folder of its own."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # tests share the cores: waiting threads soon sleep, sooner than in a stage
PROJECT = Path(__file__).parent
LONGEST = (
    "guides/sweep.ipynb", "test_provenance.py", "test_interrupted.py", "test_pipeline.py", "test_experiments.py",
    "test_training.py", "test_notebook_examples.py", "test_sweep.py", "test_registry.py",
)
SMALL = {
    "data": {"train": 24, "valid": 8, "test": 12},
    "model": {"weights": "none", "image_size": 64},
    "train": {"epochs": 1, "batch": 8},
    "export": {"parity_pictures": 4, "engine": "onnxruntime", "precision": "fp32"},
    "report": {"strained_pictures": 0, "slight_pictures": 4, "centroid_faces": 2},
    "threads": 2,  # this and the next, engine and precision: what the tests change or rely on, whatever you chose in configs/config.yaml
    "detector": {"mode": "faces", "confidence": 0.25},
    "evaluate": {"split": "test"},
}
CHOICE = {"data": "sample", "model": "yolo11n", "prepare": "as_given", "train": "quick"}  # of the groups of configs/, whatever you chose in configs/config.yaml
PIPELINE_ONLY = ("torch", "ultralytics", "dvc", "dvclive", "nbdev", "fastcore", "papermill", "pandas", "matplotlib", "scipy", "sklearn", "cleanlab", "pyarrow")


def command_line_without(*packages: str, before: str = "") -> str:
    """A program that is the command line in an install that lacks the packages of the pipeline and these; `before` runs first."""
    return f"""
import sys
{before}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {(*PIPELINE_ONLY, *packages)!r}:
            raise ImportError(name + " was imported")
sys.meta_path.insert(0, Refuse())
from emodetect.cli import main
sys.exit(main(sys.argv[1:]))
"""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Number the cells of clean notebooks: nbdev_clean removes the counts, and nbval takes a cell without one for a cell that was never run.

    Stage notebooks are kept without outputs, so that theirs are run and not compared.
    """
    if hasattr(item, "cell"):
        item.cell.execution_count = None if item.path.parent.name == "stages" else 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that take minutes: begun last, one of them would keep a single core busy at the end.

    The first that needs the pipeline comes well before the others, which would wait for it.
    """
    items.sort(key=lambda item: next((place for place, name in enumerate(LONGEST) if item.path.match(name)), len(LONGEST)))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Count coverage in the test processes alone: nbval, which asks for this option, would count in the kernels, too.

    They run the notebooks' own copies of the functions. pytest-cov has read the option by now.
    """
    session.config.option.cov_source = None


class Copy:
    """A copy of the project in a folder of its own, under git and DVC, with small parameters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=PROJECT, capture_output=True, check=True, text=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (PROJECT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(PROJECT / name, folder / name)
        self.choose()
        self.change(SMALL)
        (folder / "dvc.lock").unlink(missing_ok=True)
        for command in (["init", "--quiet", "--initial-branch=main"], ["add", "--all"], ["commit", "--quiet", "--message=start"]):
            self.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", *command)

    @classmethod
    def of(cls, other: Path, folder: Path) -> "Copy":
        """A copy of a copy, with all that it has made."""
        copy = cls.__new__(cls)
        copy.folder = Path(shutil.copytree(other, folder, symlinks=True))
        return copy

    def choose(self) -> None:
        """Choose what the tests expect in configs/config.yaml, and compose params.yaml."""
        from dvc.utils.hydra import compose_and_dump

        path = self.folder / "configs" / "config.yaml"
        defaults = {"defaults": [*({group: name} for group, name in CHOICE.items()), "_self_"]}
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | defaults, sort_keys=False))
        compose_and_dump(str(self.folder / "params.yaml"), str(path.parent), None, "config", str(path.parent), [])

    def change(self, values: dict[str, object]) -> None:
        """Change parameters of the copy in params.yaml, and in configs/ so that experiments compose the same."""
        places = {group: self.folder / "configs" / group / f"{name}.yaml" for group, name in CHOICE.items()}
        for group, change in values.items():
            own = group in places
            for path in (self.folder / "params.yaml", places.get(group, self.folder / "configs" / "config.yaml")):
                content = yaml.safe_load(path.read_text())
                if own and path == places[group]:
                    content |= change
                else:
                    content[group] = content[group] | change if isinstance(change, dict) else change
                path.write_text(yaml.safe_dump(content, sort_keys=False))

    def run(self, *command: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy; its output is text. Fails the test unless told otherwise."""
        own = ("COV_", "COVERAGE_", "GIT_", "EMODETECT_YOLO_", "YOLO_")  # of this process and its imports, not of a user's shell
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)} | {"GIT_CONFIG_GLOBAL": os.devnull}
        options = {"cwd": self.folder, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "stdin": subprocess.DEVNULL} | options
        done = subprocess.run(command, **options)
        assert not check or done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
        return done

    def repro(self, *arguments: str, check: bool = True) -> str:
        """Run `dvc repro`; what it printed."""
        return self.run("dvc", "repro", *arguments, check=check).stdout

    def stage(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run one stage as dvc.yaml does, whatever its exit code."""
        return self.run(sys.executable, "-m", "emodetect.stages", name, check=False)

    @property
    def lock(self) -> dict[str, dict]:
        """The stages of dvc.lock."""
        return yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]


@pytest.fixture(scope="session")
def new_copy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Copy]:
    """A function that makes a new copy of the project with small parameters."""
    return lambda: Copy(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="session")
def pipeline(new_copy: Callable[[], Copy], tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy whose pipeline has run once, for all processes of the tests together. Tests leave it as they found it."""
    process = os.environ.get("PYTEST_XDIST_WORKER")
    ran = tmp_path_factory.getbasetemp().parent / "ran" if process else tmp_path_factory.mktemp("ran") / "copy"
    with ran.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes first runs it
        if not ran.exists():
            copy = new_copy()
            copy.repro()
            copy.run("git", "add", "--all")
            copy.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--message=ran")
            copy.folder.rename(ran)
    return Copy.of(ran, tmp_path_factory.mktemp("copy") / "own")
