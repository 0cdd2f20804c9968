"""How `make lab` saves: notebooks come to the disk clean, so that neither git nor DVC takes a run for a change."""

import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
from notebooks import clean


def clean_before_saving(model: dict[str, Any], path: str, **_: object) -> None:
    """Clean what is about to be saved; what the browser shows stays as it is."""
    if model["type"] == "notebook" and model["content"] and model["content"]["nbformat"] == 4:
        clean(model["content"], path)


warnings.filterwarnings("ignore", "Overriding existing pre_save_hook")  # Jupyter reads this file twice
c.FileContentsManager.pre_save_hook = clean_before_saving  # noqa: F821 - Jupyter gives c
