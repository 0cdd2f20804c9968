"""The 28 checks of the ML Test Score (Breck, Cai, Nielsen, Salib and Sculley: The ML Test Score, IEEE Big Data 2017), as a table that is executed.

    python tools/ml_test_score.py [NUMBER…]    runs all checks, or those of these numbers; prints the table and the score

A check that a command proves, which CI runs too, is worth one point if the command succeeds. What is not met says why, and is worth nothing. The score is that of
the weakest of the four sections: 0 is a research project, above 3 strong automation, above 5 exceptional, as the paper has it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TARGET = Path("reports/benchmarks/ml_test_score.json")
SECTIONS = ("data", "model", "infrastructure", "monitoring")


@dataclass(frozen=True)
class Check:
    """One of the 28."""

    section: str  # of SECTIONS
    asks: str
    command: str = ""  # proves it; empty: not met
    because: str = ""  # why it is not met


def _notebook(name: str) -> str:
    """The command that runs the examples of a library notebook."""
    return f"pytest -q tests/test_notebook_examples.py -k {name}"


CHECKS = (
    Check("data", "feature expectations are captured in a schema", "emodetect check data/raw"),
    Check("data", "all features are beneficial", because="the one feature is the picture; no ablation of its colour or resolution is run"),
    Check("data", "no feature's cost is too much", because="what the face finder costs is measured by hand (make bench-finding), against no limit"),
    Check("data", "features adhere to meta-level requirements", _notebook("09_cards")),
    Check("data", "the data pipeline has appropriate privacy controls", "pytest -q tests/test_in_step.py -k 'gitignore or reports_home'"),
    Check("data", "new features can be added quickly", "pytest -q nbs/guides/add_a_stage.ipynb"),
    Check("data", "all input feature code is tested", "pytest -q tests/test_parity.py"),
    Check("model", "model specs are reviewed and submitted", "pytest -q tests/test_workflows.py -k 'schema or zizmor or pinned'"),
    Check("model", "offline and online metrics correlate", because="nothing is served to people whose answers could be counted"),
    Check("model", "all hyperparameters have been tuned", because="emodetect sweep searches them, but the defaults are not what a recorded sweep found"),
    Check("model", "the impact of model staleness is known", because="drawn faces don't age; for photographs nobody has measured it"),
    Check("model", "a simpler model is not better", "emodetect gate"),
    Check("model", "model quality is sufficient on important data slices", "emodetect gate"),
    Check("model", "the model is tested for considerations of inclusion", because="the data know neither age nor sex nor skin of a face, so no slice can be made of them"),
    Check("infrastructure", "training is reproducible", "pytest -q tests/test_training.py -k 'repro_check or every_epoch'"),
    Check("infrastructure", "model specs are unit tested", _notebook("'11_yolo or 12_trainer'")),
    Check("infrastructure", "the ML pipeline is integration tested", "pytest -q tests/test_pipeline.py -k 'leaves_its_outputs or second_repro'"),
    Check("infrastructure", "model quality is validated before serving", "pytest -q tests/test_registry.py -k gates_are_read"),
    Check("infrastructure", "the model can be debugged on one example", _notebook("28_explanations")),
    Check("infrastructure", "models are tested in a canary process before serving", "pytest -q tests/test_service.py -k 'canary or exchanged'"),
    Check("infrastructure", "serving models can be rolled back", "pytest -q tests/test_registry.py -k roll_back"),
    Check("monitoring", "dependency changes result in notification", "pytest -q tests/test_workflows.py -k schema"),
    Check("monitoring", "data invariants hold for training and serving inputs", "emodetect check data/raw && pytest -q tests/test_watch.py -k alarm"),
    Check("monitoring", "training and serving features compute the same values", "pytest -q tests/test_parity.py"),
    Check("monitoring", "models are not too stale", because="no age is asked of the version in production"),
    Check("monitoring", "the model is numerically stable", "pytest -q tests/test_training.py -k no_number"),
    Check("monitoring", "no regression in training speed, latency, throughput or memory", because="benchmarks compare within one run; nothing watches them over time"),
    Check("monitoring", "no regression in prediction quality on served data", because="served pictures are not kept, and so not labelled"),
)


def run(check: Check) -> bool:
    """Whether the check's command succeeds."""
    return subprocess.run(check.command, shell=True, capture_output=True, env=os.environ | {"PYTHONWARNINGS": "ignore"}).returncode == 0


def line(number: int, check: Check, passed: bool) -> str:
    """A row of the table."""
    what = f"`{check.command}`" if check.command else f"not met: {check.because}"
    return f"| {number} | {check.section} | {check.asks} | {what} | {'1' if passed else 'FAILED' if check.command else '0'} |"


def main(numbers: Sequence[int]) -> int:
    """Run checks and print the table; 1 if a command that should prove one fails."""
    chosen = [(number, check) for number, check in enumerate(CHECKS, start=1) if not numbers or number in numbers]
    print("| | section | check | proof | points |\n|---|---|---|---|---|")
    points, failed = dict.fromkeys(SECTIONS, 0), 0
    for number, check in chosen:
        passed = bool(check.command) and run(check)
        print(line(number, check, passed), flush=True)
        points[check.section] += passed
        failed += bool(check.command) and not passed
    if len(chosen) == len(CHECKS):
        print(f"\nML Test Score: {min(points.values())}, the least of " + ", ".join(f"{section} {count}" for section, count in points.items()))
        TARGET.write_text(json.dumps({"score": min(points.values()), "sections": points, "failed": failed}, indent=2) + "\n", encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main([int(number) for number in sys.argv[1:]]))
