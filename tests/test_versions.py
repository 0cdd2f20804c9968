"""Versions of the data with real git and DVC: pushed, pulled, compared, damaged and mended."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from moto.server import ThreadedMotoServer

from emodetect.cache import ASIDE, main, md5_file
from emodetect.core import DataError, fingerprint
from emodetect.labels import EMOTIONS
from emodetect.sample import write_sample
from emodetect.versions import PREPARED, compare_versions, manifest_at

PROJECT = Path(__file__).parent.parent
PICTURE = f"{PREPARED}/train/images/image00002.jpg"
DVC_YAML = """stages:
  prepare:
    cmd: {python} -c "from emodetect.prepare import prepare; prepare('data/raw', 'data/prepared')"
    deps: [data/raw]
    outs: [data/prepared]
"""


class Store:
    """A small project of its own: raw pictures under `dvc add`, and the stage that prepares them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "AWS_"))}
        dead = "http://127.0.0.1:9"  # nothing listens there: what would leave loopback fails
        self.environment = clean | {
            "GIT_CONFIG_GLOBAL": os.devnull, "PYTHONPATH": str(PROJECT), "DVC_SITE_CACHE_DIR": str(folder.parent / f"{folder.name}-site"), "DVC_NO_ANALYTICS": "1",
            "http_proxy": dead, "https_proxy": dead, "no_proxy": "127.0.0.1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
        }

    def run(self, *command: str) -> str:
        """Run a command in the project; what it printed. Fails the test if it fails."""
        done = subprocess.run(command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def dvc(self, *arguments: str) -> str:
        """Run DVC in the project."""
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def commit(self, tag: str) -> None:
        """Commit everything and tag it."""
        self.run("git", "add", "--all")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", f"--message={tag}")
        self.run("git", "tag", tag)

    def configure(self, remote: Path | str = "", endpoint: str = "", links: str = "copy") -> None:
        """Choose a remote and the kind of links, as `dvc remote add --local` and `dvc config --local` do."""
        lines = ["[cache]", f"    type = {links}"]
        if remote:
            lines += ["[core]", "    remote = kept", "['remote \"kept\"']", f"    url = {remote}", *([f"    endpointurl = {endpoint}"] if endpoint else [])]
        (self.folder / ".dvc" / "config.local").write_text("\n".join(lines) + "\n")

    def wipe(self, *, cache: bool = True) -> None:
        """Remove the data from the workspace, and the cache if asked to."""
        for folder in ("data/raw", PREPARED, *([".dvc/cache"] if cache else [])):
            shutil.rmtree(self.folder / folder, ignore_errors=folder == ".dvc/cache")

    def data(self) -> tuple[str, str]:
        """The fingerprints of raw and prepared data."""
        return fingerprint(self.folder / "data" / "raw"), fingerprint(self.folder / PREPARED)

    def object(self, name: str) -> Path:
        """Where DVC keeps a file of the workspace, or the list of the files of a folder."""
        lock, path = yaml.safe_load((self.folder / "dvc.lock").read_text()), self.folder / name
        value = md5_file(path) if path.is_file() else next(out["md5"] for out in lock["stages"]["prepare"]["outs"] if out["path"] == name)
        return self.folder / ".dvc" / "cache" / "files" / "md5" / value[:2] / value[2:]

    def verify(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """Run what `make verify-data` runs; its exit code."""
        monkeypatch.chdir(self.folder)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        return main([])


def tamper(path: Path, text: bytes = b"other bytes") -> None:
    """Give a file other bytes and leave it read-only, as DVC leaves it."""
    path.chmod(0o644)
    path.write_bytes(text)
    path.chmod(0o444)


def change(raw: Path) -> None:
    """A second version of the raw data: a few pictures come, go, and are labelled otherwise."""
    more = raw.parent.parent / "more"
    write_sample(more, {"train": 2}, seed=9)
    for kind in ("images", "labels"):
        for number, path in enumerate(sorted((more / "train" / kind).iterdir())):
            shutil.copyfile(path, raw / "train" / kind / f"new{number}{path.suffix}")
        suffix = ".jpg" if kind == "images" else ".txt"
        (raw / "train" / kind / f"image00001{suffix}").unlink()
        (raw / "valid" / kind / f"image00000{suffix}").rename(raw / "valid" / kind / f"renamed{suffix}")
        (raw / "test" / kind / f"image00001{suffix}").rename(raw / "train" / kind / f"moved{suffix}")
    for stem in ("image00002", "image00003"):
        label = raw / "train" / "labels" / f"{stem}.txt"
        first, *rest = label.read_text().splitlines()
        label.write_text("\n".join([f"{(int(first[0]) + 1) % 8}{first[1:]}", *rest]))
    shutil.rmtree(more)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A project with three tags: v0 without data, v1, and v2 with changed data, which is checked out."""
    store = Store(tmp_path_factory.mktemp("origin") / "project")
    store.folder.mkdir()
    store.run("git", "init", "--quiet", "--initial-branch=main")
    store.dvc("init", "--quiet")
    (store.folder / ".gitignore").write_text("/data/prepared\n/data/raw\n")
    store.commit("v0")
    (store.folder / "dvc.yaml").write_text(DVC_YAML.format(python=sys.executable))
    write_sample(store.folder / "data" / "raw", {"train": 8, "valid": 3, "test": 4}, seed=1)
    for tag in ("v1", "v2"):
        store.dvc("add", "--quiet", "data/raw")
        store.dvc("repro", "--quiet")
        store.commit(tag)
        if tag == "v1":
            change(store.folder / "data" / "raw")
    return store


@pytest.fixture
def store(origin: Store, tmp_path: Path) -> Store:
    """A copy of the project that a test may damage."""
    shutil.copytree(origin.folder, tmp_path / "project", symlinks=True)
    return Store(tmp_path / "project")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server on loopback with a bucket `faces`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    assert host == "127.0.0.1"
    import boto3

    boto3.client("s3", endpoint_url=f"http://{host}:{port}", aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1").create_bucket(Bucket="faces")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_data_come_back_from_a_remote_with_the_same_bytes(kind: str, store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store.configure(*([tmp_path / "remote"] if kind == "folder" else ["s3://faces/emodetect", request.getfixturevalue("s3")]))
    store.dvc("push", "--quiet")
    before = store.data()
    store.wipe()
    store.dvc("pull", "--quiet")
    assert store.data() == before
    assert "up to date" in store.dvc("status")
    assert store.run("git", "status", "--porcelain") == ""


def test_dvc_diff_names_the_files_that_changed(origin: Store) -> None:
    told = json.loads(origin.dvc("diff", "--json", "v1", "v2"))
    found = {kind: {entry["path"] for entry in told[kind]} for kind in ("added", "deleted", "modified")}
    assert {f"{PREPARED}/train/images/new0.jpg", f"{PREPARED}/train/labels/new1.txt", "data/raw/train/images/new1.jpg"} <= found["added"]
    assert f"{PREPARED}/train/images/image00001.jpg" in found["deleted"]
    assert {f"{PREPARED}/train/labels/image00002.txt", f"{PREPARED}/manifest.parquet", "data/raw/"} <= found["modified"]


def test_the_changes_are_those_that_were_made(origin: Store) -> None:
    changes = compare_versions(manifest_at("v1", origin.folder), manifest_at("v2", origin.folder))
    assert {kind: [change.picture for change in changes.of(kind)] for kind, count in changes.counts.items() if count} == {
        "added": ["train/images/new0.jpg", "train/images/new1.jpg"],
        "removed": ["train/images/image00001.jpg"],
        "renamed": ["train/images/moved.jpg", "valid/images/renamed.jpg"],
        "moved": ["train/images/moved.jpg"],
        "relabelled": ["train/images/image00002.jpg", "train/images/image00003.jpg"],
    }
    assert {split: row["pictures"] for split, row in changes.difference.items()} == {"train": 2, "valid": 0, "test": -1}
    assert sum(changes.difference["train"][name] for name in EMOTIONS) == changes.difference["train"]["faces"]


def test_reading_a_version_touches_no_network_and_leaves_nothing(origin: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def listing() -> dict[str, int]:
        """Every file of the project with its time, and what lies in the folder for temporary files."""
        files = {str(path): path.stat().st_mtime_ns for path in origin.folder.rglob("*") if path.is_file()}
        return files | dict.fromkeys(os.listdir(tempfile.gettempdir()), 0)  # noqa: PTH208

    def refuse(*_: object) -> None:
        """In the place of `connect`."""
        raise AssertionError("the network was touched")

    monkeypatch.setenv("DVC_SITE_CACHE_DIR", origin.environment["DVC_SITE_CACHE_DIR"])
    before = listing()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    manifest_at("v1", origin.folder / "data")
    assert listing() == before


def test_a_version_is_read_from_the_remote_where_the_cache_lacks_it(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", store.environment["DVC_SITE_CACHE_DIR"])
    known = manifest_at("v1", store.folder)
    store.configure(tmp_path / "remote")
    store.dvc("push", "--quiet", "--all-commits")
    store.wipe()
    assert manifest_at("v1", store.folder).equals(known)
    shutil.rmtree(tmp_path / "remote")
    shutil.rmtree(store.folder / ".dvc" / "cache", ignore_errors=True)
    with pytest.raises(DataError, match="is in neither the cache nor a remote; run `dvc push --all-commits` where"):
        manifest_at("v1", store.folder)


@pytest.mark.parametrize(
    ("revision", "sentence"),
    [
        ("v9", "the revision 'v9' is unknown to git"),
        ("v0", "the revision 'v0' has no data/prepared"),
        ("older", "holds no manifest.parquet"),
        ("broken", "of the revision 'broken' cannot be read"),
        ("", "the revision is empty"),
    ],
)
def test_a_version_that_cannot_be_read_is_refused_in_one_sentence(revision: str, sentence: str, faulty: Store) -> None:
    with pytest.raises(DataError) as caught:
        manifest_at(revision, faulty.folder)
    assert sentence in str(caught.value) and "\n" not in str(caught.value) and str(caught.value).endswith(".")
    with pytest.raises(DataError, match="is not a folder under DVC"):
        manifest_at("v1", faulty.folder.parent)


@pytest.fixture(scope="module")
def faulty(origin: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The project with two more tags: a dvc.yaml that is none, and prepared data without a manifest."""
    folder = tmp_path_factory.mktemp("faulty") / "project"
    shutil.copytree(origin.folder, folder, symlinks=True)
    store = Store(folder)
    (folder / PREPARED / "manifest.parquet").unlink()
    store.dvc("commit", "--quiet", "--force")
    store.commit("older")
    (folder / "dvc.yaml").write_text("stages: nothing\n")
    store.commit("broken")
    return store


def test_a_stage_may_ask_for_a_version_while_dvc_runs_it(store: Store) -> None:
    code = "from emodetect.versions import manifest_at; from pathlib import Path; Path('rows').write_text(str(len(manifest_at('v1'))))"
    stages = yaml.safe_load((store.folder / "dvc.yaml").read_text())
    stages["stages"]["ask"] = {"cmd": f'{sys.executable} -c "{code}"', "outs": ["rows"]}
    (store.folder / "dvc.yaml").write_text(yaml.safe_dump(stages))
    store.dvc("repro", "--quiet", "ask")
    assert int((store.folder / "rows").read_text()) == len(manifest_at("v1", store.folder))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc, which this system lacks")
def test_reading_a_manifest_starts_no_thread_that_could_abort_the_program_at_its_end(store: Store) -> None:
    counted = "len(os.listdir('/proc/self/task'))"
    code = f"import os; from emodetect.manifest import read_manifest; before = {counted}; read_manifest('data/prepared'); print({counted} - before)"
    assert store.run(sys.executable, "-c", code).strip() == "0"


def test_dvc_alone_believes_a_damaged_object(store: Store) -> None:
    """Why `make verify-data` exists. If this fails, DVC has learned to look: simplify."""
    tamper(store.object(PICTURE))
    store.wipe(cache=False)
    store.dvc("checkout", "--quiet")
    assert (store.folder / PICTURE).read_bytes() == b"other bytes"
    assert "up to date" in store.dvc("status")


@pytest.mark.parametrize("remote", ["no remote", "good remote", "damaged remote"])
@pytest.mark.parametrize("links", ["copy", "hardlink"])
def test_damage_is_named_and_the_rest_is_restored(
    links: str, remote: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, original = store.data(), (store.folder / PICTURE).read_bytes()
    store.configure("" if remote == "no remote" else tmp_path / "remote", links=links)
    if remote != "no remote":
        store.dvc("push", "--quiet")
    store.dvc("checkout", "--quiet", "--relink")
    damaged = store.object(PICTURE)
    assert damaged.samefile(store.folder / PICTURE) == (links == "hardlink")
    if remote == "damaged remote":
        kept = tmp_path / "remote" / damaged.relative_to(store.folder / ".dvc" / "cache")
        tamper(kept)
    tamper(damaged)  # through hard links the workspace is damaged, too
    if links == "copy":
        for name in (PICTURE, PICTURE.replace(PREPARED, "data/raw")):
            (store.folder / name).write_bytes(b"other bytes")  # as `dvc checkout` copies it
    shutil.rmtree(store.folder / PREPARED / "valid")

    code, printed = store.verify(monkeypatch), capsys.readouterr()
    assert f"{PICTURE}: its copy in the cache was damaged and lies in .dvc/tmp/{ASIDE}/" in printed.out and "Traceback" not in printed.out + printed.err
    assert next((store.folder / ".dvc" / "tmp" / ASIDE).iterdir()).read_bytes() == b"other bytes"
    if remote == "good remote":
        assert code == 0 and "restored from the remote" in printed.out and store.data() == before
        assert store.object(PICTURE).read_bytes() == original and (links == "copy" or store.object(PICTURE).samefile(store.folder / PICTURE))
    else:
        raw = PICTURE.replace(PREPARED, "data/raw")
        assert code == 1 and f"\n{PICTURE}: is missing; run `dvc pull`" in printed.out and f"\n{raw}: is missing" in printed.out, "the same bytes stand in both"
        assert not (store.folder / PICTURE).exists() and len(list((store.folder / PREPARED / "valid" / "images").iterdir())) == 3, "the rest is there"
        (store.folder / raw).write_bytes(original)
        assert store.verify(monkeypatch) == 0, "whoever has the picture puts it back"
        assert store.data() == before
    assert "up to date" in store.dvc("status")


def test_a_lost_output_is_made_again_by_its_stage(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before, label = store.data(), f"{PREPARED}/manifest.parquet"
    tamper(store.object(label))
    (store.folder / label).unlink()
    assert store.verify(monkeypatch) == 1 and f"{label}: is missing" in capsys.readouterr().out
    assert "Running stage 'prepare'" in store.dvc("repro")
    assert store.data() == before and store.verify(monkeypatch) == 0


@pytest.mark.parametrize("remote", [True, False], ids=["remote", "no remote"])
def test_a_damaged_list_of_files_is_named_by_its_folder(remote: bool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = store.data()
    if remote:
        store.configure(tmp_path / "remote")
        store.dvc("push", "--quiet")
    tamper(store.object(PREPARED), b"[{")
    shutil.rmtree(store.folder / PREPARED / "train")
    code, printed = store.verify(monkeypatch), capsys.readouterr().out
    assert f"{PREPARED}: its copy in the cache was damaged" in printed
    assert (code, store.data() == before) == ((0, True) if remote else (1, False)), printed
    assert remote or f"{PREPARED}: is missing; run `dvc pull`" in printed


def test_a_fresh_clone_is_filled_and_a_changed_file_stays(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = store.data()
    store.configure(tmp_path / "remote")
    store.dvc("push", "--quiet")
    store.wipe()
    (store.folder / PICTURE).parent.mkdir(parents=True)
    (store.folder / PICTURE).write_bytes(b"mine")
    assert store.verify(monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "not in the cache, and restored: " in printed and f"{PICTURE}: was changed in the workspace and is left as it is" in printed
    assert (store.folder / PICTURE).read_bytes() == b"mine"
    store.dvc("checkout", "--force", PICTURE)
    assert store.data() == before


def test_where_the_source_is_not_every_stage_but_the_fetch_runs(tmp_path: Path) -> None:
    """The stages of dvc.yaml with commands that take no time, and a folder of pictures that goes away after the first run."""
    store, source = Store(tmp_path / "project"), tmp_path / "faces"
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    outs = {name: [out for out in stage["outs"] if isinstance(out, str)] for name, stage in stages.items()}
    made = {out for each in outs.values() for out in each}
    for name, stage in stages.items():
        deps = [str(source)] if name == "fetch" else [*(dep for dep in stage["deps"] if dep in made), "settings"]
        stages[name] = {"cmd": [f"mkdir -p $(dirname {out}) && cat settings > {out}" for out in outs[name]], "deps": deps, "outs": outs[name]}
    store.folder.mkdir()
    source.mkdir()
    (source / "a.jpg").write_text("a picture")
    (store.folder / "settings").write_text("some epochs")
    (store.folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    store.run("git", "init", "--quiet", "--initial-branch=main")
    store.dvc("init", "--quiet")
    store.dvc("repro", "--quiet")
    shutil.rmtree(source)
    (store.folder / "settings").write_text("more epochs")

    with pytest.raises(AssertionError, match="failed to reproduce 'fetch'"):
        store.dvc("repro")
    assert not (store.folder / "data" / "raw").exists(), "why data/README.md names another command; if DVC has learned to look first, simplify it"
    store.dvc("checkout", "--quiet", "fetch")
    assert (store.folder / "data" / "raw").exists()
    ran = [line.split("'")[1] for line in store.dvc("repro", "--downstream", "weights").splitlines() if line.startswith("Running stage")]
    assert sorted(ran) == sorted(stages.keys() - {"fetch"})


def test_trouble_is_told_in_one_sentence(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    store.configure("s3://faces/nowhere", "http://127.0.0.1:9")
    store.object(PICTURE).unlink()
    (store.folder / PICTURE).unlink()
    (store.folder / PICTURE.replace(PREPARED, "data/raw")).unlink()
    command = [sys.executable, "-m", "emodetect.cache"]
    done = subprocess.run(command, cwd=store.folder, env=store.environment | {"AWS_MAX_ATTEMPTS": "1"}, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and "the remote did not give everything" in done.stdout and done.stderr == ""
    (store.folder / "dvc.yaml").write_text("stages: nothing\n")
    assert store.verify(monkeypatch) == 1 and capsys.readouterr().err.startswith("verify-data: DVC cannot read the project (")
    monkeypatch.chdir(tmp_path)
    assert main([]) == 1 and "is not a folder under DVC" in capsys.readouterr().err
