"""The deployed engine sees and answers as the training framework does."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import Copy
from emodetect.core import DataError, ParameterError
from emodetect.dataset import image_files
from emodetect.detector import Detection, Detector, decode_output, decode_picture, letterbox, load_detector
from emodetect.sample import draw_picture
from emodetect.stand_in import write_stand_in
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


@pytest.fixture
def kinds() -> dict[str, np.ndarray]:
    """A portrait as arrays of each kind that is taken."""
    portrait = draw_picture("test", 0, seed=0)[0]
    alpha = np.linspace(0, 255, portrait.shape[1]).astype(np.uint8)[None].repeat(len(portrait), axis=0)
    return {"colour": portrait, "grey": portrait[:, :, 1].copy(), "alpha": np.dstack([portrait, alpha])}


def test_an_array_is_answered_as_the_file_with_its_values(pipeline: Copy, kinds: dict[str, np.ndarray], tmp_path: Path) -> None:
    detector = Detector(str(pipeline.folder / "models" / "emodetect.onnx"), confidence=0.0, mode="frame")
    for name, array in kinds.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    answers = detector(list(kinds.values()))
    paths = [tmp_path / f"{name}.png" for name in kinds]
    assert [result.faces for result in detector.stream(paths)] == [result.faces for result in detector.stream(kinds.values())] == answers
    assert [faces for path in paths for faces in detector([decode_picture(path)])] == [faces for array in kinds.values() for faces in detector([array])]
    assert all(answers) and len({str(faces) for faces in answers}) == 3, "and each kind looks different"


def test_a_file_is_enough_for_a_detector(pipeline: Copy) -> None:
    path = pipeline.folder / "models" / "emodetect.onnx"
    pictures = [decode_picture(picture) for picture in image_files(pipeline.folder / "data" / "prepared", "test")]
    for options in ({}, {"confidence": 0.01, "mode": "both"}, {"threads": 1, "engine": "openvino", "mode": "frame", "confidence": 0.0}):
        answers: list[list[list[Detection]]] = [made(path, **options)(pictures) for made in (Detector, load_detector)]
        assert answers[0] == answers[1] and len(answers[0]) == len(pictures)
    assert any(answers[0])


def test_what_is_no_list_of_pictures_is_refused_in_one_sentence(pipeline: Copy, kinds: dict[str, np.ndarray]) -> None:
    detector, portrait = Detector(pipeline.folder / "models" / "emodetect.onnx"), kinds["colour"]
    lists = ((portrait, f"an array of shape {portrait.shape} and type uint8 is no"), ("x.jpg", "a value of type str is no"), (b"x", "type bytes is no"), (Path(), "Path is no"))
    for given, told in lists:
        with pytest.raises(ParameterError, match=r"is no list of pictures; put a single one into a list, or let `Detector\.stream` read") as refused:
            detector(given)
        assert told in str(refused.value)
    turned = portrait.transpose(2, 0, 1)
    odd = {"type str": "x.jpg", "type float64": portrait / 255, "type uint16": portrait.astype(np.uint16), f"shape {turned.shape}": turned, "type bool": portrait[:, :, 0] > 9}
    for told, one in odd.items():
        with pytest.raises(ParameterError, match="is no picture; give height × width × 3 of uint8, RGB") as refused:
            detector([portrait, one])
        assert told in str(refused.value)


def test_a_damaged_file_is_told_and_what_can_be_read_is_answered(tmp_path: Path) -> None:
    detector, told = Detector(write_stand_in(tmp_path / "happy.onnx")), []
    (tmp_path / "album").mkdir()
    for index in range(4):
        Image.fromarray(draw_picture("test", index, seed=0)[0]).save(tmp_path / "album" / f"{index}.png")
    (tmp_path / "album" / "1.png").write_bytes((tmp_path / "album" / "1.png").read_bytes()[:400])
    for source in (tmp_path / "album", f"{tmp_path}/album/*.png", [tmp_path / "album" / f"{index}.png" for index in range(4)]):
        answered = [Path(result.name).name for result in detector.stream(source, batch=2, failed=told.append)]
        assert answered == ["0.png", "2.png", "3.png"] and [str(error).split(": ")[0] for error in told] == [str(tmp_path / "album" / "1.png")]
        told.clear()
        with pytest.raises(DataError, match=r"1\.png: cannot be decoded"):
            list(detector.stream(source))
