"""A small stand-in for Kaggle on loopback: the address that answers for a data set, and the store that it sends the client to.

kagglesdk knows its servers by name and offers no other address. It does honour the `http_proxy` variable, as every client does: this server is that proxy, answers for
both names itself, and sends nothing on. `KAGGLE_API_ENVIRONMENT=LOCALHOST` makes the client speak plain HTTP, which a proxy can read.
"""

import base64
import contextlib
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

API, STORE = "localhost", "store.kaggle.test"  # .test never resolves (RFC 2606): a request that left this machine would fail
DOWNLOAD = "/api/v1/datasets.DatasetApiService/DownloadDataset"


@dataclass
class Request:
    """What was asked."""

    method: str
    host: str
    path: str
    headers: dict[str, str]
    body: dict


@dataclass
class KaggleServer:
    """Answers as Kaggle does; use it as a context. Its fields may be changed between requests."""

    archive: bytes = b""  # what the store holds
    status: int = 200  # of the API's answer
    status_of_range: int = 206  # of the store's answer to a request for the rest
    message: str = "Not this time"  # of a refusal
    cut: int | None = None  # bytes after which the store breaks off, or stalls while `go_on` is not set
    checksum: bool = True  # whether the store tells the MD5
    requests: list[Request] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)  # cleared: the server stalls

    def __post_init__(self) -> None:
        self.go_on.set()

    def __enter__(self) -> "KaggleServer":
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"kaggle": self}))
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.http.shutdown()
        self.http.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """The variables that lead kagglehub here, and to a home of its own without credentials."""
        proxy = f"http://127.0.0.1:{self.http.server_address[1]}"
        return {
            **{name: proxy for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")},
            **{"no_proxy": "", "NO_PROXY": "", "KAGGLE_API_ENVIRONMENT": "LOCALHOST"},
            **{"HOME": str(home), "KAGGLE_CONFIG_DIR": str(home / ".kaggle"), "KAGGLEHUB_CACHE": str(home / "cache")},
        }

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request to the store."""
        return [request.headers.get("range") for request in self.requests if request.host == STORE]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    kaggle: KaggleServer

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """The API: a data set's version is asked for, the answer leads to the store."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        url = self.note(body)
        if (url.hostname, url.path) != (API, DOWNLOAD):
            return self.refuse(404, "No such address")
        if self.kaggle.cut is None:
            self.kaggle.go_on.wait(30)
        if self.kaggle.status != 200:
            return self.refuse(self.kaggle.status, self.kaggle.message)
        self.send_response(302)
        self.send_header("Location", f"http://{STORE}/{body['ownerSlug']}/{body['datasetSlug']}/{body['datasetVersionNumber']}.zip?signature=secret")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """The store: the archive, whole or from some byte on."""
        url = self.note({})
        if url.hostname != STORE:
            return self.refuse(404, "No such address")
        whole, start = self.kaggle.archive, 0
        if "Range" in self.headers:
            if self.kaggle.status_of_range != 206:
                return self.refuse(self.kaggle.status_of_range, "The signature has expired")
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "application/zip")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Kaggle-HubVersion", "99.0.0")
        self.send_header("Content-Length", str(len(whole) - start))
        if self.kaggle.checksum:
            self.send_header("x-goog-hash", "crc32c=AAAAAA==")
            self.send_header("x-goog-hash", f"md5={base64.b64encode(hashlib.md5(whole).digest()).decode()}")
        self.end_headers()
        with contextlib.suppress(OSError):  # a client that goes on from a later byte leaves this answer alone
            self.wfile.write(whole[start : self.kaggle.cut])
        if self.kaggle.cut:
            self.kaggle.go_on.wait(30)
        self.close_connection = True

    def note(self, body: dict):  # noqa: ANN201 - urllib's own type
        """Remember the request; its address."""
        url = urlsplit(self.path)
        self.kaggle.requests.append(Request(self.command, url.hostname or "", url.path, {name.lower(): value for name, value in self.headers.items()}, body))
        return url

    def refuse(self, status: int, message: str) -> None:
        """Answer with an error as Kaggle words it."""
        body = json.dumps({"code": status, "message": message}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "30")
        self.end_headers()
        self.wfile.write(body)
