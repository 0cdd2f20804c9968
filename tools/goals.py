"""What this project set itself, and what was measured last: `python tools/goals.py` prints the table that stands in nbs/guides/published_numbers.ipynb.

The figures are those of reports/benchmarks, which the commands named beside them write; nothing is measured here. Where two clients counted, the lower count stands here.
A goal of so many pictures or seeds is missed if fewer were measured, and the one of a reduced precision if the stage export would take none.
"""

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from emodetect.core import sha256_file

PROJECT = Path(__file__).resolve().parent.parent
PICTURES, SEEDS = 25_000, 5  # that the goals of preparing and of accuracy are of


@dataclass(frozen=True)
class Goal:
    """A figure, and where it should lie."""

    what: str
    aim: float
    measured: float
    command: str
    least: bool = True  # whether the aim is the least that it should be, and not the most
    enough: bool = True  # whether as much was measured as the goal is of
    better: bool = False  # than what it is held against, where to equal it is the goal
    earlier: bool = False  # whether the figure is of an earlier state of the project

    @property
    def reached(self) -> bool:
        """Whether the figure lies where it should."""
        return self.enough and (self.better or (self.measured >= self.aim if self.least else self.measured <= self.aim))


def read(name: str) -> dict[str, Any]:
    """The figures of a benchmark."""
    found: dict[str, Any] = json.loads((PROJECT / "reports" / "benchmarks" / f"{name}.json").read_text())
    return found


def of_earlier(found: dict[str, Any]) -> bool:
    """Whether figures of a benchmark were measured with another network than the present one, or before that was written down."""
    networks = {found[when].get("network") for when in ("measured", "wrk_measured") if when in found}
    return networks != {sha256_file(PROJECT / "reports" / "train" / "metrics.json")}


def so_many(count: int, least: int, what: str) -> str:
    """How much was measured, and that it is too little where it is."""
    return f"{count:,} {what}" + ("" if count >= least else f" (too few: the goal is of {least:,})")


def goals() -> list[Goal]:
    """Every goal that is a number, in the order of the pipeline."""
    figures = {name: read(name) for name in ("data", "train", "accuracy", "finding", "infer", "score", "serve")}
    data, train, accuracy, finding, infer, score, serve = figures.values()
    many, seeds = data["pictures"] >= PICTURES, accuracy["seeds"] >= SEEDS
    prepared, judged = so_many(data["pictures"], PICTURES, "pictures"), so_many(accuracy["seeds"], SEEDS, "seeds")
    faces, large, small, start = finding["modes"]["faces"], finding["large"], infer["ratios"]["96"], infer["start_seconds"]
    reduced = [name for name, taken in infer["taken"]["96"].items() if taken and not name.endswith("fp32")]
    unseen = finding.get("fresh", faces)  # on the others the default was chosen
    lost = round(unseen["emotion_right_on_bare_portraits"] - unseen["emotion_right_of_found_24_px_and_more"], 3)
    other = [name for name in start if name.startswith("openvino")]
    served, one = serve["ratios"]["whole picture, 96 px"], serve["batches"]["p50_to_one_at_a_time_at_1"]
    rates = {name: row["rate_to_plain_at_32"] for name, row in serve["ratios"].items() if name.startswith("whole picture, 96 px")}
    rates |= {name: min(rates[name], row["rate_to_plain"]) for name, row in serve.get("wrk", {}).items() if name in rates}  # there is none where wrk is not installed
    quick = max((rate for name, rate in rates.items() if name != "whole picture, 96 px" and serve["precisions"][name]["taken"]), default=0.0)
    quicker = {count: max((small[count][name]["times_as_fast_as_yolo"] for name in reduced), default=0.0) for count in ("1", "32")}
    (few, little), (_, memory) = sorted((int(count), megabytes) for count, megabytes in data["peak_megabytes"].items())
    memory_more, against = round(memory / little, 2), accuracy["less_yolo_train"]
    points = list(zip(score["pictures"], score["seconds"], strict=True))
    steps = [(later - sooner) / (more - fewer) for (fewer, sooner), (more, later) in pairwise(points)]
    bend = round(steps[-1] / steps[0], 3)
    found = [
        Goal(f"checking and preparing {prepared}, without notebook, plots and card, times the least that must be done", 1.25, data["prepare_to_least"], "bench-data", False, many),
        Goal(f"checking and preparing {prepared}, times as fast as Ultralytics' scan", 3, data["ultralytics_to_prepare"], "bench-data", enough=many),
        Goal(f"checking and preparing, memory for {prepared} over that for {few:,} (flat: a tenth more at most)", 1.1, memory_more, "bench-data", False, many),
        Goal("training, the faster precision, times `yolo train`", 2.2, max(train["to_yolo_train"].values()), "bench-train"),
        Goal("training in 32 bits, of the bare limit", 0.8, train["to_bare_limit"]["fp32"], "bench-train"),
        Goal("training in 16 bits, of the bare limit", 0.8, train["to_bare_limit"]["bf16"], "bench-train"),
        *(
            Goal(f"training in {bits} bits, as accurate as `yolo train` or more: p-value over {judged}", 0.05, less["p"], "bench-accuracy", enough=seeds, better=less["mean"] > 0)
            for bits, less in ((32, against["fp32"]), (16, against["bf16"]))
        ),
        Goal("what DVC, Papermill and DVCLive add to ten minutes", 0.05, train["stage_adds_to_ten_minutes"], "bench-train", least=False),
        Goal("faces of 24 px and more found in scenes", 0.95, unseen["found_24_px_and_more"], "bench-finding"),
        Goal("false faces in 100 pictures without any", 1, faces["false_faces_in_100_face_free"], "bench-finding", least=False),
        Goal("false faces in 100 hard ones", 1, faces["false_faces_in_100_hard"], "bench-finding", least=False),
        Goal("false faces in 100 large hard ones", 1, large["false_faces_in_100_face_free"], "bench-finding", least=False),
        Goal("emotions right on bare portraits, more than in scenes by", 0.02, lost, "bench-finding", least=False),
        Goal("answers in 32 bits, 96 px, one at a time, times `YOLO.predict`", 3.5, small["1"]["onnxruntime fp32"]["times_as_fast_as_yolo"], "bench-infer"),
        Goal("answers in 32 bits, 96 px, 32 at a time, times `YOLO.predict`", 1.6, small["32"]["onnxruntime fp32"]["times_as_fast_as_yolo"], "bench-infer"),
        Goal("answers in a reduced precision, 96 px, one at a time, times `YOLO.predict`", 7, quicker["1"], "bench-infer"),
        Goal("answers in a reduced precision, 96 px, 32 at a time, times `YOLO.predict`", 3, quicker["32"], "bench-infer"),
        Goal("what the detector adds to bare ONNX Runtime, one at a time", 0.15, small["1"]["onnxruntime fp32"]["over_bare"], "bench-infer", least=False),
        Goal("what the detector adds to bare OpenVINO, one at a time, at most", 0.15, max(small["1"][name]["over_bare"] for name in other), "bench-infer", least=False),
        Goal("what the detector adds to bare ONNX Runtime, 32 at a time", 0.05, small["32"]["onnxruntime fp32"]["over_bare"], "bench-infer", least=False),
        Goal("what the detector adds to bare OpenVINO, 32 at a time, at most", 0.05, max(small["32"][name]["over_bare"] for name in other), "bench-infer", least=False),
        Goal("seconds from the start of a process to its first answer, ONNX Runtime", 0.6, start["onnxruntime fp32"], "bench-infer", least=False),
        Goal("seconds from the start of a process to its first answer, OpenVINO, at most", 0.6, max(start[name] for name in other), "bench-infer", least=False),
        Goal("batch scoring, a further picture among the last over one among the first (a straight line: 1)", 1.05, bend, "bench-score", False, len(steps) > 1),
        Goal("service, 32 clients, 96 px, 32 bits, times the plain one", 7.5, rates["whole picture, 96 px"], "bench-serve"),
        Goal("service, 32 clients, 96 px, a reduced precision, times the plain one", 12, quick, "bench-serve"),
        Goal("service, 32 clients, 96 px, times shorter until 99 % are answered", 5, served["p99_of_plain_to_p99_at_32"], "bench-serve"),
        Goal("service, 32 clients, 96 px, of the bare loop that decodes and infers", 0.7, served["rate_to_bare_at_32"], "bench-serve"),
        Goal("what waiting for further pictures costs a single client, times", 1.1, one, "bench-serve", least=False),
        Goal("seconds until the service in its image is ready", 0.6, serve["image"]["ready_seconds"], "bench-serve", least=False),
        Goal("megabytes of the service's packages in its image", 300, serve["image"]["mb"], "bench-serve", least=False),
    ]
    return [replace(goal, earlier=of_earlier(figures[goal.command.removeprefix("bench-")])) for goal in found]


def main() -> None:
    """Print the table."""
    for goal in goals():
        when = ", at an earlier state of the project" if goal.earlier else ""
        print(f"{'reached' if goal.reached else 'missed':<9}{goal.measured:>8g}  {'≥' if goal.least else '≤'} {goal.aim:<6g} {goal.what} (make {goal.command}{when})")


if __name__ == "__main__":
    main()
