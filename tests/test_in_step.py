"""Notebooks, package, README, parameters, locks and settings say the same."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import fields
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from emodetect.detector import SETTINGS as OF_A_MODEL
from emodetect.gates import GATES
from emodetect.settings import Settings
from emodetect.stages import COMMANDS, LIMITS, checked, chosen, declared, flatten, stage_parameters

PROJECT = Path(__file__).parent.parent
LIBRARY = sorted(PROJECT.glob("nbs/[0-9]*.ipynb"))
STAGE_NOTEBOOKS = sorted(PROJECT.glob("nbs/stages/*.ipynb"))
GUIDES = sorted(PROJECT.glob("nbs/guides/*.ipynb"))
DVC = yaml.safe_load((PROJECT / "dvc.yaml").read_text())
PARAMETERS = yaml.safe_load((PROJECT / "params.yaml").read_text())
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(PROJECT / "settings.ini", encoding="utf-8")


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it prints."""
    return subprocess.run(command, capture_output=True, text=True, **options)


def composed(configs: Path, target: Path, *values: str) -> str:
    """The params.yaml that `dvc exp run` composes of a folder of configurations and the values of `-S`."""
    from dvc.utils.hydra import compose_and_dump

    compose_and_dump(str(target), str(configs), None, "config", str(configs), list(values))
    return target.read_text()


def one_level(parameters: dict[str, Any]) -> dict[str, Any]:
    """Dotted name → value; a table whose rows are the user's own is one value."""
    own = {"prepare.classes": parameters["prepare"]["classes"]}
    return {name: value for name, value in flatten(parameters).items() if not name.startswith("prepare.classes.")} | own


def test_package_is_generated_from_the_notebooks(tmp_path: Path) -> None:
    for name in ("nbs", "settings.ini", "emodetect"):
        source = PROJECT / name
        shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")) if source.is_dir() else shutil.copy(source, tmp_path)
    for path in (tmp_path / "emodetect").glob("*.py"):
        if path.name not in ("__init__.py",):
            path.unlink()
    done = run("nbdev_export", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    generated = {path.name: path.read_text() for path in (tmp_path / "emodetect").glob("*.py")}
    committed = {path.name: path.read_text() for path in (PROJECT / "emodetect").glob("*.py")}
    assert generated.keys() == committed.keys(), "a module has no notebook, or a notebook no module"
    stale = [name for name in generated if generated[name] != committed[name]]
    assert not stale, f"{stale} differ from their notebooks; run `make notebooks`"


@pytest.mark.parametrize("path", [*LIBRARY, *STAGE_NOTEBOOKS, *GUIDES, PROJECT / "nbs" / "index.ipynb"], ids=lambda path: path.stem)
def test_notebook_is_clean(path: Path, tmp_path: Path) -> None:
    (tmp_path / "nbs").mkdir()
    shutil.copy(PROJECT / "settings.ini", tmp_path)
    copied = Path(shutil.copy(path, tmp_path / "nbs"))
    assert run("nbdev_clean", "--fname", str(copied), cwd=tmp_path).returncode == 0
    assert copied.read_text() == path.read_text(), f"{path.name} holds execution counts or metadata; run `make notebooks`"


@pytest.mark.parametrize("path", STAGE_NOTEBOOKS, ids=lambda path: path.stem)
def test_stage_notebook_is_committed_without_outputs(path: Path) -> None:
    assert not any(cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells), "the executed copy belongs to reports/notebooks"


def test_readme_is_made_from_the_index(tmp_path: Path) -> None:
    options = ["--TagRemovePreprocessor.enabled=True", "--TagRemovePreprocessor.remove_input_tags", "remove_input"]
    done = run("jupyter", "nbconvert", "--to", "markdown", *options, "--output-dir", str(tmp_path), "--output", "README", str(PROJECT / "nbs" / "index.ipynb"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "README.md").read_text() == (PROJECT / "README.md").read_text(), "run `make readme`"


def test_params_yaml_is_composed_from_configs(tmp_path: Path) -> None:
    expected = composed(PROJECT / "configs", tmp_path / "params.yaml")
    remedy = "run `make params`, which writes params.yaml over; to keep a choice that only params.yaml has, write it into configs/config.yaml first"
    assert expected == (PROJECT / "params.yaml").read_text(), remedy


@pytest.mark.parametrize(("guide", "source", "path"), [("your_own_pictures", "folder", "/absolute/path/of/mine"), ("affectnet", "kaggle", "configs/data/affectnet.yaml")])
def test_a_choice_written_as_the_guides_say_is_kept_by_every_run(guide: str, source: str, path: str, tmp_path: Path) -> None:
    configs = Path(shutil.copytree(PROJECT / "configs", tmp_path / "configs"))
    text = "\n".join(cell.source for cell in nbformat.read(PROJECT / "nbs" / "guides" / f"{guide}.ipynb", as_version=4).cells if cell.cell_type == "markdown")
    written = {name: yaml.safe_load(content) for name, content in re.findall(r"`(configs/[\w/]+\.yaml)`[^`]*```yaml\n(.*?)```", text, re.DOTALL)}
    assert {"configs/config.yaml", "configs/data/folder.yaml"} <= written.keys()
    for name, content in written.items():
        file = tmp_path / name
        file.write_text(yaml.safe_dump((yaml.safe_load(file.read_text()) if file.exists() else {}) | content, sort_keys=False))
    for values, epochs in (((), 60), (("train.epochs=3",), 3)):
        found = yaml.safe_load(composed(configs, tmp_path / "params.yaml", *values))
        assert (found["data"]["source"], found["data"]["path"], found["prepare"]["leaks"], found["train"]["mosaic"]) == (source, path, "set_aside", 0.5)
        assert found["train"]["epochs"] == epochs and one_level(found).keys() == one_level(PARAMETERS).keys()
        for stage in ("fetch", "prepare", "train"):
            checked(chosen(flatten(found), DVC["stages"][stage]["params"]), declared(nbformat.read(PROJECT / "nbs" / "stages" / f"{stage}.ipynb", as_version=4)), stage)


def test_limits_are_those_of_parameters_and_hold() -> None:
    given = flatten(PARAMETERS)
    assert LIMITS.keys() <= given.keys() and all(low <= given[name] <= high for name, (low, high) in LIMITS.items())
    elsewhere = {"train", "model", "data", *COMMANDS}
    numbers = {name for name, value in given.items() if type(value) in (int, float) and name.split(".")[0] not in elsewhere}
    assert numbers <= LIMITS.keys(), "a number of a stage has no limits"


GROUPS = sorted(f"{path.parent.name}={path.stem}" for path in (PROJECT / "configs").glob("*/*.yaml"))


@pytest.mark.parametrize("choice", GROUPS)
def test_every_choice_of_a_group_has_the_same_parameters(choice: str, tmp_path: Path) -> None:
    values = [choice, "data.path=somewhere"] if choice == "data=folder" else [choice]
    found = one_level(yaml.safe_load(composed(PROJECT / "configs", tmp_path / "params.yaml", *values)))
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in one_level(PARAMETERS).items()}


@pytest.mark.parametrize("path", STAGE_NOTEBOOKS, ids=lambda path: path.stem)
def test_stage_notebook_declares_the_parameters_of_its_stage(path: Path) -> None:
    declaration = declared(nbformat.read(path, as_version=4))
    assert isinstance(declaration.pop("root"), str)
    given = chosen(one_level(PARAMETERS), DVC["stages"][path.stem]["params"])
    assert list(checked(given, {"root": "", **declaration}, path.stem)) and {name.replace(".", "_") for name in given} == declaration.keys()
    assert stage_parameters(PROJECT, path.stem).keys() == declaration.keys()


def test_every_stage_is_a_notebook_and_every_parameter_belongs_to_a_stage_a_gate_or_the_service() -> None:
    assert DVC["stages"].keys() == {path.stem for path in STAGE_NOTEBOOKS}
    used = {name for stage in DVC["stages"].values() for name in chosen(flatten(PARAMETERS), stage["params"])}
    limits = {gate.limit for gate in GATES if isinstance(gate.limit, str)}
    served = {f"serve.{one.name}" for one in fields(Settings)}
    assert used | limits | served == flatten(PARAMETERS).keys() and {name.split(".")[0] for name in (limits | served) - used} == COMMANDS


def imported(source: str) -> set[str]:
    """The modules of the package that a source imports when it runs."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.ImportFrom):
                module = child.module or ""
                own = module.removeprefix("emodetect.") if module.startswith("emodetect.") else module if child.level == 1 else ""
                found.update([own] if own else [alias.name for alias in child.names] if module == "emodetect" or child.level == 1 else [])
            walk(child)

    walk(ast.parse(source))
    return found & {path.stem for path in (PROJECT / "emodetect").glob("*.py")}


@pytest.mark.parametrize("path", STAGE_NOTEBOOKS, ids=lambda path: path.stem)
def test_stage_depends_on_every_module_that_it_runs(path: Path) -> None:
    graph = {module.stem: imported(module.read_text()) for module in (PROJECT / "emodetect").glob("*.py")}
    graph["stages"] = {"core"}  # it imports the rest only to make small inputs for a notebook that is run by hand
    cells = nbformat.read(path, as_version=4).cells
    todo, needed = imported("\n".join(cell.source for cell in cells if cell.cell_type == "code")), set()
    while todo:
        needed.add(module := todo.pop())
        todo |= graph[module] - needed
    drawn = yaml.safe_load((PROJECT / "configs" / "data" / "sample.yaml").read_text())["path"]  # whatever params.yaml chooses: the stage can draw
    dependencies = [drawn if name == "${data.path}" else name for name in DVC["stages"][path.stem]["deps"]]
    assert {Path(name).stem for name in dependencies if name.startswith("emodetect/")} == needed
    assert {f"nbs/stages/{path.stem}.ipynb", "requirements.txt"} <= set(dependencies)


PIPELINE_ONLY = (
    *("torch", "ultralytics", "dvc", "dvclive", "papermill", "nbdev", "fastcore", "pandas", "matplotlib", "yaml"),
    *("scipy", "sklearn", "cleanlab", "imagehash", "pyarrow", "fsspec", "kagglehub"),
)


LARGER = {"check": "check", "experiments": "experiments", "score": "score", "serve": "server", "sweep": "sweep"}  # commands that need more, and their modules


CONVERSIONS = {"to_frame", "to_supervision"}  # into what a caller has installed; without it they say so in a sentence


def test_conversions_say_which_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from emodetect import results
    from emodetect.core import EmodetectError

    for name, package in (("to_frame", "pandas"), ("to_supervision", "supervision")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(EmodetectError, match=f"needs {package}, which this install lacks"):
            getattr(results, name)([] if name == "to_frame" else results.Result("wall", 1, 1, []))


def test_base_modules_never_import_the_pipelines_packages() -> None:
    graph = {path.stem: path.read_text() for path in (PROJECT / "emodetect").glob("*.py")}
    commands = ast.parse(graph["cli"])
    larger = [node for node in commands.body if isinstance(node, ast.FunctionDef) and node.name in LARGER]
    assert {node.name for node in larger} == set(LARGER) and all(LARGER[node.name] in imported(ast.unparse(node)) for node in larger)
    commands.body = [node for node in commands.body if node not in larger]
    graph["cli"] = ast.unparse(commands)
    todo, seen = {"cli"}, set()
    while todo:
        seen.add(module := todo.pop())
        todo |= imported(graph[module]) - seen
        code = ast.parse(graph[module])
        code.body = [node for node in code.body if getattr(node, "name", "") not in CONVERSIONS and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
        heavy = re.findall(rf"^\s*(?:import|from) ({'|'.join(PIPELINE_ONLY)})\b", ast.unparse(code), re.M)
        assert not heavy, f"emodetect/{module}.py imports {heavy}, which the base install does not have"
    assert {"labels", "detector", "core"} <= seen and not seen & set(LARGER.values())


def test_only_the_stage_notebooks_know_the_stages() -> None:
    importers = [path.name for path in (PROJECT / "emodetect").glob("*.py") if "stages" in imported(path.read_text())]
    assert importers == []
    sources = {path.name: path.read_text() for path in (PROJECT / "emodetect").glob("*.py") if path.name != "stages.py"}
    assert not [name for name, text in sources.items() if re.search(r"^\s*(?:import|from) (dvclive|papermill|nbdev|fastcore)\b", text, re.M)]


def test_dvc_is_known_only_where_versions_cache_registry_and_experiments_are_read() -> None:
    sources = {path.name: path.read_text() for path in (PROJECT / "emodetect").glob("*.py")}
    assert {name for name, text in sources.items() if re.search(r"^\s*(?:import|from) dvc", text, re.M)} <= {"versions.py", "cache.py", "registry.py", "experiments.py"}
    assert not [name for name, text in sources.items() if re.search(r"^(?:import|from) dvc", text, re.M)], "DVC is imported where it is used: the package needs none to be imported"


def names_in(key: str) -> set[str]:
    """The normalised names of the requirements under a key of settings.ini."""
    lines = [line.strip() for line in SETTINGS["DEFAULT"][key].splitlines()]
    return {re.split(r"[<>=!~\[; ]", line)[0].lower().replace("_", "-") for line in lines if line and not line.startswith("#")}


EXTRAS = ("train_", "serve_", "openvino_", "score_", "video_", "cluster_", "dev_")
LOCKS = [("requirements.txt", ("", "train_")), ("requirements_serve.txt", ("", "serve_")), ("requirements_cluster.txt", ("", "train_", "cluster_"))]
LOCKS += [("requirements_dev.txt", ("", *EXTRAS))]


@pytest.mark.parametrize(("lock", "keys"), LOCKS)
def test_lock_pins_every_requirement_with_hashes_and_no_address(lock: str, keys: tuple[str, ...]) -> None:
    text = (PROJECT / lock).read_text()
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", text, re.M))
    assert set().union(*(names_in(f"{key}requirements") for key in keys)) <= pinned
    blocks = re.split(r"^(?=[a-z0-9.-]+==)", text, flags=re.M)
    assert all("--hash=sha256:" in block for block in blocks if "==" in block)
    direct = {block.split("==")[0] for block in blocks if "emodetect (setup.py)" in block}
    assert direct == set().union(*(names_in(f"{key}requirements") for key in keys)), "the lock is older than settings.ini; run `make lock`"
    assert "://" not in text


def test_lock_satisfies_the_ranges_of_settings() -> None:
    from packaging.requirements import Requirement

    text = (PROJECT / "requirements_dev.txt").read_text()
    for key in ("requirements", *(f"{extra}requirements" for extra in EXTRAS)):
        for line in filter(None, (line.strip() for line in SETTINGS["DEFAULT"][key].splitlines())):
            if not line.startswith("#"):
                wanted = Requirement(line)
                found = re.findall(rf"^{re.escape(wanted.name)}==([^ ]+)", text, re.M)
                assert found and all(version in wanted.specifier for version in found), f"{line} is pinned to {found}; run `make lock`"


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements_serve.txt", "requirements_cluster.txt"])
def test_all_locks_pin_the_same_versions(lock: str) -> None:
    small, large = (set(re.findall(r"^([a-z0-9.-]+==[^ \\\n]+)", (PROJECT / name).read_text(), re.M)) for name in (lock, "requirements_dev.txt"))
    assert small and small <= large, f"{small - large} are pinned otherwise in requirements_dev.txt; run `make lock`"


def test_the_environment_is_the_locked_one() -> None:
    from importlib.metadata import version

    text = (PROJECT / "requirements_dev.txt").read_text()
    for name in sorted(set().union(*(names_in(f"{key}requirements") for key in LOCKS[-1][1]))):
        pins = re.findall(rf"^{re.escape(name)}==([^ ;\\]+)", text, re.M)
        assert version(name) in pins, f"{name} {version(name)} is installed, {pins} is locked; run `make setup`"


def test_version_stands_once() -> None:
    import emodetect

    assert emodetect.__version__ == SETTINGS["DEFAULT"]["version"]


def test_gitignore_covers_every_cached_output() -> None:
    outputs = [name for stage in DVC["stages"].values() for name in stage.get("outs", []) if isinstance(name, str)]
    for name in outputs:
        path = f"{name}/x" if not Path(name).suffix else name
        assert run("git", "check-ignore", "--quiet", path, cwd=PROJECT).returncode == 0 or not (PROJECT / ".git").exists(), f"{name} would be committed"


def test_nothing_reports_home() -> None:
    config = (PROJECT / ".dvc" / "config").read_text()
    assert "analytics = false" in config and "check_update = false" in config
    assert os.environ.get("DVC_STUDIO_TOKEN") is None
    importers = {path.name for path in (PROJECT / "emodetect").glob("*.py") if "import onnxruntime" in path.read_text()}
    assert importers == {"detector.py"}, "ONNX Runtime reports to its maker unless it is told otherwise before it is imported"


def test_page_and_python_assume_the_same_of_a_model_that_does_not_say() -> None:
    assumed = re.search(r"const SETTINGS = \{[^\n]*\n(.*?)\};", (PROJECT / "emodetect" / "web" / "detector.js").read_text(), re.DOTALL)[1]
    theirs = {name: json.loads(value) for name, value in re.findall(r"(\w+): ([^,\s]+)", assumed)}
    assert len(theirs) > 5 and theirs == {name: OF_A_MODEL[name] for name in theirs}
