"""List what the images and the wheel hold, as CycloneDX. An image: what its Python takes from its lock, and the page's engine, if `make web` has fetched it.

The wheel runs on several Pythons and holds the engine alone: the packages that it asks for are listed with the ranges of its metadata, as provided by others.

    python tools/sbom.py dist
"""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from emodetect import __version__

PROJECT = Path(__file__).parent.parent
ENGINE = PROJECT / "emodetect" / "web" / "vendor"
IMAGES = {  # tag → its Dockerfile, and the lock that it installs
    "emodetect": ("api", "requirements_serve.txt"),
    "emodetect-train": ("train", "requirements.txt"),
    "emodetect-cluster": ("train", "requirements_cluster.txt"),
}
LINUX = {"os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
LINUX |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}


def python_of(
    image: str,  # api or train
) -> str:
    """The Python of an image, such as 3.13."""
    return re.search(r"^FROM python:(\d+\.\d+)-", (PROJECT / "dockerfiles" / f"{image}.Dockerfile").read_text(), re.M)[1]


def taken(
    lock: str,  # the text of a lock that is for all Pythons and platforms
    python: str,  # such as 3.13
) -> str:
    """The lock as a Python on Linux takes it: what others take is left blank, so that lines keep their numbers."""
    here = LINUX | {"python_version": python, "python_full_version": f"{python}.0", "implementation_version": f"{python}.0"}
    blocks = re.split(r"^(?=[\w-])", lock, flags=re.M)
    wanted = [Requirement(block.partition("\\")[0]) if "==" in block else None for block in blocks]
    return "".join("\n" * block.count("\n") if one and one.marker and not one.marker.evaluate(here) else block for one, block in zip(wanted, blocks, strict=True))


def locked_parts(
    lock: str,  # as `taken` gives it
) -> dict[str, Any]:
    """The packages of a lock, as a list of CycloneDX."""
    command = ["cyclonedx-py", "requirements", "--output-reproducible", "--output-format", "JSON", "-"]
    return json.loads(subprocess.run(command, input=lock, stdout=subprocess.PIPE, check=True, text=True).stdout)


def engine_parts(
    lock: Path,  # package-lock.json
) -> list[dict[str, Any]]:
    """The page's engine and all that it is made of, as `npm sbom --omit=dev` would list it, which Debian's npm does not know."""
    parts = []
    for place, package in json.loads(lock.read_text())["packages"].items():
        if not place or package.get("dev"):
            continue
        group, _, name = place.rpartition("node_modules/")[2].rpartition("/")
        purl = PackageURL("npm", group, name, package["version"]).to_string()
        kind, _, digest = package["integrity"].partition("-")
        part = {"type": "library", "bom-ref": purl, "name": name, "version": package["version"], "purl": purl, "licenses": [{"expression": package["license"]}]}
        part["hashes"] = [{"alg": kind.upper().replace("SHA", "SHA-"), "content": base64.b64decode(digest).hex()}]
        parts.append(part | ({"group": group} if group else {}))
    return parts


def ranged_parts(
    required: Iterable[str],  # the lines Requires-Dist of a wheel's metadata
) -> list[dict[str, Any]]:
    """The packages that a wheel asks for and does not hold, each once with its range; what only an extra asks for is optional, and the extra dev is no part of it."""
    asked: dict[str, list[Requirement]] = {}
    for line in required:
        one = Requirement(line)
        if "extra == \"dev\"" not in str(one.marker):
            asked.setdefault(canonicalize_name(one.name), []).append(one)
    parts = []
    for name, lines in sorted(asked.items()):
        purl = PackageURL("pypi", "", name).to_string()
        limits = sorted({each for one in lines for each in one.specifier}, key=lambda each: Version(each.version))
        scope = "optional" if all("extra ==" in str(one.marker) for one in lines) else "required"
        part = {"type": "library", "bom-ref": purl, "name": name, "purl": purl, "scope": scope, "isExternal": True, "description": "; ".join(map(str, lines))}
        parts.append(part | {"versionRange": "vers:pypi/" + "|".join(str(each).removeprefix("==") for each in limits)})
    return parts


def main() -> None:
    """Write the lists of this project into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    engine = engine_parts(PROJECT / "package-lock.json") if ENGINE.is_dir() else []
    lists = {}
    for tag, (image, lock) in IMAGES.items():
        listed = locked_parts(taken((PROJECT / lock).read_text(), python_of(image)))
        lists[tag] = ("container", listed, engine if image == "api" else [])
    bare = locked_parts("") | {"$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json", "specVersion": "1.7"}  # 1.7 knows ranges
    lists["emodetect-wheel"] = ("application", bare, engine + ranged_parts(metadata("emodetect").get_all("Requires-Dist")))
    for name, (kind, listed, added) in lists.items():
        parts = listed.get("components", []) + added
        listed["metadata"]["component"] = {"type": kind, "bom-ref": name, "name": name, "version": __version__, "licenses": [{"expression": "AGPL-3.0-or-later"}]}
        listed["components"] = parts
        listed["dependencies"] = [{"ref": part["bom-ref"]} for part in parts] + [{"ref": name, "dependsOn": [part["bom-ref"] for part in parts]}]
        text = json.dumps(listed, indent=2) + "\n"
        if problem := JsonStrictValidator(SchemaVersion.from_version(listed["specVersion"])).validate_str(text):
            raise SystemExit(f"the list {name} does not follow its schema: {problem.data}")
        (folder / f"{name}.cdx.json").write_text(text)
        print(f"{folder / name}.cdx.json: {len(parts)} packages")
    if not engine:
        print("the page's engine is not among them, since `make web` has not fetched it")


if __name__ == "__main__":
    main()
