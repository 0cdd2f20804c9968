"""`emodetect track` and `emodetect live` as a user types them: a drawn film, one that was cut off, sound alone, no camera."""

import csv
import re
import subprocess
import sys
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import Copy
from emodetect.faces import Pose, draw_face, express, random_person
from emodetect.results import film_frames

FRAMES = 24
EMODETECT = str(Path(sys.executable).with_name("emodetect"))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn people, one of whom walks, ten frames a second."""
    path, size = tmp_path_factory.mktemp("film") / "two.avi", (240, 160)
    people = [random_person(np.random.default_rng(seed)) for seed in (4, 0)]
    ground, writer = np.full((size[1], size[0], 3), (176, 190, 200), np.uint8), cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    for frame in range(FRAMES):
        picture = draw_face(ground, people[0], Pose(50 + 2 * frame, 84, 36), express("neutral"))
        writer.write(draw_face(picture, people[1], Pose(195, 80, 36), express("happy"))[:, :, ::-1])
    writer.release()
    return path


def emodetect(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run([EMODETECT, *arguments], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_faces_keep_their_tracks_through_a_film(pipeline: Copy, film: Path, tmp_path: Path) -> None:
    done = emodetect("track", str(film), "--out", str(tmp_path / "out"), cwd=pipeline.folder)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "timeline.csv").open()))
    assert {row["track"] for row in rows} == {"1", "2"} and len(rows) > 1.8 * FRAMES, "two people, nearly always found"
    lefts = [[float(row["left"]) for row in rows if row["track"] == track] for track in ("1", "2")]
    walker, sitter = sorted(lefts, key=lambda left: left[0])
    assert walker[-1] - walker[0] > 30 and abs(sitter[-1] - sitter[0]) < 10
    assert sum(frame.picture.shape == (160, 240, 3) for frame in film_frames(tmp_path / "out" / "annotated.mp4")) == FRAMES
    assert (tmp_path / "out" / "timeline.png").read_bytes().startswith(b"\x89PNG") and done.stdout.splitlines()[0].startswith("track 1")
    told = [int(found[1]) for line in done.stderr.splitlines() if (found := re.search(rf"frames followed: (\d+) of {FRAMES}\b", line))]
    assert len(told) == len(done.stderr.splitlines()) > 10 and told == sorted(told) and told[-1] == FRAMES and "frames followed" not in done.stdout


def test_a_film_that_was_cut_off_is_followed_to_its_end(pipeline: Copy, film: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.avi").write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    done = emodetect("track", str(tmp_path / "cut.avi"), "--out", str(tmp_path / "out"), "--quiet", cwd=pipeline.folder)
    told = re.fullmatch(re.escape(f"emodetect: {tmp_path / 'cut.avi'}: ") + r"(\d+) of about 24 frames can be decoded; it was cut off or is damaged, get it anew\.\n", done.stderr)
    assert done.returncode == 1 and told and int(told[1]) == len(list(film_frames(tmp_path / "out" / "annotated.mp4"))), done.stderr
    assert FRAMES / 4 < len(list(film_frames(tmp_path / "out" / "annotated.mp4"))) < FRAMES


def test_sound_alone_is_one_sentence_and_leaves_nothing(pipeline: Copy, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    done = emodetect("track", str(tmp_path / "sound.wav"), "--out", str(tmp_path / "out"), cwd=pipeline.folder)
    assert done.returncode == 1 and done.stderr == f"emodetect: {tmp_path / 'sound.wav'}: holds no pictures that can be decoded; it is damaged, holds sound alone, or is no film.\n"
    assert not done.stdout and not list((tmp_path / "out").iterdir())


def test_without_matplotlib_it_says_what_to_install(pipeline: Copy, film: Path, tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.axes'] = None\nfrom emodetect.cli import main\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", hidden, "track", str(film), "--out", str(tmp_path / "out")], cwd=pipeline.folder, capture_output=True, text=True)
    assert done.returncode == 1 and "install emodetect[video]" in done.stderr and not (tmp_path / "out").exists()


def test_live_shows_a_film_in_the_place_of_a_camera(pipeline: Copy, film: Path) -> None:
    done = emodetect("live", str(film), cwd=pipeline.folder)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[-1] == f"{FRAMES} frames looked at" and "frames/s   1: " in lines[0], done.stderr


def test_without_a_camera_live_says_so(pipeline: Copy) -> None:
    done = emodetect("live", "97", cwd=pipeline.folder)
    assert done.returncode == 1 and done.stderr == "emodetect: camera 97: gives no picture; connect a camera, or name another number.\n" and not done.stdout
