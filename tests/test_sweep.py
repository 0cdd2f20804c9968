"""Sweeps on a real cluster of processes: workers are lost, sweeps are killed, schedulers are not there."""

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conftest import PROJECT
from emodetect import sweep as module
from emodetect.cli import main
from emodetect.cluster import cluster
from emodetect.core import DataError, EmodetectError, ParameterError
from emodetect.experiments import Experiment
from emodetect.sweep import as_command, edited, read_fixed, read_space, read_study, sweep
from emodetect.training import Hyperparameters

SPACE = "train.lr0: {low: 0.001, high: 0.01, log: true}\ntrain.optimizer: [AdamW, SGD]\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with little data and parameters under which a training takes a second. Tests leave it as they found it."""
    from emodetect.prepare import prepare
    from emodetect.sample import write_sample

    folder = tmp_path_factory.mktemp("sweep")
    write_sample(folder / "drawn", {"train": 16, "valid": 8, "test": 4}, seed=3)
    prepare(folder / "drawn", folder / "data" / "prepared")
    (folder / "models").mkdir()
    (folder / "models" / "pretrained.pt").touch()
    (folder / "space.yaml").write_text(SPACE)
    train = {name: getattr(Hyperparameters(epochs=2, batch=8), each) for name, each in module.FIELDS.items()}
    parameters: dict = {"model": {"architecture": "yolo11n"}, "train": {"seed": 0, "device": "cpu", "missing_emotions": "allow"}, "threads": 1}
    for name, value in (train | {"model.image_size": 64}).items():
        group, _, key = name.partition(".")
        parameters[group][key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))
    return folder


EMODETECT = str(Path(sys.executable).with_name("emodetect"))


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finished(journal: Path) -> Counter:
    """How often the journal says of each trial that it ended."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    return Counter(line["trial_id"] for line in lines if line.get("state") in (1, 2, 3))  # complete, pruned, failed


def test_the_best_again_composes_to_what_the_trial_had(tmp_path: Path) -> None:
    """Edits of params.yaml travel with the command, also a value that no group of configs/ has."""
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    given = yaml.safe_load((PROJECT / "params.yaml").read_text())
    given["train"] |= {"epochs": 7, "optimizer": "SGD"}
    given["data"] |= {"source": "folder", "path": "my faces/set=1"}
    given["prepare"]["classes"] |= {"wut": "anger"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(given))
    trial = Experiment("best", "done", {"train.lr0": 0.0025, "train.optimizer": "AdamW"}, {}, {})
    space = dict.fromkeys(("train.lr0", "train.optimizer"))
    overrides = [word for word in shlex.split(as_command(trial, space, edited(tmp_path))) if "=" in word]
    with initialize_config_dir(str(tmp_path / "configs"), version_base=None):
        composed = OmegaConf.to_container(compose("config", overrides), resolve=True)
    given["train"] |= {"lr0": 0.0025, "optimizer": "AdamW"}
    assert composed == given


@contextmanager
def running_cluster(workers: int) -> Iterator[str]:
    """The address of a Dask cluster that is not the sweep's own, as a user starts one."""
    from distributed import LocalCluster

    options = {"host": "127.0.0.1", "dashboard_address": None, "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"}}
    with LocalCluster(n_workers=workers, threads_per_worker=1, **options) as running:
        yield running.scheduler_address


@pytest.mark.parametrize("by_address", [False, True], ids=["our own", "an address"])
def test_a_lost_worker_loses_no_trial_and_none_ends_twice(by_address: bool, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers; one is killed while trial 1 waits, after its first epoch, to hear whether to go on; trial 2 hears that it shall not."""
    fixed, space, killed = read_fixed(project), read_space(project / "space.yaml"), []
    decide = module._promising
    with running_cluster(2) if by_address else nullcontext("") as scheduler, cluster(scheduler, workers=2) as client:

        def killing(study: object, number: int, curve: list[float]) -> bool:
            if number == 1 and not killed:
                address = next(address for address, keys in client.processing().items() if any(key.startswith("trial-1-") for key in keys))
                killed.append(client.run(os.getpid)[address])
                os.kill(killed[0], signal.SIGKILL)
            return number != 2 and decide(study, number, curve)

        monkeypatch.setattr(module, "_promising", killing)
        found = sweep(fixed, space, tmp_path / "lost.journal", trials=3, client=client)
        assert killed and not psutil.pid_exists(killed[0])
    assert [(one.name, one.state) for one in found] == [("lost-0", "done"), ("lost-1", "done"), ("lost-2", "pruned")]
    assert [len(one.curves["metrics/mAP50-95"]) for one in found] == [2, 2, 1], "a worker ends a training as soon as it is told"
    assert finished(tmp_path / "lost.journal") == Counter({number: 1 for number in range(3)})
    alone = module.run_trial(fixed, {name: found[1].parameters[name] for name in space}, lambda curve: True)
    assert found[1].curves == alone.curves, "the trial that was begun twice gave what it gives undisturbed"


def same(trials: list[Experiment]) -> list[Experiment]:
    """Trials without the names of their studies."""
    return [replace(one, name="") for one in trials]


def test_a_killed_sweep_goes_on_and_ends_where_an_undisturbed_one_ends(project: Path, tmp_path: Path) -> None:
    whole = sweep(read_fixed(project), read_space(project / "space.yaml"), tmp_path / "whole.journal", trials=2)
    journal = tmp_path / "killed.journal"
    arguments = ["sweep", "space.yaml", "--trials", "2", "--workers", "1", "--study", str(journal)]
    with subprocess.Popen([EMODETECT, *arguments], cwd=project, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline().startswith("trial 0: complete")
        family = psutil.Process(first.pid).children(recursive=True)
        first.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert family and not alive, "a worker or a training goes on without the sweep"
    before = finished(journal)
    assert before == Counter({0: 1})
    second = subprocess.run([EMODETECT, *arguments], cwd=project, capture_output=True, text=True)
    assert second.returncode == 0 and not second.stderr, second.stderr
    assert "trial 0:" not in second.stdout and "the best again   dvc exp run --name killed-" in second.stdout
    assert same(read_study(journal)) == same(whole) and finished(journal) == Counter({0: 1, 1: 1})


def test_a_scheduler_that_dies_ends_the_sweep_with_one_sentence(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client

    address = f"tcp://127.0.0.1:{free_port()}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = str(Path(sys.executable).with_name("dask"))
    with (
        subprocess.Popen([dask, "scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"], **quiet) as scheduler,
        subprocess.Popen([dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"], **quiet) as worker,
    ):
        try:
            with Client(address, timeout=60) as first:
                first.wait_for_workers(1, timeout=60)
            with cluster(address, timeout=5) as client:
                proposed = module._proposed

                def last(*given: object) -> object:
                    scheduler.kill()
                    scheduler.wait()
                    return proposed(*given)

                monkeypatch.setattr(module, "_proposed", last)
                with pytest.raises(EmodetectError, match=r"the cluster is gone; give the same command again"):
                    sweep(read_fixed(project), read_space(project / "space.yaml"), tmp_path / "gone.journal", trials=1, client=client)
        finally:
            scheduler.kill()
            worker.kill()
    assert read_study(tmp_path / "gone.journal")[0].state == "running"


def test_our_own_cluster_listens_on_this_machine_alone_and_takes_no_stranger(project: Path) -> None:
    from distributed.comm import connect

    with cluster(workers=1) as client:
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = {connection.laddr.ip for process in family for connection in process.net_connections() if connection.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        address = client.scheduler.address
        assert address.startswith("tls://")
        for stranger in (address, address.replace("tls", "tcp")):
            with pytest.raises((OSError, TypeError, ValueError, RuntimeError)):
                asyncio.run(connect(stranger, timeout=1))


def test_a_running_scheduler_is_used(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with running_cluster(1) as address:
        monkeypatch.chdir(project)
        assert main(["sweep", "space.yaml", "--trials", "1", "--scheduler", address, "--study", str(tmp_path / "s.journal")]) == 0
    assert capsys.readouterr().out.startswith("trial 0: complete, ") and read_study(tmp_path / "s.journal")[0].state == "done"


@pytest.mark.parametrize(
    ("space", "arguments", "sentence"),
    [
        ("train.lrO: [0.1]", [], "space.yaml: 'train.lrO' is no parameter of a training; choose of model.image_size, train.precision"),
        ("", [], "space.yaml: the space is empty; give it at least one parameter"),
        ("train.lr0: {low: 0.1, high: 7}", [], "space.yaml: train.lr0: lr0 is 7.0; give a value from 1e-07 to 1.0."),
        (SPACE, ["--scheduler", "tcp://127.0.0.1:9", "--timeout", "1"], "no Dask scheduler with a worker answers at tcp://127.0.0.1:9 within 1 s"),
        (SPACE, ["--study", "params.yaml"], "params.yaml: is not a study of emodetect"),
    ],
    ids=["unknown", "empty", "range", "scheduler", "study"],
)
def test_a_wrong_call_is_one_sentence(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], space: str, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "space.yaml").write_text(space)
    parameters = (project / "params.yaml").read_bytes()
    monkeypatch.chdir(project)
    assert main(["sweep", str(tmp_path / "space.yaml"), *arguments]) == 1
    complaints = capsys.readouterr().err
    assert sentence in complaints and len(complaints.splitlines()) == 1 and complaints.startswith("emodetect: ")
    assert (project / "params.yaml").read_bytes() == parameters


@pytest.mark.parametrize("package", ["optuna", "distributed"])
def test_without_the_extra_it_says_what_to_install(package: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from emodetect.cli import main; sys.exit(main(['sweep']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == f"emodetect: `emodetect sweep` needs {package}, which this install lacks; install emodetect[train,cluster].\n"


def test_inputs_that_are_missing_or_differ_are_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data/prepared/manifest\.parquet: is missing; run `dvc repro weights prepare`"):
        read_fixed(tmp_path)
    with pytest.raises(DataError, match="is missing on a worker or differs"):
        replace(read_fixed(project), data_sha256="0" * 64).check()
    read_fixed(project).check()
    with pytest.raises(DataError, match=r"the code of the training differs on a worker \(\w{12}, where the sweep was started 0{12}\); give all workers the same commit"):
        replace(read_fixed(project), code_sha256="0" * 64).check()
    with pytest.raises(DataError, match=r"torch differs on a worker \([\d.]+.*, where the sweep was started 1\.0\)"):
        replace(read_fixed(project), libraries=read_fixed(project).libraries | {"torch": "1.0"}).check()


def test_a_study_belongs_to_the_code_that_trains() -> None:
    """What the stage train names as its code, but for what draws, tells and fetches."""
    stage = yaml.safe_load((Path(__file__).parent.parent / "dvc.yaml").read_text())["stages"]["train"]
    named = {Path(path).stem for path in stage["deps"] if path.startswith("emodetect/")}
    assert set(module.MODULES) == named - {"checkout", "plots", "provenance", "stages", "weights", "yunet"}


def test_a_trial_whose_values_are_refused_has_failed_and_a_sweep_that_cannot_work_is_refused(project: Path) -> None:
    outcome = module.run_trial(read_fixed(project), {"train.batch": 17}, lambda curve: True)
    assert outcome.failure.startswith("train.batch is 17, but the training split has 16 pictures") and not outcome.figures
    with pytest.raises(ParameterError, match=r"train\.device is 'moon'"):
        module.run_trial(replace(read_fixed(project), device="moon"), {"train.batch": 8}, lambda curve: True)


def test_the_declared_space_of_the_project_is_sound() -> None:
    configs = Path(__file__).parent.parent / "configs"
    assert set(read_space(configs / "sweep.yaml")) < set(module.FIELDS)
    composed = yaml.safe_load((configs.parent / "params.yaml").read_text())
    assert all(key in composed[group] for group, _, key in (name.partition(".") for name in module.FIELDS))
