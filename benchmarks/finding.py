"""Which way finds faces in photographs: the network on the whole picture, a face finder that cuts faces out for it, or both? And what do a second look and the network's word add?

Run it with `make bench-finding` after `make pipeline`; `SCENES=50 make bench-finding` takes fewer. It writes reports/benchmarks/finding.json.

The pictures are scenes composed from the portraits of the test split (nbs/17_scenes.ipynb): 0 to 12 faces from 16 pixels up, plain, tilted or half covered,
on backgrounds without people; the whole test split as it is; and pictures without a face: backgrounds, and, as hard ones, clouds of noise and views of two photographs
that scikit-learn brings along. The way that is the default stands beside itself without the network's word, and with one look only.
Photographs of 3000 × 2250 pixels with faces of the same sizes, of 2000 × 1500 without one, and scenes in which the picture's edge cuts off 20 to 40 % of each face,
are judged in the default way; a cut face's box ends at the edge, and what is left of less than 16 pixels counts in the smallest class.
On these pictures the default and some parameters of the training were chosen. So the default is judged once more in scenes of people who are drawn for nothing else, if the
model was trained on drawn ones.
What the face finder alone sees with one look and with two is counted at thresholds side by side.
A face counts as found at an intersection over union of 0.5. Emotions are judged on the faces that were found, and beside them on the bare portraits.
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import yaml
from record import circumstances, write
from sklearn.datasets import load_sample_images

from emodetect.core import cores, print_progress
from emodetect.detector import MODES, NEVER, Detector, decode_picture, load_detector, load_session
from emodetect.evaluation import confusion_matrix, confusions, finding_and_naming, judge, match
from emodetect.labels import EMOTIONS, Face, intersection_over_union
from emodetect.prepare import prepare
from emodetect.sample import write_sample
from emodetect.scenes import CUT, KINDS, Placed, Scene, compose_scene, draw_clouds, portraits
from emodetect.yunet import FaceFinder, load_yunet

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "finding.json"
SIZES = (16, 24, 48, 96)  # pixels, where the classes of size begin
FACE_FREE = 200  # scenes without a face, beside those among the others; clouds; views of photographs; and large photographs of such views
UNCONFIRMED = "faces, the finder alone decides"
ONE_LOOK = "the same, with one look"
LARGE = (2250, 3000)  # height and width of a large photograph, pixels
TURN = 30  # scenes
VIEWS = 12  # views side by side in a large photograph without a face, 500 pixels each
THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8)
FRESH = 20  # the seed of the people on whom nothing is chosen, and of their scenes: it may serve to report, never to decide
FRESH_PEOPLE = {"train": 8, "valid": 8, "test": 600}


def answers(detector: Detector, picture: np.ndarray, faces: Sequence[Face]) -> tuple[list[str | None], int]:
    """For each labelled face the emotion that was answered, or None if it was not found; and how many answers belong to no face."""
    height, width = picture.shape[:2]
    found = detector([picture])[0]
    pairs = dict(match([face.corners(width, height) for face in faces], found))
    return [found[pairs[index]].emotion if index in pairs else None for index in range(len(faces))], len(found) - len(pairs)


def share(values: Iterable[bool]) -> float | None:
    """How many of some are true; None of none."""
    values = list(values)
    return round(float(np.mean(values)), 3) if values else None


def draw_views(count: int) -> Iterator[np.ndarray]:
    """Parts of photographs without a face, at many scales."""
    random = np.random.default_rng(0)
    for photograph in load_sample_images().images:
        for _ in range(count // 2):
            height, width = (round(side * random.uniform(0.2, 0.9)) for side in photograph.shape[:2])
            top, left = random.integers(photograph.shape[0] - height + 1), random.integers(photograph.shape[1] - width + 1)
            scale = random.uniform(320, 900) / max(height, width)
            part = photograph[top:top + height, left:left + width]
            yield cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def hang_views(views: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Large photographs without a face, each of as many views as fill it."""
    squares = (cv2.resize(view, (500, 500), interpolation=cv2.INTER_AREA if min(view.shape[:2]) > 500 else cv2.INTER_LINEAR) for view in views)
    while len(wall := list(islice(squares, VIEWS))) == VIEWS:
        yield np.vstack([np.hstack(wall[row:row + 4]) for row in range(0, VIEWS, 4)])


def count_looks(finder: FaceFinder, scenes: Sequence[Scene], empty: Sequence[np.ndarray]) -> dict[str, object]:
    """At each threshold, which share of the faces of 24 pixels and more is found, and how many false faces are in 100 pictures without any."""
    found = []
    for scene in scenes:
        height, width = scene.picture.shape[:2]
        seen = [(one.score, one.face.corners(width, height)) for one in finder(scene.picture)]
        for placed in scene.faces:
            box = placed.face.corners(width, height)
            found += [max((score for score, other in seen if intersection_over_union(box, other) >= 0.5), default=0.0)] * (placed.size >= 24)
    false = [one.score for picture in empty for one in finder(picture)]
    return {
        str(least): {"found": share(score >= least for score in found), "false_in_100": round(100 * sum(score >= least for score in false) / len(empty), 2)}
        for least in THRESHOLDS
    }


def found_share(faces: Sequence[tuple[Placed, str | None]]) -> float | None:
    """Which share of some faces got an answer."""
    return share(answer is not None for _, answer in faces)


def right_share(faces: Sequence[tuple[Placed, str | None]]) -> float | None:
    """Which share of the faces that got an answer got the right one."""
    return share(EMOTIONS[placed.face.emotion] == answer for placed, answer in faces if answer)


def false_share(detector: Detector, pictures: Iterable[np.ndarray]) -> float:
    """How many faces are seen in 100 pictures without any."""
    return round(100 * float(np.mean([len(detector([picture])[0]) for picture in pictures])), 2)


def judge_scenes(detectors: Mapping[str, Detector], scenes: Sequence[Scene], progress: Callable[[int, int], None]) -> dict[str, dict[str, object]]:
    """Finding and naming in scenes by each detector; they are timed in turns of `TURN` scenes, since threads of the one before it still look for work in the first."""
    rows: dict[str, list[tuple[Placed, str | None]]] = {name: [] for name in detectors}
    false, taken = Counter[str](), Counter[str]()
    for start in range(0, len(scenes), TURN):
        for name, detector in detectors.items():
            for scene in scenes[start:start + TURN]:
                started = time.perf_counter_ns()
                answered, wrong = answers(detector, scene.picture, [placed.face for placed in scene.faces])
                taken[name] += time.perf_counter_ns() - started
                false[name] += wrong
                rows[name] += zip(scene.faces, answered, strict=True)
        progress(min(start + TURN, len(scenes)), len(scenes))
    return {name: figures(rows[name]) | {"false_faces_in_scenes": false[name], "milliseconds_a_scene": round(taken[name] / 1e6 / len(scenes), 1)} for name in detectors}


def figures(rows: Sequence[tuple[Placed, str | None]]) -> dict[str, object]:
    """How many faces were found and named rightly, by size and by kind."""
    seen = [(placed, answer) for placed, answer in rows if placed.size >= 24]
    by_size: dict[int, list[tuple[Placed, str | None]]] = {size: [] for size in SIZES}
    for placed, answer in rows:
        by_size[max((size for size in SIZES if placed.size >= size - 1), default=SIZES[0])].append((placed, answer))
    by_kind = {kind: [(placed, answer) for placed, answer in seen if placed.kind == kind] for kind in (*KINDS, CUT) if any(placed.kind == kind for placed, _ in seen)}
    return {
        "faces": len(rows),
        "found_24_px_and_more": found_share(seen),
        "found_by_size": {f"from {size} px": found_share(some) for size, some in by_size.items()},
        "found_by_kind": {kind: found_share(some) for kind, some in by_kind.items()},
        "emotion_right_of_found_24_px_and_more": right_share(seen),
        "emotion_right_by_size": {f"from {size} px": right_share(some) for size, some in by_size.items()},
        "emotion_right_of_48_px_and_more": {kind: right_share([(placed, answer) for placed, answer in some if placed.size >= 48]) for kind, some in by_kind.items()},
    }


def judge_large(detector: Detector, album: Sequence[tuple[Path, Face]], count: int) -> dict[str, object]:
    """Finding and naming in large photographs, and false faces in those without any."""
    scenes = [compose_scene(album, index, seed=2, height=LARGE[0], width=LARGE[1]) for index in range(count)]
    row = judge_scenes({"": detector}, scenes, print_progress("large photographs", 3))[""]
    false = false_share(detector, hang_views(draw_views(FACE_FREE * VIEWS)))
    return {"scenes": count, "height": LARGE[0], "width": LARGE[1]} | row | {"face_free": FACE_FREE, "false_faces_in_100_face_free": false}


def right_on_bare(detector: Detector, album: Sequence[tuple[Path, Face]]) -> float | None:
    """Which share of the faces that are found in the bare portraits is named rightly."""
    bare = [(EMOTIONS[face.emotion], answers(detector, decode_picture(path), [face])[0][0]) for path, face in album]
    return share(label == answer for label, answer in bare if answer)


def judge_fresh(detector: Detector, count: int) -> dict[str, object]:
    """Finding and naming people of whom nobody has seen a figure before the settings were chosen."""
    with tempfile.TemporaryDirectory() as folder:
        drawn, prepared = Path(folder) / "drawn", Path(folder) / "prepared"
        write_sample(drawn, FRESH_PEOPLE, seed=FRESH, processes=cores())
        prepare(drawn, prepared, source="sample")
        album = portraits(prepared)
        scenes = [compose_scene(album, index, seed=FRESH) for index in range(count)]
        row = judge_scenes({"": detector}, scenes, print_progress("scenes of people drawn afresh", 5))[""]
        return {"scenes": count, "seed": FRESH} | row | {"bare_portraits": len(album), "emotion_right_on_bare_portraits": right_on_bare(detector, album)}


def main() -> None:
    """Judge each mode on the same pictures, print the table and write it down."""
    begun = circumstances()
    count = int(os.environ.get("SCENES", "150"))
    data, model = PROJECT / "data" / "prepared", PROJECT / "models" / "emodetect.onnx"
    album = portraits(data)
    scenes = [compose_scene(album, index) for index in range(count)]
    empty = [compose_scene(album, 5 * index + 4, seed=1).picture for index in range(FACE_FREE)] + list(load_sample_images().images)
    hard = [*(draw_clouds(np.random.default_rng(index)) for index in range(FACE_FREE)), *draw_views(FACE_FREE)]
    settings = load_session(model)[1]
    measured: dict[str, object] = {"scenes": count, "face_free": len(empty), "hard_face_free": len(hard), "confirm": round(settings["confirm"], 3), "cores": cores(), "modes": {}}
    detectors = {mode: load_detector(model, mode=mode if mode in MODES else "faces") for mode in (*MODES, UNCONFIRMED, ONE_LOOK)}
    for mode in (UNCONFIRMED, ONE_LOOK):
        alone = load_yunet(PROJECT / "models" / "yunet.onnx", settings["face_score"], settings["smallest_face"], twice=mode == UNCONFIRMED)
        detectors[mode].confirm, detectors[mode].find = NEVER, alone
    for mode, row in judge_scenes(detectors, scenes, print_progress("scenes", 5)).items():
        detector = detectors[mode]
        row |= {"false_faces_in_100_face_free": false_share(detector, empty), "false_faces_in_100_hard": false_share(detector, hard)}
        row["emotion_right_on_bare_portraits"] = right_on_bare(detector, album)
        row["test_split"] = {name: round(value, 3) for name, value in finding_and_naming(confusion_matrix(confusions(judge(detector, data, "test")))).items()}
        measured["modes"][mode] = row
    measured["large"] = judge_large(load_detector(model), album, count // 3)
    cut = [compose_scene(album, index, seed=3, kinds=(CUT,)) for index in range(count)]
    measured["cut"] = {"scenes": count} | judge_scenes({"": load_detector(model)}, cut, print_progress("scenes, cut by the edge", 3))[""]
    if yaml.safe_load((PROJECT / "params.yaml").read_text())["data"]["source"] == "sample":
        measured["fresh"] = judge_fresh(load_detector(model), count)
    looks = {name: load_yunet(PROJECT / "models" / "yunet.onnx", min(THRESHOLDS), twice=twice) for name, twice in (("one", False), ("two", True))}
    measured["looks"] = {name: count_looks(finder, scenes, hard) for name, finder in looks.items()}
    print(json.dumps(measured, indent=2))
    write(RESULT, measured, begun)


if __name__ == "__main__":
    main()
