"""Which way finds faces in photographs: the network on the whole picture, a face finder that cuts faces out for it, or both?

Run it with `make bench-finding` after `make pipeline`; `SCENES=50 make bench-finding` takes fewer. It writes reports/benchmarks/finding.json.

The pictures are scenes composed from the portraits of the test split (nbs/17_scenes.ipynb): 0 to 12 faces from 16 pixels up, plain, tilted or half covered,
on backgrounds without people; the whole test split as it is; and photographs without a face that scikit-learn brings along.
A face counts as found at an intersection over union of 0.5. Emotions are judged on the faces that were found, and beside them on the bare portraits.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_images

from emodetect.core import cores, print_progress
from emodetect.detector import MODES, Detector, decode_picture, load_detector
from emodetect.evaluation import confusion_matrix, confusions, finding_and_naming, judge, match
from emodetect.labels import EMOTIONS, Face
from emodetect.scenes import Scene, compose_scene, portraits

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "finding.json"
SIZES = (16, 24, 48, 96)  # pixels, where the classes of size begin
FACE_FREE = 200  # scenes without a face, beside those among the others


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


def judge_scenes(detector: Detector, scenes: Sequence[Scene], empty: Sequence[np.ndarray], progress: Callable[[int, int], None]) -> dict[str, object]:
    """Finding and naming in scenes."""
    rows, false, taken = [], 0, 0.0
    for done, scene in enumerate(scenes, start=1):
        started = time.perf_counter()
        answered, wrong = answers(detector, scene.picture, [placed.face for placed in scene.faces])
        taken += time.perf_counter() - started
        false += wrong
        rows += [(placed, answer) for placed, answer in zip(scene.faces, answered, strict=True)]
        progress(done, len(scenes))
    seen = [(placed, answer) for placed, answer in rows if placed.size >= 24]
    large = [(placed, answer) for placed, answer in seen if placed.size >= 48 and placed.kind == "plain"]
    sizes: dict[str, list[bool]] = defaultdict(list)
    for placed, answer in rows:
        sizes[f"from {max(size for size in SIZES if placed.size >= size - 1)} px"].append(answer is not None)
    return {
        "faces": len(rows),
        "found_24_px_and_more": share(answer is not None for _, answer in seen),
        "found_by_size": {name: share(sizes[name]) for name in sorted(sizes, key=lambda name: int(name.split()[1]))},
        "found_by_kind": {kind: share(answer is not None for placed, answer in seen if placed.kind == kind) for kind in ("plain", "tilted", "covered")},
        "emotion_right_of_found": share(EMOTIONS[placed.face.emotion] == answer for placed, answer in rows if answer),
        "emotion_right_of_plain_48_px_and_more": share(EMOTIONS[placed.face.emotion] == answer for placed, answer in large if answer),
        "false_faces_in_scenes": false,
        "false_faces_in_100_face_free": round(100 * sum(len(detector([picture])[0]) for picture in empty) / len(empty), 2),
        "milliseconds_a_scene": round(1000 * taken / len(scenes), 1),
    }


def main() -> None:
    """Judge each mode on the same pictures, print the table and write it down."""
    count = int(os.environ.get("SCENES", "150"))
    data, model = PROJECT / "data" / "prepared", PROJECT / "models" / "emodetect.onnx"
    album = portraits(data)
    scenes = [compose_scene(album, index) for index in range(count)]
    empty = [compose_scene(album, 5 * index + 4, seed=1).picture for index in range(FACE_FREE)] + list(load_sample_images().images)
    measured: dict[str, object] = {"scenes": count, "face_free": len(empty), "cores": cores(), "modes": {}}
    for mode in MODES:
        detector = load_detector(model, mode=mode)
        bare = [(EMOTIONS[face.emotion], answers(detector, decode_picture(path), [face])[0][0]) for path, face in album]
        row = judge_scenes(detector, scenes, empty, print_progress(f"scenes, {mode}", 3))
        row["emotion_right_on_bare_portraits"] = share(label == answer for label, answer in bare if answer)
        row["test_split"] = {name: round(value, 3) for name, value in finding_and_naming(confusion_matrix(confusions(judge(detector, data, "test")))).items()}
        measured["modes"][mode] = row
    print(json.dumps(measured, indent=2))
    RESULT.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
