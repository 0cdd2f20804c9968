"""The service over a real socket: what it answers, what it refuses, how it holds load, how it ends."""

import asyncio
import hashlib
import http.client
import io
import json
import logging
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from unittest.mock import Mock

import hypothesis
import numpy as np
import onnx
import psutil
import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, settings
from PIL import Image, ImageFile, TiffImagePlugin, WebPImagePlugin
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance, unsupported_method
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.testclient import TestClient

from emodetect.core import DataError, ModelError
from emodetect.engine import GIF_BLOCK, Engine, Served, frames_of, load_models
from emodetect.guard import pictures_of
from emodetect.labels import EMOTIONS
from emodetect.service import make_app
from emodetect.settings import Settings
from emodetect.stand_in import write_stand_in
from tests.attack import Reply, Service, animation, bombard, chunk, form, hostile, mutations, picture, png

PROJECT = Path(__file__).parent.parent
QUICK = {"body_seconds": 1, "header_seconds": 0.5, "idle_seconds": 0.5, "body_megabytes": 2, "source": "https://example.org/source"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that most tests share."""
    with Service(tmp_path_factory.mktemp("service"), **QUICK) as service:
        yield service


def exchange(service: Service, data: bytes, seconds: float = 10) -> bytes:
    """Send bytes over a socket, and read until the service closes it."""
    with socket.create_connection((service.host, service.port), timeout=seconds) as plug:
        plug.sendall(data)
        return b"".join(iter(lambda: plug.recv(65_536), b""))


def told(answer: bytes) -> tuple[int, dict]:
    """Status and problem of a raw answer; the header's limits hold for it, too."""
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head.decode().split("\r\n")[1:])}
    assert headers["content-type"] == "application/problem+json"
    binds(headers)
    problem = json.loads(body)
    assert problem["status"] != 503 or headers["retry-after"] == re.search(r"try again in (\d+) s", problem["detail"])[1]
    return int(head.split()[1]), problem


def binds(headers: Mapping[str, str], same_origin: bool = True) -> None:
    """The headers that bind a browser and offer the source, which every answer has."""
    assert headers["content-security-policy"].startswith("default-src 'self'; script-src 'self' 'wasm-unsafe-eval';") and headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-opener-policy"] == "same-origin" and headers["cross-origin-embedder-policy"] == "require-corp" and "server" not in headers
    assert headers["referrer-policy"] == "no-referrer" and headers["permissions-policy"] == "camera=(self), microphone=(), geolocation=()"
    assert re.fullmatch(r'<https://\S+>; rel="source"', headers["link"])
    assert headers.get("cross-origin-resource-policy") == ("same-origin" if same_origin else None)


def figure(service: Service, name: str, **labels: str) -> float:
    """A figure of /metrics; those with the same name are added up."""
    families = text_string_to_metric_families(service.ask("GET", "/metrics").body.decode())
    return sum(sample.value for family in families for sample in family.samples if sample.name == name and labels.items() <= sample.labels.items())


def connections(service: Service) -> int:
    """How many connections the process holds."""
    return len([one for one in psutil.Process(service.process.pid).net_connections() if one.status != "LISTEN"])


def until(condition: object, seconds: float = 20) -> None:
    """Wait for something that will happen; fail if it doesn't."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_a_picture_as_the_body(service: Service) -> None:
    reply = service.send(picture())
    assert reply.status == 200 and reply.headers["content-type"] == "application/json"
    assert set(reply.json) == {"model", "pictures"} and reply.json["model"] == {"name": "emodetect", "sha256": service.ask("GET", "/v1/model").json["sha256"], "version": None}
    (one,) = reply.json["pictures"]
    assert {name: one[name] for name in ("picture", "width", "height")} == {"picture": None, "width": 96, "height": 96}
    (face,) = one["faces"]
    assert face["emotion"] == "happy" and list(face["probabilities"]) == list(EMOTIONS) and abs(sum(face["probabilities"].values()) - 1) < 1e-9 and face["uncertain"] is False


def test_a_form_is_answered_in_its_order(service: Service) -> None:
    sizes = [(30 + 10 * number, 40) for number in range(8)]
    files = []
    for number, size in enumerate(sizes):
        buffer = io.BytesIO()
        Image.new("RGB", size).save(buffer, ("PNG", "JPEG", "WEBP", "BMP")[number % 4])
        files.append((f"{number}.png", buffer.getvalue()))
    pictures = service.send(*form(*files)).json["pictures"]
    assert [(one["picture"], one["width"], one["height"]) for one in pictures] == [(f"{number}.png", *size) for number, size in enumerate(sizes)]


def test_a_bad_picture_is_named(service: Service) -> None:
    reply = service.send(*form(("good.jpg", picture()), ("cut.jpg", picture()[:500]), ("other.jpg", picture())))
    assert reply.status == 422 and reply.json["picture"] == "cut.jpg" and reply.json["detail"].startswith("cut.jpg: cannot be decoded")


@pytest.mark.parametrize(("files", "others", "limit", "status"), [(120, 0, 150, 200), (3, 0, 2, 413), (1, 200, 2, 413), (1, 90, 2, 200)])
def test_a_form_has_as_many_files_as_are_set_and_few_other_parts(files: int, others: int, limit: int, status: int) -> None:
    body, kind = form(*[("a.jpg", b"12345")] * files)
    body = b'--line\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n' * others + body
    request = Request({"type": "http", "headers": [(b"content-type", kind.encode())]})
    if status == 200:
        assert pictures_of(request, body, limit) == [("a.jpg", b"12345")] * files
    else:
        with pytest.raises(HTTPException, match=f"at most {limit}") as refused:
            pictures_of(request, body, limit)
        assert refused.value.status_code == status


@pytest.mark.parametrize(
    "kind", ["multipart/form-data; boundary=line", "Multipart/Form-Data;\tcharset=utf-8;Boundary=\"line\"", "multipart/form-data; boundary=----=_a/b:c"]
)
@pytest.mark.parametrize(
    ("name", "named"), [(b"gr\xc3\xb6\xc3\x9fe.jpg", "größe.jpg"), (b"gr\xf6\xdfe.jpg", "größe.jpg"), (b"", None), (b"a" * 300, "a" * 200)]
)
def test_forms_of_many_clients_are_taken_apart(service: Service, kind: str, name: bytes, named: str | None) -> None:
    line = re.split("boundary=", kind, flags=re.IGNORECASE)[1].strip('"').encode()
    body = b'--%s\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n' % line
    body += b'--%s\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\nContent-Type: image/jpeg\r\n\r\n%s\r\n--%s--\r\n' % (line, name, picture(), line)
    reply = service.ask("POST", "/v1/predict", body, {"Content-Type": kind})
    assert reply.status == 200 and [one["picture"] for one in reply.json["pictures"]] == [named], reply.body


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/nowhere", {}, None, 404),
        ("GET", "/v1/predict", {}, None, 405),
        ("POST", "/healthz", {}, b"", 405),
        ("DELETE", "/", {}, None, 405 if (PROJECT / "emodetect" / "web").is_dir() else 404),
        ("POST", "/v1/predict", {"Content-Type": "application/json"}, b"{}", 415),
        ("POST", "/v1/predict", {}, b"", 415),
        ("POST", "/v1/predict", {"Content-Type": "image/png"}, b"", 422),
        ("POST", "/v1/predict", {"Content-Type": "multipart/form-data; boundary=x"}, b"", 400),
        ("POST", "/v1/predict", {"Content-Type": "multipart/form-data; boundary=x"}, b"--x--\r\n", 422),
        ("POST", "/v1/predict", {"Content-Type": "multipart/form-data; boundary=x"}, b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\nab', 400),
        ("POST", "/v1/predict", {"Content-Type": "multipart/form-data"}, b"--x", 400),
        ("POST", "/v1/predict", {"Content-Type": "image/png"}, bytes(2_000_001), 413),
        ("GET", "/v1/model.onnx?sha256=" + "0" * 64, {}, None, 404),
    ],
)
def test_every_refusal_is_a_problem(service: Service, method: str, path: str, headers: dict, body: bytes | None, status: int) -> None:
    reply = service.ask(method, path, body, headers)
    assert reply.status == status and reply.headers["content-type"] == "application/problem+json", reply.body
    assert reply.json["status"] == status and reply.json["type"] == "about:blank" and reply.json["title"] and reply.json["detail"].endswith(".")
    binds(reply.headers)
    assert reply.headers["link"] == '<https://example.org/source>; rel="source"'
    assert status != 405 or reply.headers["allow"]


def test_the_model_is_given_away_as_it_is_described(service: Service) -> None:
    known = service.ask("GET", "/v1/model").json
    assert known["classes"] == list(EMOTIONS) and known["settings"]["confidence"] == 0.25 and known["licence"].startswith("AGPL-3.0") and known["source"] == "https://example.org/source"
    assert "not what a person feels" in known["notice"] and known["provenance"] == [] and known["canary"] is None
    given = service.ask("GET", "/v1/model.onnx")
    assert given.body == service.model.read_bytes() and given.headers["etag"] == f'"{known["sha256"]}"' and given.headers["cache-control"] == "no-cache"
    assert service.ask("GET", "/v1/model.onnx", headers={"If-None-Match": given.headers["etag"]}).status == 304
    assert "immutable" in service.ask("GET", f"/v1/model.onnx?sha256={known['sha256']}").headers["cache-control"]


def test_figures_count_what_was_done(service: Service) -> None:
    names = ("emodetect_pictures_total", "emodetect_faces_total", "emodetect_pictures_refused_total")
    before = [figure(service, name) for name in names]
    service.send(*form(("a.jpg", picture()), ("b.jpg", picture()), ("c.jpg", b"")))
    assert [figure(service, name) - was for name, was in zip(names, before, strict=True)] == [2, 2, 1]
    before = figure(service, "emodetect_requests_total", path="other", status="404")
    for number in range(5):
        service.ask("GET", f"/scan/{number}")
    assert figure(service, "emodetect_requests_total", path="other", status="404") == before + 5, "addresses that strangers make up are not kept"
    assert figure(service, "emodetect_model", role="production") == 1 and figure(service, "process_resident_memory_bytes") > 1e7


def test_the_log_tells_nothing_of_a_picture_or_a_client(service: Service) -> None:
    before = service.log.count('"other"')
    service.send(*form(("my-secret-name.jpg", picture())))
    service.ask("GET", "/my-secret-address?token=my-secret-token")
    until(lambda: service.log.count('"other"') > before)
    lines = [json.loads(line) for line in service.log.splitlines()]
    assert [set(line) - {"milliseconds", "time"} for line in lines] == [{"level", "message", "path", "status"}] * len(lines)
    assert "secret" not in service.log and "127.0.0.1" not in service.log and lines[-1]["path"] == "other"


POST = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", 408),
        (POST + b"Content-Length: 5000\r\n\r\nabc", 408),
        (POST + b"Content-Length: 99999999999\r\n\r\n", 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"100000\r\n" + bytes(0x100000) + b"\r\n" + b"100000\r\n" + bytes(0x100000) + b"\r\n", 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400),
        (POST + b"Content-Length: -5\r\n\r\nabcdef", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET /" + b"a" * 600_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 600_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 400),
    ],
    ids=["slow header", "slow body", "large by its word", "large in chunks", "bad chunk", "two lengths", "negative length", "TLS", "long address", "long line", "many lines"],
)
def test_a_connection_ends_and_says_why(service: Service, data: bytes, status: int) -> None:
    answer, problem = told(exchange(service, data))
    assert answer == status == problem["status"], problem
    assert service.ask("GET", "/healthz").status == 200


def test_a_connection_that_says_nothing_is_closed(service: Service) -> None:
    assert exchange(service, b"") == b"" and b" 408 " in exchange(service, b"\r\n")
    kept = exchange(service, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert kept.startswith(b"HTTP/1.1 200 OK") and kept.endswith(b'{"status":"alive"}')


def test_a_body_that_is_shorter_than_it_says_is_the_next_request(service: Service) -> None:
    first = picture()
    data = POST + b"Content-Length: %d\r\n\r\n" % len(first) + first + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = exchange(service, data)
    assert answer.count(b"HTTP/1.1 200 OK") == 2 and answer.endswith(b'{"status":"alive"}')


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_a_picture_of_more_frames_than_are_set_is_refused(service: Service, kind: str) -> None:
    assert service.send(moving(kind, 1), f"image/{kind.lower()}").status == 200
    for frames in (2, 4):
        reply = service.send(*form(("still.jpg", picture()), ("moving", moving(kind, frames))))
        assert (reply.status, reply.json["picture"]) == (422, "moving")
        assert re.fullmatch(r"moving: at least [24] frames are more than 1; send one of them by itself\.", reply.json["detail"])


def moving(kind: str, frames: int) -> bytes:
    """A picture of some frames."""
    buffer = io.BytesIO()
    first, *more = [Image.new("RGB", (20, 20), (60 * number, 0, 0)) for number in range(frames)]
    first.save(buffer, kind, save_all=True, append_images=more)
    return buffer.getvalue()


def test_what_a_camera_writes_has_one_frame_and_a_preview(service: Service) -> None:
    assert service.send(moving("MPO", 2)).status == 200


def test_as_many_frames_as_are_set_are_taken(tmp_path: Path) -> None:
    with Service(tmp_path, frames=3) as service:
        for kind in ("GIF", "PNG", "WEBP", "TIFF"):
            assert [service.send(moving(kind, frames), f"image/{kind.lower()}").status for frames in (3, 4)] == [200, 422], kind
        assert "at least 4 frames are more than 3;" in service.send(animation(10_000), "image/gif").json["detail"]
        assert "most frames: 3." in service.ask("GET", "/openapi.json").json["paths"]["/v1/predict"]["post"]["description"]


def test_frames_are_counted_before_a_pixel_is_decoded_and_no_further_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = {kind: moving(kind, 4) for kind in ("GIF", "PNG", "WEBP", "TIFF")}
    for decoder in (ImageFile.ImageFile, TiffImagePlugin.TiffImageFile, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(decoder, "load", lambda self: pytest.fail("something is decoded"))
    for kind, content in pictures.items():
        assert [min(frames_of(content, most), most) for most in (2, 3, 9)] == [2, 3, 4], kind
    assert frames_of(png(8, 8, chunk(b"acTL", struct.pack(">II", 50, 0)), chunk(b"IDAT", b"no pixels")), 2) >= 50, "it says so itself"
    looked = Mock(wraps=GIF_BLOCK)
    monkeypatch.setattr("emodetect.engine.GIF_BLOCK", looked)
    assert frames_of(animation(10_000), 2) == 2 and looked.search.call_count <= 4, "two frames, and an extension before each"


def test_slow_senders_hold_nobody_up(service: Service) -> None:
    plugs = [socket.create_connection((service.host, service.port)) for _ in range(100)]
    for number, plug in enumerate(plugs):
        plug.sendall(POST + b"Content-Length: 5000\r\n\r\nabc" if number % 2 else b"GET /heal")
    assert service.send(picture()).status == 200
    for plug in plugs:
        plug.settimeout(10)
        assert b" 408 " in b"".join(iter(lambda plug=plug: plug.recv(4096), b"")).split(b"\r\n")[0]
        plug.close()
    until(lambda: figure(service, "emodetect_held_bytes") == 0)


@contextmanager
def asked_for_the_model(folder: Path, size: int, buffer: int) -> Iterator[tuple[Service, socket.socket, Path]]:
    """A service of a model of so many bytes, a client with a small buffer that has asked for it, and the model's file."""
    model = write_stand_in(folder / "large.onnx", padding="x" * size)
    with Service(folder, model=model, **QUICK) as service, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.connect((service.host, service.port))
        client.sendall(b"GET /v1/model.onnx HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        yield service, client, model


def test_a_client_that_does_not_read_is_given_up(tmp_path: Path) -> None:
    with asked_for_the_model(tmp_path, 30_000_000, 4096) as (service, _, _):
        until(lambda: connections(service) == 1)
        until(lambda: connections(service) == 0)


def test_a_client_that_reads_slowly_gets_everything(tmp_path: Path) -> None:
    with asked_for_the_model(tmp_path, 16_000_000, 65_536) as (_, client, model):
        got, start = bytearray(), time.monotonic()
        while part := client.recv(65_536):
            got += part
            time.sleep(0.02)  # 3 MB a second
        assert time.monotonic() - start > 2 * QUICK["body_seconds"] and bytes(got).partition(b"\r\n\r\n")[2] == model.read_bytes()


def test_pictures_of_a_client_that_went_away_are_not_looked_at(tmp_path: Path) -> None:
    with Service(tmp_path, threads=1, batch=1) as service, ThreadPoolExecutor(4) as clients:
        body = heavy()
        busy = [clients.submit(service.send, body, "image/png") for _ in range(4)]
        until(lambda: figure(service, "emodetect_waiting_pictures") >= 2)
        gone = service.connection()
        gone.request("POST", "/v1/predict", picture(), {"Content-Type": "image/jpeg"})
        until(lambda: figure(service, "emodetect_waiting_pictures") >= 3 or all(one.done() for one in busy))
        gone.close()
        assert [one.result().status for one in busy] == [200] * 4
        until(lambda: figure(service, "emodetect_requests_total", path="/v1/predict", status="499") == 1)
        assert sum(figure(service, "emodetect_pictures_total", model=name) for name in [service.ask("GET", "/v1/model").json["sha256"][:12]]) == 4


def test_a_connection_that_stays_open_keeps_no_picture(tmp_path: Path) -> None:
    app, seen = make_app(Settings(model=str(write_stand_in(tmp_path / "model.onnx")))), []

    async def watched(scope: dict, receive: Callable, send: Callable) -> None:
        seen.append(scope)
        await app(scope, receive, send)

    reply = TestClient(watched).post("/v1/predict", content=picture(), headers={"Content-Type": "image/jpeg"})
    assert reply.status_code == 200 and [name for name in seen[0] if name.startswith("emodetect")] == []


TRICKS = ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/%00", "/%ff%fe", "/" + "a" * 9000, "/v1/../healthz", "/%5c..")


@pytest.mark.parametrize("path", TRICKS, ids=range(len(TRICKS)))
def test_no_path_leads_out(service: Service, path: str) -> None:
    reply = service.ask("GET", path)
    assert reply.status in (400, 404) and reply.headers["content-type"] == "application/problem+json"


def test_hostile_uploads_and_mutations_break_nothing(service: Service) -> None:
    statuses = bombard(service, hostile())
    frames = next(upload for name, *upload in hostile() if name == "10,000 frames")
    assert service.send(*frames).json["detail"] == "the picture: at least 2 frames are more than 1; send one of them by itself."
    assert statuses[422] > 190 and statuses[200] > 10 and statuses[400] > 3
    warm, open_files = service.megabytes(), psutil.Process(service.process.pid).num_fds()
    bombard(service, mutations(400))
    assert service.megabytes() - warm < 60 and psutil.Process(service.process.pid).num_fds() <= open_files + 1
    assert service.written() == [] and service.process.poll() is None


def test_large_forms_stay_in_memory(service: Service) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 800, 3), dtype=np.uint8)).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 1_500_000 and service.send(*form(("noise.png", buffer.getvalue()))).status == 200
    assert service.written() == []


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, unsupported_method]


def test_the_document_and_the_service_agree(service: Service) -> None:
    asked = Counter()
    for operation in schemathesis.openapi.from_dict(service.ask("GET", "/openapi.json").json).get_all_operations():

        @settings(max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        @hypothesis.given(operation.ok().as_strategy())
        def ask(case: schemathesis.Case) -> None:
            asked[case.operation.path] += 1
            case.call_and_validate(base_url=service.url, checks=CHECKS)

        ask()
    assert len(asked) == 6, asked


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_the_document_and_a_service_with_keys_agree_on_right_and_wrong_calls(mode: schemathesis.GenerationMode, tmp_path: Path) -> None:
    """What follows the document, and what does not, with the key and without."""
    (tmp_path / "keys").write_text("first-key\n")
    answered = Counter()
    with Service(tmp_path, **QUICK, api_key_file=tmp_path / "keys") as service:
        for operation in schemathesis.openapi.from_dict(service.ask("GET", "/openapi.json").json).get_all_operations():
            right = operation.ok()
            if mode is schemathesis.GenerationMode.NEGATIVE and not (right.body or right.query or right.path_parameters):
                continue  # nothing in the call could be wrong

            @settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
            @hypothesis.given(right.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case) -> None:
                for headers in ({"X-API-Key": "first-key"}, {"X-API-Key": "other"}, {}):
                    reply = case.call(base_url=service.url, headers=headers)
                    answered[case.operation.path, headers.get("X-API-Key"), reply.status_code] += 1
                    case.validate_response(reply, checks=CHECKS)

            ask()
    closed = {path for path, *_ in answered if path.startswith("/v1/")}
    assert {status for path, key, status in answered if path in closed and key != "first-key"} == {401} and len(closed) >= 2
    assert 401 not in {status for path, key, status in answered if path not in closed or key == "first-key"}


def test_every_value_of_the_document_says_what_it_means(service: Service) -> None:
    document = service.ask("GET", "/openapi.json").json
    schemas = document["components"]["schemas"]
    bare = [f"{name}.{field}" for name, schema in schemas.items() for field, known in schema["properties"].items() if not {"description", "$ref"} & known.keys()]
    assert not bare and len(schemas) == 6
    headers = {status: list(answer.get("headers", {})) for status, answer in document["paths"]["/v1/predict"]["post"]["responses"].items()}
    assert (headers["401"], headers["429"], headers["503"]) == (["WWW-Authenticate"], ["Retry-After"], ["Retry-After"])


def test_examples_of_the_document_run(service: Service, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(picture())
    operation = service.ask("GET", "/openapi.json").json["paths"]["/v1/predict"]["post"]
    samples = {one["lang"]: one["source"].replace("http://127.0.0.1:8000", service.url) for one in operation["x-codeSamples"]}
    done = subprocess.run([sys.executable, "-c", samples["python"]], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("happy 0.99"), done.stderr
    if shutil.which("curl"):
        done = subprocess.run(samples["curl"].split(), cwd=tmp_path, capture_output=True, text=True)
        assert json.loads(done.stdout)["pictures"][0]["picture"] == "photo.jpg", done.stderr
    example, real = operation["responses"]["200"]["content"]["application/json"]["example"], service.send(*form(("photo.jpg", picture()))).json
    for names in (list, lambda answer: list(answer["pictures"][0]), lambda answer: sorted(answer["pictures"][0]["faces"][0])):
        assert names(example) == names(real)


def test_keys_and_rates(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("first-key\nsecond-key\n")
    with Service(tmp_path, rate=0.01, burst=9, api_key_file=tmp_path / "keys", api_key="third-key\n", origins="https://example.org") as service:
        tried = ({}, {"X-API-Key": "first"}, {"X-API-Key": "first-key second-key"}, {"Authorization": "Bearer "}, {"Authorization": "Bearer ÿ"})
        wrong = [service.ask("GET", "/v1/model", headers=headers) for headers in tried]
        assert [reply.status for reply in wrong] == [401] * 5 and wrong[0].headers["www-authenticate"] == "Bearer"
        right = [service.ask("GET", "/v1/model", headers=headers) for headers in ({"X-API-Key": "first-key"}, {"Authorization": "bearer second-key"}, {"X-API-Key": "third-key"})]
        assert [reply.status for reply in right] == [200] * 3
        assert [service.ask("GET", "/v1/model", headers={"X-API-Key": "third-key"}).status for _ in range(2)] == [200, 429], "a refused key counts as well: nine were asked"
        late, guessed = (service.ask("GET", "/v1/model", headers={"X-API-Key": key}) for key in ("third-key", "guessed"))
        assert guessed.status == 429 and "retry-after" in guessed.headers and "www-authenticate" not in guessed.headers, "nobody may try keys without end"
        assert 90 <= int(late.headers["retry-after"]) <= 100 and service.ask("GET", "/healthz").status == 200
        assert "access-control-allow-origin" not in service.ask("GET", "/healthz", headers={"Origin": "https://elsewhere.example"}).headers
        described = service.ask("GET", "/openapi.json").json["paths"]["/v1/predict"]["post"]
        assert described["security"] == [{"bearer": []}, {"key": []}] and all("Bearer" in sample["source"] for sample in described["x-codeSamples"])


def test_pages_of_listed_sites_may_call_and_others_are_told_that_they_may_not(tmp_path: Path) -> None:
    with Service(tmp_path, api_key="some-key", origins="https://example.org, https://example.com") as service:
        def asked(origin: str, method: str = "POST", header: str = "X-API-Key") -> Reply:
            return service.ask("OPTIONS", "/v1/predict", headers={"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": header})

        for origin in ("https://example.org", "https://example.com"):
            allowed = asked(origin)
            assert allowed.status == 200 and allowed.headers["access-control-allow-origin"] == origin, "a browser's question carries no key"
            assert "POST" in allowed.headers["access-control-allow-methods"] and "X-API-Key" in allowed.headers["access-control-allow-headers"]
            binds(allowed.headers, same_origin=False)
        assert figure(service, "emodetect_requests_total", path="/v1/predict", status="200") == 2
        refused = {"origin": asked("https://elsewhere.example"), "method": asked("https://example.org", "DELETE"), "headers": asked("https://example.org", header="X-Other")}
        for what, wrong in refused.items():
            assert wrong.status == wrong.json["status"] == 400 and wrong.headers["content-type"] == "application/problem+json" and wrong.headers["vary"].startswith("Origin")
            assert f"(not allowed: {what}); serve.origins lists the sites" in wrong.json["detail"] and wrong.json["detail"].endswith(".")
            assert ("access-control-allow-origin" in wrong.headers) == (what != "origin")
            binds(wrong.headers, same_origin=False)
        assert figure(service, "emodetect_requests_total", path="/v1/predict", status="400") == 3
        until(lambda: len(service.log.splitlines()) == 5)
        assert [json.loads(line)["status"] for line in service.log.splitlines()] == [200, 200, 400, 400, 400]
        for key, status in (("some-key", 200), ("another", 401)):
            called = service.ask("GET", "/v1/model", headers={"Origin": "https://example.org", "X-API-Key": key})
            assert called.status == status and called.headers["access-control-allow-origin"] == "https://example.org", "its page can read the answer, and why there is none"


def test_examples_run_on_a_service_that_wants_a_key(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(picture())
    with Service(tmp_path, api_key="some-key") as service:
        samples = {one["lang"]: one["source"] for one in service.ask("GET", "/openapi.json").json["paths"]["/v1/predict"]["post"]["x-codeSamples"]}
        for language, program in (("curl", ["bash", "-c"]), ("python", [sys.executable, "-c"])):
            source = samples[language].replace("http://127.0.0.1:8000", service.url)
            for key, code in (("some-key", True), ("another", False)):
                ended = subprocess.run([*program, source], cwd=tmp_path, env=os.environ | {"KEY": key}, capture_output=True, text=True)
                assert (ended.returncode == 0) == code and ("happy" in ended.stdout) == code, ended.stderr
        kept = service.ask("GET", f"/v1/model.onnx?sha256={service.ask('GET', '/v1/model', headers={'X-API-Key': 'some-key'}).json['sha256']}", headers={"X-API-Key": "some-key"})
        assert kept.headers["cache-control"].startswith("private, "), "a cache in between gives it to nobody without a key"


@pytest.mark.parametrize(
    ("proxies", "statuses"),
    [("127.0.0.1", [200, 429, 200, 429, 429, 200, 200, 429]), ("127.0.0.0/8", [200, 429, 200, 429, 429, 200, 200, 429]), ("", [200] + [429] * 7)],
    ids=["believed", "a network that is believed", "not believed"],
)
def test_clients_behind_a_proxy_are_told_apart_if_it_is_known(tmp_path: Path, proxies: str, statuses: list[int]) -> None:
    with Service(tmp_path, rate=0.01, burst=1, proxies=proxies) as service:
        clients = ("2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.2", "unknown", "x" * 5000)  # what is no address is one client
        assert [service.ask("GET", "/v1/model", headers={"X-Forwarded-For": client}).status for client in clients] == statuses


def test_other_sites_are_not_let_in_unasked(service: Service) -> None:
    assert not [name for name in service.ask("GET", "/healthz", headers={"Origin": "https://example.org"}).headers if name.startswith("access-control")]


def heavy() -> bytes:
    """A picture of a few kilobytes that takes a moment to decode."""
    buffer = io.BytesIO()
    Image.new("L", (4_000, 4_000)).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


@contextmanager
def served(folder: Path, **given: object) -> Iterator[tuple[TestClient, Engine]]:
    """A service in this process, with one thread."""
    app = make_app(Settings(model=str(write_stand_in(folder / "model.onnx")), threads=1, **given))
    yield TestClient(app), app.state.engine
    app.state.engine.close()


def fails(*_: object) -> None:
    """Stands in for what has a fault of its own."""
    raise ValueError("a fault")


@pytest.mark.parametrize(("part", "answered"), [("report", True), ("measure", False), ("_is_wanted", False)])
def test_whatever_goes_wrong_with_a_picture_the_next_ones_are_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, part: str, answered: bool
) -> None:
    logger = logging.getLogger("emodetect.engine")  # its records go no further once a service has set up its logs in this process
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "propagate", False)
    with served(tmp_path) as (client, engine):
        with monkeypatch.context() as broken:
            broken.setattr(engine, part, fails)
            for _ in range(2):
                error = engine.submit([(None, picture())])[0].answer.exception(timeout=20)  # a thread that has ended would answer nothing
                assert error is None if answered else isinstance(error, ValueError)
            reply = client.post("/v1/predict", content=picture(), headers={"Content-Type": "image/jpeg"})
            assert reply.status_code == (200 if answered else 500) and (answered or reply.headers["content-type"] == "application/problem+json")
            until(lambda: [record.exc_info[0] for record in caplog.records if record.name == "emodetect.engine"] == [ValueError] * 3)
        reply = client.post("/v1/predict", content=picture(), headers={"Content-Type": "image/jpeg"})
        assert reply.status_code == 200 and len(reply.json()["pictures"][0]["faces"]) == 1 and client.get("/healthz").status_code == 200


@pytest.mark.parametrize(("side", "groups"), [(700, [8]), (1500, [2] * 4), (3000, [1] * 8)])
def test_of_large_pictures_a_thread_holds_few_at_once(monkeypatch: pytest.MonkeyPatch, side: int, groups: list[int]) -> None:
    living, most, looked, go_on = [], [], [], threading.Event()

    def decode(data: bytes, name: str, _: int) -> np.ndarray:
        if data == b"bad":
            raise DataError(f"{name}: is no picture; replace it.")
        picture = np.empty((side, side, 3), np.uint8)
        living.append(weakref.ref(picture))
        most.append(sum(one() is not None for one in living))
        return picture

    def look(pictures: list[np.ndarray]) -> list[list]:
        looked.append(len(pictures))
        go_on.wait(20)
        return [[] for _ in pictures]

    monkeypatch.setattr("emodetect.engine.decode_picture", decode)
    engine = Engine(Served(look, {}, b"", "ab" * 32), threads=1, batch=16)
    engine.submit([(None, b"first")])
    until(lambda: looked)
    jobs = engine.submit([(None, data) for _ in range(8) for data in (b"bad", b"good")])
    go_on.set()
    engine.close()
    assert looked == [1, *groups] and max(most) == max(groups), "nothing keeps a picture that was looked at, a bad one beside it least of all"
    assert [isinstance(job.answer.exception(), DataError) for job in jobs] == [True, False] * 8 and jobs[1].answer.result().width == side


def upload(kind: str, pieces: Iterator[bytes]) -> tuple[dict, Callable, Callable]:
    """A request as ASGI has it: its scope, and how it is received and answered. Who receives a piece is the only one who holds it."""
    async def receive() -> dict:
        piece = next(pieces, b"")
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    async def send(_: dict) -> None:
        pass

    return {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"", "headers": [(b"content-type", kind.encode())]}, receive, send


@pytest.mark.parametrize(
    ("kind", "frame"), [("image/jpeg", [b"", b""]), ("multipart/form-data; boundary=line", form(("a.jpg", b"|"))[0].split(b"|"))], ids=["body", "form"]
)
def test_a_body_is_held_once_and_no_longer_than_somebody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, frame: list[bytes]) -> None:
    looked, go_on, size = threading.Event(), threading.Event(), 40_000_000

    def decode(*_: object) -> np.ndarray:
        looked.set()
        go_on.wait(20)
        raise DataError("it is no picture.")

    def new() -> tuple[dict, Callable, Callable]:
        return upload(kind, filter(None, (piece for part in (frame[:1], (bytes(80_000) for _ in range(size // 80_000)), frame[1:]) for piece in part)))

    async def ask() -> None:
        first = asyncio.create_task(client.app(*new()))
        while not looked.is_set():
            await asyncio.sleep(0.01)
        assert size <= tracemalloc.get_traced_memory()[0] - before < 1.1 * size, "its parts are gone, and the form that its files were copied from"
        scope, receive, send = new()
        second = asyncio.create_task(client.app(scope, receive, send))
        while not engine.jobs:
            await asyncio.sleep(0.01)
        for job in scope["emodetect.jobs"]:
            job.answer.cancel()  # as the server does when the client goes away
        await second
        assert len(engine.jobs) == 1 and tracemalloc.get_traced_memory()[0] - before < 1.1 * size, "what nobody waits for stays in the queue without its file"
        go_on.set()
        await first

    monkeypatch.setattr("emodetect.engine.decode_picture", decode)
    with served(tmp_path, body_megabytes=50) as (client, engine):
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            asyncio.run(asyncio.wait_for(ask(), 60))
        finally:
            go_on.set()
            tracemalloc.stop()


def test_a_page_of_another_site_can_read_that_an_answer_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path, origins="https://example.org") as (client, engine):
        monkeypatch.setattr(engine, "submit", fails)
        reply = client.post("/v1/predict", content=picture(), headers={"Content-Type": "image/jpeg", "Origin": "https://example.org"})
        assert reply.status_code == 500 and reply.headers["access-control-allow-origin"] == "https://example.org"
        binds(reply.headers, same_origin=False)


def test_beyond_its_capacity_it_says_so_at_once(tmp_path: Path) -> None:
    with Service(tmp_path, threads=1, queue=2, pictures=2, wait_seconds=60) as service, ThreadPoolExecutor(24) as clients:
        body, stop = heavy(), threading.Event()

        def press() -> list[Reply]:
            replies = [service.send(body, "image/png")]
            while not stop.is_set():  # until the service has been seen to be full
                replies.append(service.send(body, "image/png"))
            return replies
        sent = [clients.submit(press) for _ in range(24)]
        try:
            until(lambda: figure(service, "emodetect_waiting_pictures") == 2)
            assert service.ask("GET", "/readyz").status == service.ask("GET", "/healthz").status == 200, "a full service must not be taken out: the others are as full"
        finally:
            stop.set()
        replies = [reply for one in sent for reply in one.result()]
        statuses = Counter(reply.status for reply in replies)
        assert set(statuses) == {200, 503} and statuses[200] >= 3, statuses
        refused = [reply for reply in replies if reply.status == 503]
        assert all(1 <= int(reply.headers["retry-after"]) <= 60 and "try again in" in reply.json["detail"] for reply in refused)
        assert figure(service, "emodetect_waiting_pictures") == 0 and figure(service, "emodetect_held_bytes") == 0


def test_what_has_waited_too_long_is_given_up(tmp_path: Path) -> None:
    with Service(tmp_path, threads=1, wait_seconds=0.01) as service, ThreadPoolExecutor(8) as clients:
        body = heavy()
        replies = list(clients.map(lambda _: service.send(body, "image/png"), range(8)))
        assert Counter(reply.status for reply in replies).keys() == {200, 503} and all("retry-after" in reply.headers for reply in replies if reply.status == 503)


def test_more_connections_than_it_holds_are_told(tmp_path: Path) -> None:
    with Service(tmp_path, connections=3) as service:
        plugs = [socket.create_connection((service.host, service.port)) for _ in range(3)]
        until(lambda: connections(service) == 3)
        assert told(exchange(service, b""))[0] == 503
        plugs += [socket.create_connection((service.host, service.port)) for _ in range(30)]
        until(lambda: connections(service) <= 6)
        for plug in plugs:
            plug.close()
        until(lambda: _asked(service) == 200)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
def test_a_client_that_holds_all_connections_shuts_nobody_else_out(tmp_path: Path) -> None:
    with Service(tmp_path, connections=40) as service:
        plugs = [socket.create_connection((service.host, service.port), source_address=("127.0.0.2", 0)) for _ in range(60)]
        until(lambda: figure(service, "emodetect_requests_total", path="other", status="503") >= 1)
        assert [_asked(service) for _ in range(5)] == [200] * 5, "a probe of another address is answered"
        for plug in plugs:
            plug.close()


def _asked(service: Service) -> int:
    """The status of /healthz, or 0 if there is none."""
    try:
        return service.ask("GET", "/healthz").status
    except (OSError, http.client.HTTPException):
        return 0


@pytest.mark.skipif(sys.platform != "linux", reason="glibc, which is told to give memory back, is Linux's")
def test_memory_of_large_pictures_is_given_back(tmp_path: Path) -> None:
    large = []
    for side in (1500, 2000, 2500, 3000):
        buffer = io.BytesIO()
        Image.new("RGB", (side, side), (90, 120, 150)).save(buffer, "JPEG", quality=30)
        large.append(buffer.getvalue())
    with Service(tmp_path, threads=2) as service:
        bombard(service, iter([("small", picture(), "image/jpeg")] * 20))
        before = service.megabytes()
        statuses = bombard(service, (("large", one, "image/jpeg") for one in large * 5))
        grown = service.megabytes() - before
        assert set(statuses) == {200} and grown < 15, grown


def test_what_libraries_print_of_damaged_pictures_are_a_few_lines_of_the_log(tmp_path: Path) -> None:
    random, whole, damaged = np.random.default_rng(0), picture(), []
    for _ in range(60):
        content = bytearray(whole)
        for place in random.integers(len(whole) // 2, len(whole) - 4, 6):
            if 255 not in content[place - 1:place + 1]:  # no marker comes or goes, so that it is a whole JPEG but for what its pixels say
                content[place] = random.integers(0, 255)
        damaged.append(bytes(content))
        (tmp_path / f"{len(damaged)}.jpg").write_bytes(damaged[-1])
    alone = "import cv2, sys; [cv2.imread(name) for name in sys.argv[1:]]"
    printed = subprocess.run([sys.executable, "-c", alone, *map(str, tmp_path.glob("*.jpg"))], capture_output=True, text=True).stderr.splitlines()
    assert len(printed) > 20 and all(line.startswith("Corrupt JPEG data") for line in printed), "what the library prints of them"
    started = time.monotonic()
    with Service(tmp_path) as service:
        assert {service.send(content).status for content in damaged} == {200}
        until(lambda: "a library says: Corrupt JPEG data" in service.log)
        assert {service.send(content).status for content in damaged} == {200}
    service.reader.join(5)
    lasted = time.monotonic() - started
    lines = [json.loads(line) for line in service.log.splitlines()]
    said = [line for line in lines if line["message"].startswith("a library says")]
    assert 1 <= len(said) <= 2 + lasted, "one a second at most"
    assert sum(line["lines"] for line in said) == 2 * len(printed), "and the last one tells what came after it"
    assert len(lines) - len(said) == 2 * len(damaged), "nothing stands between the lines of the log"


def test_a_crash_of_the_service_is_traced_where_its_log_is(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.send(picture())
        service.process.send_signal(signal.SIGSEGV)
        assert service.process.wait(20) == -signal.SIGSEGV
    service.reader.join(5)
    assert "Fatal Python error: Segmentation fault" in service.log and "Current thread" in service.log


def test_on_ending_it_finishes_what_it_took(tmp_path: Path) -> None:
    with Service(tmp_path, threads=1, wait_seconds=60) as service:
        body, taken = heavy(), [service.connection() for _ in range(8)]
        for connection in taken:  # all but the last byte, so that none can be answered before the end
            connection.putrequest("POST", "/v1/predict")
            connection.putheader("Content-Type", "image/png")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[:-1])
        until(lambda: figure(service, "emodetect_held_bytes") == len(taken) * (len(body) - 1))
        service.process.send_signal(signal.SIGTERM)
        until(lambda: _asked(service) == 0)
        for connection in taken:
            connection.send(body[-1:])
        assert [connection.getresponse().status for connection in taken] == [200] * len(taken)
        assert service.process.wait(20) == 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_the_model_is_exchanged_under_load_and_a_bad_one_is_not_taken(tmp_path: Path) -> None:
    model = write_stand_in(tmp_path / "model.onnx", "happy")
    with Service(tmp_path, model=model) as service:
        stop, seen = threading.Event(), []

        def ask() -> None:
            with_connection = service.connection()
            while not stop.is_set():
                reply = service.send(picture(), over=with_connection)
                seen.append((reply.status, reply.json["model"]["sha256"], reply.json["pictures"][0]["faces"][0]["emotion"]))
        client = threading.Thread(target=ask)
        client.start()
        until(lambda: seen)  # the client is answered by the first model
        first = service.ask("GET", "/v1/model").json["sha256"]
        write_stand_in(model, "sad")
        service.process.send_signal(signal.SIGHUP)
        until(lambda: service.ask("GET", "/v1/model").json["sha256"] != first)
        second = service.ask("GET", "/v1/model").json["sha256"]
        odd = onnx.load(write_stand_in(tmp_path / "odd.onnx"))
        onnx.helper.set_model_props(odd, {one.key: one.value for one in odd.metadata_props} | {"emodetect.release": "no JSON"})
        for bad in (b"no model", write_stand_in(tmp_path / "blind.onnx", score=0.0).read_bytes(), odd.SerializeToString()):
            failed = figure(service, "emodetect_model_swaps_total", outcome="failed")
            model.write_bytes(bad)
            service.process.send_signal(signal.SIGHUP)
            until(lambda failed=failed: figure(service, "emodetect_model_swaps_total", outcome="failed") == failed + 1)
        stop.set()
        client.join()
        assert {(status, emotion) for status, _, emotion in seen} == {(200, "happy"), (200, "sad")}
        assert {(sha256, emotion) for _, sha256, emotion in seen} == {(first, "happy"), (second, "sad")}, "each answer names the model that gave it"
        assert service.ask("GET", "/v1/model").json["sha256"] == second and "the model stays as it was" in service.log


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_a_model_is_exchanged_with_the_file_of_its_digits_and_not_without(tmp_path: Path) -> None:
    model, digits = write_stand_in(tmp_path / "model.onnx", "happy"), tmp_path / "model.sha256"

    def told_digits(lines: str = "{}  model.onnx\n") -> None:
        digits.write_text(lines.format(hashlib.sha256(model.read_bytes()).hexdigest()))

    def emotion() -> str:
        return service.send(picture()).json["pictures"][0]["faces"][0]["emotion"]

    def exchanged(outcome: str) -> None:
        before = figure(service, "emodetect_model_swaps_total", outcome=outcome)
        service.process.send_signal(signal.SIGHUP)
        until(lambda: figure(service, "emodetect_model_swaps_total", outcome=outcome) == before + 1)

    told_digits()
    with Service(tmp_path, model=model, model_sha256=digits) as service:
        write_stand_in(model, "sad")
        exchanged("failed")
        until(lambda: "is expected; bring the right file" in service.log)
        assert emotion() == "happy", "a model without its digits"
        told_digits()
        exchanged("done")
        assert emotion() == "sad"
        write_stand_in(model, "anger")
        for wrong in ("SHA256 (model.onnx) = {}\n", "", None):
            before = len(service.log)
            if wrong is None:
                digits.unlink()
                sentence = f"the model stays as it was: serve.model_sha256 is '{digits}', neither 64 hexadecimal digits nor a file that can be read (No such file or directory)"
            else:
                told_digits(wrong)
                sentence = f"the model stays as it was: {digits}: does not begin with the 64 hexadecimal digits of a SHA-256"
            exchanged("failed")
            until(lambda before=before, sentence=sentence: sentence in service.log[before:])
            assert emotion() == "sad"
        told_digits("\\{} *a\\nmodel.onnx\nanother line\n")  # as sha256sum writes a name with a line's end
        exchanged("done")
        assert emotion() == "anger"


def test_a_canary_is_held_against_its_own_file_of_digits(tmp_path: Path) -> None:
    model, canary, digits = write_stand_in(tmp_path / "model.onnx", "happy"), write_stand_in(tmp_path / "canary.onnx", "sad"), tmp_path / "canary.sha256"
    given = Settings(model=str(model), canary=str(canary), canary_sha256=str(digits))
    digits.write_text(f"{hashlib.sha256(canary.read_bytes()).hexdigest()}  canary.onnx\n")
    assert load_models(given)[1].content == canary.read_bytes()
    digits.write_text(f"{hashlib.sha256(model.read_bytes()).hexdigest()}  model.onnx\n")
    with pytest.raises(ModelError, match=r"canary\.onnx: its SHA-256 is"):
        load_models(given)
    digits.unlink()
    with pytest.raises(ModelError, match=r"^serve\.canary_sha256 is '.*canary\.sha256', neither"):
        load_models(given)


def test_a_canary_answers_its_share(tmp_path: Path) -> None:
    canary = write_stand_in(tmp_path / "canary.onnx", "sad")
    with Service(tmp_path, "--canary", str(canary), "--canary-share", "0.5") as service:
        connection = service.connection()
        seen = Counter(service.send(picture(), over=connection).json["pictures"][0]["faces"][0]["emotion"] for _ in range(100))
        assert set(seen) == {"happy", "sad"}, "one in 2**99 that this fails though it is right"
        assert figure(service, "emodetect_model", role="canary") == 0.5 and service.ask("GET", "/v1/model").json["canary"]["sha256"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model_sha256": "0" * 64}, "is expected; bring the right file"),
        ({"model_sha256": "0" * 63}, "neither 64 hexadecimal digits nor a file that can be read (No such file or directory); correct it"),
        ({"frames": "0"}, "serve.frames is 0; give 1 or more"),
        ({"model": "nowhere.onnx"}, "nowhere.onnx: cannot be read"),
        ({"canary": "nowhere.onnx"}, "nowhere.onnx: cannot be read"),
        ({"proxies": "*"}, "serve.proxies holds '*'; give the proxies' addresses, such as 10.0.0.1, or networks, such as 10.0.0.0/8"),
        ({"api_key": "\n"}, "EMODETECT_API_KEY is empty"),
        ({"queue": "many"}, "serve.queue is 'many', but a number is expected"),
        ({"api_key_file": "nowhere"}, "the file of the API keys cannot be read"),
        ({"host": "203.0.113.1"}, "choose another with --host"),
    ],
)
def test_what_cannot_serve_does_not_listen(tmp_path: Path, given: dict[str, str], sentence: str) -> None:
    model = write_stand_in(tmp_path / "model.onnx")
    environment = os.environ | {f"EMODETECT_{name.upper()}": value for name, value in ({"model": str(model), "port": "0"} | given).items()}
    done = subprocess.run([str(Path(sys.executable).with_name("emodetect")), "serve"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and sentence in done.stderr and len(done.stderr.splitlines()) == 1 and done.stdout == "", done.stderr


def test_without_the_extra_it_says_what_is_missing(tmp_path: Path) -> None:
    code = "import sys; sys.modules['fastapi'] = None; from emodetect.cli import main; sys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "emodetect: `emodetect serve` needs fastapi, which this install lacks; install emodetect[serve].\n"


def test_params_yaml_holds_the_defaults() -> None:
    assert yaml.safe_load((PROJECT / "params.yaml").read_text())["serve"] == asdict(Settings()), "if you chose other values under serve on purpose, there is nothing wrong"
    meanings = re.findall(r"^    (\w+): \w+ = .+?  # (.+)$", (PROJECT / "emodetect" / "settings.py").read_text(), re.M)
    composed = (PROJECT / "configs" / "config.yaml").read_text()
    assert all(re.search(rf"^  {name}: .+  # {re.escape(meaning)}$", composed, re.M) for name, meaning in meanings)
