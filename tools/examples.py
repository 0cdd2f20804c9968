"""Draw the page's example pictures with the project's own generator: `make examples`."""

from pathlib import Path

import cv2
import numpy as np

from emodetect.faces import Movement, Pose, draw_face, express, random_person
from emodetect.sample import draw_ground

FOLDER = Path(__file__).parent.parent / "emodetect" / "web" / "examples"
SIDE = 320  # pixels
PORTRAITS = {"happy": 4, "anger": 7, "surprise": 11, "sad": 2}  # emotion → seed of the person and the background
UNCLEAR = sum((express(emotion) * 0.35 for emotion in ("disgust", "happy", "surprise")), Movement())
CROWD = {"happy": (105, 140), "neutral": (250, 120), "surprise": (390, 150), "disgust": (535, 135)}  # emotion → centre in the scene, pixels


def portrait(seed: int, moved: Movement) -> np.ndarray:
    """One face from the front."""
    random = np.random.default_rng(seed)
    ground = draw_ground(random, SIDE, SIDE, 4)
    return draw_face(ground, random_person(random), Pose(SIDE / 2, 0.52 * SIDE, 0.3 * SIDE, 0.1, 0.04), moved)


def scene(seed: int) -> np.ndarray:
    """Several faces, the nearest in front."""
    random = np.random.default_rng(seed)
    picture = draw_ground(random, 2 * SIDE, SIDE, 8)
    for emotion, (x, y) in sorted(CROWD.items(), key=lambda one: one[1][1]):
        size, yaw, roll = (float(random.uniform(*between)) for between in ((52, 64), (-0.3, 0.3), (-0.12, 0.12)))
        picture = draw_face(picture, random_person(random), Pose(x, y, size, yaw, roll), express(emotion))
    return picture


def main() -> None:
    """Write every example."""
    FOLDER.mkdir(exist_ok=True)
    pictures = {emotion: portrait(seed, express(emotion)) for emotion, seed in PORTRAITS.items()}
    pictures |= {"unclear": portrait(0, UNCLEAR), "scene": scene(3), "nobody": draw_ground(np.random.default_rng(8), SIDE, SIDE, 12)}
    for name, picture in pictures.items():
        cv2.imwrite(str(FOLDER / f"{name}.jpg"), picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
