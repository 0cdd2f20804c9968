"""Archives that attack whoever unpacks them. Each is refused with its reason, and nothing of it is left."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emodetect.archive import Limits, unpack
from emodetect.core import DataError

FACE = random.Random(0).randbytes(5000)


def make_zip(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """A zip with these members, their names written as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def make_tar(*members: tarfile.TarInfo, content: bytes = b"", form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar with these members; the ordinary files among them hold the content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", **attributes: str) -> tarfile.TarInfo:
    """A member of a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, target, attributes
    return info


def zip_link() -> bytes:
    """A zip with a symbolic link, as Info-ZIP writes it."""
    info = zipfile.ZipInfo("train/images")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return make_zip((info, b"/etc"))


def encrypted() -> bytes:
    """A zip whose member says that it is encrypted."""
    whole = bytearray(make_zip(("a.jpg", FACE)))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(signature) + offset] |= 1
    return bytes(whole)


def liar() -> bytes:
    """A zip whose headers say that 80 MB are 10 bytes."""
    whole = make_zip(("a.jpg", bytes(80_000_000)))
    return whole.replace(struct.pack("<L", 80_000_000), struct.pack("<L", 10))


def twice() -> bytes:
    """A zip that holds one name twice."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        return make_zip(("a.jpg", b"1"), ("a.jpg", b"2"))


def million() -> bytes:
    """A zip of a million empty files: one entry of its table of contents, repeated."""
    one = make_zip(("a", b""))
    start, end = one.index(b"PK\x01\x02"), one.index(b"PK\x05\x06")
    table = one[start:end] * 1_000_000
    return one[:start] + table + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(table), start, 0)


def huge_header() -> bytes:
    """A tar.gz of half a megabyte with a name of 500 MB, which a careless reader holds in memory."""
    size = 500_000_000
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, size
    buffer = io.BytesIO(name.tobuf(tarfile.GNU_FORMAT))
    return gzip.compress(buffer.getvalue()) + gzip.compress(b"a" * 10_000_000, 6) * (size // 10_000_000)


def sparse() -> bytes:
    """A tar with a sparse file: no bytes, but a length of 10 TB."""
    info = entry("a.jpg", **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.jpg", "GNU.sparse.realsize": str(10**13)})
    return make_tar(info, content=b"0\n".ljust(512, b"\0"))


def broken_header() -> bytes:
    """A tar whose second header is damaged: `tarfile` takes it for the end."""
    whole = bytearray(make_tar(entry("a.jpg"), entry("b.jpg"), content=FACE))
    at = whole.index(b"b.jpg")
    whole[at : at + 100] = b"\xff" * 100
    return bytes(whole)


SLIPS = {
    "../../escaped": "leads out of the folder",
    "a/../../escaped": "leads out of the folder",
    "/tmp/escaped": "has an absolute name",
    "C:/escaped": "names a drive",
    "..\\escaped": "has a backslash in its name",
    "a\nb": "has a name that is not text",
}
ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    **{f"zip {name!r}": (lambda name=name: make_zip(("good.jpg", FACE), (name, b"evil")), words) for name, words in SLIPS.items()},
    **{f"tar {name!r}": (lambda name=name: make_tar(entry("good.jpg"), entry(name), content=b"evil"), words) for name, words in SLIPS.items()},
    "tar folder that leads out": (lambda: make_tar(entry("../escaped", tarfile.DIRTYPE)), "leads out"),
    "tar name in an attribute": (lambda: make_tar(entry("a.jpg", path="../../escaped")), "leads out"),
    "zip symbolic link": (zip_link, "'train/images' is a link"),
    "tar symbolic link": (lambda: make_tar(entry("a", tarfile.SYMTYPE, "/etc"), entry("a/passwd")), "'a' is a link"),
    "tar harmless link": (lambda: make_tar(entry("a.jpg"), entry("b.jpg", tarfile.SYMTYPE, "a.jpg")), "'b.jpg' is a link"),
    "tar hard link": (lambda: make_tar(entry("a", tarfile.LNKTYPE, "/etc/passwd")), "'a' is a link"),
    "tar pipe": (lambda: make_tar(entry("a", tarfile.FIFOTYPE)), "'a' is a device"),
    "tar disk": (lambda: make_tar(entry("sda", tarfile.BLKTYPE)), "'sda' is a device"),
    "tar sparse file": (sparse, "'a.jpg' is a device"),
    "zip encrypted": (encrypted, "'a.jpg' is an encrypted file"),
    "zip same name twice": (twice, "'a.jpg' claims the place of another member"),
    "tar same name twice": (lambda: make_tar(entry("a.jpg"), entry("./a.jpg")), "claims the place of another member"),
    "file under a file": (lambda: make_zip(("a", b""), ("a/b", b"")), "'a/b' claims the place of another member"),
    "names that differ in capitals": (lambda: make_zip(("A.jpg", b""), ("a.jpg", b"")), "'a.jpg' differs from 'A.jpg' in capitals"),
    "folders that differ in capitals": (lambda: make_tar(entry("train/a"), entry("TRAIN/b")), "differs from 'train'"),
    "names that differ in writing é": (lambda: make_zip(("\u00e9.jpg", b""), ("e\u0301.jpg", b"")), "in capitals or accents only"),
    "zip bomb": (lambda: make_zip(*((f"{number}.bmp", bytes(30_000_000)) for number in range(3))), "unpacks to more than 64,000,000 bytes, as a bomb does"),
    "tar bomb": (lambda: gzip.compress(make_tar(entry("a.bmp"), content=bytes(80_000_000))), "unpacks to more than 64,000,000 bytes"),
    "tar bomb in xz": (lambda: lzma.compress(make_tar(entry("a.bmp"), content=bytes(80_000_000)), preset=0), "unpacks to more than 64,000,000 bytes"),
    "tar bomb of padding": (lambda: gzip.compress(make_tar(entry("a.bmp"), content=FACE)) + gzip.compress(bytes(80_000_000)), "unpacks to more than 64,000,000 bytes"),
    "zip that lies about sizes": (liar, "is damaged"),
    "zip of a million files": (million, "holds more than 500,000 files and folders"),
    "tar of a huge header": (huge_header, "holds a header of more than 1,000,000 bytes"),
    "half a zip": (lambda: make_zip(("a.jpg", FACE))[:3000], "is damaged"),
    "half a tar": (lambda: make_tar(entry("a.jpg"), entry("b.jpg"), content=FACE)[:8000], "is damaged"),
    "tar cut between members": (lambda: make_tar(entry("a.jpg"), entry("b.jpg"), content=FACE)[:5632], "is damaged"),
    "tar without an end": (lambda: make_tar(entry("a.jpg"), entry("b.jpg"), content=FACE)[: 2 * 5632], "is damaged"),
    "tar with a broken header": (broken_header, "is damaged"),
    "half a tar.gz": (lambda: gzip.compress(make_tar(entry("a.jpg"), content=FACE))[:3000], "is damaged"),
    "half a tar.bz2": (lambda: bz2.compress(make_tar(entry("a.jpg"), content=FACE))[:3000], "is damaged"),
    "half a tar.xz": (lambda: lzma.compress(make_tar(entry("a.jpg"), content=FACE))[:3000], "is damaged"),
    "tar.gz with a wrong checksum": (lambda: gzip.compress(make_tar(entry("a.jpg"), content=FACE))[:-8] + b"\0" * 8, "is damaged"),
    "zip with a flipped byte": (lambda: make_zip(("a.jpg", FACE)).replace(FACE[99:110], b"hello world"), "Bad CRC-32 for file 'a.jpg'"),
    "no archive": (lambda: b"%PDF-1.7" + FACE, "is neither a zip nor a tar archive"),
    "nothing": (lambda: b"", "is neither a zip nor a tar archive"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused_with_its_reason_and_leaves_nothing(attack: str, tmp_path: Path) -> None:
    make, words = ATTACKS[attack]
    archive = tmp_path / "deep" / "down" / "faces.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(make())
    with pytest.raises(DataError) as caught:
        unpack(archive, archive.parent / "unpacked")
    message = str(caught.value)
    assert message.startswith(f"{archive}: ") and words in message and "\n" not in message and message.endswith(".")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive] and sorted(archive.parent.iterdir()) == [archive]


def test_entries_are_limited_in_a_tar_too(tmp_path: Path) -> None:
    (tmp_path / "many.tgz").write_bytes(gzip.compress(entry("a").tobuf() * 100 + bytes(1024)))
    with pytest.raises(DataError, match="'a' claims the place of another member"):
        unpack(tmp_path / "many.tgz", tmp_path / "unpacked")
    (tmp_path / "many.tgz").write_bytes(gzip.compress(make_tar(*(entry(f"{number}") for number in range(20)))))
    with pytest.raises(DataError, match="holds more than 19 files and folders"):
        unpack(tmp_path / "many.tgz", tmp_path / "unpacked", Limits(entries=19))
    assert unpack(tmp_path / "many.tgz", tmp_path / "unpacked", Limits(entries=20)) == 20


def test_pictures_that_compress_well_are_no_bomb(tmp_path: Path) -> None:
    (tmp_path / "bitmaps.zip").write_bytes(make_zip(*((f"{number}.bmp", bytes(1_000_000)) for number in range(60))))
    assert unpack(tmp_path / "bitmaps.zip", tmp_path / "unpacked") == 60


def test_full_disk_is_the_disks_fault_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "faces.zip").write_bytes(make_zip(("a.jpg", FACE)))
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(tmp_path / "faces.zip", tmp_path / "unpacked")
    assert [path.name for path in tmp_path.iterdir()] == ["faces.zip"]


PARTS = st.one_of(st.sampled_from(["..", ".", "", "a", "A", "é", "C:", "~", "\\", "..\\b", "con", "\x00", "\n", "a" * 256]), st.text(max_size=4))
NAMES = st.lists(st.lists(PARTS, min_size=1, max_size=5).map("/".join), min_size=1, max_size=4)


def outcome(archive: Path, top: Path) -> str:
    """Unpack an archive; the reason of a refusal, or nothing. Whatever it is, nothing but the folder asked for may have come below the top."""
    before = set(top.rglob("*"))
    try:
        unpack(archive, archive.parent / "unpacked")
    except DataError as error:
        assert set(top.rglob("*")) == before
        return str(error)
    came = set(top.rglob("*")) - before
    assert all(path.is_relative_to(archive.parent / "unpacked") and not path.is_symlink() for path in came)
    return ""


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(names=NAMES)
def test_whatever_the_names_only_the_folder_is_written(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    top = tmp_path_factory.mktemp("names")
    folder = top / "a" / "b" / "c" / "d" / "e" / "f"
    folder.mkdir(parents=True)
    names = [name.replace("\0", "").encode("utf-8", "replace").decode() or "x" for name in names]  # what the writers refuse to write
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of a name that it is given twice
        (folder / "names.zip").write_bytes(make_zip(*((name, b"evil") for name in names)))
    (folder / "names.tar").write_bytes(make_tar(*(entry(name) for name in names), content=b"evil"))
    for name in ("names.zip", "names.tar"):
        outcome(folder / name, top)
        shutil.rmtree(folder / "unpacked", ignore_errors=True)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(data=st.data())
def test_whatever_is_damaged_is_refused_or_harmless(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A few bytes changed anywhere: a DataError, or a change that no format protects (a tar's content), but never another exception."""
    folder = tmp_path_factory.mktemp("damage")
    makers = [lambda: make_zip(("a/b.jpg", FACE[:600]), ("c.jpg", b"")), lambda: make_tar(entry("a/b.jpg"), entry("c.jpg"), content=FACE[:600])]
    whole = bytearray(data.draw(st.sampled_from(makers))())
    if data.draw(st.booleans()):
        whole = bytearray(gzip.compress(whole, mtime=0)) if whole[:2] != b"PK" else whole
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, min(len(whole), 3000) - 1))] = data.draw(st.integers(0, 255))
    (folder / "damaged.bin").write_bytes(whole)
    outcome(folder / "damaged.bin", folder)
