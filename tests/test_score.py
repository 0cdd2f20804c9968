"""Batch scoring on real files, a real cluster, a server that plays S3 and a store that fails: kills and outages lose no row and double none."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import ThreadedMotoServer
from PIL import Image

from emodetect import score as module
from emodetect.cluster import cluster
from emodetect.core import DataError, EmodetectError
from emodetect.score import plan, score

EMODETECT = str(Path(sys.executable).with_name("emodetect"))
COPIES = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, one of them damaged, and an untrained model. Tests leave them as they found them."""
    from emodetect.export import describe, export_onnx
    from emodetect.sample import draw_picture
    from emodetect.yolo import build_model, fix_randomness

    folder = tmp_path_factory.mktemp("score")
    (folder / "album").mkdir()
    for index in range(COPIES):
        cv2.imwrite(str(folder / "album" / f"{index:03}.png"), draw_picture("test", index % 4, seed=0)[0])
    (folder / "album" / "013.png").write_bytes(b"no picture")
    fix_randomness(0, 2)
    export_onnx(build_model("yolo11n").eval(), folder / "model.onnx", describe(64, {"confidence": 0.0001}))
    return folder


@pytest.fixture(scope="module")
def expected(place: Path) -> pa.Table:
    """The rows that an undisturbed scoring gives."""
    with chdir(place):
        assert score("album", "expected.parquet", "model.onnx", size=2, workers=1).errors == 1
    return pq.read_table(place / "expected.parquet")


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names in tables are as they were given, here from the folder."""
    monkeypatch.chdir(place)


def test_a_killed_scoring_goes_on_and_no_row_is_lost_or_doubled(place: Path, expected: pa.Table, tmp_path: Path) -> None:
    slow = "import time, emodetect.score as s; own = s.score_part; s.score_part = lambda *a, **k: (time.sleep(0.2), own(*a, **k)); "
    code = slow + f"s.score('album', '{tmp_path}/killed.parquet', 'model.onnx', size=2, workers=2)"
    parts = tmp_path / "killed.parts"
    for kill in range(3):
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            while len(list(parts.glob("0*.parquet"))) < 2 * (kill + 1):
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.parquet")}
    assert 6 <= len(before) < COPIES // 2 and not (tmp_path / "killed.parquet").exists()
    redone = []
    assert score("album", tmp_path / "killed.parquet", "model.onnx", size=2, progress=lambda done, total: redone.append(done)).errors == 1
    assert redone == list(range(2 * len(before) + 1, COPIES + 1)), "what was done is not done again"
    assert pq.read_table(tmp_path / "killed.parquet").equals(expected) and not parts.exists()


def test_a_lost_worker_of_a_cluster_changes_no_row(expected: pa.Table, tmp_path: Path) -> None:
    killed: list[int] = []
    with cluster(workers=2) as client:

        def kill_one(done: int, total: int) -> None:
            if not killed and done >= 4:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        scored = score("album", tmp_path / "lost.parquet", "model.onnx", size=2, client=client, progress=kill_one)
    assert killed and not psutil.pid_exists(killed[0])
    assert scored.errors == 1 and pq.read_table(tmp_path / "lost.parquet").equals(expected)


def test_a_worker_with_another_model_is_refused(place: Path) -> None:
    with pytest.raises(DataError, match="differs from the file where the scoring was started"):
        module._detector(str(place / "model.onnx"), "0" * 64, None, None)


def test_an_address_is_read_through_fsspec(place: Path, expected: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        store = s3fs.S3FileSystem()
        store.mkdir("bucket")
        store.put(str(place / "album"), "bucket/album", recursive=True)
        with zipfile.ZipFile(tmp_path / "album.zip", "w") as packed:
            for path in sorted((place / "album").iterdir()):
                packed.write(path, path.name)
        store.put(str(tmp_path / "album.zip"), "bucket/album.zip")
        for number, source in enumerate(("s3://bucket/album", "s3://bucket/album/*.png", "s3://bucket/album.zip")):
            scored = score(source, tmp_path / f"{number}.parquet", place / "model.onnx")
            found = pq.read_table(tmp_path / f"{number}.parquet")
            assert (scored.pictures, scored.errors) == (COPIES - 1, 1) and found.drop(["picture"]).equals(expected.drop(["picture"]))
        with pytest.raises(EmodetectError, match="names no picture"):
            plan("s3://bucket/nothing")
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


class Outage(Exception):
    """What no library but one store's knows."""


class Line(io.BytesIO):
    """A file elsewhere, which can be read only as long as the line holds."""

    def read(self, *size: int) -> bytes:
        Unsteady.left -= 1
        if Unsteady.left < 0:
            raise Outage("the line is cut\nat every attempt")
        return super().read(*size)


class Unsteady(MemoryFileSystem):
    """A store elsewhere that fails after some reads."""

    protocol = "unsteady"
    store: dict[str, Any] = {}  # noqa: RUF012  (as in its base)
    pseudo_dirs = [""]  # noqa: RUF012
    left = sys.maxsize  # reads until the line is cut

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("unsteady://"))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        return Line(file.getvalue()) if mode == "rb" else file


@pytest.fixture
def unsteady(place: Path, monkeypatch: pytest.MonkeyPatch) -> type[Unsteady]:
    """The album in that store: as a folder and in two kinds of archives."""
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    monkeypatch.setattr(Unsteady, "left", sys.maxsize)
    zipped, tarred, store = io.BytesIO(), io.BytesIO(), Unsteady()
    with zipfile.ZipFile(zipped, "w") as some, tarfile.open(fileobj=tarred, mode="w") as others:
        for path in sorted((place / "album").iterdir()):
            store.pipe_file(f"/album/{path.name}", path.read_bytes())
            some.write(path, path.name)
            others.add(path, path.name)
    store.pipe_file("/album.zip", zipped.getvalue())
    store.pipe_file("/album.tar", tarred.getvalue())
    return Unsteady


@pytest.mark.parametrize(("source", "done"), [("unsteady://album", 3), ("unsteady://album.zip", 3), ("unsteady://album.tar", 0)])
def test_an_outage_ends_the_scoring_and_the_same_command_goes_on(source: str, done: int, unsteady: type[Unsteady], expected: pa.Table, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"

    def cut(files: int, total: int) -> None:
        unsteady.left = 0 if files >= 2 * done else unsteady.left

    if not done:  # in the midst of a file
        unsteady.left = 3
    with pytest.raises(EmodetectError, match=r"^unsteady://[^\n]*: cannot be reached \(the line is cut\); [^\n]* give the same command again: it goes on\.$") as told:
        score(source, out, "model.onnx", size=2, workers=1, progress=cut)
    assert not isinstance(told.value, DataError) and not out.exists() and len(list((tmp_path / "out.parts").glob("0*.parquet"))) == done
    unsteady.left = sys.maxsize
    scored = score(source, out, "model.onnx", size=2, workers=1)
    assert (scored.pictures, scored.errors) == (COPIES - 1, 1) and pq.read_table(out).drop(["picture"]).equals(expected.drop(["picture"]))


def test_a_list_is_not_scored_without_the_pictures_of_a_store_that_is_away(unsteady: type[Unsteady], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> list[str]:
        raise Outage

    (tmp_path / "list.txt").write_text("album/000.png\nunsteady://album/nowhere.png\nunsteady://album/001.png\n")
    scored = score(str(tmp_path / "list.txt"), tmp_path / "there.parquet", "model.onnx")
    (error,) = pq.read_table(tmp_path / "there.errors.parquet").to_pylist()
    assert (scored.pictures, error["picture"]) == (2, "unsteady://album/nowhere.png") and error["error"] == "unsteady://album/nowhere.png: there is no such file; check the path."
    monkeypatch.setattr(unsteady, "find", away)
    with pytest.raises(EmodetectError, match=r"^unsteady://album/nowhere\.png: cannot be reached \(Outage\); check the address, the network and the credentials"):
        score(str(tmp_path / "list.txt"), tmp_path / "away.parquet", "model.onnx")
    assert not list(tmp_path.glob("away*"))


def test_without_the_package_for_an_address_it_says_which_to_install(place: Path, tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['s3fs'] = None\nfrom emodetect.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = ["score", "s3://bucket/album", "--out", str(tmp_path / "out.parquet"), "--model", "model.onnx"]
    done = subprocess.run([sys.executable, "-c", hidden, *command], capture_output=True, text=True)
    sentence = "emodetect: s3://bucket/album: cannot be reached without a further package (Install s3fs to access S3); install that one, and give the same command again.\n"
    assert done.returncode == 1 and done.stderr == sentence and not list(tmp_path.iterdir())


def test_what_lies_in_a_folder_is_scored_as_if_it_had_been_named_alone(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    (folder / "below").mkdir(parents=True)
    shutil.copy("album/000.png", folder)
    Image.open("album/001.png").convert("RGB").save(folder / "one.JFIF", "JPEG")
    _zipped(folder / "below" / "some.zip")
    with tarfile.open(folder / "some.tar.gz", "w:gz") as archive:
        archive.add("album/003.png", "3.png")
    film = cv2.VideoWriter(str(folder / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 96))
    for shade in (90, 120):
        film.write(np.full((96, 96, 3), shade, np.uint8))
    film.release()
    for name in ("a.heic", "b.avif", "c.HEIF", "broken.zip", "notes.txt", "about.json"):
        (folder / name).write_bytes(b"no picture")
    scored = score(str(folder), tmp_path / "out.parquet", "model.onnx")
    tables = [pq.read_table(tmp_path / name).to_pylist() for name in ("out.parquet", "out.errors.parquet")]
    errors = {Path(row["picture"]).name: row["error"] for row in tables[1]}
    assert scored.errors == len(errors) == 4 and "is no zip archive" in errors.pop("broken.zip")
    assert set(errors) == {"a.heic", "b.avif", "c.HEIF"} and all("is not a picture in a format that can be read" in error for error in errors.values())
    alone = []
    for number, path in enumerate(["000.png", "below/some.zip", "film.avi", "one.JFIF", "some.tar.gz"]):
        score(str(folder / path), tmp_path / f"{number}.parquet", "model.onnx")
        alone += pq.read_table(tmp_path / f"{number}.parquet").to_pylist()
    assert scored.pictures == 1 + 3 + 2 + 1 + 1 and sorted(map(str, tables[0])) == sorted(map(str, alone))


def test_the_command_says_what_it_did_and_where(place: Path, expected: pa.Table, tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    done = subprocess.run([EMODETECT, "score", "album", "--out", str(out), "--model", "model.onnx"], capture_output=True, text=True)
    assert done.returncode == 1 and f"in {COPIES - 1} pictures: {out}" in done.stdout and f"files scored: {COPIES} of {COPIES}" in done.stderr
    assert done.stderr.splitlines()[-1] == f"emodetect: 1 picture could not be read: {tmp_path / 'results.errors.parquet'}"
    assert pq.read_table(out).equals(expected)
    failed = pq.read_table(tmp_path / "results.errors.parquet").to_pylist()
    assert [row["picture"] for row in failed] == ["album/013.png"] and "is not a picture" in failed[0]["error"]
    again = subprocess.run([EMODETECT, "score", "album", "--out", str(out), "--model", "model.onnx"], capture_output=True, text=True)
    assert again.returncode == 1 and "is there already" in again.stderr and not again.stdout


@pytest.mark.parametrize(("package", "arguments"), [("pyarrow", []), ("distributed", ["--scheduler", "local"])])
def test_without_the_extra_it_says_what_to_install(package: str, arguments: list[str], tmp_path: Path) -> None:
    hidden = f"import sys; sys.modules['{package}'] = None\nfrom emodetect.cli import main\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", hidden, "score", "album", "--out", str(tmp_path / "x.parquet"), *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and f"needs {package}" in done.stderr and "install emodetect[score]" in done.stderr


def _zipped(path: Path, damaged: bool = False) -> Path:
    """An archive of three pictures, the second of which may have a broken stream."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.write(f"album/{number:03}.png", f"{number}.png")
        info = archive.infolist()[1]
    if damaged:
        data = bytearray(path.read_bytes())
        start = info.header_offset + 30 + len(info.filename) + 200
        data[start:start + 400] = bytes(400)
        path.write_bytes(data)
    return path


def test_a_broken_member_of_an_archive_is_an_error_and_the_rest_is_scored(place: Path, tmp_path: Path) -> None:
    scored = score(str(_zipped(tmp_path / "some.zip", damaged=True)), tmp_path / "out.parquet", "model.onnx")
    assert (scored.pictures, scored.errors) == (2, 1)
    (error,) = pq.read_table(tmp_path / "out.errors.parquet").to_pylist()
    assert error["picture"].startswith("zip://1.png::") and error["error"].endswith("get it anew.")


def test_an_archive_that_was_replaced_is_read_anew(place: Path, tmp_path: Path) -> None:
    archive = _zipped(tmp_path / "some.zip")
    assert score(str(archive), tmp_path / "before.parquet", "model.onnx").pictures == 3
    with zipfile.ZipFile(archive, "w") as other:
        other.write("album/004.png", "another.png")
    assert score(str(archive), tmp_path / "after.parquet", "model.onnx").pictures == 1
    assert set(pq.read_table(tmp_path / "after.parquet")["picture"].to_pylist()) == {f"zip://another.png::{archive}"}


def test_what_a_list_names_and_nobody_finds_is_an_error_and_the_rest_is_scored(place: Path, tmp_path: Path) -> None:
    lines = ["album/000.png", "none.png", "none.zip", "none/*.png", f"{tmp_path}/list.txt", "album/001.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    scored = score(str(tmp_path / "list.txt"), tmp_path / "out.parquet", "model.onnx")
    assert scored.pictures == 2
    assert [row["picture"] for row in pq.read_table(tmp_path / "out.errors.parquet").to_pylist()] == ["none.png", "none.zip", "none/*.png", f"{tmp_path}/list.txt"]


def test_a_source_that_is_not_there_or_is_no_text_is_refused_before_anything_is_written(place: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("M\xfcller.png".encode("latin-1"))
    for source, reason in (("nothere", "there is no such file or folder"), ("nothere.zip", "there is no such file"), (str(tmp_path / "list.txt"), "it is not UTF-8")):
        with pytest.raises(DataError, match=reason):
            score(source, tmp_path / "out.parquet", "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


def test_a_picture_that_changed_while_the_scoring_was_interrupted_is_told(place: Path, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    for number in range(2):
        (tmp_path / "some" / f"{number}.png").write_bytes(Path(f"album/{number:03}.png").read_bytes())

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(str(tmp_path / "some"), tmp_path / "out.parquet", "model.onnx", size=1, workers=1, progress=interrupted)
    (tmp_path / "some" / "0.png").write_bytes(Path("album/005.png").read_bytes() + b" ")
    with pytest.raises(EmodetectError, match="a scoring with other pictures"):
        score(str(tmp_path / "some"), tmp_path / "out.parquet", "model.onnx", size=1)


def test_processes_of_this_machine_give_the_rows_of_threads(place: Path, expected: pa.Table, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    command = [EMODETECT, "score", "album", "--out", str(out), "--model", "model.onnx", "--scheduler", "local", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and f"in {COPIES - 1} pictures: {out}" in done.stdout and f"files scored: {COPIES} of {COPIES}" in done.stderr, done.stderr
    assert pq.read_table(out).equals(expected) and [row["picture"] for row in pq.read_table(tmp_path / "out.errors.parquet").to_pylist()] == ["album/013.png"]


def test_a_negative_number_of_processes_is_refused(place: Path, tmp_path: Path) -> None:
    command = [EMODETECT, "score", "album", "--out", tmp_path / "out.parquet", "--model", "model.onnx", "--scheduler", "local", "--workers", "-1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "workers is -1; give a whole number from 1" in ended.stderr
