"""Watching a service: changed traffic raises the right alarm, ordinary traffic none but by chance. A real detector answers, its network fitted in one step to drawn faces."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from emodetect import watch
from emodetect.cli import main
from emodetect.core import ParameterError
from emodetect.detector import Detector, Found, cut_out, letterbox, to_tensor
from emodetect.engine import Engine, Served, load_model
from emodetect.labels import EMOTIONS, Face
from emodetect.provenance import attach
from emodetect.sample import draw_portrait
from emodetect.service import make_app
from emodetect.settings import Settings
from emodetect.stand_in import write_stand_in
from emodetect.watch import (
    CHANCE,
    LARGE,
    OWN,
    Watcher,
    brightness,
    chance_limit,
    compare,
    make_reference,
    outcomes_of,
    read_outcomes,
    read_reference,
    stability_index,
    write_reference,
)

SIDE, SHARE, SHA256 = 64, 0.8, "ab" * 32
Pictures = list[np.ndarray]
Portraits = list[tuple[np.ndarray, Face]]
Outcomes = list[dict]
Traffic = Callable[[Pictures], Outcomes]


def draw(count: int, seed: int) -> Portraits:
    """Portraits, the eight emotions in turn."""
    drawn = [draw_portrait(np.random.default_rng([seed, number]), number % 8) for number in range(count)]
    return [(picture, face) for picture, [face], _ in drawn]


def features(tensor: np.ndarray, blocks: int) -> np.ndarray:
    """How strong edges of eight directions are in each block of grey pictures, and a one."""
    found = []
    for grey in tensor.mean(axis=1):
        across, down = cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1)
        angles = np.arange(8) * np.pi / 4
        edges = np.maximum(across[..., None] * np.cos(angles) + down[..., None] * np.sin(angles), 0)
        row = np.sqrt(edges.reshape(blocks, SIDE // blocks, blocks, SIDE // blocks, 8).mean(axis=(1, 3))).ravel()
        found.append(np.append(10 * row / np.linalg.norm(row), 1.0))
    return np.array(found)


def fit(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The weights of a ridge regression."""
    return rows.T @ np.linalg.solve(rows @ rows.T + 3 * np.eye(len(rows)), targets)


def fitted_detector() -> Detector:
    """A detector that finds the one face of a portrait and names it, right four times as often as by chance."""
    drawn, random = draw(160, 0), np.random.default_rng(2)
    missed = [(picture, Face(face.emotion, *(np.array([face.x, face.y, face.width, face.height]) * random.uniform(0.95, 1.05, 4)))) for picture, face in drawn * 4]
    boxes = fit(features(to_tensor([letterbox(picture, SIDE)[0] for picture, _ in drawn]), 8), np.array([[face.x, face.y, face.width, face.height] for _, face in drawn]))
    names = fit(features(to_tensor([cut_out(picture, face, SHARE, SIDE)[0] for picture, face in missed]), 16), np.eye(8)[[face.emotion for _, face in missed]])

    def find(picture: np.ndarray) -> list[Found]:
        return [Found(0.9, Face(0, *(features(to_tensor([letterbox(picture, SIDE)[0]]), 8)[0] @ boxes).clip(0.1, 0.9).tolist()))]

    def network(tensor: np.ndarray) -> np.ndarray:
        place = np.tile([SIDE / 2, SIDE / 2, SHARE * SIDE, SHARE * SIDE], (len(tensor), 1))
        return np.hstack([place, (features(tensor, 16) @ names).clip(0.01, 0.99)])[..., None].astype(np.float32)

    return Detector(network, SIDE, mode="faces", find=find, share=SHARE)


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    """A function that sends pictures through an engine that is watched; what it kept."""
    served, file = Served(fitted_detector(), {}, b"", SHA256), tmp_path_factory.mktemp("watched") / "outcomes.jsonl"

    def send(pictures: Pictures) -> Outcomes:
        file.unlink(missing_ok=True)
        engine = Engine(served, threads=1, waiting=len(pictures), seconds=60.0, report=Watcher(str(file)).answered, measure=brightness)
        jobs = engine.submit([(None, cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()) for picture in pictures])
        engine.close()
        kept = read_outcomes(file)
        assert [job.answer.exception() for job in jobs] == [None] * len(kept)
        return kept

    return send


@pytest.fixture(scope="module")
def portraits() -> Portraits:
    """Pictures that the detector was not fitted to."""
    return draw(320, 1)


@pytest.fixture(scope="module")
def ordinary(traffic: Traffic, portraits: Portraits) -> Outcomes:
    """What is kept of ordinary traffic."""
    return traffic([picture for picture, _ in portraits])


def test_the_detector_of_the_drill_is_one(ordinary: Outcomes, portraits: Portraits) -> None:
    right = [EMOTIONS[face.emotion] == one["faces"][0]["emotion"] for one, (_, face) in zip(ordinary, portraits, strict=True)]
    assert np.mean(right) > 0.4 and len({one["faces"][0]["size"] for one in ordinary}) > 10


def test_ordinary_traffic_raises_no_more_false_alarms_than_stated(ordinary: Outcomes) -> None:
    seeds, alarms, naive = 500, 0, 0
    for seed in range(seeds):
        mixed = [ordinary[place] for place in np.random.default_rng(seed).permutation(len(ordinary))]
        found = compare(make_reference(mixed[:200]), mixed[200:])
        alarms += sum(one.moved for one in found)
        naive += any(one.index > LARGE for one in compare(make_reference(mixed[:200]), mixed[200:240]))
    assert alarms <= 8, f"{alarms} in {seeds} reports of five quantities: {5 * CHANCE * seeds:g} are expected at most, and more than 8 in one of a thousand"
    assert naive > seeds / 4, "with forty pictures, the customary limit alone would raise an alarm without a reason again and again"


def test_fresh_traffic_raises_no_more_false_alarms_than_stated(traffic: Traffic) -> None:
    """Pictures that nobody has seen, for every reference and every day anew."""
    seeds, alarms, moved = 12, 0, []
    for seed in range(seeds):
        kept = traffic([picture for picture, _ in draw(160, 100 + seed)])
        found = compare(make_reference(kept[:100]), kept[100:])
        alarms += sum(one.moved for one in found)
        moved += [one.index / one.limit for one in found if one.limit > 0]
    assert alarms <= 2, f"{alarms} in {seeds} reports of five quantities: {5 * CHANCE * seeds:g} are expected at most, and more than 2 in less than one of a thousand"
    assert max(moved) > 0.3, "the limit is not so high that nothing would ever reach it"


def darker(portraits: Portraits) -> Pictures:
    return [(0.5 * picture).astype(np.uint8) for picture, _ in portraits]


def smaller(portraits: Portraits) -> Pictures:
    return [cv2.resize(picture, (48, 48), interpolation=cv2.INTER_AREA) for picture, _ in portraits]


def blurred(portraits: Portraits) -> Pictures:
    return [cv2.GaussianBlur(picture, (0, 0), 3) for picture, _ in portraits]


def of_two_emotions(portraits: Portraits) -> Pictures:
    return [picture for picture, face in portraits if EMOTIONS[face.emotion] in ("happy", "surprise")]


def relabelled(portraits: Portraits) -> Pictures:
    """As many pictures, but where another emotion stood in every second one, there stands anger."""
    others = [picture for picture, face in portraits if EMOTIONS[face.emotion] not in ("fear", "neutral", "sad", "surprise")]
    angry = [picture for picture, face in draw(8 * (len(portraits) - len(others)), 3) if EMOTIONS[face.emotion] == "anger"]
    return others + angry


CHANGES = [  # of the traffic; what must move, and what must not
    (darker, {"brightness"}, {"size", "faces", "emotion", "confidence"}),
    (smaller, {"size"}, {"brightness", "faces"}),
    (blurred, {"emotion"}, {"brightness", "faces"}),
    (of_two_emotions, {"emotion"}, {"size", "brightness", "faces"}),
    (relabelled, {"emotion"}, {"size", "brightness", "faces"}),
]


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case[0].__name__)
def test_changed_traffic_raises_the_right_alarm(case: tuple[Callable, set[str], set[str]], traffic: Traffic, ordinary: Outcomes, portraits: Portraits) -> None:
    change, right, wrong = case
    found = compare(make_reference(ordinary[:200]), traffic(change(portraits[200:])))
    moved = {one.quantity for one in found if one.moved}
    assert right <= moved and not wrong & moved, found
    assert all(one.verdict == "moved far" for one in found if one.quantity in right)


def test_traffic_without_faces_raises_an_alarm(ordinary: Outcomes) -> None:
    found = compare(make_reference(ordinary[:200]), [one | {"faces": []} for one in ordinary[200:]])
    assert [one.quantity for one in found if one.moved] == ["faces"] and {one.quantity for one in found} == {"brightness", "faces"}


def test_the_limit_grows_as_the_traffic_shrinks() -> None:
    limits = [chance_limit([100] * 10, [seen] * 10) for seen in (1, 10, 100)]
    assert limits == sorted(limits, reverse=True) and limits[0] > LARGE > limits[2]
    assert stability_index([100] * 10, [1] * 10) == pytest.approx(0, abs=1e-12)


def album(folder: Path, pictures: Sequence[np.ndarray]) -> Path:
    """A folder of pictures."""
    folder.mkdir()
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number}.png"), picture[:, :, ::-1])
    return folder


def test_the_commands_say_what_has_moved(tmp_path: Path, portraits: Portraits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_stand_in("model.onnx")
    pictures = [picture for picture, _ in portraits[:80]]
    assert main(["watch", "reference", str(album(tmp_path / "album", pictures)), "--model", "model.onnx", "--out", "reference.json", "--threads", "1"]) == 0
    assert capsys.readouterr().out == "reference.json: 80 faces in 80 pictures\n"
    model = json.loads(Path("reference.json").read_text())["model"]
    for name, change in (("same", 1.0), ("dark", 0.3)):
        face = {"emotion": "happy", "confidence": 1.0, "uncertain": False, "size": 66}
        lines = [{"model": model, "brightness": round(change * brightness(picture)), "faces": [face]} for picture in pictures]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[0] | {"model": SHA256}]))
    assert main(["watch", "report", "same.jsonl", "--reference", "reference.json"]) == 0
    told = capsys.readouterr().out
    assert "1 pictures were answered by another model" in told and "moved" not in told
    assert main(["watch", "report", "dark.jsonl", "--reference", "reference.json", "--json"]) == 1
    figures = json.loads(capsys.readouterr().out)
    assert (figures["model"], figures["pictures"], figures["pictures_of_other_models"]) == (model, 80, 1)
    assert [(one["quantity"], one["verdict"]) for one in figures["quantities"] if one["moved"]] == [("brightness", "moved far")]
    Path("other.jsonl").write_text(json.dumps(lines[0] | {"model": SHA256}) + "\n")
    Path("broken.jsonl").write_text("{}\n")
    wrong = {"other.jsonl": "holds no outcome of the model", "broken.jsonl": "line 1 is no outcome", "none.jsonl": "cannot be read"}
    for name, message in wrong.items():
        assert main(["watch", "report", name, "--reference", "reference.json"]) == 1 and message in capsys.readouterr().err
    Path("models").mkdir()
    kept = read_reference("reference.json")
    Path("model.onnx").rename("models/emodetect.onnx")
    assert main(["watch", "report", "dark.jsonl"]) == 1 and "the model holds no reference" in capsys.readouterr().err
    attach("models/emodetect.onnx", OWN, {"edges": kept.edges, "counts": kept.counts})
    assert main(["watch", "report", "dark.jsonl"]) == 1 and "holds no outcome of the model" in capsys.readouterr().err, "its file is another one now"
    Path("reference.json").rename("models/reference.json")
    assert main(["watch", "report", "dark.jsonl"]) == 1 and "moved far" in capsys.readouterr().out, "what was made by hand comes first"
    assert main(["watch", "report", "same.jsonl", "--reference", "none.json"]) == 1 and "there is no such reference" in capsys.readouterr().err


def figures(client: TestClient, name: str) -> dict[str, float]:
    """The values of a gauge by its first label."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name}{{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def test_the_service_keeps_outcomes_and_tells_what_has_moved_if_it_is_asked_to(tmp_path: Path, portraits: Portraits) -> None:
    served = load_model(write_stand_in(tmp_path / "model.onnx"))
    pictures = [picture for picture, _ in portraits[:100]]
    write_reference(make_reference(outcomes_of(served.detector, album(tmp_path / "album", pictures), served.sha256)), tmp_path / "reference.json")
    given = {"threads": 1}
    app = make_app(Settings(**given, outcomes=str(tmp_path / "outcomes.jsonl"), reference=str(tmp_path / "reference.json")), models=(served, None))

    def send(client: TestClient, change: float) -> None:
        for start in range(0, 100, 10):
            changed = [(change * picture[:, :, ::-1]).astype(np.uint8) for picture in pictures[start:start + 10]]
            files = [("files", (f"private-{start}.png", cv2.imencode(".png", picture)[1].tobytes())) for picture in changed]
            assert client.post("/v1/predict", files=files, headers={"X-Forwarded-For": "192.0.2.7", "User-Agent": "private"}).status_code == 200

    with TestClient(app) as client:
        assert not figures(client, "emodetect_drift_index"), "nothing was answered yet"
        send(client, 1.0)
        index, limit = figures(client, "emodetect_drift_index"), figures(client, "emodetect_drift_index_limit")
        assert index.keys() == limit.keys() == {"emotion", "confidence", "size", "brightness", "faces"} and all(index[name] < limit[name] for name in index)
        send(client, 0.4)
        index, limit = figures(client, "emodetect_drift_index"), figures(client, "emodetect_drift_index_limit")
        assert {name for name in index if index[name] > limit[name]} == {"brightness"}
    written = (tmp_path / "outcomes.jsonl").read_text()
    assert len(written.splitlines()) == 200 and not [word for word in ("private", "192.0.2.7", "testclient", ".png") if word in written]
    lines = [json.loads(line) for line in written.splitlines()]
    assert all(line.keys() == {"time", "version", "milliseconds", "model", "brightness", "faces"} and re.fullmatch(r"[\d-]{10}T\d\d:\d\dZ", line["time"]) for line in lines)

    with TestClient(make_app(Settings(**given), models=(served, None))) as client:
        send(client, 1.0)
        assert not figures(client, "emodetect_drift_index")
    assert (tmp_path / "outcomes.jsonl").read_text() == written and len(list(tmp_path.iterdir())) == 4

    with pytest.raises(ParameterError, match=r"serve.reference is 'model', but the model \w{12} holds no reference"):
        make_app(Settings(**given, reference="model"), models=(served, None))
    own = write_stand_in(tmp_path / "own.onnx")
    kept = read_reference(tmp_path / "reference.json")
    attach(own, OWN, {"edges": kept.edges, "counts": kept.counts})
    with TestClient(make_app(Settings(**given, model=str(own), reference="model"))) as client:
        send(client, 0.4)
        index, limit = figures(client, "emodetect_drift_index"), figures(client, "emodetect_drift_index_limit")
        assert {name for name in index if index[name] > limit[name]} == {"brightness"}, "what a model holds is its reference"

    other = load_model(write_stand_in(tmp_path / "other.onnx", "sad"))
    with pytest.raises(ParameterError, match=r"is of the model .* is at work; make another with `emodetect watch reference`"):
        make_app(Settings(**given, reference=str(tmp_path / "reference.json")), models=(other, None))


def test_a_record_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(watch.LOG, "error", lambda text, *values: told.append(text % values))
    file, picture = tmp_path / "outcomes.jsonl", cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    watcher = Watcher(str(file))
    engine = Engine(load_model(write_stand_in(tmp_path / "model.onnx")), threads=1, report=watcher.answered, measure=brightness)
    file.unlink()
    file.mkdir()
    for _ in range(2):
        assert engine.submit([(None, picture)])[0].answer.result().faces
    engine.close()
    assert told == [f"{file}: outcomes cannot be written (Is a directory); the service goes on without them until they can."]
    file.rmdir()
    engine = Engine(engine.models[0], threads=1, report=watcher.answered, measure=brightness)
    engine.submit([(None, picture)])
    engine.close()
    assert len(read_outcomes(file)) == 1 and len(told) == 1 and len(watcher.recent) == 3
