"""Writes down what a benchmark measured, and beside it of which state of the project, and on which machine."""

import json
import platform
from pathlib import Path
from typing import Any

from cpuinfo import get_cpu_info

from emodetect.checkout import git
from emodetect.core import sha256_file
from emodetect.provenance import library_versions

PROJECT = Path(__file__).parent.parent
TRAINED = PROJECT / "reports" / "train" / "metrics.json"  # every digit of the committed training's figures: another network has others


def circumstances() -> dict[str, Any]:
    """What figures depend on beside the benchmark itself."""
    changed = (git(PROJECT, "status", "--porcelain") or "").splitlines()
    return {
        "commit": (git(PROJECT, "rev-parse", "HEAD") or "").strip(),
        "changed": sorted(line[3:] for line in changed if not line[3:].startswith("reports/")),
        "network": sha256_file(TRAINED),
        "processor": get_cpu_info().get("brand_raw", platform.machine()),
        "python": platform.python_version(),
        "libraries": library_versions(),
    }


def write(path: Path, measured: dict[str, Any]) -> None:
    """Write figures to a JSON file, with their circumstances."""
    path.write_text(json.dumps(measured | {"measured": circumstances()}, indent=2) + "\n")
