"""Fetching against kagglehub itself and a server on loopback that answers as Kaggle does: whole, broken off, refused, wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from kaggle_server import API, STORE, KaggleServer

from conftest import Copy
from emodetect.check import check_dataset
from emodetect.core import DataError, fingerprint, print_progress
from emodetect.fetch import RECORDED, SOURCES, count_labelled, fetch
from emodetect.sample import write_sample
from emodetect.stages import flatten

PROJECT = Path(__file__).parent.parent
SECRET = "hush-0123456789"
MEBIBYTE = 1 << 20


def zipped(folder: Path, path: Path, inside: str = "YOLO_format/YOLO_format") -> bytes:
    """A folder as a zip, as Kaggle packs it, with a stray file so large that a download can break off."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("stray.bin", bytes(3 * MEBIBYTE))
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{inside}/{file.relative_to(folder).as_posix()}")
    return path.read_bytes()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set."""
    folder = tmp_path_factory.mktemp("drawn") / "faces"
    write_sample(folder, {"train": 8, "valid": 3, "test": 3}, seed=7)
    return folder


@pytest.fixture
def kaggle(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    """A server that has the data set, a home without credentials, and no way to anywhere else."""
    for name in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    with KaggleServer(zipped(drawn, tmp_path / "served.zip")) as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in the environment."""
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", SECRET)


def get(destination: Path, dataset: str = "some/faces", version: int = 3, **options: object) -> dict[str, int]:
    """Fetch from Kaggle."""
    return fetch("kaggle", "", {}, destination, dataset=dataset, version=version, report=print_progress, **options)


def refused(destination: Path, **options: object) -> str:
    """The one sentence with which a fetch ends that leaves nothing behind."""
    with pytest.raises(DataError) as caught:
        get(destination, **options)
    assert not destination.exists() and SECRET not in str(caught.value) and "\n" not in str(caught.value)
    assert not list(destination.parent.glob(f".{destination.name}*")), "what was unpacked of it is gone"
    return str(caught.value)


def kept(tmp_path: Path) -> list[str]:
    """The archives in kagglehub's cache."""
    return sorted(path.name for path in (tmp_path / "home" / "cache").rglob("*") if path.is_file())


def test_whole_download_is_unpacked_and_kept_for_the_next_clone(
    kaggle: KaggleServer, account: None, drawn: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert get(tmp_path / "raw") == {"train": 8, "valid": 3, "test": 3}
    first = capfd.readouterr()
    assert fingerprint(tmp_path / "raw") == fingerprint(drawn)
    assert [(request.method, request.host) for request in kaggle.requests] == [("POST", API), ("GET", STORE)]
    assert kaggle.requests[0].body == {"ownerSlug": "some", "datasetSlug": "faces", "datasetVersionNumber": 3}
    get(tmp_path / "again")
    assert len(kaggle.requests) == 2 and fingerprint(tmp_path / "again") == fingerprint(drawn), "a second clone needs no network"
    assert capfd.readouterr() == first, "what a stage prints must not depend on what was downloaded before"
    assert "megabytes downloaded: 3 of 3" in first.out and first.err == ""
    assert SECRET not in first.out and str(tmp_path) not in first.out and "outdated" not in first.out


def test_credentials_reach_kaggle_and_nobody_else(kaggle: KaggleServer, account: None, tmp_path: Path) -> None:
    get(tmp_path / "raw")
    asked, stored = kaggle.requests
    assert asked.headers["authorization"].startswith("Basic ") and "authorization" not in stored.headers


def test_credentials_are_not_printed_where_kagglesdk_prints_them(
    kaggle: KaggleServer, account: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    get(tmp_path / "raw")
    printed = "".join(capfd.readouterr())
    assert kaggle.requests[0].headers["authorization"] and "uthorization" not in printed and SECRET not in printed


def test_broken_off_download_is_resumed_where_it_stopped(kaggle: KaggleServer, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kaggle.cut = 2 * MEBIBYTE + 1000
    assert f"the download broke off after 2.1 of {len(kaggle.archive) / 1e6:.1f} MB; run again to go on from there" in refused(tmp_path / "raw")
    kaggle.cut = None
    capsys.readouterr()
    get(tmp_path / "raw")
    assert kaggle.ranges == [None, None, f"bytes={2 * MEBIBYTE}-"]
    assert fingerprint(tmp_path / "raw") == fingerprint(drawn)
    resumed = capsys.readouterr().out
    shutil.rmtree(tmp_path / "home")
    get(tmp_path / "anew")
    assert capsys.readouterr().out == resumed, "a resumed download prints what a whole one prints"


def test_killed_download_is_resumed(kaggle: KaggleServer, drawn: Path, tmp_path: Path) -> None:
    kaggle.cut = 2 * MEBIBYTE + 1000
    kaggle.go_on.clear()
    process = subprocess.Popen([sys.executable, "-c", "from emodetect.kaggle import download; download('some/faces', 3)"], cwd=PROJECT)
    deadline = time.monotonic() + 60
    part = tmp_path / "home" / "cache" / "datasets" / "some" / "faces" / "3.archive"
    while process.poll() is None and time.monotonic() < deadline and not (part.exists() and part.stat().st_size >= MEBIBYTE):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there, kaggle.cut = part.stat().st_size, None
    assert MEBIBYTE <= there < len(kaggle.archive)
    kaggle.go_on.set()
    get(tmp_path / "raw")
    assert kaggle.ranges[-1] == f"bytes={there}-" and fingerprint(tmp_path / "raw") == fingerprint(drawn)


@pytest.mark.parametrize("checksum", [True, False])
def test_rest_that_is_refused_does_not_end_up_in_the_archive(kaggle: KaggleServer, drawn: Path, tmp_path: Path, checksum: bool) -> None:
    """kagglehub appends whatever the store answers to a request for the rest, be it a refusal."""
    kaggle.checksum, kaggle.cut = checksum, 2 * MEBIBYTE + 1000
    refused(tmp_path / "raw")
    kaggle.cut, kaggle.status_of_range = None, 403
    assert "run again to download it anew" in refused(tmp_path / "raw") and kept(tmp_path) == []
    kaggle.status_of_range = 206
    get(tmp_path / "raw")
    assert fingerprint(tmp_path / "raw") == fingerprint(drawn)


@pytest.mark.parametrize(
    ("status", "signed_in", "words"),
    [
        (401, True, "does not accept the credentials (401)"),
        (401, False, "no credentials were found; make a new API token"),
        (403, True, "open https://www.kaggle.com/datasets/some/faces, accept its terms if it asks for consent"),
        (403, False, "to a stranger (403) and no credentials were found"),
        (404, True, "Kaggle has no some/faces/versions/3 (404); correct data.dataset and data.version"),
        (429, True, "too many requests (429); run again in 30 seconds"),
        (503, True, "answers some/faces/versions/3 with the error 503; run again later"),
    ],
)
def test_refusal_becomes_a_sentence_with_a_next_step(kaggle: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, signed_in: bool, words: str) -> None:
    if signed_in:
        monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    kaggle.status, kaggle.message = status, f"Not with {SECRET}"
    assert words in refused(tmp_path / "raw") and kept(tmp_path) == []
    assert (f"Bearer {SECRET}" in kaggle.requests[0].headers.values()) == signed_in


def test_unreachable_network_becomes_a_sentence(kaggle: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the port of the discard service, where nobody listens
    assert refused(tmp_path / "raw").startswith("Kaggle cannot be reached (ProxyError); connect to the network and run again, or download the archive with a browser")


def test_silent_server_is_given_up(kaggle: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emodetect.kaggle.PATIENCE", (0.3, 0.3))
    kaggle.go_on.clear()
    assert "Kaggle cannot be reached (ReadTimeout)" in refused(tmp_path / "raw")
    kaggle.cut = 2 * MEBIBYTE + 1000
    assert "the download broke off after 2.1 of" in refused(tmp_path / "raw")


def test_broken_credentials_file_is_named_and_not_shown(kaggle: KaggleServer, tmp_path: Path) -> None:
    file = tmp_path / "home" / ".kaggle" / "kaggle.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"username": "somebody", "token": SECRET}))
    message = refused(tmp_path / "raw")
    assert str(file) in message and "mend or remove that file" in message and kaggle.requests == []


def evil_yaml(folder: Path) -> None:
    """A data set whose data.yaml brings a program along."""
    (folder / "data.yaml").write_text("download: |\n  import os\n" + (folder / "data.yaml").read_text())


def other_layout(folder: Path) -> None:
    """A folder that is no data set."""
    (folder / "train").rename(folder / "pictures")


@pytest.mark.parametrize(("change", "words"), [(evil_yaml, "an entry 'download'"), (other_layout, "holds no train/images")])
def test_archive_with_other_content_is_refused_and_kept(
    kaggle: KaggleServer, drawn: Path, tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    shutil.copytree(drawn, tmp_path / "changed")
    change(tmp_path / "changed")
    kaggle.archive = zipped(tmp_path / "changed", tmp_path / "served.zip")
    assert words in refused(tmp_path / "raw") and kept(tmp_path) == ["3.whole"]


def slip(whole: bytes, path: Path) -> bytes:
    """The archive with a member that leads out of the folder."""
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../escaped.txt", "evil")
    return path.read_bytes()


WRONG = {
    "a page instead of an archive": (lambda whole, path: b"<html>Sign in</html>" * 100_000, "is neither a zip nor a tar archive"),
    "half an archive": (lambda whole, path: whole[: len(whole) // 2], "is damaged"),
    "a damaged archive": (lambda whole, path: whole.replace(bytes(1000), b"?" * 1000, 1), "is damaged or packed in an unknown way (Bad CRC-32 for file 'stray.bin')"),
    "a name that leads out": (slip, "the member '../../escaped.txt' leads out of the folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_archive_is_refused_removed_and_downloaded_anew(kaggle: KaggleServer, drawn: Path, tmp_path: Path, case: str) -> None:
    whole, (spoil, words) = kaggle.archive, WRONG[case]
    kaggle.archive = spoil(whole, tmp_path / "spoilt.zip")
    message = refused(tmp_path / "raw")
    assert words in message and "3.whole" in message and "the next run downloads it anew" in message
    assert kept(tmp_path) == [] and not list(tmp_path.rglob("escaped.txt"))
    kaggle.archive = whole
    get(tmp_path / "raw")
    assert fingerprint(tmp_path / "raw") == fingerprint(drawn)


def test_other_data_under_the_recorded_name_are_refused(kaggle: KaggleServer, tmp_path: Path) -> None:
    message = refused(tmp_path / "raw", dataset="fatihkgg/affectnet-yolo-format", version=2)
    assert "is not the data set that was recorded: train has 8 labelled pictures instead of 17,101" in message and "correct data.version" in message


def test_recorded_data_pass_with_a_stray_picture_and_fail_with_one_label_changed(
    kaggle: KaggleServer, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECORDED, "some/faces", count_labelled(drawn))
    shutil.copytree(drawn, tmp_path / "changed")
    shutil.copy(next((drawn / "test" / "images").iterdir()), tmp_path / "changed" / "test" / "images" / "original_result.jpg")
    kaggle.archive = zipped(tmp_path / "changed", tmp_path / "served.zip")
    assert get(tmp_path / "stray") == {"train": 8, "valid": 3, "test": 4}
    label = next(path for path in sorted((tmp_path / "changed" / "train" / "labels").iterdir()) if path.read_text())
    label.write_text(f"{(int(label.read_text()[0]) + 1) % 8}{label.read_text()[1:]}")
    kaggle.archive = zipped(tmp_path / "changed", tmp_path / "served.zip")
    message = refused(tmp_path / "raw", version=4)
    assert message.count(" instead of ") == 2 and "train has" in message and "faces of" in message


def test_pinned_fingerprint_is_compared(kaggle: KaggleServer, drawn: Path, tmp_path: Path) -> None:
    get(tmp_path / "right", pin=fingerprint(drawn))
    with pytest.raises(DataError, match=f"its fingerprint is {fingerprint(drawn)}, but data.fingerprint pins 0000"):
        get(tmp_path / "wrong", pin="0" * 64)


def test_only_kaggle_loads_kagglehub_or_opens_a_socket(drawn: Path, tmp_path: Path) -> None:
    code = """
import sys
sys.addaudithook(lambda event, _: event in ("socket.connect", "socket.getaddrinfo") and sys.exit(f"{event} was called"))
from emodetect.fetch import fetch
fetch("sample", "", {"train": 1, "valid": 1, "test": 1}, sys.argv[2])
fetch("folder", sys.argv[1], {}, sys.argv[3])
assert not {"kagglehub", "kagglesdk", "requests"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(drawn), str(tmp_path / "a"), str(tmp_path / "b")], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_archive_of_yours_is_a_folder_of_yours(drawn: Path, tmp_path: Path, suffix: str) -> None:
    form = {".zip": "zip", ".tar": "tar", ".tar.gz": "gztar", ".tar.bz2": "bztar", ".tar.xz": "xztar"}[suffix]
    path = shutil.make_archive(str(tmp_path / "faces"), form, drawn)
    assert path.endswith(suffix)
    fetch("folder", path, {}, tmp_path / "raw")
    assert fingerprint(tmp_path / "raw") == fingerprint(drawn)


def test_archive_is_unpacked_on_the_disk_of_its_destination_and_what_a_killed_run_left_goes(drawn: Path, tmp_path: Path) -> None:
    path, raw, seen = shutil.make_archive(str(tmp_path / "faces"), "zip", drawn), tmp_path / "data" / "raw", set()

    def look(done: int, total: int) -> None:
        seen.update(path.name for path in raw.parent.iterdir())

    fetch("folder", path, {}, raw, report=lambda what: look)
    assert seen == {"raw", ".raw-unpacked"} and [path.name for path in raw.parent.iterdir()] == ["raw"]
    shutil.rmtree(raw)
    (raw.parent / ".raw-unpacked" / "content" / "train").mkdir(parents=True)
    (raw.parent / ".raw-unpacked" / "content" / "dvc.yaml").write_text("stages: {}")
    fetch("folder", path, {}, raw)
    assert [path.name for path in raw.parent.iterdir()] == ["raw"] and fingerprint(raw) == fingerprint(drawn)
    for tool in ["dvc", *(["git"] if (PROJECT / ".git").exists() else [])]:
        done = subprocess.run([tool, "check-ignore", "data/.raw-unpacked/content/dvc.yaml"], cwd=PROJECT, capture_output=True)
        assert done.returncode == 0, f"{tool} must not see what a killed run leaves"


@pytest.mark.parametrize("source", ["sample", "folder"])
def test_what_a_killed_run_unpacked_goes_with_a_source_that_is_no_archive(source: str, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / ".raw-unpacked" / "content" / "train").mkdir(parents=True)
    fetch(source, drawn, {"train": 1, "valid": 1, "test": 1}, tmp_path / "data" / "raw")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["raw"]


def test_leftovers_that_cannot_be_removed_are_named_and_the_download_stays(kaggle: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get(tmp_path / "raw")
    left = tmp_path / ".again-unpacked" / "content"
    left.mkdir(parents=True)
    remove = shutil.rmtree

    def stuck(path: Path, ignore_errors: bool = False) -> None:
        if path != left.parent:
            remove(path, ignore_errors)
        elif not ignore_errors:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("emodetect.fetch.shutil.rmtree", stuck)
    with pytest.raises(DataError, match=r"again-unpacked: was left by a run that was killed and cannot be removed \(Permission denied\); remove it, then run again\.$"):
        get(tmp_path / "again")
    assert kept(tmp_path) == ["3.whole"] and not (tmp_path / "again").exists()
    monkeypatch.undo()
    left.rmdir()
    left.parent.rmdir()
    left.parent.touch()
    with pytest.raises(DataError, match="again-unpacked: was left by a run that was killed and cannot be removed"):
        fetch("sample", "", {"train": 1, "valid": 1, "test": 1}, tmp_path / "again")


def test_every_picture_format_is_fetched_and_read_in_any_case(drawn: Path, tmp_path: Path) -> None:
    from PIL import Image

    shutil.copytree(drawn, tmp_path / "faces")
    pictures = sorted((tmp_path / "faces" / "train" / "images").iterdir())[:6]
    for path, suffix in zip(pictures, (".PNG", ".jpeg", ".JPG", ".webp", ".BMP", ".WebP"), strict=True):
        Image.open(path).save(path.with_suffix(suffix), format={"jpg": "jpeg"}.get(suffix[1:].lower(), suffix[1:].lower()))
        if path.suffix != suffix:
            path.unlink()
    assert fetch("folder", tmp_path / "faces", {}, tmp_path / "raw")["train"] == 8
    assert {path.suffix for path in (tmp_path / "raw" / "train" / "images").iterdir()} >= {".PNG", ".jpeg", ".JPG", ".webp", ".BMP", ".WebP"}
    assert sum(check_dataset(tmp_path / "raw").pictures.values()) == 14


def test_what_nobody_reads_comes_along_and_is_told_by_the_check(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "given")
    (tmp_path / "given" / "train" / "images" / "Thumbs.db").write_bytes(b"thumbs")
    (tmp_path / "given" / "valid" / "old").mkdir()
    (tmp_path / "given" / "valid" / "old" / "lost.jpg").write_bytes(b"lost")
    fetch("folder", tmp_path / "given", {}, tmp_path / "raw")
    assert {fault.file for fault in check_dataset(tmp_path / "raw").of("stray_file")} == {"train/images/Thumbs.db", "valid/old/lost.jpg"}


def test_every_data_group_has_the_same_parameters(tmp_path: Path) -> None:
    from dvc.utils.hydra import compose_and_dump

    kinds, sources = [], []
    for path in sorted((PROJECT / "configs" / "data").glob("*.yaml")):
        target = tmp_path / f"{path.stem}.yaml"
        compose_and_dump(str(target), str(PROJECT / "configs"), None, "config", str(PROJECT / "configs"), [f"data={path.stem}", "data.path=somewhere"])
        content = yaml.safe_load(target.read_text())
        kinds.append({key: type(value) for key, value in flatten(content).items()})
        sources.append(content["data"]["source"])
    assert all(kind == kinds[0] for kind in kinds) and sorted(sources) == sorted(SOURCES)


def test_affectnet_group_pins_a_recorded_data_set() -> None:
    group = yaml.safe_load((PROJECT / "configs" / "data" / "affectnet.yaml").read_text())
    assert group["dataset"] in RECORDED and group["version"] >= 1 and (PROJECT / group["path"]).is_file()


def test_stage_resumes_and_its_page_holds_no_path_and_no_progress_bar(kaggle: KaggleServer, new_copy: Callable[[], Copy], drawn: Path, tmp_path: Path) -> None:
    copy = new_copy()
    copy.change({"data": {"source": "kaggle", "path": "configs/data/affectnet.yaml", "dataset": "some/faces", "version": 3, "fingerprint": fingerprint(drawn)}})
    environment = {name: value for name, value in os.environ.items() if name != "HOME"} | kaggle.environment(tmp_path / "home")
    kaggle.cut = 2 * MEBIBYTE + 1000
    broken = copy.run("dvc", "repro", "fetch", check=False, env=environment)
    assert broken.returncode != 0 and "the download broke off after 2.1 of" in broken.stdout and "Traceback" not in broken.stdout, broken.stdout
    kaggle.cut = None
    done = copy.run("dvc", "repro", "fetch", env=environment)
    assert "members unpacked" in done.stdout and fingerprint(copy.folder / "data" / "raw") == fingerprint(drawn)
    page = (copy.folder / "reports" / "notebooks" / "fetch.ipynb").read_text()
    assert '"name": "stderr"' not in page and str(tmp_path) not in page and str(copy.folder) not in page and "pinned by data.fingerprint" in page
