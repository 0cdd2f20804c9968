"""Images without an engine for containers: the instructions of a Dockerfile, followed in a folder that stands for the root."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emodetect.core import sha256_file

PROJECT = Path(__file__).parent.parent
STRIPS = sys.platform == "linux" and shutil.which("strip") is not None  # GNU's; without it libraries keep their names for debuggers
NO_REGISTRY = r"dns error|connect error|Connection refused|is unreachable|name resolution|Max retries"


@dataclass(frozen=True)
class Root:
    """What the instructions made."""

    folder: Path
    environment: dict[str, str]  # of the image
    command: list[str]  # that the image starts
    health: list[str]  # the command of its health check

    @property
    def program(self) -> str:
        """The file of the command."""
        return str(self.folder / "app" / "bin" / self.command[0])

    def megabytes(self, part: str = "*") -> float:
        """The size on disk of what was installed, or of a part of it, with its bytecode, and without the interpreter, which the image has already."""
        return sum(path.lstat().st_size for path in (self.folder / "app").rglob(part) if path.is_file() and not path.is_symlink()) / 1e6


def instructions(path: Path) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile, in their order."""
    lines = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    for line in re.sub(r"\\\n\s*", " ", lines).splitlines():
        if line.strip():
            yield tuple(line.strip().split(None, 1))


def make_root(folder: Path, given: dict[str, Path], image: str = "api", **arguments: str) -> Root:
    """Follow the instructions of an image; `ConnectionError` if no package registry can be reached, `RuntimeError` if one of them fails.

    What is copied into the image comes from the project, or from `given`, which holds the files to take instead, by their path in the project; `arguments` are those of the build.
    Packages of the system are not installed: the machine's own stand for them.
    """
    own = ("PYTHON", "VIRTUAL_ENV", "EMODETECT_", "ORT_", "COV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    if not STRIPS:
        (folder / "bin" / "strip").symlink_to(shutil.which("true"))
    environment["PATH"] = f"{folder / 'bin'}:{environment['PATH']}"
    place, entry, command, health = folder, [], [], []

    def moved(text: str) -> str:
        return re.sub(r"(?<![\w.])/(?=(app|build|models)\b)", f"{folder}/", text)

    for name, value in instructions(PROJECT / "dockerfiles" / f"{image}.Dockerfile"):
        if name == "WORKDIR":
            place = folder / value.lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
        elif name == "COPY" and not value.startswith("--from"):
            *sources, target = value.split()
            target = folder / target.lstrip("/") if target.startswith("/") else place / target
            if value.endswith("/"):
                target.mkdir(parents=True, exist_ok=True)
            for source in sources:
                if (PROJECT / source).is_dir():
                    shutil.copytree(PROJECT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(given.get(source, PROJECT / source), target)
        elif name == "ARG" and value == "MODEL_SHA256":
            environment[value] = sha256_file(given.get("models/emodetect.onnx", PROJECT / "models" / "emodetect.onnx"))
        elif name == "ARG":
            key, _, usual = shlex.split(value)[0].partition("=")
            environment[key] = arguments.get(key, usual)
        elif name == "RUN" and not value.startswith("apt-get "):
            done = subprocess.run(["/bin/sh", "-ec", moved(value)], cwd=place, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise (ConnectionError if re.search(NO_REGISTRY, done.stdout + done.stderr, re.I) else RuntimeError)(done.stdout + done.stderr)
        elif name == "ENV":
            for pair in shlex.split(value):
                key, _, content = pair.partition("=")
                environment[key] = moved(content).replace("$PATH", environment["PATH"]).replace("$MODEL_SHA256", environment.get("MODEL_SHA256", ""))
        elif name in ("ENTRYPOINT", "CMD"):
            entry, command = (json.loads(value), command) if name == "ENTRYPOINT" else (entry, json.loads(value))
        elif name == "HEALTHCHECK":
            health = json.loads(value[value.index("CMD ") + 4:])
    return Root(folder, environment | {"EMODETECT_PORT": "0", "EMODETECT_HOST": "127.0.0.1"}, entry + command, health)
