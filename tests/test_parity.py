"""The deployed engine sees and answers as the training framework does."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from emodetect.detector import decode_output, decode_picture, letterbox
from emodetect.sample import draw_picture
from emodetect.yolo import quiet_ultralytics

SIZES = [(96, 96), (200, 150), (151, 333), (640, 480), (37, 411)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_letterbox_is_that_of_ultralytics(size: tuple[int, int]) -> None:
    quiet_ultralytics()
    from ultralytics.data.augment import LetterBox

    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = LetterBox(new_shape=(160, 160), auto=False)(image=picture)
    assert np.array_equal(letterbox(picture, 160)[0], theirs)


def test_jpeg_is_decoded_as_in_training(tmp_path: Path) -> None:
    for index in range(8):
        path = tmp_path / f"{index}.jpg"
        Image.fromarray(draw_picture("test", index, seed=0)[0]).save(path, quality=80)
        assert np.array_equal(decode_picture(path), cv2.imread(str(path))[:, :, ::-1])


def test_suppression_is_that_of_ultralytics() -> None:
    quiet_ultralytics()
    from ultralytics.utils.nms import non_max_suppression

    random = np.random.default_rng(1)
    for _ in range(20):
        output = np.zeros((12, 200), np.float32)
        output[:2] = random.uniform(20, 140, (2, 200))
        output[2:4] = random.uniform(10, 60, (2, 200))
        output[4:] = random.uniform(0, 1, (8, 200)) ** 3
        theirs = non_max_suppression(torch.from_numpy(output[None].copy()), conf_thres=0.25, iou_thres=0.5, agnostic=True)[0].numpy()
        boxes, scores = decode_output(output, confidence=0.25, iou=0.5)
        assert len(boxes) == len(theirs) and np.allclose(boxes, theirs[:, :4], atol=1e-3)
        assert np.allclose(scores.max(axis=1), theirs[:, 4], atol=1e-6) and (scores.argmax(axis=1) == theirs[:, 5]).all()


def test_sixteen_bit_and_rotated_pictures_look_as_a_person_sees_them() -> None:
    buffer, sideways = io.BytesIO(), Image.Exif()
    sideways[0x0112] = 6
    Image.fromarray(draw_picture("test", 0, seed=0)[0]).crop((0, 0, 60, 40)).save(buffer, "JPEG", exif=sideways)
    upright = cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.array_equal(decode_picture(buffer.getvalue()), upright)
