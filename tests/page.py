"""What the page's tests and its screenshots share: a browser, a service with a model, a camera that films a drawn face."""

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from email import message_from_bytes
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np

import emodetect
from emodetect.core import EmodetectError
from emodetect.detector import decode_picture, load_detector

WEB = Path(emodetect.__file__).parent / "web"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"))), None
)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "worker-src 'self' blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
}


@contextlib.contextmanager
def serve(model: Path) -> Iterator[str]:
    """The page and the service's contract at a free port of this machine; its address."""
    detector = load_detector(model)

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}
        protocol_version = "HTTP/1.1"

        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=WEB)

        def log_message(self, *arguments: object) -> None:
            pass

        def end_headers(self) -> None:
            for header in HEADERS.items():
                self.send_header(*header)
            super().end_headers()

        def answer(self, content: bytes, kind: str = "application/json", status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            about = {"name": "emodetect", "version": None, "sha256": hashlib.sha256(model.read_bytes()).hexdigest(), "source": "https://example.org/source"}
            answers = {"/readyz": b"{}", "/v1/model": json.dumps(about).encode(), "/v1/model.onnx": model.read_bytes()}
            if self.path in answers:
                return self.answer(answers[self.path])
            return super().do_GET()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            part = message_from_bytes(f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode() + body).get_payload()[0]
            try:
                picture = decode_picture(part.get_payload(decode=True), part.get_filename())
            except EmodetectError as error:
                return self.answer(json.dumps({"title": "no picture", "status": 422, "detail": str(error)}).encode(), "application/problem+json", 422)
            faces = [face.to_dict() for face in detector([picture])[0]]
            answer = {"pictures": [{"picture": part.get_filename(), "width": picture.shape[1], "height": picture.shape[0], "faces": faces}]}
            return self.answer(json.dumps(answer).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def film(path: Path, picture: np.ndarray) -> list[str]:
    """Chromium's options for a camera that sees one RGB picture all the time; `path` is the film's file (.y4m)."""
    height, width = picture.shape[:2]
    planes = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420).tobytes()
    path.write_bytes(f"YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\n".encode() + 2 * (b"FRAME\n" + planes))
    return ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={path}"]
