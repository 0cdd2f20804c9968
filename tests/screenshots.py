"""Show the page as a person sees it, with drawn faces: `make screenshots` writes reports/page/*.png."""

import io
import sys
import tempfile
from pathlib import Path

import cv2
from PIL import Image
from playwright.sync_api import BrowserContext, Page, sync_playwright

from conftest import PROJECT
from emodetect.detector import decode_picture, load_detector
from tests.attack import Service
from tests.page import CHROMIUM, QUIET, WEB, film

REPORTS = PROJECT / "reports" / "page"
COLOURS = 256  # of a picture
DESK, PHONE = {"width": 1100, "height": 760}, {"width": 390, "height": 780}


def visit(context: BrowserContext, address: str, *examples: str, without: str = "") -> Page:
    """The page, after the notice if examples are to be tried; the server knows nothing of `without`."""
    page = context.new_page()
    if without:
        page.route(without, lambda route: route.fulfill(status=404))
    page.goto(address)
    page.locator("#engine:is([data-engine=browser], [data-engine=server])").wait_for()
    if examples:
        page.click("#agree")
    for example in examples:
        page.set_input_files("#files", WEB / "examples" / example)
        if without and example == examples[0]:
            page.locator(".consent button").first.click()  # let it go to the server
        page.locator("#results .result").nth(examples.index(example)).wait_for()
        page.locator("#results .result[aria-busy=true]").wait_for(state="detached")
    page.evaluate("document.activeElement.blur()")
    return page


def write(page: Page, name: str) -> None:
    """Write what is seen, in few colours so that the file is small."""
    path = REPORTS / f"{name}.png"
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as picture:
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    page.close()
    print(f"{path.relative_to(PROJECT)}: {path.stat().st_size / 1000:.0f} kB")


def blurred(model: Path, folder: Path) -> Path:
    """An example picture, blurred until the model finds its face and cannot name what it expresses."""
    detector, example = load_detector(model), decode_picture(WEB / "examples" / "unclear.jpg")
    for width in range(1, 20):
        picture = cv2.GaussianBlur(example, (0, 0), width)
        if [face.uncertain for face in detector([picture])[0]] == [True]:
            cv2.imwrite(str(folder / "blurred.png"), picture[:, :, ::-1])
            return folder / "blurred.png"
    raise SystemExit("screenshots: the model is sure of every blurred face, so that none can be shown as uncertain; raise detector.reject.")


def main(model: Path) -> None:
    """Write every picture."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder), model=model.absolute()) as service, sync_playwright() as driver:
        address = service.url
        letter = Path(folder) / "letter.txt"
        letter.write_text("no picture")
        seen = film(Path(folder) / "film.y4m", decode_picture(WEB / "examples" / "scene.jpg"))
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *seen])
        desk, phone, dark = (
            browser.new_context(reduced_motion="reduce", permissions=["camera"], viewport=size, color_scheme=colours)
            for size, colours in ((DESK, "light"), (PHONE, "light"), (DESK, "dark"))
        )
        write(visit(desk, address), "notice")
        write(visit(desk, address, "scene.jpg"), "desktop")
        write(visit(phone, address, "happy.jpg"), "phone")
        write(visit(dark, address, "surprise.jpg"), "dark")
        write(visit(desk, address, str(blurred(model, Path(folder)))), "uncertain")
        write(visit(desk, address, str(letter)), "error")
        write(visit(desk, address, without="**/vendor/**"), "server")
        page = visit(dark, address, "nobody.jpg")
        page.click("#clear")
        page.click("#camera")
        page.locator("#live .face").nth(3).wait_for()
        page.locator("#rate", has_text="frames").wait_for()
        write(page, "camera")
        page = visit(desk, address, "happy.jpg")
        desk.set_offline(True)
        page.set_input_files("#files", WEB / "examples" / "scene.jpg")
        page.locator("#results .result").nth(1).wait_for()
        page.locator("#results .result[aria-busy=true]").wait_for(state="detached")
        write(page, "offline")
        desk.set_offline(False)
        page = visit(desk, address, "unclear.jpg", without="**/vendor/**")
        page.route("**/v1/predict", lambda route: route.abort())
        page.set_input_files("#files", WEB / "examples" / "scene.jpg")
        page.locator("#results .problem").wait_for()
        write(page, "gone")
        browser.close()
        bare = driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--use-fake-device-for-media-stream=device-count=0"])
        page = visit(bare.new_context(reduced_motion="reduce", permissions=["camera"], viewport=PHONE), address, "happy.jpg")
        page.click("#camera")
        page.locator("#status", has_text="camera").wait_for()
        page.locator("#status").scroll_into_view_if_needed()
        write(page, "no_camera")
        bare.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "models/emodetect.onnx"))
