"""JupyterLab as a person uses it, in headless Chromium: 'Run All' works, saving leaves no noise in git, an export shows at once."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

from conftest import PROJECT, Copy

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"))), None
)
OFFLINE = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
PICTURES = {"image/png", "image/jpeg", "image/svg+xml"}


def under_git(copy: Copy) -> Copy:
    """A copy in which git cleans notebooks, as after `make hooks`."""
    copy.run("git", "config", "filter.notebook.clean", f"'{sys.executable}' tools/notebooks.py --filter %f")
    return copy


def content(path: Path) -> list[dict]:
    """The cells of a notebook, each picture only by its kind: its bytes depend on the machine's libraries."""
    cells = nbformat.read(path, as_version=4).cells
    for output in (output for cell in cells for output in cell.get("outputs", []) if "data" in output):
        output["data"] = {kind: "a picture" if kind in PICTURES else text for kind, text in output["data"].items()}
    return json.loads(json.dumps(cells))


def wait_until(so: Callable[[], object], seconds: int = 240) -> None:
    """Look again and again whether something is so."""
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def lab(new_copy: Callable[[], Copy], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Copy, str]]:
    """A JupyterLab with the project's settings on a copy of the project, and its address."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine; install it to see JupyterLab tested")
    copy, home = under_git(new_copy()), tmp_path_factory.mktemp("home")
    folders = {"HOME": home, "JUPYTER_RUNTIME_DIR": home / "runtime", "JUPYTER_CONFIG_PATH": copy.folder / ".jupyter", "PYTHONPATH": copy.folder}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ServerApp.port=0", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    environment = os.environ | {name: str(path) for name, path in folders.items()}
    with (home / "log").open("w") as log, subprocess.Popen(command, cwd=copy.folder, env=environment, stdout=log, stderr=log) as server:
        wait_until(lambda: list((home / "runtime").glob("jpserver-*.json")) or server.poll() is not None)
        assert server.poll() is None, (home / "log").read_text()
        yield copy, json.loads(next((home / "runtime").glob("jpserver-*.json")).read_text())["url"]
        server.terminate()


@pytest.fixture(scope="module")
def run_all(lab: tuple[Copy, str]) -> Iterator[Callable[[str], Path]]:
    """A function that opens a notebook, chooses Run All Cells in the menu, waits and saves."""
    from playwright.sync_api import sync_playwright

    copy, address = lab

    def run(name: str) -> Path:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{address}lab/tree/nbs/{name}.ipynb?reset", timeout=120_000)
        status = page.locator(".jp-NotebookPanel-toolbar [data-status]")
        wait_until(lambda: any(session["path"].endswith(f"{name}.ipynb") and session["kernel"]["connections"] for session in page.request.get(f"{address}api/sessions").json()))
        wait_until(lambda: status.get_attribute("data-status") == "idle")
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        page.get_by_text("Run All Cells", exact=True).click()
        wait_until(lambda: status.get_attribute("data-status") == "busy")
        wait_until(lambda: status.get_attribute("data-status") == "idle")
        page.keyboard.press("Control+s")
        page.locator(".jp-mod-current.jp-mod-dirty").wait_for(state="detached", timeout=60_000)
        page.wait_for_timeout(500)
        page.close()
        return copy.folder / "nbs" / f"{name}.ipynb"

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield run
        browser.close()


@pytest.mark.parametrize("name", ["start", "01_labels", "02_faces", "guides/the_report"])
def test_run_all_gives_what_is_committed(lab: tuple[Copy, str], run_all: Callable[[str], Path], name: str) -> None:
    path = lab[0].folder / "nbs" / f"{name}.ipynb"
    emptied = nbformat.read(path, as_version=4)
    for cell in emptied.cells:
        cell.update({"outputs": []} if cell.cell_type == "code" else {})
    nbformat.write(emptied, path)
    assert content(run_all(name)) == content(PROJECT / "nbs" / f"{name}.ipynb")


def test_a_run_and_a_save_leave_no_noise(lab: tuple[Copy, str], run_all: Callable[[str], Path]) -> None:
    copy = lab[0]
    run_all("stages/fetch")
    run_all("06_manifest")
    noisy = copy.run("git", "status", "--porcelain", "nbs/stages", "nbs/06_manifest.ipynb").stdout
    assert noisy == "" and not (copy.folder / "nbs" / "stages" / "fetch.ipynb").read_text().count("execution_count\": 1")


def test_filter_stores_a_notebook_clean_whatever_saved_it(new_copy: Callable[[], Copy]) -> None:
    copy = under_git(new_copy())
    for name in ("nbs/01_labels.ipynb", "nbs/stages/train.ipynb"):
        notebook = json.loads((copy.folder / name).read_text())
        notebook["metadata"]["language_info"] = {"version": "3.99"}
        for number, cell in enumerate(cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
            cell["execution_count"] = number
            cell["metadata"]["collapsed"] = True
            if "stages" in name:
                cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": ["x\n"]}]
        (copy.folder / name).write_text(json.dumps(notebook))
    assert copy.run("git", "diff").stdout == ""
    copy.run("git", "add", "--all")
    assert copy.run("git", "status", "--porcelain").stdout == ""
    (copy.folder / "nbs" / "01_labels.ipynb").write_text("<<<<<<< ours\n{}\n")
    filtered, given = (copy.run("git", "hash-object", *options, "nbs/01_labels.ipynb").stdout for options in ((), ("--no-filters",)))
    assert filtered == given
    assert "M nbs/01_labels.ipynb" in copy.run("git", "status", "--porcelain").stdout, "a conflict is stored as it is, not as nothing"


def test_an_exported_change_shows_without_a_restart(new_copy: Callable[[], Copy]) -> None:
    copy = new_copy()
    manager, client = start_new_kernel(cwd=str(copy.folder / "nbs"), env=os.environ | {"PYTHONPATH": str(copy.folder)}, extra_arguments=["--IPKernelApp.log_level=ERROR"])

    def answer(code: str) -> str:
        shown: list[str] = []
        client.execute_interactive(code, output_hook=lambda message: shown.append(str(message["content"].get("data", {}).get("text/plain", message["content"]))), timeout=60)
        return "".join(shown)

    try:
        cells = nbformat.read(copy.folder / "nbs" / "start.ipynb", as_version=4).cells
        autoreload, row = next(cell.source for cell in cells if "%autoreload 2" in cell.source), next(cell.source for cell in cells if "format_row(Face" in cell.source)
        answer(autoreload)
        before = answer(row)
        source = copy.folder / "nbs" / "01_labels.ipynb"
        source.write_text(source.read_text().replace("{face.x:.6f}", "{face.x:.2f}"))
        copy.run("nbdev_export")
        after = answer(row)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "'4 0.500000 0.500000 0.250000 0.500000'" in before and "'4 0.50 0.500000 0.250000 0.500000'" in after
