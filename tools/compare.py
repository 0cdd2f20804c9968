"""What a branch changes, against another commit, as Markdown: parameters, data, figures, and whether the model's change is beyond noise.

    python tools/compare.py COMMIT    writes reports/comparison.md and prints it
"""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from emodetect.gates import OUTCOMES_FILE
from emodetect.outcomes import read_outcomes, versus, versus_lines

TARGET = Path("reports/comparison.md")


def dvc(*arguments: str) -> str:
    """The table that a command of DVC prints; nothing if it has no rows."""
    table = subprocess.run(["dvc", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    return table if table.count("\n") > 1 else ""


def locked(text: str) -> dict[str, str]:
    """Output → hash, of a dvc.lock."""
    stages = (yaml.safe_load(text) or {}).get("stages", {})
    return {out["path"]: out.get("md5", "") for stage in stages.values() for out in stage.get("outs", [])}


def outputs(commit: str) -> str:
    """The outputs whose content is another one, as a table."""
    before = locked(subprocess.run(["git", "show", f"{commit}:dvc.lock"], capture_output=True, text=True).stdout)
    now = locked(Path("dvc.lock").read_text(encoding="utf-8"))
    rows = [f"| {path} | {before.get(path, '–')[:12]} | {now.get(path, '–')[:12]} |" for path in sorted(before | now) if before.get(path) != now.get(path)]
    return "\n".join(["| output | before | now |", "|---|---|---|", *rows]) if rows else ""


def beyond_noise(commit: str) -> str:
    """Whether the model is better or worse than that of a commit, by the paired bootstrap over pictures."""
    before = subprocess.run(["git", "show", f"{commit}:{OUTCOMES_FILE}"], capture_output=True, text=True)
    if before.returncode or not Path(OUTCOMES_FILE).is_file():
        return f"Not known: {OUTCOMES_FILE} is missing {'there' if before.returncode else 'here'}."
    now = read_outcomes(Path(OUTCOMES_FILE).read_text(encoding="utf-8"))
    return "\n".join(versus_lines(versus(read_outcomes(before.stdout), now)))


def main(commit: str) -> None:
    """Compare the workspace with a commit."""
    parts = {"Parameters": dvc("params", "diff", "--md", commit), "Data and models": outputs(commit), "Figures": dvc("metrics", "diff", "--md", commit)}
    parts["Beyond noise?"] = beyond_noise(commit)
    text = "\n\n".join(f"## {title}\n\n{body or 'No change.'}" for title, body in parts.items()) + "\n"
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    print(text)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main(sys.argv[1])
