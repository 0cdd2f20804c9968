"""`emodetect` as a user types it."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

from conftest import Copy, command_line_without
from emodetect.cli import EXAMPLES, parser
from emodetect.sample import write_sample
from emodetect.stand_in import write_stand_in

PROJECT = Path(__file__).parent.parent
WITHOUT = command_line_without("yaml")


def emodetect(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process that cannot import what the base install lacks."""
    return subprocess.run([sys.executable, "-c", WITHOUT, *arguments], cwd=cwd, capture_output=True, text=True)


def test_version_and_help() -> None:
    import emodetect as package

    console = Path(sys.executable).with_name("emodetect")
    assert subprocess.run([console, "--version"], capture_output=True, text=True).stdout == f"emodetect {package.__version__}\n"
    helped = subprocess.run([console, "predict", "--help"], capture_output=True, text=True)
    assert helped.returncode == 0 and "--json" in helped.stdout and "--save" in helped.stdout


def test_every_command_has_an_example_that_is_right() -> None:
    commands = parser()._subparsers._group_actions[0].choices
    assert set(commands) == set(EXAMPLES)
    for name, example in EXAMPLES.items():
        words = shlex.split(example.removeprefix('eval "$(').removesuffix(')"'))
        assert words[:2] == ["emodetect", name] and parser().parse_args(words[1:]).run
        assert f"example: {example}" in commands[name].format_help()


COMPLETED = {"emodetect pro": "provenance", "emodetect registry roll": "rollback", "emodetect predict --sa": "--save", "emodetect check some-fo": "some-folder"}


@pytest.mark.parametrize(("words", "offered"), COMPLETED.items())
def test_bash_completes_commands_options_and_files(words: str, offered: str, tmp_path: Path) -> None:
    (tmp_path / "some-folder").mkdir()
    script = emodetect("completion", "bash", cwd=tmp_path).stdout
    typed = words.split()
    ask = f"COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}; $(complete -p emodetect | grep -oP '(?<=-F )\\S+') emodetect; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "--norc", "-c", f"{script}\n{ask}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == [offered], done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals on Windows")
@pytest.mark.parametrize(("plain", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_verdicts_have_a_colour_on_a_terminal_alone(plain: dict[str, str], coloured: bool, tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | plain
    subprocess.run([sys.executable, "-c", WITHOUT, "doctor"], cwd=tmp_path, stdout=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert ("\033[32mok\033[0m" in shown) == coloured and "to use" in shown
    assert "\033" not in emodetect("doctor", cwd=tmp_path).stdout


def test_quiet_leaves_the_progress_out(tmp_path: Path) -> None:
    write_sample(tmp_path / "faces", {"train": 12, "valid": 2, "test": 2})
    console = Path(sys.executable).with_name("emodetect")
    told, quiet = (subprocess.run([console, "check", "faces", *options], cwd=tmp_path, capture_output=True, text=True) for options in ([], ["--quiet"]))
    assert "pictures looked at: 16 of 16" in told.stderr and quiet.stderr == ""
    assert told.stdout == quiet.stdout and told.returncode == quiet.returncode


def test_doctor_needs_the_base_install_alone(tmp_path: Path) -> None:
    done = emodetect("doctor", cwd=tmp_path)
    assert done.returncode == 0 and [line for line in done.stdout.splitlines() if line.startswith("to ")] == ["to use", "to train", "to develop"], done.stderr
    findings = json.loads(emodetect("doctor", "--json", cwd=tmp_path).stdout)
    assert {"purpose": "use", "name": "model", "found": "", "remedy": "make pipeline makes it, or name another with --model", "needed": False} in findings
    hidden = WITHOUT.replace("from emodetect", "import importlib.metadata as m\nm.requires = lambda _: ['numpy', 'absent; extra == \"train\"']\nfrom emodetect")
    for purpose, code in (("use", 0), ("train", 1), ("develop", 1)):
        done = subprocess.run([sys.executable, "-c", hidden, "doctor", "--for", purpose], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code and "absent missing: make setup" in done.stdout, done.stderr


def test_where_nothing_was_looked_at_no_table_begins(pipeline: Copy) -> None:
    done = emodetect("predict", "nowhere.jpg", cwd=pipeline.folder)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.splitlines() == ["emodetect: nowhere.jpg: there is no such file; check the path."]


def test_table_of_a_folder(pipeline: Copy) -> None:
    done = emodetect("predict", "data/prepared/test/images", "--confidence", "0", cwd=pipeline.folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("picture") and len(lines) > 12
    assert "data/prepared/test/images" in lines[1] or "…" in lines[1]


def test_json_holds_every_picture_and_its_scores(pipeline: Copy) -> None:
    done = emodetect("predict", "data/prepared/test/images/*.jpg", "--json", "--confidence", "0", cwd=pipeline.folder)
    records = json.loads(done.stdout)
    assert done.returncode == 0 and len(records) == 12
    face = records[0]["faces"][0]
    assert len(face["probabilities"]) == 8 and abs(sum(face["probabilities"].values()) - 1) < 1e-9 and 0 <= face["face"] <= 1
    assert face["confidence"] == max(face["probabilities"].values()) == face["probabilities"][face["emotion"]]
    assert 0 <= face["left"] < face["right"] <= records[0]["width"] and 0 <= face["top"] < face["bottom"] <= records[0]["height"]


def test_a_bad_file_is_reported_and_the_rest_done(pipeline: Copy, tmp_path: Path) -> None:
    good = sorted((pipeline.folder / "data" / "prepared" / "test" / "images").iterdir())[0]
    (tmp_path / "broken.jpg").write_bytes(good.read_bytes()[:400])
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "broken.jpg", tmp_path / "notes.txt", tmp_path / "empty", tmp_path / "nowhere.jpg", good]
    done = emodetect("predict", *map(str, paths), "--json", "--save", str(tmp_path / "drawn"), cwd=pipeline.folder)
    complaints = done.stderr.splitlines()
    assert done.returncode == 1 and len(complaints) == 4 and all(line.startswith("emodetect: ") for line in complaints)
    assert [str(path) in line for path, line in zip(paths, complaints, strict=False)] == [True] * 4
    assert [record["picture"] for record in json.loads(done.stdout)] == [str(good)]
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == [f"{good.stem}-faces.png"]


def test_a_name_that_is_not_utf8_is_printed_as_text(tmp_path: Path) -> None:
    write_stand_in(tmp_path / "model.onnx")
    Image.new("RGB", (96, 96)).save(tmp_path / "plain.jpg")
    (tmp_path / "album").mkdir()
    try:
        shutil.copy(tmp_path / "plain.jpg", tmp_path / "album" / os.fsdecode(b"gr\xfcn.jpg"))
    except OSError as error:
        pytest.skip(f"this file system refuses names that are not UTF-8 ({error.strerror})")
    shown, strict = [], os.environ | {"PYTHONIOENCODING": "utf-8:strict"}  # as it is on most terminals
    for options in ([], ["--json", "--save", "drawn"]):
        command = [sys.executable, "-c", WITHOUT, "predict", "album", "--model", "model.onnx", *options]
        done = subprocess.run(command, cwd=tmp_path, env=strict, capture_output=True, encoding="utf-8")
        assert (done.returncode, done.stderr) == (0, "")
        shown.append(done.stdout)
    assert shown[0].splitlines()[1].split()[:3] == ["album/gr\ufffdn.jpg", "1", "happy"]
    assert [record["picture"] for record in json.loads(shown[1])] == ["album/gr\ufffdn.jpg"] and (tmp_path / "drawn" / os.fsdecode(b"gr\xfcn-faces.png")).is_file()


def test_of_a_folder_no_picture_is_left_out_silently(pipeline: Copy, tmp_path: Path) -> None:
    good = sorted((pipeline.folder / "data" / "prepared" / "test" / "images").iterdir())[0]
    shutil.copy(good, tmp_path / "face.jfif")
    for name in ("a.heic", "b.AVIF", "film.mp4", "notes.txt"):
        (tmp_path / name).write_bytes(b"not looked into")
    done = emodetect("predict", str(tmp_path), "--json", cwd=pipeline.folder)
    told = [line.removeprefix(f"emodetect: {tmp_path}/").split(":")[0] for line in done.stderr.splitlines()]
    assert done.returncode == 1 and told == ["a.heic", "b.AVIF"] and [record["picture"] for record in json.loads(done.stdout)] == [str(tmp_path / "face.jfif")]


def test_pictures_of_the_same_name_are_both_saved(pipeline: Copy, tmp_path: Path) -> None:
    good = sorted((pipeline.folder / "data" / "prepared" / "test" / "images").iterdir())[0]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(good, tmp_path / folder / "face.jpg")
    done = emodetect("predict", str(tmp_path / "a"), str(tmp_path / "b"), "--save", str(tmp_path / "drawn"), cwd=pipeline.folder)
    assert done.returncode == 0 and sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["face-faces-2.png", "face-faces.png"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "missing.onnx"], "missing.onnx: there is no such model"),
        (["--model", "dvc.yaml"], "dvc.yaml: is not a model exported by emodetect"),
        (["--confidence", "7"], "confidence is 7.0; give a number from 0 to 1"),
        (["--save", "dvc.yaml"], "dvc.yaml"),
    ],
)
def test_a_wrong_option_is_one_sentence(pipeline: Copy, arguments: list[str], sentence: str) -> None:
    done = emodetect("predict", "data/prepared/test/images", *arguments, cwd=pipeline.folder)
    assert done.returncode == 1 and sentence in done.stderr and len(done.stderr.splitlines()) == 1
    assert pipeline.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_one_sentence(pipeline: Copy) -> None:
    command = [sys.executable, "-c", WITHOUT, "predict", "data/prepared/test/images", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=pipeline.folder, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "No space left on device" in done.stderr and "Traceback" not in done.stderr


def base_distributions() -> list[Distribution]:
    """The installed packages that the base requirements of settings.ini lead to, each once."""
    found: dict[str, Distribution] = {}
    todo = [Requirement(line) for line in distribution("emodetect").requires or []]
    while todo:
        wanted = todo.pop()
        if wanted.name.lower() not in found and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            found[wanted.name.lower()] = distribution(wanted.name)
            todo += map(Requirement, found[wanted.name.lower()].requires or [])
    return list(found.values())


SOURCES = """
import cv2
import numpy as np
from pathlib import Path
from emodetect.core import DataError
from emodetect.detector import Detector

detector, folder = Detector("models/emodetect.onnx"), Path("data/prepared/test/images")
file = sorted(folder.iterdir())[0]
film = cv2.VideoWriter("film.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 96))
for shade in (90, 120, 150):
    film.write(np.full((96, 96, 3), shade, np.uint8))
film.release()
print(*(len(list(detector.stream(source))) for source in (np.zeros((96, 96, 3), np.uint8), file, file.read_bytes(), folder, f"{folder}/*.jpg", "film.avi")))
try:
    next(detector.stream(97))
except DataError as error:
    print(error)
"""


def test_the_base_install_predicts_without_torch(pipeline: Copy, tmp_path: Path) -> None:
    """A new environment that holds our wheel and the locked packages of the base requirements, taken from this one: no network."""
    uv, base = str(Path(sys.executable).with_name("uv")), tmp_path / "base"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(base)], check=True)
    library = next(base.glob("lib/python*/site-packages"))
    for package in base_distributions():
        for file in package.files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (library / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), library / file)
    source = tmp_path / "source"
    source.mkdir()
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, source)
    shutil.copytree(PROJECT / "emodetect", source / "emodetect", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True)
    install = [uv, "pip", "install", "--offline", "--no-index", "--quiet", "--python", str(base / "bin" / "python"), str(next(tmp_path.glob("*.whl")))]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    installed = subprocess.run([uv, "pip", "list", "--python", str(base / "bin" / "python"), "--format", "json"], capture_output=True, text=True, check=True)
    assert not {package["name"] for package in json.loads(installed.stdout)} & {"torch", "ultralytics", "dvc", "nbdev", "papermill"}
    command = [base / "bin" / "emodetect", "predict", "data/prepared/test/images", "--json"]
    predicted = subprocess.run(command, cwd=pipeline.folder, capture_output=True, text=True)
    assert predicted.returncode == 0 and len(json.loads(predicted.stdout)) == 12, predicted.stderr
    read = subprocess.run([base / "bin" / "python", "-c", SOURCES.replace("film.avi", str(tmp_path / "film.avi"))], cwd=pipeline.folder, capture_output=True, text=True)
    assert read.stdout.splitlines() == ["1 1 1 12 12 3", "camera 97: gives no picture; connect a camera, or name another number."], read.stderr

    def say(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([base / "bin" / "emodetect", *arguments], cwd=pipeline.folder, capture_output=True, text=True)

    for name, stages in (("emodetect.onnx", "train, calibrate, export"), ("emodetect.pt", "train")):
        told = say("provenance", f"models/{name}")
        assert told.returncode == 0 and told.stdout.splitlines()[0].split(maxsplit=2)[2] == stages, told.stderr
        assert "commit      unknown: looking it up needs yaml, which the base install lacks; install emodetect[train]." in told.stdout and "seed        train.seed 0" in told.stdout
    needy = {
        "predict x.jpg --model emodetect@production": "emodetect@production: to find a registered version by its name, unlike a file by its path, needs yaml",
        "provenance models/emodetect.pt --verify": "`emodetect provenance --verify` needs yaml",
        "provenance models/emodetect.pt --stamp copy.pt": "`emodetect provenance --stamp` needs yaml",
        "registry list": "`emodetect registry` needs yaml",
    }
    for command, sentence in needy.items():
        refused = say(*command.split())
        assert refused.returncode == 1 and refused.stderr == f"emodetect: {sentence}, which the base install lacks; install emodetect[train].\n"


@pytest.mark.parametrize("threads", ["-3", "100000", "two"])
def test_a_number_of_threads_that_cannot_be_is_a_wrong_call(threads: str, tmp_path: Path) -> None:
    ended = emodetect("predict", "photo.jpg", "--threads", threads, cwd=tmp_path)
    assert ended.returncode == 2 and f"argument --threads: '{threads}' is not a whole number from 0 to 1024" in ended.stderr
