"""List all that the wheel and the service's image hold, as CycloneDX: the serving lock, and the page's engine if `make web` has fetched it.

    python tools/sbom.py dist/emodetect.cdx.json
"""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from emodetect import __version__

PROJECT = Path(__file__).parent.parent
ENGINE = PROJECT / "emodetect" / "web" / "vendor"


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


def main() -> None:
    """Write the list of this project to the file that is named."""
    command = ["cyclonedx-py", "requirements", str(PROJECT / "requirements_serve.txt"), "--output-reproducible", "--output-format", "JSON"]
    listed = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    own = {"type": "application", "bom-ref": "emodetect", "name": "emodetect", "version": __version__, "licenses": [{"expression": "AGPL-3.0-or-later"}]}
    added = engine_parts(PROJECT / "package-lock.json") if ENGINE.is_dir() else []
    listed["metadata"]["component"] = own
    listed["components"] += added
    listed["dependencies"] += [{"ref": part["bom-ref"]} for part in added] + [{"ref": "emodetect", "dependsOn": [part["bom-ref"] for part in listed["components"]]}]
    text = json.dumps(listed, indent=2) + "\n"
    if problem := JsonStrictValidator(SchemaVersion.from_version(listed["specVersion"])).validate_str(text):
        raise SystemExit(f"the list does not follow its schema: {problem.data}")
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    print(f"{target}: {len(listed['components'])} packages" + ("" if added else "; the page's engine is not among them, since `make web` has not fetched it"))


if __name__ == "__main__":
    main()
