"""What a branch changes, against another commit, as Markdown: parameters, data, figures, and whether the model's change is beyond noise.

Figures and outcomes are in git: of a stage that has not run on what lies here they are those of an earlier run, and are not compared.

    python tools/compare.py COMMIT    writes reports/comparison.md and prints it
"""

import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import yaml
from dvc.repo import Repo

from emodetect.gates import OUTCOMES_FILE
from emodetect.outcomes import read_outcomes, versus, versus_lines

TARGET = Path("reports/comparison.md")


def dvc(*arguments: str) -> str:
    """The table that a command of DVC prints; nothing if it has no rows."""
    table = subprocess.run(["dvc", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    return table if table.count("\n") > 1 else ""


def givers(*kinds: str) -> dict[str, str]:
    """Output → the stage that gives it, of these kinds of dvc.yaml."""
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {path: name for name, stage in stages.items() for kind in kinds for given in stage.get(kind, []) for path in ([given] if isinstance(given, str) else given)}


def behind() -> list[str]:
    """The stages that have not run on what lies here, or build on one that has not: DVC names only those whose own inputs or outputs are others than it has locked."""
    with Repo() as repo:
        return [name for name in yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"] if repo.status(name, with_deps=True)]


def part(table: str, stages: Collection[str], late: Collection[str]) -> str:
    """What these stages gave, as a table or in words, and which of them have not run."""
    waiting = list(dict.fromkeys(name for name in stages if name in late))
    lines = [table or "No change."] if set(stages) - set(late) else []
    return "\n\n".join([*lines, f"Not run: {', '.join(waiting)}."] if waiting else lines)


def locked(text: str) -> dict[str, str]:
    """Output → hash, of a dvc.lock."""
    stages = (yaml.safe_load(text) or {}).get("stages", {})
    return {out["path"]: out.get("md5", "") for stage in stages.values() for out in stage.get("outs", [])}


def outputs(commit: str, late: Collection[str]) -> str:
    """The outputs whose content is another one, as a table, without those of late stages."""
    before = locked(subprocess.run(["git", "show", f"{commit}:dvc.lock"], capture_output=True, text=True).stdout)
    now = locked(Path("dvc.lock").read_text(encoding="utf-8"))
    by = givers("outs", "metrics")
    changed = [path for path in sorted(before | now) if before.get(path) != now.get(path) and by.get(path) not in late]
    rows = [f"| {path} | {before.get(path, '–')[:12]} | {now.get(path, '–')[:12]} |" for path in changed]
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
    late, stages, figures = behind(), givers("outs", "metrics"), givers("metrics")
    fresh = [path for path, name in figures.items() if name not in late]
    judge = stages[OUTCOMES_FILE]
    parts = {
        "Parameters": dvc("params", "diff", "--md", commit) or "No change.",
        "Data and models": part(outputs(commit, late), stages.values(), late),
        "Figures": part(dvc("metrics", "diff", "--md", commit, "--targets", *fresh) if fresh else "", figures.values(), late),
        "Beyond noise?": part("" if judge in late else beyond_noise(commit), [judge], late),
    }
    text = "\n\n".join(f"## {title}\n\n{body}" for title, body in parts.items()) + "\n"
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    print(text)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main(sys.argv[1])
