"""What the package `fer` says of the faces that the detector found. `make peer` runs it, in an environment of its own that holds `fer` and not emodetect.

    python tools/fer_answers.py    reads reports/evaluate/answers.json, writes reports/benchmarks/peers.json

`fer` is given the found boxes, so that both name the same faces. It knows seven of the eight emotions, and no contempt.
"""

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
import cv2
from fer.fer import FER

ANSWERS, DATA, TARGET = Path("reports/evaluate/answers.json"), Path("data/prepared"), Path("reports/benchmarks/peers.json")
OURS = {"angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happy", "neutral": "neutral", "sad": "sad", "surprise": "surprise"}


def main() -> None:
    """Ask about every found face, and write the answers down."""
    content, peer, named = ANSWERS.read_bytes(), FER(), {}
    for row in json.loads(content):
        boxes = [[round(one["left"]), round(one["top"]), round(one["right"] - one["left"]), round(one["bottom"] - one["top"])] for one in row["detections"]]
        picture = cv2.imread(str(DATA / row["file"]))
        answers = [peer.detect_emotions(picture, face_rectangles=[box]) for box in boxes]
        if not all(answers):
            raise SystemExit(f"{DATA / row['file']}: fer gives no answer for a face that was found, so nothing is written; leave the picture out, or compare without fer.")
        named[row["file"]] = [OURS[max(answer["emotions"], key=answer["emotions"].get)] for (answer,) in answers]
    TARGET.write_text(json.dumps({"answers_sha256": hashlib.sha256(content).hexdigest(), "peers": {f"fer {version('fer')}": named}}, separators=(",", ":")) + "\n")
    print(f"{TARGET}: {sum(map(len, named.values()))} faces in {len(named)} pictures")


if __name__ == "__main__":
    main()
