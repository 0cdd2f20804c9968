"""How many pictures a second the service answers, and how long each waits, beside FastAPI with `YOLO.predict` and beside the bare engine in a loop.

Run it with `make bench-serve`, after `make pipeline`; DURATION=20 makes each measurement last 20 s instead of 3. It writes reports/benchmarks/serve.json.

All servers run side by side and are asked one after the other, three times over; the medians count. They answer the same drawn portraits of 96 pixels,
sent as forms over loopback by clients on the same machine, each of which asks again as soon as it is answered. YOLO looks at whole pictures, so the service does,
too ("whole picture"): at the size that the network was trained at, and at the 96 pixels of the pictures; a picture at a time; in 8 bits, and in 8 and 16 with OpenVINO, if it
is installed; whether the stage export would take such a file, told to look at whole pictures, is written beside it.
As delivered, it looks for faces first, which is more work ("service").
Where wrk is installed, it asks some of them in the same way, and what it counts stands beside what these clients count; `python benchmarks/serve.py --wrk` does nothing else.
What the image of the service holds, and how soon it is ready, is measured on what the instructions of its Dockerfile make in a folder.
"""

import argparse
import asyncio
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import httptools
import numpy as np
import psutil
from image_root import make_root
from PIL import Image
from record import circumstances, ended, write

from emodetect.core import cores
from emodetect.detector import decode_picture, load_session
from emodetect.engine import load_model
from emodetect.sample import draw_portrait
from emodetect.yolo import load_checkpoint
from models import judge_models, write_model

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "serve.json"
MODEL, CHECKPOINT = PROJECT / "models" / "emodetect.onnx", PROJECT / "models" / "emodetect.pt"
WHOLE, SMALL = "whole picture", "whole picture, 96 px"
CLIENTS = (1, 8, 32)
SECONDS = float(os.environ.get("DURATION") or 3)
ROUNDS, STARTS = 3, 5
WRK = """
local asked, number = {}, 0
function init(files)
  for _, name in ipairs(files) do
    local file = io.open(name, "rb")
    asked[#asked + 1] = wrk.format("POST", "/v1/predict", {["Content-Type"] = "multipart/form-data; boundary=line"}, file:read("*a"))
    file:close()
  end
end
function request()
  number = number % #asked + 1
  return asked[number]
end
"""
CHOICES = (("onnxruntime", "fp32"), ("onnxruntime", "int8"), *((("openvino", "int8"), ("openvino", "bf16")) if importlib.util.find_spec("openvino") else ()))


def portraits(count: int = 64) -> list[bytes]:
    """Drawn portraits as JPEG files."""
    found = []
    for index in range(count):
        buffer = io.BytesIO()
        Image.fromarray(draw_portrait(np.random.default_rng(index), index % 8)[0]).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


@contextmanager
def started(command: list[str], folder: Path = PROJECT, inherited: Mapping[str, str] = os.environ, **environment: str) -> Iterator[tuple[str, psutil.Process, float]]:
    """Run a server in a folder; its address, its process, and the seconds until it was ready."""
    start = time.perf_counter()
    server = subprocess.Popen(command, cwd=folder, env=inherited | environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = f"http://127.0.0.1:{environment['PORT']}" if "PORT" in environment else server.stdout.readline().strip()
        while server.poll() is None:
            try:
                urllib.request.urlopen(f"{url}/readyz", timeout=5).read()
                break
            except OSError:
                time.sleep(0.005)
        assert server.poll() is None, f"{command[0]} ended with {server.returncode}"
        yield url, psutil.Process(server.pid), time.perf_counter() - start
    finally:
        server.terminate()
        server.wait(30)


def service(model: Path, *more: str) -> list[str]:
    """The command of the service."""
    return [str(Path(sys.executable).with_name("emodetect")), "serve", "--port", "0", "--model", str(model), *more]


def plain(size: int) -> tuple[list[str], dict[str, str]]:
    """The command of the plain server, and its environment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "uvicorn", "benchmarks.plain_server:app", "--port", port, "--no-access-log"]
    return command, {"PORT": port, "CHECKPOINT": str(CHECKPOINT), "IMAGE_SIZE": str(size)}


class Client(asyncio.Protocol):
    """A kept connection that asks one thing after the other, with as little work as can be: what a client of the benchmark takes is taken from the server."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[int] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport, self.parser = transport, httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.answered.set_result(self.parser.get_status_code())
        if not self.parser.should_keep_alive():
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.answered and not self.answered.done():
            self.answered.set_exception(error or ConnectionResetError("the server ended the connection"))

    async def ask(self, url: str, request: bytes) -> tuple[int, float]:
        """Send one picture; the status and the seconds until the answer was there."""
        start = time.perf_counter()
        if self.transport is None or self.transport.is_closing():
            host, _, port = url.removeprefix("http://").partition(":")
            await asyncio.get_running_loop().create_connection(lambda: self, host, int(port))
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answered, time.perf_counter() - start


def request_of(picture: bytes) -> bytes:
    """The request that sends a picture as a form."""
    body = b'--line\r\nContent-Disposition: form-data; name="files"; filename="face.jpg"\r\nContent-Type: image/jpeg\r\n\r\n' + picture + b"\r\n--line--\r\n"
    return b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=line\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def saturate(url: str, pictures: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Clients that ask again as soon as they are answered: pictures a second, and the milliseconds that half and 99 % of them wait at most."""
    waits: list[float] = []
    requests, all_clients = [request_of(picture) for picture in pictures], [Client() for _ in range(clients)]

    async def go_on(number: int, end: float) -> None:
        one = all_clients[number]
        while time.perf_counter() < end:
            number += 1
            status, wait = await one.ask(url, requests[number % len(requests)])
            assert status == 200, status
            waits.append(wait)

    await asyncio.gather(*(go_on(number, time.perf_counter() + 1) for number in range(clients)))
    waits.clear()
    start = time.perf_counter()
    await asyncio.gather(*(go_on(number, start + seconds) for number in range(clients)))
    took = time.perf_counter() - start
    for one in all_clients:
        one.transport.close()
    middle, high = np.percentile(waits, [50, 99]) * 1000
    return {"rate": round(len(waits) / took, 1), "p50_ms": round(float(middle), 2), "p99_ms": round(float(high), 2)}


def by_wrk(url: str, pictures: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """The same, asked and counted by wrk (https://github.com/wg/wrk): pictures a second, and the milliseconds that 99 % wait at most."""
    with tempfile.TemporaryDirectory() as folder:
        script, files = Path(folder) / "ask.lua", [Path(folder) / str(number) for number in range(len(pictures))]
        script.write_text(WRK)
        for file, picture in zip(files, pictures, strict=True):
            file.write_bytes(request_of(picture).partition(b"\r\n\r\n")[2])
        options = ["--threads", "1", "--connections", str(clients), "--duration", f"{max(1, round(seconds))}s", "--latency"]
        command = ["wrk", *options, "--script", str(script), url, "--", *map(str, files)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate, high = re.search(r"Requests/sec: +([\d.]+)", told), re.search(r"99% +([\d.]+)(us|ms|s)", told)
    assert rate and high and "Non-2xx" not in told and "Socket errors" not in told, told
    return {"rate": float(rate[1]), "p99_ms": round(float(high[1]) * {"us": 0.001, "ms": 1, "s": 1000}[high[2]], 2)}


def beside_wrk(running: Mapping[str, tuple[str, Any, float]], pictures: list[bytes]) -> dict[str, dict[str, float]]:
    """What wrk and the clients of this benchmark count, three times in turns, of the servers that answer pictures of 96 pixels."""
    found: dict[str, dict[str, float]] = {}
    for name in (name for name in running if "96 px" in name):
        url = running[name][0]
        asyncio.run(saturate(url, pictures, 1, 1))  # `YOLO.predict` fails if its first pictures come at once
        rounds = [(by_wrk(url, pictures, 32, SECONDS), asyncio.run(saturate(url, pictures, 32, SECONDS))) for _ in range(ROUNDS)]
        middle = [{figure: statistics.median(one[who][figure] for one in rounds) for figure in ("rate", "p99_ms")} for who in (0, 1)]
        found[name] = {"rate": round(middle[0]["rate"], 1), "p99_ms": round(middle[0]["p99_ms"], 2), "rate_to_these_clients": round(middle[0]["rate"] / middle[1]["rate"], 3)}
    return {name: one | {"rate_to_plain": round(one["rate"] / found["plain, 96 px"]["rate"], 2)} for name, one in found.items()}


async def overload(url: str, pictures: list[bytes], rate: float, seconds: float) -> dict[str, object]:
    """Ask at a rate, answered or not; the statuses, and the milliseconds that 99 % of the accepted wait at most."""
    waits, statuses, requests = [], Counter(), [request_of(picture) for picture in pictures]
    free: asyncio.LifoQueue[Client] = asyncio.LifoQueue()
    for _ in range(400):
        free.put_nowait(Client())

    async def one(number: int) -> None:
        client = await free.get()
        status, wait = await client.ask(url, requests[number % len(requests)])
        free.put_nowait(client)
        statuses[status] += 1
        if status == 200:
            waits.append(wait)

    start, tasks = time.perf_counter(), []
    while (now := time.perf_counter() - start) < seconds:
        tasks += [asyncio.create_task(one(number)) for number in range(len(tasks), int(now * rate))]
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    return {"asked_a_second": round(len(tasks) / seconds, 1), "statuses": dict(sorted(statuses.items())), "p99_ms_of_accepted": round(float(np.percentile(waits, 99)) * 1000, 1)}


def bare(model: Path, pictures: list[bytes], seconds: float) -> float:
    """Pictures a second of as many threads as there are cores, each of which decodes and answers in a loop."""
    served, counts, end = load_model(model), [0] * cores(), time.perf_counter() + seconds
    cv2.setNumThreads(1)

    def loop(thread: int) -> None:
        while time.perf_counter() < end:
            served.detector([decode_picture(pictures[counts[thread] % len(pictures)])])
            counts[thread] += 1

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(len(counts))]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(sum(counts) / (time.perf_counter() - start), 1)


def install_megabytes(folder: Path) -> float:
    """The size of the locked serving install in a fresh environment."""
    python = folder / "venv" / "bin" / "python"
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(folder / "venv")], check=True)
    subprocess.run(["uv", "pip", "sync", "--quiet", "--python", str(python), "--require-hashes", str(PROJECT / "requirements_serve.txt")], check=True)
    return round(sum(path.lstat().st_size for path in (folder / "venv").rglob("*") if path.is_file()) / 1e6, 1)


def commands(folder: Path) -> tuple[dict[str, tuple[list[str], dict[str, str]]], dict[str, Path], dict[str, dict]]:
    """The servers, the models that the bare engine is timed with, and how well each precision does."""
    own, (trained, _) = load_session(MODEL)[1]["image_size"], load_checkpoint(CHECKPOINT)
    servers, bares, judged = {"plain": plain(own), "plain, 96 px": plain(96), "service": (service(MODEL), {})}, {"service": MODEL}, {}
    for name, size in ((WHOLE, own), (SMALL, 96)):
        files = {}
        for engine, precision in CHOICES:
            label = name if precision == "fp32" else f"{name}, {precision}" + (" (OpenVINO)" if engine == "openvino" else "")
            files[label] = write_model(folder / f"{engine}-{precision}-{size}.onnx", trained, size, mode="frame", engine=engine, precision=precision)
        bares[name] = files[name]
        servers |= {label: (service(file), {}) for label, file in files.items()}
        judged |= judge_models(files, trained)
    servers[f"{WHOLE}, one at a time"] = service(bares[WHOLE]), {"EMODETECT_BATCH": "1"}
    return servers, bares, judged


def main() -> None:
    """Measure all servers in turn, print the ratios and write everything down."""
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    top.add_argument("--wrk", action="store_true", help="only let wrk ask, and write what it counts beside what was measured last")
    options = top.parse_args()
    if options.wrk and not shutil.which("wrk"):
        raise SystemExit("bench-serve: wrk is not installed; install it, such as by `apt install wrk`.")
    if not (MODEL.is_file() and CHECKPOINT.is_file()):
        raise SystemExit("bench-serve: there is no model; run `make pipeline` first.")
    begun = circumstances()
    if options.wrk:
        measured = json.loads(RESULT.read_text())
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            known = {name: each for name, each in commands(Path(folder))[0].items() if "96 px" in name}
            measured["wrk"] = beside_wrk({name: stack.enter_context(started(command, **environment)) for name, (command, environment) in known.items()}, portraits())
        print(json.dumps(measured["wrk"], indent=2))
        measured["wrk_measured"] = ended(begun)
        RESULT.write_text(json.dumps(measured, indent=2) + "\n")
        return
    pictures, measured = portraits(), {"cores": cores(), "seconds": SECONDS, "rounds": ROUNDS, "picture_bytes": round(statistics.mean(map(len, portraits())))}
    with tempfile.TemporaryDirectory() as folder:
        measured["install_mb"], image = install_megabytes(Path(folder)), Path(folder) / "image"
        image.mkdir()
        root = make_root(image, {})
        known, models, measured["precisions"] = commands(Path(folder))
        with ExitStack() as stack:
            running = {name: stack.enter_context(started(command, **environment)) for name, (command, environment) in known.items()}
            rounds = [_round(running, models, pictures) for _ in range(ROUNDS)]
            if shutil.which("wrk"):
                measured["wrk"] = beside_wrk(running, pictures)
            servers = measured["servers"] = {
                name: {
                    level: {figure: round(statistics.median(one[name][level][figure] for one in rounds), 2) for figure in rounds[0][name][level]} for level in rounds[0][name]
                } | {"memory_mb": round(process.memory_info().rss / 1e6)} for name, (_, process, _) in running.items()
            }
        measured["bare"] = {name: round(statistics.median(one["bare"][name] for one in rounds), 1) for name in rounds[0]["bare"]}
        for name, (command, environment) in known.items():
            servers[name]["ready_seconds"] = round(statistics.median(_ready(command, environment) for _ in range(STARTS if name == "service" else 2)), 3)
            print(f"{name:<39}", json.dumps(servers[name]), flush=True)
        starts = [_ready([root.program, *root.command[1:]], {}, root.folder, root.environment) for _ in range(2 * STARTS + 1)]
        measured["image"] = {"mb": round(root.megabytes(), 1), "page_engine_mb": round(root.megabytes("web/vendor/*"), 1), "ready_seconds": round(statistics.median(starts), 3)}
        with started(service(MODEL)) as (url, process, _):
            asyncio.run(saturate(url, pictures, 32, 1))
            before = process.memory_info().rss / 1e6
            measured["twice_the_capacity"] = asyncio.run(overload(url, pictures, 2 * servers["service"]["32 clients"]["rate"], 20 * SECONDS))
            measured["twice_the_capacity"] |= {"seconds": 20 * SECONDS, "memory_mb_before": round(before), "memory_mb_after": round(process.memory_info().rss / 1e6)}
    plains = {name: servers["plain, 96 px" if "96 px" in name else "plain"] for name in servers}
    measured["ratios"] = {
        name: {
            "rate_to_plain_at_32": round(servers[name]["32 clients"]["rate"] / other["32 clients"]["rate"], 2),
            "p99_of_plain_to_p99_at_32": round(other["32 clients"]["p99_ms"] / servers[name]["32 clients"]["p99_ms"], 2),
            "p50_of_plain_to_p50_at_1": round(other["1 clients"]["p50_ms"] / servers[name]["1 clients"]["p50_ms"], 2),
        } | ({"rate_to_bare_at_32": round(servers[name]["32 clients"]["rate"] / measured["bare"][name], 2)} if name in measured["bare"] else {})
        for name, other in plains.items() if other is not servers[name]
    }
    one = servers[f"{WHOLE}, one at a time"]
    measured["batches"] = {
        "rate_to_one_at_a_time_at_32": round(servers[WHOLE]["32 clients"]["rate"] / one["32 clients"]["rate"], 2),
        "p50_to_one_at_a_time_at_1": round(servers[WHOLE]["1 clients"]["p50_ms"] / one["1 clients"]["p50_ms"], 2),
    }
    print(json.dumps({name: measured[name] for name in ("bare", "twice_the_capacity", "install_mb", "image", "precisions", "ratios", "batches")}, indent=2))
    write(RESULT, measured, begun)


def _round(running: dict[str, tuple[str, psutil.Process, float]], models: dict[str, Path], pictures: list[bytes]) -> dict[str, dict]:
    """Every server with every number of clients, and the bare engine, one after the other: what else the machine does meets all alike."""
    found: dict[str, dict] = {name: {} for name in running}
    for clients in CLIENTS:
        for name, (url, _, _) in running.items():
            found[name][f"{clients} clients"] = asyncio.run(saturate(url, pictures, clients, SECONDS))
    return found | {"bare": {name: bare(model, pictures, SECONDS) for name, model in models.items()}}


def _ready(command: list[str], environment: dict[str, str], *place: Any) -> float:
    """The seconds that a server takes until it is ready, in the project or in another folder and environment."""
    with started(command, *place, **environment) as (_, _, seconds):
        return seconds


if __name__ == "__main__":
    main()
