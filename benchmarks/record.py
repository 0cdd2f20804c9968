"""Writes down what a benchmark measured, and beside it of which state of the project, and on which machine."""

import json
import platform
from pathlib import Path
from typing import Any

from cpuinfo import get_cpu_info

from emodetect.checkout import Checkout, git
from emodetect.core import sha256_file
from emodetect.provenance import library_versions

PROJECT = Path(__file__).parent.parent
TRAINED = Path("reports") / "train" / "metrics.json"  # every digit of the committed training's figures: another network has others
MODELS = ("models/emodetect.pt", "models/emodetect.onnx")  # which DVC brings, so that they may be of another commit


def _state() -> dict[str, Any]:
    """The commit, what differs from it, and the network; `SystemExit` if a model that lies here is none of theirs."""
    checkout = Checkout(PROJECT)
    for name in MODELS:
        if (PROJECT / name).is_file() and checkout.made.get(name, "") not in ("", checkout.id_of(name)):
            raise SystemExit(f"{name}: is not the model that dvc.lock names, and nothing is measured with one that nobody could name; run `dvc checkout`.")
    changed = (git(PROJECT, "status", "--porcelain") or "").splitlines()
    return {
        "commit": (git(PROJECT, "rev-parse", "HEAD") or "").strip(),
        "changed": sorted(line[3:] for line in changed if not line[3:].startswith("reports/")),
        "network": sha256_file(PROJECT / TRAINED),
    }


def circumstances() -> dict[str, Any]:
    """What figures depend on beside the benchmark itself, to be asked for when it begins; `SystemExit` if the model is not the one of this checkout."""
    return _state() | {
        "processor": get_cpu_info().get("brand_raw", platform.machine()),
        "python": platform.python_version(),
        "libraries": library_versions(),
    }


def ended(begun: dict[str, Any]) -> dict[str, Any]:
    """The circumstances of a benchmark that ends now, with the commit if there is a new one; `SystemExit` if there is a new network."""
    now = _state()
    if now["network"] != begun["network"]:
        raise SystemExit("The network was trained anew while this benchmark ran, so that its figures are of none and are not written down; run it again.")
    return begun | ({} if now["commit"] == begun["commit"] else {"commit_at_end": now["commit"]})


def write(path: Path, measured: dict[str, Any], begun: dict[str, Any]) -> None:
    """Write figures to a JSON file, with the circumstances in which the benchmark began."""
    path.write_text(json.dumps(measured | {"measured": ended(begun)}, indent=2) + "\n")
