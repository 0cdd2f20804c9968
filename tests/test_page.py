"""The page as a person uses it, in headless Chromium: pictures from everywhere, in the browser and through the server, and what goes wrong."""

import base64
import hashlib
import io
import itertools
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import onnx
import pytest
from PIL import Image

from conftest import PROJECT, Copy
from emodetect.detector import FINDER_KEY, NEVER, SETTINGS, Detection, decode_picture, letterbox, load_detector, to_tensor, upright
from emodetect.labels import EMOTIONS
from emodetect.sample import draw_picture
from emodetect.settings import Settings
from emodetect.stand_in import write_stand_in
from emodetect.yunet import YUNET, load_yunet, parts, scales
from tests.attack import Service
from tests.page import CHROMIUM, QUIET, WEB, film

VENDOR = WEB / "vendor" / "ort.wasm.bundle.min.mjs"
AXE = PROJECT / "node_modules" / "axe-core" / "axe.min.js"
TEXTS = json.loads((WEB / "texts.json").read_text())["en"]
SCENE, PORTRAIT, HAPPY = 2, 1, WEB / "examples" / "happy.jpg"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine; install it to see the page tested")
in_browser = pytest.mark.skipif(not VENDOR.exists(), reason="the browser's engine is not here; fetch it with `make web`")


def encode(picture: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as a file's bytes."""
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def drawn(index: int) -> np.ndarray:
    """A picture of the sample."""
    return draw_picture("test", index, seed=0)[0]


def upload(name: str, content: bytes) -> dict[str, object]:
    """A file as Playwright hands it to the page."""
    return {"name": name, "mimeType": "image/png", "buffer": content}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as the pipeline exports it, untrained but wide awake: its answers differ from face to face, and some are uncertain."""
    from emodetect.export import describe, export_onnx
    from emodetect.stand_in import awaken
    from emodetect.weights import fetch_pinned
    from emodetect.yolo import build_model, fix_randomness

    folder = tmp_path_factory.mktemp("model")
    fetch_pinned(YUNET, folder / "yunet.onnx")
    fix_randomness(0, 2)
    network = awaken(build_model("yolo11n"), to_tensor([letterbox(draw_picture("train", index, 0)[0], 64)[0] for index in range(32)]))
    export_onnx(network, folder / "model.onnx", describe(64, {"mode": "faces", "share": 0.5, "reject": 0.4, "temperature": 0.05}), finder=(folder / "yunet.onnx").read_bytes())
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def address(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service's address."""
    with Service(tmp_path_factory.mktemp("service"), model=model, source="https://example.org/source") as service:
        yield f"{service.url}/"


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable]:
    """A function that starts a Chromium with some options."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browsers = []

        def start(*options: str) -> object:
            browsers.append(driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *options]))
            return browsers[-1]

        yield start
        for browser in browsers:
            browser.close()


@pytest.fixture(scope="module")
def context(launch: Callable, tmp_path_factory: pytest.TempPathFactory) -> object:
    """A browser's session, in which what was fetched is known; its camera films a drawn scene."""
    picture = np.ascontiguousarray(cv2.resize(drawn(SCENE), (320, 240)))
    return launch(*film(tmp_path_factory.mktemp("camera") / "film.y4m", picture)).new_context(reduced_motion="reduce")


def cards(result: object) -> list[str]:
    """What the cards of a picture's faces say."""
    return [" ".join(text.split()) for text in result.locator(".face").all_inner_texts()]


LET = """() => {
    const answer = () => document.querySelector(".consent button")?.click();
    new MutationObserver(answer).observe(document.querySelector("#tool"), { childList: true });
}"""  # says yes to each card that asks


class Visit:
    """One visitor's page, and what went over the network and wrong behind it."""

    def __init__(self, context: object, address: str) -> None:
        self.address, self.sent, self.errors = address, [], []
        self.page = context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("request", lambda request: self.sent.append(request))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" and "Failed to load resource" not in message.text else None)

    def open(self, engine: str = "browser") -> "Visit":
        """Load the page and wait until it says who is at work."""
        self.page.goto(self.address)
        self.page.locator(f"#engine[data-engine={engine}]").wait_for()
        return self

    def agree(self) -> "Visit":
        """Go on from the notice."""
        self.page.click("#agree")
        self.sent.clear()
        return self

    def let(self) -> "Visit":
        """From now on let everything go to the server, whenever the page asks."""
        self.page.evaluate(LET)
        return self

    def refuse(self, pattern: str, status: int = 404) -> "Visit":
        """Have the server answer some addresses with an error."""
        self.page.route(pattern, lambda route: route.fulfill(status=status))
        return self

    def show(self, *files: object) -> "Visit":
        """Choose files, and wait for the answers."""
        self.page.set_input_files("#files", list(files))
        self.page.locator("#results .result[aria-busy=true]").first.wait_for(state="detached")
        return self

    def says(self, text: str) -> "Visit":
        """Wait until those who don't see the page hear something."""
        self.page.locator("#status", has_text=text).wait_for()
        return self

    def posts(self) -> list[str]:
        """Where something was sent to, each time."""
        return [request.url for request in self.sent if request.method == "POST"]

    def until(self, expression: str, value: object) -> None:
        """Wait until something in the page has a value; its policy lets the browser itself not do so."""
        for _ in range(1000):
            if self.page.evaluate(expression) == value:
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"{expression} does not become {value}")

    def awaits(self, held: list, count: int) -> None:
        """Wait until so many requests are held up."""
        for _ in range(1000):
            if len(held) >= count:
                break
            self.page.wait_for_timeout(20)
        assert len(held) == count

    def fail_first(self, pattern: str, status: int | None = None) -> "Visit":
        """Let the network break off the first request of some addresses, or the server answer it with an error."""
        to_fail = [pattern]

        def fail(route: object) -> None:
            if not to_fail:
                route.fallback()
                return
            to_fail.clear()
            if status:
                route.fulfill(status=status)
            else:
                route.abort()

        self.page.route(pattern, fail)  # not with `times`: after the last one Playwright stops to intercept, and what it holds at that moment may never go on
        return self

    @property
    def faces(self) -> list[str]:
        """What the cards of the newest picture say."""
        return cards(self.page.locator("#results .result").first)

    @property
    def status(self) -> str:
        """What those hear who don't see the page."""
        return self.page.inner_text("#status")


@pytest.fixture
def visit(context: object, address: str) -> Iterator[Visit]:
    """A new page, not yet loaded."""
    one = Visit(context, address)
    yield one
    one.page.close()
    assert not one.errors


@pytest.fixture(scope="module")
def loaded(context: object, address: str) -> Visit:
    """A page with its engine, for all tests that leave it as it is."""
    return Visit(context, address).open().agree()


@pytest.fixture
def ready(loaded: Visit) -> Iterator[Visit]:
    """The loaded page, without pictures."""
    yield loaded
    if loaded.page.locator("#clear").is_visible():
        loaded.page.click("#clear")
    loaded.sent.clear()
    assert not loaded.errors


def from_left(faces: list[Detection]) -> list[Detection]:
    """Faces as the page numbers them."""
    return sorted(faces, key=lambda face: face.left)


def shown(face: Detection, number: int) -> str:
    """What a face's card says."""
    answer = f"{face.emotion}, {face.confidence:.0%}"
    bars = [f"{name} {share:.0%}" for name, share in zip(EMOTIONS, face.probabilities, strict=True)]
    return " ".join([str(number), f"uncertain perhaps {answer}" if face.uncertain else answer, *bars])


def pictures() -> dict[str, bytes]:
    """Files of every kind that both the browser and the Python detector read."""
    sideways = Image.Exif()
    sideways[0x0112] = 6
    faded = Image.fromarray(drawn(PORTRAIT)).convert("RGBA")
    faded.putalpha(Image.linear_gradient("L").resize(faded.size))
    large = Image.fromarray(drawn(SCENE)).resize((611, 397))
    return {
        **{f"{index}.png": encode(drawn(index)) for index in range(8)},
        "half.jpg": encode(large.convert("L"), "JPEG"),
        "large.jpg": encode(large, "JPEG", quality=90),
        "nobody.png": encode(drawn(19)),
        "sideways.jpg": encode(Image.fromarray(drawn(PORTRAIT)).rotate(90), "JPEG", exif=sideways, quality=95, subsampling=0),
        "transparent.png": encode(faded),
        "tall.webp": encode(large.crop((0, 0, 190, 397)), "WEBP", lossless=True),
        "tiny.png": encode(drawn(PORTRAIT)[:3, :2]),
    }


LOOK = """async ([mode, files]) => {
    const { Detector } = await import("./detector.js"), ort = await import("./vendor/ort.wasm.bundle.min.mjs");
    const { withoutAlpha } = await import("./pixels.js");
    ort.env.logLevel = "error";
    window.detector ??= await Detector.load(ort, new Uint8Array(await (await fetch("v1/model.onnx")).arrayBuffer()));
    detector.settings.mode = mode;
    const answers = {};
    for (const [name, content] of Object.entries(files)) {
        const blob = new Blob([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))]);
        const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
        const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { alpha: false });
        context.fillStyle = "white";
        context.fillRect(0, 0, bitmap.width, bitmap.height);
        context.drawImage(bitmap, 0, 0);
        const picture = withoutAlpha(context.getImageData(0, 0, bitmap.width, bitmap.height));
        answers[name] = await (mode ? detector.detect(picture) : detector.finder.find(picture));
    }
    return answers;
}"""


@in_browser
@pytest.mark.parametrize("mode", ["faces", "frame", "both"])
def test_browser_answers_as_the_python_detector(ready: Visit, model: Path, mode: str) -> None:
    files, detector, faces = pictures(), load_detector(model, mode=mode), 0
    answers = ready.page.evaluate(LOOK, [mode, {name: base64.b64encode(content).decode() for name, content in files.items()}])
    for name, content in files.items():
        expected, found = [face.to_dict() for face in detector([decode_picture(content)])[0]], answers[name]
        assert len(expected) == len(found), name
        near = {"abs": 0.01} if name.endswith((".png", ".webp")) and name != "transparent.png" else {"abs": 1.0}  # decoders of JPEG may differ by one grey level
        for one, other in zip(expected, found, strict=True):
            assert one.keys() == other.keys() and (one["emotion"], one["uncertain"]) == (other["emotion"], other["uncertain"]), name
            assert [other[side] for side in ("left", "top", "right", "bottom")] == pytest.approx([one[side] for side in ("left", "top", "right", "bottom")], **near), name
            assert other["probabilities"] == pytest.approx(one["probabilities"], abs=1e-3), name
        faces += len(found)
    assert faces > 15


@in_browser
def test_pixels_are_resized_as_opencv_does(ready: Visit) -> None:
    resize = """async ([content, width, height, sizes]) => {
        const { resize } = await import("./pixels.js"), data = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        return sizes.map(([newWidth, newHeight, area]) => Array.from(resize({ data, width, height }, newWidth, newHeight, area).data));
    }"""
    picture = np.random.default_rng(0).integers(0, 256, (60, 77, 3), dtype=np.uint8)
    sizes = [(160, 160, False), (154, 120, False), (50, 31, False), (77, 61, False), (1, 1, False), (38, 30, True), (77, 30, True), (24, 19, True), (60, 47, True), (1, 1, True)]
    for (width, height, area), pixels in zip(sizes, ready.page.evaluate(resize, [base64.b64encode(picture.tobytes()).decode(), 77, 60, sizes]), strict=True):
        theirs = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR).astype(int).reshape(-1)
        difference = np.abs(theirs - np.array(pixels))
        assert difference.max() <= area and (difference > 0).mean() < 0.002, (width, height, area)


@in_browser
def test_heads_are_turned_upright_as_opencv_does(ready: Visit) -> None:
    turn = """async ([content, width, height, turns]) => {
        const { upright } = await import("./pixels.js"), data = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        return turns.map((turn) => Array.from(upright({ data, width, height }, ...turn).data));
    }"""
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 77, 3), dtype=np.uint8), (0, 0), 1.0)
    turns = [
        (30.25, 41.5, 0.0, 2.0, 64, False), (30.2, 20.9, 34.0, 1.7, 64, True), (70.0, 3.0, -143.0, 0.4, 51, False),
        (10.0, 50.0, 90.0, 4.0, 40, True), (5.3, 7.1, 12.0, 1.0, 45, True),
    ]
    for (x, y, tilt, scale, size, grey), pixels in zip(turns, ready.page.evaluate(turn, [base64.b64encode(picture.tobytes()).decode(), 77, 60, turns]), strict=True):
        theirs = upright(picture, (x, y), tilt, scale, size, cv2.BORDER_CONSTANT if grey else cv2.BORDER_REPLICATE).astype(int).reshape(-1)
        difference = np.abs(theirs - np.array(pixels))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01, (tilt, difference.max(), (difference > 0).mean())


@in_browser
def test_browser_looks_twice_and_turns_heads_as_python_does(ready: Visit, model: Path) -> None:
    photo = decode_picture(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    once, twice = (load_yunet(model.with_name("yunet.onnx"), score, twice=many) for score, many in ((0.3, False), (SETTINGS["face_score"], True)))
    files, unsure, tilted = {}, 0, 0
    for angle, covered in [*itertools.product((-50, -35, -20, 0, 20, 35, 50), (440, 235, 225)), (-40, 224)]:
        scene = cv2.warpAffine(photo, cv2.getRotationMatrix2D((256, 220), angle, 0.5), (512, 440), borderValue=(114, 114, 114))
        scene[covered:] = 114
        files[f"{angle} {covered}.png"] = scene
        unsure, tilted = unsure + any(0.3 <= one.score < 0.85 for one in once(scene)), tilted + any(one.tilt for one in twice(scene))
    assert len(once(scene)) == 2 and len(twice(scene)) == 1, "two guesses at one head are one face"
    answers = ready.page.evaluate(LOOK, [None, {name: base64.b64encode(encode(scene)).decode() for name, scene in files.items()}])
    for name, scene in files.items():
        for one, other in zip(twice(scene), answers[name], strict=True):
            assert (other["score"], other["tilt"]) == (pytest.approx(one.score, abs=0.01), pytest.approx(one.tilt, abs=0.5)), name
            expected = [one.face.x, one.face.y, one.face.width, one.face.height]
            assert [other[side] for side in ("x", "y", "width", "height")] == pytest.approx(expected, abs=0.004), name  # of two equally sure boxes either may win
    assert unsure > 5 and tilted > 10 and sum(map(len, answers.values())) > 15


@in_browser
def test_browser_looks_at_large_pictures_in_parts_as_python_does(ready: Visit, model: Path) -> None:
    photo, large = decode_picture(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"), np.full((800, 1500, 3), 114, np.uint8)
    places = [(x, y) for x in range(20, 1440, 168) for y in (30, 390, 700)]
    for number, (x, y) in enumerate(places):
        side = (60, 70) if number % 3 else (44, 51)
        large[y:y + side[1], x:x + side[0]] = cv2.resize(photo, side, interpolation=cv2.INTER_AREA)
    steps = scales(800, 1500)
    assert len(parts(800, 1500, steps[0])) == 2, "a part alone would test less"
    shapes = [[800, 1500, 24], [96, 96, 24], [3000, 4000, 24], [4000, 4000, 24], [100, 160_000, 1], [3000, 4000, 100], [1, 16_000_000, 24], [16_000_000, 3, 1]]
    scaled = ready.page.evaluate("async (shapes) => { const { scales } = await import('./finder.js'); return shapes.map((shape) => scales(...shape)); }", shapes)
    assert scaled == [pytest.approx(scales(*shape)) for shape in shapes], "also where the look's size is what limits it"
    expected = load_yunet(model.with_name("yunet.onnx"), SETTINGS["face_score"])(large)
    assert len(expected) == len(places)
    files = {"large.png": base64.b64encode(encode(large)).decode()}
    found, order = ready.page.evaluate(LOOK, [None, files])["large.png"], lambda face: (round(face[0], 1), face[1])
    boxes = sorted(([face[side] for side in ("x", "y", "width", "height")] for face in found), key=order)
    theirs = sorted(([one.face.x, one.face.y, one.face.width, one.face.height] for one in expected), key=order)
    assert boxes == [pytest.approx(box, abs=0.004) for box in theirs]


@in_browser
def test_browser_lets_the_network_confirm_as_python_does(ready: Visit, model: Path, tmp_path: Path) -> None:
    """Heads that the finder doubts, and a network that is the surer of a face the redder its cut-out is."""
    photo = decode_picture(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    scenes = {}
    for angle, covered in itertools.product((-35, 0, 35), (440, 235, 225, 220)):
        scene = cv2.warpAffine(photo, cv2.getRotationMatrix2D((256, 220), angle, 0.5), (512, 440), borderValue=(114, 114, 114))
        scene[covered:] = 114
        scenes[f"{angle} {covered}.png"] = scene
    files, counts = {name: base64.b64encode(encode(scene)).decode() for name, scene in scenes.items()}, []
    for confirm in (NEVER, 0.52, 0.0):
        path = write_stand_in(tmp_path / "model.onnx", score=0.0, mode="faces", face_score=0.95, confirm=confirm)
        red = onnx.load(path)
        next(one for one in red.graph.initializer if one.name == "nothing").CopyFrom(onnx.numpy_helper.from_array(np.ones(1, np.float32), "nothing"))
        red.metadata_props.add(key=FINDER_KEY, value=base64.b64encode(model.with_name("yunet.onnx").read_bytes()).decode())
        onnx.save(red, path)
        ready.page.evaluate("""async (content) => {
            const { Detector } = await import("./detector.js"), ort = await import("./vendor/ort.wasm.bundle.min.mjs");
            ort.env.logLevel = "error";
            window.detector = await Detector.load(ort, Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0)));
        }""", base64.b64encode(path.read_bytes()).decode())
        detector, answers = load_detector(path), ready.page.evaluate(LOOK, ["faces", files])
        for name, scene in scenes.items():
            expected, found = detector([scene])[0], answers[name]
            assert [face["face"] for face in found] == pytest.approx([face.face for face in expected], abs=0.01), (name, confirm)
            assert [face["left"] for face in found] == pytest.approx([face.left for face in expected], abs=2), (name, confirm)
        counts.append(sum(map(len, answers.values())))
    ready.page.evaluate("delete window.detector")
    assert counts[0] < counts[1] < counts[2], counts


@in_browser
def test_notice_comes_before_the_first_picture(visit: Visit, model: Path) -> None:
    visit.open()
    notice = visit.page.inner_text("#notice")
    assert all(word in notice for word in ("apparent expression", "at work or in education", "5(1)(f)", "No picture, no name", "stays on this device"))
    assert visit.page.get_attribute("#notice .source", "href") == "https://example.org/source"
    assert not visit.page.locator("#files").is_visible() and not visit.page.locator("#camera").is_visible()
    visit.page.click("#notice .card-link")
    assert hashlib.sha256(model.read_bytes()).hexdigest() in visit.page.inner_text("#about") and "less likely than 40%" in visit.page.inner_text("#about")
    drop(visit, "early.png", encode(drawn(PORTRAIT)))
    assert visit.page.locator("#results .result").count() == 0
    visit.agree()
    assert not visit.page.locator("#notice").is_visible() and visit.page.evaluate("document.activeElement.id") == "tool-title"
    assert visit.page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]


@in_browser
def test_chosen_pictures_stay_in_the_browser_and_show_what_python_says(ready: Visit, model: Path) -> None:
    detector = load_detector(model)
    ready.show(upload("scene.png", encode(drawn(SCENE))), upload("portrait.png", encode(drawn(PORTRAIT))))
    first, second = ready.page.locator("#results .result").all()
    for result, index in ((first, SCENE), (second, PORTRAIT)):
        picture = drawn(index)
        expected = from_left(detector([picture])[0])
        assert cards(result) == [shown(face, number) for number, face in enumerate(expected, 1)]
        frame = result.locator(".frame").bounding_box()
        for face, box in zip(expected, result.locator(".box").all(), strict=True):
            place, scale = box.bounding_box(), frame["width"] / picture.shape[1]
            seen = [place["x"] - frame["x"], place["y"] - frame["y"], place["width"], place["height"]]
            assert seen == pytest.approx([scale * side for side in (face.left, face.top, face.right - face.left, face.bottom - face.top)], abs=1)
            assert box.get_attribute("data-emotion") == ("uncertain" if face.uncertain else face.emotion)
    labels = [face for index in (SCENE, PORTRAIT) for face in detector([drawn(index)])[0]]
    assert {face.uncertain for face in labels} == {True, False}, "both kinds are shown"
    assert ready.status.startswith("portrait.png: 1 face. 1: ")
    assert not [request.url for request in ready.sent if not request.url.startswith("blob:")], "nothing left the device"


def drop(visit: Visit, name: str, content: bytes, event: str = "drop") -> None:
    """Drop or paste a file anywhere on the page."""
    visit.page.evaluate(
        """([event, name, content]) => {
            const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))], name, { type: "image/png" }));
            const options = { bubbles: true, cancelable: true, [event === "paste" ? "clipboardData" : "dataTransfer"]: data };
            document.body.dispatchEvent(event === "paste" ? new ClipboardEvent(event, options) : new DragEvent(event, options));
        }""",
        [event, name, base64.b64encode(content).decode()],
    )


@in_browser
@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(ready: Visit, event: str) -> None:
    drop(ready, "dropped.png", encode(drawn(PORTRAIT)), event)
    ready.says("dropped.png: 1 face")
    assert len(ready.faces) == 1


@in_browser
def test_keyboard_alone_leads_through(visit: Visit) -> None:
    visit.open()
    press, focus = visit.page.keyboard.press, lambda: visit.page.evaluate("document.activeElement.innerText || document.activeElement.id || document.activeElement.firstChild?.alt")
    while focus() != TEXTS["notice.agree"]:
        press("Tab")
    press("Enter")
    reached = []
    while not reached or reached[-1] != TEXTS["example.happy"]:
        press("Tab")
        reached.append(focus())
    assert reached[:2] == ["files", TEXTS["camera.start"]]
    press("Enter")
    visit.says("happy.jpg: 1 face. ")
    visit.page.get_by_role("button", name="Remove happy.jpg").focus()
    press("Space")
    assert visit.page.locator("#results .result").count() == 0


@in_browser
def test_a_bad_file_is_named_and_the_next_picture_works(ready: Visit) -> None:
    ready.show(upload("letter.png", b"no picture"), upload("cut.png", encode(drawn(PORTRAIT))[:300]), upload("good.png", encode(drawn(PORTRAIT)))).says("good.png: 1 face")
    results = ready.page.locator("#results .result")
    assert [TEXTS["problem.unreadable"] in result for result in results.all_inner_texts()] == [True, True, False]
    assert not ready.page.get_by_role("button", name=TEXTS["result.again"]).count(), "another try would not help"


@in_browser
def test_it_works_offline_once_loaded(visit: Visit, context: object) -> None:
    visit.open().agree()
    context.set_offline(True)
    try:
        visit.page.get_by_role("button", name=TEXTS["example.scene"]).click()
        visit.says("scene.jpg: 4 faces").show(upload("mine.png", encode(drawn(PORTRAIT)))).says("mine.png: 1 face")
        assert visit.page.locator(".problem").count() == 0
    finally:
        context.set_offline(False)


@in_browser
def test_camera_shows_faces_and_its_rate_until_it_is_stopped(ready: Visit, context: object) -> None:
    context.grant_permissions(["camera"])
    ready.page.click("#camera")
    ready.page.locator("#live .face").nth(1).wait_for()
    ready.page.locator("#rate", has_text="frames per second").wait_for()
    assert ready.page.locator("#live .box").count() == ready.page.locator("#live .face").count() > 1
    ready.page.click("#camera")
    assert ready.status == TEXTS["camera.stopped"] and not ready.page.locator("#live").is_visible()
    assert ready.page.evaluate("document.querySelector('video').srcObject") is None and not [request for request in ready.sent if request.method == "POST"]
    context.clear_permissions()


STREAMS = """() => {
    const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    window.streams = [];
    navigator.mediaDevices.getUserMedia = async (wanted) => { const stream = await ask(wanted); window.streams.push(stream); return stream; };
}"""  # keeps what the camera gave
ENDED = "window.streams.map((stream) => stream.getTracks().map((track) => track.readyState))"


@in_browser
def test_a_camera_that_was_asked_for_twice_is_off_when_it_was_stopped(visit: Visit, context: object) -> None:
    context.grant_permissions(["camera"])
    visit.open().agree().page.evaluate(STREAMS)
    visit.page.evaluate("for (let time = 0; time < 3; time++) document.querySelector('#camera').click()")  # starts, stops and starts
    visit.page.locator("#live .face").first.wait_for()
    visit.page.click("#camera")
    assert visit.status == TEXTS["camera.stopped"] and set(itertools.chain(*visit.page.evaluate(ENDED))) == {"ended"}
    context.clear_permissions()


@in_browser
@pytest.mark.parametrize("by", ["button", "picture"])
def test_a_camera_that_is_about_to_start_can_be_stopped(visit: Visit, context: object, by: str) -> None:
    context.grant_permissions(["camera"])
    visit.open().agree().page.evaluate(STREAMS)
    visit.page.evaluate("""() => {
        const ask = navigator.mediaDevices.getUserMedia, answered = new Promise((resolve) => { window.answer = resolve; });
        navigator.mediaDevices.getUserMedia = async (wanted) => { const stream = await ask(wanted); await answered; return stream; };
    }""")  # a reader who takes a while to allow it
    visit.page.click("#camera")
    assert visit.page.inner_text("#camera") == TEXTS["camera.stop"] and visit.status == TEXTS["camera.waiting"]
    visit.until("window.streams.length", 1)
    if by == "button":
        visit.page.click("#camera")
        assert visit.status == TEXTS["camera.stopped"]
    else:
        visit.show(upload("mine.png", encode(drawn(PORTRAIT)))).says("mine.png: 1 face")
    assert visit.page.inner_text("#camera") == TEXTS["camera.start"] and visit.page.evaluate(ENDED) == [["live"]]
    visit.page.evaluate("window.answer()")
    visit.until(ENDED, [["ended"]])
    assert not visit.page.locator("#live").is_visible() and visit.page.inner_text("#camera") == TEXTS["camera.start"]
    visit.page.click("#camera")
    visit.page.locator("#live .face").first.wait_for()
    context.clear_permissions()


def test_a_camera_that_was_stopped_before_the_engine_came_is_not_asked_for(visit: Visit, context: object) -> None:
    context.grant_permissions(["camera"])
    let_go = hold_vendor(visit)
    visit.agree().page.evaluate(STREAMS)
    visit.page.click("#camera")
    assert visit.page.inner_text("#camera") == TEXTS["camera.stop"] and visit.status == TEXTS["camera.waiting"]
    visit.page.click("#camera")
    assert visit.page.inner_text("#camera") == TEXTS["camera.start"] and visit.status == TEXTS["camera.stopped"]
    let_go()
    visit.page.locator("#engine[data-engine=server]").wait_for()
    visit.page.wait_for_timeout(200)
    assert not visit.page.locator(".consent").count() and visit.page.evaluate("window.streams") == []
    context.clear_permissions()


@in_browser
def test_a_camera_whose_picture_cannot_be_shown_is_told_and_off(visit: Visit, context: object) -> None:
    context.grant_permissions(["camera"])
    visit.open().agree().page.evaluate(STREAMS)
    visit.page.evaluate("() => { HTMLMediaElement.prototype.play = () => Promise.reject(new DOMException('no', 'NotSupportedError')); }")
    visit.page.click("#camera")
    visit.says(TEXTS["camera.taken"])
    assert visit.page.evaluate(ENDED) == [["ended"]] and not visit.page.locator("#live").is_visible() and visit.page.inner_text("#camera") == TEXTS["camera.start"]
    context.clear_permissions()


@in_browser
def test_a_camera_that_may_not_be_used_is_told(ready: Visit) -> None:
    ready.page.click("#camera")
    ready.says(TEXTS["camera.refused"])
    assert not ready.page.locator("#live").is_visible() and ready.page.inner_text("#camera") == TEXTS["camera.start"]


def test_no_camera_is_told(launch: Callable, address: str) -> None:
    context = launch("--use-fake-device-for-media-stream=device-count=0").new_context(permissions=["camera"])
    visit = Visit(context, address).refuse("**/vendor/**").open("server").agree().let()
    visit.page.click("#camera")
    visit.says(TEXTS["camera.none"])


@pytest.mark.parametrize(("missing", "reason"), [("**/vendor/**", "vendor"), ("**/v1/model.onnx", "model")])
def test_without_engine_or_model_the_server_answers_and_the_page_says_so(visit: Visit, model: Path, missing: str, reason: str) -> None:
    if reason == "model" and not VENDOR.exists():
        pytest.skip("the browser's engine is not here; fetch it with `make web`")
    visit.refuse(missing).open("server")
    host = visit.address.split("/")[2]
    said = TEXTS["engine.server.text"].format(reason=TEXTS[f"reason.{reason}"], host=host)
    assert visit.page.inner_text("#engine span") == said and said in visit.page.inner_text("#notice")
    visit.agree().let().show(upload("scene.png", encode(drawn(SCENE))))
    assert visit.faces == [shown(face, number) for number, face in enumerate(from_left(load_detector(model)([drawn(SCENE)])[0]), 1)]
    assert [request.url for request in visit.sent if request.method == "POST"] == [f"{visit.address}v1/predict"]
    visit.show(upload("letter.png", b"no picture"))
    assert "letter.png: is not a picture" in visit.status


def hold_vendor(visit: Visit) -> Callable[[], None]:
    """Load the page before it is known that the server looks at pictures; a function that lets it be known."""
    waiting = []
    visit.page.route("**/vendor/**", lambda route: waiting.append(route))
    visit.open("loading")

    def let_go() -> None:
        while not waiting:
            visit.page.wait_for_timeout(20)
        visit.refuse("**/vendor/**")
        waiting[0].fulfill(status=404)

    return let_go


def ask_for_consent(visit: Visit, *names: str) -> object:
    """Choose pictures before it is known that the server looks at them; the card that asks."""
    let_go = hold_vendor(visit)
    visit.agree().page.set_input_files("#files", [upload(name, encode(drawn(PORTRAIT))) for name in names])
    let_go()
    card = visit.page.get_by_role("group", name="Send pictures to")
    card.wait_for()
    return card


def press(card: object, key: str) -> None:
    """Answer what a card asks."""
    card.get_by_role("button", name=TEXTS[key], exact=True).click()


def test_nothing_goes_to_the_server_before_the_reader_knows(visit: Visit) -> None:
    card = ask_for_consent(visit, "mine.png")
    assert not visit.posts() and visit.page.evaluate("document.activeElement.getAttribute('role')") == "group", "the focus is on no button, which a key might press by chance"
    visit.page.keyboard.press("Enter")
    visit.page.keyboard.press("Space")
    for one in (card, *card.get_by_role("button").all()):
        said = visit.page.inner_text(f"#{one.get_attribute('aria-describedby')}")
        assert said == TEXTS["consent.pictures.text"] and "until the page is loaded again" in said
    assert card.is_visible() and not visit.posts()
    press(card, "consent.send")
    visit.says("mine.png: 1 face")
    assert len(visit.posts()) == 1 and not card.is_visible()


def test_who_goes_on_from_a_notice_allows_nothing(visit: Visit, context: object) -> None:
    """What it says of where pictures go may have changed after it was read."""
    context.grant_permissions(["camera"])
    let_go, notice = hold_vendor(visit), visit.page.locator("#notice")
    assert TEXTS["notice.where"] in notice.inner_text()
    let_go()
    visit.page.locator("#engine[data-engine=server]").wait_for()
    assert "are sent to" in notice.inner_text() and TEXTS["notice.where"] not in notice.inner_text()
    visit.agree().page.evaluate(STREAMS)
    visit.page.set_input_files("#files", [upload("mine.png", encode(drawn(PORTRAIT)))])
    card = visit.page.get_by_role("group", name="Send pictures to")
    card.wait_for()
    assert not visit.posts()
    press(card, "consent.send")
    visit.says("mine.png: 1 face")
    visit.page.click("#camera")
    visit.page.get_by_role("group", name="Send the camera’s pictures to").wait_for()
    assert len(visit.posts()) == 1 and visit.page.evaluate("window.streams") == []
    context.clear_permissions()


def test_a_picture_that_was_removed_while_the_page_asked_is_not_sent(visit: Visit) -> None:
    card = ask_for_consent(visit, "removed.png", "other.png")
    visit.page.get_by_role("button", name="Remove removed.png").click()
    press(card, "consent.send")
    visit.says("other.png: 1 face")
    assert len(visit.posts()) == 1 and visit.page.locator("#results .result").count() == 1


def test_the_page_stops_asking_when_no_picture_is_left(visit: Visit) -> None:
    card = ask_for_consent(visit, "removed.png")
    visit.page.get_by_role("button", name="Remove removed.png").click()
    assert not card.is_visible()
    visit.page.set_input_files("#files", [upload("other.png", encode(drawn(PORTRAIT)))])
    press(card, "consent.send")
    visit.says("other.png: 1 face")
    assert len(visit.posts()) == 1


def test_who_does_not_let_pictures_go_is_asked_again_at_the_next(visit: Visit) -> None:
    card = ask_for_consent(visit, "one.png", "two.png")
    press(card, "consent.keep")
    visit.says(TEXTS["consent.kept"])
    assert not card.is_visible() and not visit.page.locator("#results .result").count() and visit.page.evaluate("document.activeElement.id") == "tool-title"
    visit.page.set_input_files("#files", [upload("three.png", encode(drawn(PORTRAIT)))])
    card.wait_for()
    visit.page.wait_for_timeout(200)
    assert not visit.posts()
    press(card, "consent.send")
    visit.says("three.png: 1 face")
    assert len(visit.posts()) == 1


def test_the_camera_is_asked_about_apart_from_pictures(visit: Visit, context: object) -> None:
    context.grant_permissions(["camera"])
    press(ask_for_consent(visit, "mine.png"), "consent.send")
    visit.says("mine.png: 1 face").sent.clear()
    visit.page.evaluate(STREAMS)
    card = visit.page.get_by_role("group", name="Send the camera’s pictures to")

    def keep() -> None:
        press(card, "consent.keep")
        visit.says(TEXTS["consent.kept"])

    for end in (keep, lambda: visit.page.click("#camera"), lambda: visit.show(upload("letter.png", b"no picture"))):
        visit.page.click("#camera")
        card.wait_for()
        assert "several a second until you stop it" in card.inner_text() and "until the page is loaded again" in card.inner_text()
        end()
        assert not card.is_visible() and visit.page.inner_text("#camera") == TEXTS["camera.start"]
    assert visit.page.evaluate("window.streams") == [] and len(visit.posts()) == 1, "of all that only the letter was sent"
    visit.page.click("#camera")
    press(card, "consent.send")
    visit.page.locator("#live .face").first.wait_for()
    visit.page.click("#camera")
    visit.page.click("#camera")
    visit.page.locator("#live .face").first.wait_for()
    assert not card.is_visible(), "it was allowed once"
    context.clear_permissions()


HOLD_BITMAP = """() => {
    const make = window.createImageBitmap.bind(window);
    window.createImageBitmap = async (...from) => {
        window.createImageBitmap = make;
        const bitmap = await make(...from);
        await new Promise((resolve) => { window.goOn = resolve; });
        return bitmap;
    };
}"""  # the next picture is decoded, and given once `goOn` is called
HOLD_BLOB = """() => {
    const write = HTMLCanvasElement.prototype.toBlob;
    HTMLCanvasElement.prototype.toBlob = function (give, ...options) {
        HTMLCanvasElement.prototype.toBlob = write;
        write.call(this, (blob) => { window.goOn = () => give(blob); }, ...options);
    };
}"""  # the next picture is drawn, and given once `goOn` is called
LISTEN = """() => {
    const status = document.querySelector("#status");
    window.told = [];
    new MutationObserver(() => window.told.push(status.textContent)).observe(status, { childList: true });
}"""  # keeps what those hear who don't see the page


def hold_post(visit: Visit) -> Callable[[], None]:
    """Let the service answer the next picture never; a function that waits until it was sent."""
    held = []
    visit.page.route("**/v1/predict", lambda route: route.fallback() if held else held.append(route))

    return lambda: visit.awaits(held, 1)


@pytest.mark.parametrize(("engine", "at"), [pytest.param("browser", "decoding", marks=in_browser), ("server", "decoding"), ("server", "sending")])
def test_a_picture_that_is_removed_at_work_is_neither_sent_nor_told_of(visit: Visit, engine: str, at: str) -> None:
    if engine == "server":
        visit.refuse("**/vendor/**")
    visit.open(engine).agree().let().page.evaluate(LISTEN)
    size = 4100 if (engine, at) == ("server", "decoding") else 96  # pixels; beyond what a service takes, so that it would be drawn smaller
    if at == "decoding":
        visit.page.evaluate(HOLD_BITMAP)
    sent = hold_post(visit) if at == "sending" else lambda: visit.until("typeof window.goOn", "function")
    visit.page.set_input_files("#files", [upload("removed.png", encode(Image.new("RGB", (size, size))))])
    sent()
    remove = visit.page.get_by_role("button", name="Remove removed.png")
    if at == "sending":
        with visit.page.expect_event("requestfailed"):
            remove.click()
    else:
        remove.click()
        visit.page.evaluate("window.goOn()")
    visit.show(upload("other.png", encode(drawn(PORTRAIT)))).says("other.png: 1 face")
    assert len(visit.posts()) == (engine == "server") + (at == "sending")
    told = visit.page.evaluate("window.told")
    assert [text for text in told if "removed.png" in text] == [f"removed.png: {TEXTS['status.looking']}"] and visit.page.locator("#results .result").count() == 1


@pytest.mark.parametrize("at", ["drawing", "sending"])
def test_a_camera_that_is_stopped_sends_nothing_more(visit: Visit, context: object, at: str) -> None:
    context.grant_permissions(["camera"])
    visit.refuse("**/vendor/**").open("server").agree().let().page.click("#camera")
    visit.page.locator("#live .face").first.wait_for()
    visit.page.evaluate(LISTEN)
    if at == "drawing":
        visit.page.evaluate(HOLD_BLOB)
        visit.until("typeof window.goOn", "function")
        visit.page.click("#camera")
        count = len(visit.posts())
        visit.page.evaluate("window.goOn()")
    else:
        hold_post(visit)()
        with visit.page.expect_event("requestfailed"):
            visit.page.click("#camera")
        count = len(visit.posts())
    visit.show(upload("other.png", encode(drawn(PORTRAIT)))).says("other.png: 1 face")
    assert len(visit.posts()) == count + 1 and not visit.page.locator("#status.trouble").count()
    told = visit.page.evaluate("window.told")
    assert TEXTS["camera.stopped"] in told and all(text.startswith(("Camera: ", "other.png: ")) for text in told if text != TEXTS["camera.stopped"])
    context.clear_permissions()


@pytest.mark.parametrize("engine", [pytest.param("browser", marks=in_browser), "server"])
def test_where_pictures_go_is_told_to_those_who_hear_the_page(visit: Visit, engine: str) -> None:
    if engine == "server":
        visit.refuse("**/vendor/**")
    visit.open(engine)
    told = visit.page.locator("#where-told")
    assert told.get_attribute("role") == "status" and told.inner_text() == f"{TEXTS[f'engine.{engine}']}: {visit.page.inner_text('#engine span')}"


NOT_YET_FETCHED = [("**/v1/model.onnx", 503), ("**/v1/model.onnx", None), ("**/vendor/*.mjs", None), ("**/vendor/*.wasm", 500), ("**/worker.js", None), ("**/detector.js", None)]


@in_browser
@pytest.mark.parametrize(("pattern", "status"), NOT_YET_FETCHED)
def test_what_the_network_fails_to_bring_once_is_fetched_again(visit: Visit, pattern: str, status: int | None) -> None:
    visit.fail_first(pattern, status).open("browser").agree().show(upload("mine.png", encode(drawn(PORTRAIT))))
    assert visit.status.startswith("mine.png: 1 face") and not visit.posts()


@in_browser
@pytest.mark.parametrize(("pattern", "status"), [("**/v1/model.onnx", 503), ("**/v1/model.onnx", 429), ("**/vendor/*.mjs", 502), ("**/vendor/*.wasm", None)])
def test_a_model_that_the_network_does_not_bring_is_not_said_to_be_withheld(visit: Visit, pattern: str, status: int | None) -> None:
    visit.page.route(pattern, lambda route: route.fulfill(status=status) if status else route.abort())
    visit.open("server")
    assert visit.page.inner_text("#engine span").startswith(TEXTS["reason.network"])


SILENCE = int(re.search(r"SILENCE = ([\d_]+)", (WEB / "access.js").read_text())[1])  # milliseconds


@pytest.fixture
def timed(context: object, address: str) -> Iterator[Visit]:
    """A new page, not yet loaded, whose clock stands still until it is put forward."""
    own = context.browser.new_context(reduced_motion="reduce")
    own.clock.install(time=0)
    own.clock.pause_at(1)
    one = Visit(own, address)
    yield one
    own.close()
    assert not one.errors


def hold(visit: Visit, pattern: str) -> Callable[[int], object]:
    """Let some addresses never be answered; a function that waits for a number of requests and gives the last."""
    held = []
    visit.page.route(pattern, lambda route: held.append(route))

    def wait(count: int = 1) -> object:
        visit.awaits(held, count)
        return held[-1]

    return wait


@in_browser
@pytest.mark.parametrize("pattern", ["**/v1/model.onnx", "**/vendor/*.mjs", "**/vendor/*.wasm", "**/worker.js"])
def test_a_network_that_falls_silent_is_not_waited_for_for_ever(timed: Visit, pattern: str) -> None:
    asked = hold(timed, pattern)
    timed.open("loading")
    for tries in (1, 2):
        asked(tries)
        timed.page.clock.fast_forward(SILENCE)
        timed.page.clock.fast_forward(1000)  # after which it tries again
    timed.page.locator("#engine[data-engine=server]").wait_for()
    assert timed.page.inner_text("#engine span").startswith(TEXTS["reason.network"])


@in_browser
def test_a_slow_network_is_waited_for_as_long_as_something_comes(timed: Visit) -> None:
    model, engine = hold(timed, "**/v1/model.onnx"), hold(timed, "**/vendor/*.wasm")
    timed.open("loading")
    last, first = model(), engine()
    timed.page.clock.fast_forward(round(0.6 * SILENCE))
    first.fallback()
    timed.page.locator("#engine span", has_text="%").wait_for()
    timed.page.clock.fast_forward(round(0.6 * SILENCE))
    last.fallback()
    timed.page.locator("#engine[data-engine=browser]").wait_for()
    assert model() and engine(), "nothing was asked for twice"


HEAR = """const own = window.Worker;
window.heard = [];
window.Worker = class extends own {
    constructor(...options) {
        super(...options);
        this.addEventListener("message", ({ data }) => window.heard.push(...Object.keys(data)));
    }
};"""  # keeps what the worker told the page


@in_browser
def test_a_slow_device_is_given_the_time_that_it_needs(timed: Visit) -> None:
    def slow(route: object) -> None:
        answer = route.fetch()
        whole = answer.text()
        assert whole.count("detector = await Detector.load") == 1
        route.fulfill(response=answer, body=whole.replace("detector = await Detector.load", "await fetch('held'); detector = await Detector.load"))

    asked = hold(timed, "**/held")
    timed.page.route("**/worker.js", slow)
    timed.page.add_init_script(HEAR)
    timed.open("loading")
    held = asked()
    timed.until("window.heard.includes('fetched')", True)
    timed.page.clock.fast_forward(10 * SILENCE)
    held.fulfill(status=200)
    timed.page.locator("#engine[data-engine=browser]").wait_for()
    assert asked(), "it did not begin again"


@pytest.mark.parametrize(("pattern", "engine"), [("**/v1/model", "server"), ("**/healthz", "none")])
def test_a_service_that_falls_silent_is_not_waited_for_for_ever(timed: Visit, pattern: str, engine: str) -> None:
    asked = hold(timed.refuse("**/vendor/**"), pattern)
    timed.open("loading")
    asked()
    timed.page.clock.fast_forward(SILENCE)
    timed.page.locator(f"#engine[data-engine={engine}]").wait_for()


@in_browser
@pytest.mark.parametrize(("change", "engine"), [("value ^ 1", "browser"), ("255 * Math.random()", "server")])
def test_a_browser_that_hides_pixels_from_pages_is_not_trusted_with_pictures(visit: Visit, context: object, change: str, engine: str) -> None:
    hiding = f"""for (const one of [self.OffscreenCanvasRenderingContext2D, self.CanvasRenderingContext2D]) {{
        if (!one) continue;
        const read = one.prototype.getImageData;
        one.prototype.getImageData = function (...place) {{
            const picture = read.apply(this, place);
            picture.data.set(picture.data.map((value) => {change}));
            return picture;
        }};
    }}
    """
    visit.page.add_init_script(hiding)

    def hide(route: object) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=hiding + answer.text())  # its imports come first all the same

    visit.page.route("**/worker.js", hide)
    visit.open(engine).agree().let().show(upload("mine.png", encode(drawn(PORTRAIT)))).says("mine.png: 1 face")
    context.grant_permissions(["camera"])
    visit.page.click("#camera")
    if engine == "browser":
        visit.page.locator("#live .face").first.wait_for()
    else:
        assert visit.page.inner_text("#engine span").startswith(TEXTS["reason.browser"])
        visit.says(TEXTS["camera.hidden"])
        assert len(visit.posts()) == 1, "the picture as it is; none of the camera's, which would be noise"
    context.clear_permissions()


def test_the_server_answers_browsers_that_know_no_time_limits(visit: Visit) -> None:
    visit.page.add_init_script("delete AbortSignal.timeout; delete AbortSignal.any;")
    visit.refuse("**/vendor/**").open("server").agree().let().show(upload("mine.png", encode(drawn(PORTRAIT))))
    assert visit.status.startswith("mine.png: 1 face")


KEEP = "() => document.querySelector('#files').addEventListener('change', ({ target }) => { window.chosen = target.files[0]; }, true)"
ASK_SERVER = "async () => { const { startEngine } = await import('./engine.js'); return (await startEngine(() => {})).file(window.chosen); }"


@pytest.mark.parametrize("beyond", ["pixels", "bytes"])
def test_a_picture_that_is_too_large_for_the_service_is_sent_smaller(visit: Visit, tmp_path: Path, beyond: str) -> None:
    face, limits = drawn(PORTRAIT), Settings()
    width, height = (6000, 4000) if beyond == "pixels" else (1900, 1900)
    picture = np.full((height, width, 3), 114, np.uint8)
    side, left, top = 800, width // 2, height // 4
    picture[top:top + side, left:left + side] = cv2.resize(face, (side, side))
    file = tmp_path / "large"
    file.write_bytes(encode(picture, "JPEG", quality=90) if beyond == "pixels" else encode(picture, compress_level=0))
    assert (width * height > limits.pixels) is (beyond == "pixels") and (file.stat().st_size > limits.body_megabytes * 1e6) is (beyond == "bytes")
    visit.refuse("**/vendor/**").open("server").agree().let().page.evaluate(KEEP)
    with visit.page.expect_response("**/v1/predict") as asked:
        visit.show(file)
    sent = asked.value.json()["pictures"][0]
    assert 0.9 * min(limits.pixels, width * height) < sent["width"] * sent["height"] <= limits.pixels and sent["width"] / sent["height"] == pytest.approx(width / height, rel=1e-3)
    assert visit.status.startswith("large: 1 face")
    visit.page.route("**/v1/predict", lambda route: route.fulfill(json={"pictures": [sent]}))
    answer = visit.page.evaluate(ASK_SERVER)
    (found,), (seen,) = answer["faces"], sent["faces"]
    assert (answer["width"], answer["height"]) == (width, height) and left < found["left"] < found["right"] < left + side and top < found["top"] < found["bottom"] < top + side
    assert found["left"] / width == pytest.approx(seen["left"] / sent["width"]) and found["bottom"] / height == pytest.approx(seen["bottom"] / sent["height"])


def test_a_server_that_is_gone_is_told_and_asked_again(visit: Visit) -> None:
    visit.refuse("**/vendor/**").open("server").agree().let()
    visit.page.route("**/v1/predict", lambda route: route.abort())
    visit.show(upload("mine.png", encode(drawn(PORTRAIT))))
    assert "does not answer" in visit.status
    visit.page.unroute("**/v1/predict")
    visit.page.get_by_role("button", name=TEXTS["result.again"]).click()
    visit.says("mine.png: 1 face")


def test_a_service_without_room_is_told_and_the_camera_waits_for_it(visit: Visit, context: object) -> None:
    busy = {"title": "busy", "status": 503, "detail": "All places are taken; try again in 1 second."}
    visit.refuse("**/vendor/**").open("server").agree().let()

    def refuse(route: object) -> None:
        route.fulfill(status=503, headers={"Retry-After": "1", "Content-Type": "application/problem+json"}, body=json.dumps(busy))

    visit.page.route("**/v1/predict", refuse)
    visit.show(upload("mine.png", encode(drawn(PORTRAIT))))
    assert visit.status == f"mine.png: {busy['detail']}"
    context.grant_permissions(["camera"])
    with visit.page.expect_response("**/v1/predict"):
        visit.page.click("#camera")
    visit.page.unroute("**/v1/predict")
    visit.page.locator("#live .face").first.wait_for()
    visit.page.route("**/v1/predict", refuse)
    visit.says(busy["detail"])
    assert not visit.page.locator("#live .face, #live .box").count() and visit.page.locator("#status.trouble").is_visible(), "old boxes would lie over a new picture"
    visit.page.unroute("**/v1/predict")
    visit.page.locator("#live .face").first.wait_for()
    visit.says("Camera: ")
    assert not visit.page.locator("#status.trouble").count()
    context.clear_permissions()


def test_page_says_when_nobody_can_look(visit: Visit) -> None:
    visit.refuse("**/vendor/**").refuse("**/healthz", 503).open("none").agree()
    visit.show(upload("mine.png", encode(drawn(PORTRAIT))))
    assert "does not answer" in visit.status and visit.page.locator(".problem").count() == 1


@pytest.mark.parametrize("engine", [pytest.param("browser", marks=in_browser), "server"])
def test_a_service_with_keys_asks_for_one_and_keeps_it_in_memory(context: object, model: Path, tmp_path: Path, engine: str) -> None:
    with Service(tmp_path, model=model, api_key="the-right-key") as service:
        visit = Visit(context, f"{service.url}/")
        if engine == "server":
            visit.refuse("**/vendor/**")
        visit.page.goto(visit.address)
        field = visit.page.get_by_label(TEXTS["key"], exact=True)
        for key, answer in (("another-key", "does not take this key"), ("ключ", "This key did not reach"), ("another-key", "does not take this key")):
            field.fill(key)
            visit.page.keyboard.press("Enter")
            visit.page.get_by_text(answer).wait_for()
        assert visit.page.get_attribute("#engine", "data-engine") == "loading"
        field.fill("the-right-key")
        visit.page.keyboard.press("Enter")
        visit.page.locator(f"#engine[data-engine={engine}]").wait_for()
        visit.agree().let().show(upload("mine.png", encode(drawn(PORTRAIT))))
        assert visit.status.startswith("mine.png: 1 face") and not field.count()
        assert not any("the-right-key" in request.url for request in visit.sent)
        assert visit.page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        visit.page.close()
        assert not visit.errors


@pytest.mark.parametrize("status", [503, 429, None])
@pytest.mark.parametrize("engine", [pytest.param("browser", marks=in_browser), "server"])
def test_a_service_that_could_not_say_that_it_wants_a_key_is_given_one_later(context: object, model: Path, tmp_path: Path, engine: str, status: int | None) -> None:
    with Service(tmp_path, model=model, api_key="the-right-key") as service:
        visit = Visit(context, f"{service.url}/")
        if engine == "server":
            visit.refuse("**/vendor/**")
        visit.fail_first("**/v1/model", status).open("server").agree().let()
        visit.page.set_input_files("#files", [upload("mine.png", encode(drawn(PORTRAIT)))])
        field = visit.page.get_by_label(TEXTS["key"], exact=True)
        for key in ("another-key", "the-right-key"):
            field.fill(key)
            visit.page.keyboard.press("Enter")
        visit.says("mine.png: 1 face")
        assert visit.page.get_attribute("#engine", "data-engine") == engine and "SHA-256" in visit.page.text_content("#about dl")
        visit.page.close()
        assert not visit.errors


def test_a_key_that_is_refused_for_pictures_alone_is_told(visit: Visit) -> None:
    """Such as by a proxy in front of the service: the page must neither ask for ever nor send without end."""
    visit.refuse("**/vendor/**").open("server").agree().let()
    visit.page.route("**/v1/predict", lambda route: route.fulfill(status=401, json={"status": 401, "detail": "this service wants a key."}))
    visit.show(upload("mine.png", encode(drawn(PORTRAIT))))
    assert visit.status == "mine.png: this service wants a key." and len(visit.posts()) == 1


CHECK = "axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })"
with_axe = pytest.mark.skipif(not AXE.exists(), reason="axe is not here; fetch it with `make web`")
seen_as = pytest.mark.parametrize(("width", "colours"), [(320, "dark"), (1100, "light")])


def show_as(page: object, width: int, colours: str) -> None:
    """Let a page be seen at a width and in light or dark colours."""
    page.emulate_media(color_scheme=colours, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 800})


def check(page: object, state: str) -> None:
    """Axe finds nothing on a page, and nothing is cut off."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())  # past the page's policy, as a browser's own tools are
    found = page.evaluate(CHECK)["violations"]
    assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in found], state
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), state


@in_browser
@with_axe
@seen_as
def test_axe_finds_nothing_and_nothing_is_cut_off(visit: Visit, context: object, width: int, colours: str) -> None:
    show_as(visit.page, width, colours)
    visit.open()
    check(visit.page, "notice")
    keyed = visit.page.context.new_page()
    show_as(keyed, width, colours)
    keyed.route("**/v1/model", lambda route: route.fulfill(status=401))
    keyed.goto(visit.address)
    keyed.get_by_label(TEXTS["key"], exact=True).wait_for()
    check(keyed, "a key is wanted")
    keyed.close()
    visit.agree().page.click("#about summary")
    check(visit.page, "empty")
    visit.show(upload("letter.png", b"no picture"), *[upload(f"{index}.png", encode(drawn(index))) for index in (SCENE, PORTRAIT, 0)])
    check(visit.page, "results")
    assert visit.page.evaluate("getComputedStyle(document.querySelector('.result')).animationName") == "none", "motion is reduced"
    visit.page.click("#camera")
    visit.says(TEXTS["camera.refused"])
    check(visit.page, "a camera that may not be used")
    context.grant_permissions(["camera"])
    visit.page.click("#camera")
    visit.page.locator("#live .face").nth(1).wait_for()
    visit.page.locator("#rate", has_text="frames per second").wait_for()
    check(visit.page, "the camera at work")
    visit.page.click("#camera")
    check(visit.page, "the camera stopped")
    context.clear_permissions()
    context.set_offline(True)
    visit.show(upload("offline.png", encode(drawn(PORTRAIT))))
    check(visit.page, "offline")
    context.set_offline(False)
    gone = Visit(context, visit.address).refuse("**/vendor/**").refuse("**/healthz", 503).open("none").agree()
    show_as(gone.page, width, colours)
    gone.show(upload("mine.png", encode(drawn(PORTRAIT))))
    check(gone.page, "nobody can look")


@with_axe
@seen_as
def test_axe_finds_nothing_where_the_server_looks_at_pictures(visit: Visit, context: object, width: int, colours: str) -> None:
    show_as(visit.page, width, colours)
    card = ask_for_consent(visit, "mine.png")
    check(visit.page, "consent")
    press(card, "consent.send")
    visit.says("mine.png: 1 face").show(upload("scene.png", encode(drawn(SCENE))), upload("letter.png", b"no picture"))
    assert visit.page.get_attribute("#engine", "data-engine") == "server" and visit.page.locator("#results .face").count() > 1
    check(visit.page, "results of the server")
    context.grant_permissions(["camera"])
    visit.page.click("#camera")
    asked = visit.page.get_by_role("group", name="Send the camera’s pictures to")
    asked.wait_for()
    check(visit.page, "consent for the camera")
    press(asked, "consent.send")
    visit.page.locator("#live .face").nth(1).wait_for()
    check(visit.page, "the camera at work with the server")
    context.clear_permissions()
    other = Visit(context, visit.address).refuse("**/vendor/**").open("server")
    show_as(other.page, width, colours)
    check(other.page, "the notice names the server")
    other.page.close()


def test_what_a_translation_lacks_is_in_english(visit: Visit) -> None:
    polish = {"subtitle": "Twarze na zdjęciu", "notice.agree": "Rozumiem", "status.looking": "patrzę …"}
    visit.page.route("**/texts.json", lambda route: route.fulfill(json={"en": TEXTS, "pl": polish}))
    visit.page.add_init_script("Object.defineProperty(navigator, 'languages', { value: ['pl'] })")
    visit.refuse("**/vendor/**").open("server")
    assert visit.page.get_attribute("html", "lang") == "pl" and visit.page.inner_text("#agree") == "Rozumiem" and visit.page.inner_text("header p") == "Twarze na zdjęciu"
    assert visit.page.inner_text("#notice-title") == TEXTS["notice.title"] and visit.page.inner_text("#engine strong") == TEXTS["engine.server"]
    visit.agree().let().show(upload("scene.png", encode(drawn(SCENE))))
    count = len(visit.faces)
    assert 1 < count < 5, "Polish has a form of its own for two to four, which English lacks"
    assert visit.status.startswith(f"scene.png: {count} faces. ")
    visit.show(upload("mine.png", encode(drawn(PORTRAIT))))
    assert visit.status.startswith("mine.png: 1 face. ")


def test_a_text_that_is_missing_does_not_stop_the_page(visit: Visit) -> None:
    """As when a browser still holds the texts of the version before."""
    older = {key: text for key, text in TEXTS.items() if key not in ("status.looking", "engine.server.text", "notice.where")}
    visit.page.route("**/texts.json", lambda route: route.fulfill(json={"en": older}))
    visit.refuse("**/vendor/**").open("server")
    assert visit.page.inner_text("#engine span") == "engine.server.text"
    visit.agree().let().show(upload("mine.png", encode(drawn(PORTRAIT))))
    assert visit.status.startswith("mine.png: 1 face")


def test_what_stands_in_the_page_itself_is_the_text_of_its_key() -> None:
    """Without scripts nobody fetches texts.json, so that the sentence for those without is there twice."""
    own = dict(re.findall(r'data-text="([^"]+)"[^>]*>([^<]+)<', (WEB / "index.html").read_text()))
    assert own == {"noscript": TEXTS["noscript"]}


def test_every_text_stands_in_one_file(visit: Visit) -> None:
    used = set(re.findall(r'data-text="([^"]+)"', (WEB / "index.html").read_text()))
    for script in WEB.glob("*.js"):
        used |= set(re.findall(r'"((?:[a-z]+\.)[a-z.]+)"', script.read_text())) & TEXTS.keys()
        used |= {key for part in re.findall(r"say\(`([a-z]+\.)\$\{", script.read_text()) for key in TEXTS if key.startswith(part)}
        used |= {key for key in re.findall(r'say\((?:on \? )?"([^"]+)"', script.read_text())}
    assert used - {"skip"} <= TEXTS.keys() and not {key for key in TEXTS.keys() - used if not key.startswith(("faces.", "example.", "reason.", "engine."))}
    foreign = {"de": {key: "".join(part if part.startswith("{") else part.upper() for part in re.split(r"(\{\w+\})", text)) for key, text in TEXTS.items()}}
    visit.page.route("**/texts.json", lambda route: route.fulfill(json=foreign | {"en": TEXTS}))
    visit.page.add_init_script("Object.defineProperty(navigator, 'languages', { value: ['fr-CH', 'de-AT', 'en'] })")
    visit.refuse("**/vendor/**").open("server").agree().let()
    visit.show(upload("1.PNG", encode(drawn(SCENE))))
    visit.page.click("#about summary")
    model = visit.page.request.get(f"{visit.address}v1/model").json()
    seen = visit.page.inner_text("body").replace(model["licence"], "").replace(model["name"], "")
    assert visit.page.get_attribute("html", "lang") == "de" and not re.findall(r"[a-z]{3,}", re.sub(r"[0-9a-f]{64}|AGPL\S+", "", seen))


def test_lock_holds_no_address() -> None:
    lock = (PROJECT / "package-lock.json").read_text()
    assert "integrity" in lock and "://" not in lock and "resolved" not in lock


def test_wheel_contains_the_page_and_what_was_fetched_for_it(new_copy: Callable[[], Copy]) -> None:
    copy = new_copy()
    fetched = copy.folder / "emodetect" / "web" / "vendor" / "engine.wasm"
    fetched.parent.mkdir()
    fetched.write_bytes(b"fetched")
    copy.run("uv", "build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", "dist")
    with zipfile.ZipFile(next((copy.folder / "dist").glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    page = {path.relative_to(PROJECT).as_posix() for path in WEB.rglob("*") if path.is_file() and "vendor" not in path.parts}
    assert page | {"emodetect/web/vendor/engine.wasm"} <= names and len(page) > 15
