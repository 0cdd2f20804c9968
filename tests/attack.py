"""What strangers may send: a corpus of hostile uploads, seeded mutations, and a service to send them to.

`make attack` sends 10,000 mutations (MUTATIONS=… for more or fewer) and fails if one is answered with a server's error, if the process dies or grows, or if a file appears.
"""

import argparse
import http.client
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from conftest import command_line_without
from emodetect.sample import draw_portrait
from emodetect.stand_in import write_stand_in

MODEL = Path(__file__).parent.parent / "models" / "emodetect.onnx"
COMMAND = command_line_without("onnx", "psutil", before="import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # whatever is written to a file fails")


class Service:
    """`emodetect serve` in a process that can neither import what the extra `serve` lacks nor write to a file, in an empty folder, at a free port."""

    def __init__(self, folder: Path, *arguments: str, model: Path | None = None, **settings: object) -> None:
        self.home, self.temporary = folder / "home", folder / "tmp"
        for place in (self.home, self.temporary):
            place.mkdir(parents=True, exist_ok=True)
        self.model = model or write_stand_in(folder / "model.onnx")
        given = {f"EMODETECT_{name.upper()}": str(value) for name, value in settings.items()}
        own = {name: value for name, value in os.environ.items() if not name.startswith(("EMODETECT_", "ORT_"))}
        environment = own | {"TMPDIR": str(self.temporary), "PYTHONDONTWRITEBYTECODE": "1"} | given
        command = [sys.executable, "-c", COMMAND, "serve", "--port", "0", "--model", str(self.model), "--json", *arguments]
        self.process = subprocess.Popen(command, cwd=self.home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.process.wait(20) or self.reader.join() or self.log
        self.host, self.port = urllib.parse.urlsplit(self.url).hostname, urllib.parse.urlsplit(self.url).port

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log += line

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """End the service as its supervisor would; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.stdout.close()

    def connection(self, seconds: float = 20) -> http.client.HTTPConnection:
        """A connection that is kept."""
        return http.client.HTTPConnection(self.host, self.port, timeout=seconds)

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None, over: http.client.HTTPConnection | None = None) -> "Reply":
        """Send one request."""
        connection = over or self.connection()
        try:
            connection.request(method, path, body, dict(headers or {}))
            got = connection.getresponse()
            return Reply(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
        finally:
            if over is None:
                connection.close()

    def send(self, body: bytes, kind: str = "image/jpeg", over: http.client.HTTPConnection | None = None) -> "Reply":
        """Ask for the faces of a body."""
        return self.ask("POST", "/v1/predict", body, {"Content-Type": kind}, over)

    def written(self) -> list[str]:
        """The files that the process has left in its folders."""
        return sorted(str(path) for place in (self.home, self.temporary) for path in place.rglob("*"))

    def megabytes(self) -> float:
        """The memory of the process."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6


class Reply:
    """An answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> dict:
        """The body as JSON."""
        return json.loads(self.body)


def picture(emotion: int = 4, kind: str = "JPEG", **options: object) -> bytes:
    """A drawn portrait as a file."""
    buffer = io.BytesIO()
    Image.fromarray(draw_portrait(np.random.default_rng(emotion), emotion)[0]).save(buffer, kind, **options)
    return buffer.getvalue()


def form(*files: tuple[str, bytes], field: str = "files", boundary: str = "line") -> tuple[bytes, str]:
    """A form with files, and its type."""
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n" for name, content in files]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *more: bytes, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG that says how large it is, with whatever else."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)) + b"".join(more) + chunk(b"IEND", b"")


def animation(frames: int) -> bytes:
    """A GIF with many frames."""
    frame = b"\x21\xf9\x04\x00\x01\x00\x00\x00" + b"\x2c\x00\x00\x00\x00\x08\x00\x08\x00\x00" + b"\x02\x07\x84\x8f\xa9\xcb\xed\x0f\x02\x00"
    return b"GIF89a\x08\x00\x08\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff" + frame * frames + b"\x3b"


def hostile() -> Iterator[tuple[str, bytes, str]]:
    """Name, body and content type of each upload."""
    jpeg, whole, archive = picture(), picture(kind="PNG"), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("../../evil.sh", "touch evil")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 60_000
    zeros = zlib.compress(bytes(40_000_000), 9)
    yield "nothing", b"", "image/jpeg"
    yield "one byte", b"\xff", "image/jpeg"
    yield "noughts", bytes(100_000), "image/png"
    yield "a bomb of 60 megapixels", png(10_000, 6_000, chunk(b"IDAT", zlib.compress(bytes(1251 * 6_000), 9)), bits=1, colour=0), "image/png"
    yield "a side of two thousand million", png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", zeros)), "image/png"
    yield "a row of 16 million pixels", png(16_000_000, 1, chunk(b"IDAT", zlib.compress(bytes(16_000_001), 9)), colour=0), "image/png"
    yield "more pixels than it says", png(8, 8, chunk(b"IDAT", zeros)), "image/png"
    yield "a size of nought", png(0, 0, chunk(b"IDAT", b"")), "image/png"
    yield "compressed text", png(8, 8, chunk(b"zTXt", b"a\0\0" + zeros), chunk(b"IDAT", zlib.compress(bytes(25 * 8)))), "image/png"
    yield "compressed profile", png(8, 8, chunk(b"iCCP", b"a\0\0" + zeros), chunk(b"IDAT", zlib.compress(bytes(25 * 8)))), "image/png"
    yield "a wrong checksum", whole[:-20] + b"\0" + whole[-19:], "image/png"
    yield "a JPEG of 65535 × 65535", jpeg.replace(jpeg[jpeg.index(b"\xff\xc0") + 5:jpeg.index(b"\xff\xc0") + 9], b"\xff\xff\xff\xff", 1), "image/jpeg"
    yield "a JPEG without tables", jpeg[:20] + jpeg[jpeg.index(b"\xff\xda"):], "image/jpeg"
    yield "a bitmap of minus one", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, -1, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0), "image/bmp"
    yield "a huge bitmap", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0), "image/bmp"
    yield "10,000 frames", animation(10_000), "image/gif"
    yield "a TIFF that points to itself", b"II*\0\x08\0\0\0\1\0\0\1\3\0\1\0\0\0\1\0\0\0\x08\0\0\0", "image/tiff"
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"><text>&b;</text></svg>'
    yield "laughs", b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + b'<!ENTITY b "&a;&a;&a;">' * 20 + b"]>" + drawing, "image/svg+xml"
    yield "a file of this machine", b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>' + drawing, "image/svg+xml"
    yield "HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "image/heic"
    yield "AVIF", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(200), "image/avif"
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(evil) (w) file\nshowpage\n", "image/jpeg"
    yield "PDF", b"%PDF-1.7\n1 0 obj<<>>endobj\n%%EOF", "image/png"
    yield "a picture and an archive", jpeg + archive.getvalue(), "image/jpeg"
    yield "an archive", archive.getvalue(), "image/webp"
    yield "a picture and a page", jpeg[:2] + b"\xff\xfe\0\x20<script>alert(document)</script>" + jpeg[2:], "image/jpeg"
    yield "a pickle", b"cos\nsystem\n(S'touch evil'\ntR.", "image/png"
    yield "a long description", picture(exif=exif), "image/jpeg"
    yield "an endless directory", jpeg[:2] + b"\xff\xe1\0\x20Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\xff\xff\0\0\0\0\0\x08" + jpeg[2:], "image/jpeg"
    yield "a lie about the type", jpeg, "image/png"
    yield "a type of its own", jpeg, "image/../../etc/passwd"
    yield "a type without end", jpeg, "image/" + "x" * 5_000
    yield "no picture's type", jpeg, "text/html"
    yield "a form without a line", b"abc", "multipart/form-data"
    yield "a form of nothing", b"", "multipart/form-data; boundary=line"
    yield "a form without an end", form(("a.jpg", jpeg))[0][:-10], "multipart/form-data; boundary=line"
    yield "a form of 3,000 parts", *form(*[("a.jpg", b"")] * 3_000)
    yield "a form of header lines", b"--line\r\n" + b"a: b\r\n" * 50_000 + b"\r\n\r\n--line--", "multipart/form-data; boundary=line"
    yield "a form in a form", form(("a.jpg", form(("b.jpg", jpeg))[0]))[0], "multipart/form-data; boundary=line"
    yield "a line as long as a page", b"--" + b"-" * 9_000, "multipart/form-data; boundary=" + "-" * 9_000
    yield "an unknown alphabet", form(("ü\udcff.jpg".encode("utf-8", "surrogateescape").decode("latin-1"), jpeg))[0], "multipart/form-data; boundary=line; charset=none"
    for name in ("../../etc/passwd", "/etc/passwd", "C:\\\\evil.jpg", "a\0b.jpg", "x" * 5_000, "$(touch evil).jpg", "<script>.jpg", ""):
        yield f"a file called {name[:20]!r}", *form((name, jpeg))
    for hundredth in range(100):
        yield f"{hundredth} % of a JPEG", jpeg[:len(jpeg) * hundredth // 100], "image/jpeg"
        yield f"{hundredth} % of a PNG", whole[:len(whole) * hundredth // 100], "image/png"


KINDS = {f"image/{kind.lower()}": kind for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")}


def mutations(count: int, seed: int = 0) -> Iterator[tuple[str, bytes, str]]:
    """Pictures and forms that were whole once; the same for the same seed."""
    chance, originals = random.Random(seed), [(picture(emotion, kind), name) for emotion in range(4) for name, kind in KINDS.items()]
    rarer = (("JPEG", {"progressive": True}), ("WEBP", {"lossless": True}), ("TIFF", {"compression": "tiff_lzw"}))
    originals += [(picture(kind=kind, **options), f"image/{kind.lower()}") for kind, options in rarer]
    for number in range(count):
        content, kind = chance.choice(originals)
        if chance.random() < 0.25:
            content, kind = form(("a.jpg", content), ("b.png", chance.choice(originals)[0]))
        changed = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 5, 20))):
            place, size = chance.randrange(len(changed) + 1) if chance.random() < 0.6 else chance.randrange(min(len(changed) + 1, 200)), chance.choice((1, 1, 2, 4, 64, 512))
            act = chance.randrange(6)
            if act == 0:
                changed[place:place + size] = chance.randbytes(size)
            elif act == 1:
                changed[place:place + size] = bytes([chance.choice((0, 0x7F, 0x80, 0xFF))]) * size
            elif act == 2:
                del changed[place:place + size]
            elif act == 3:
                changed[place:place] = changed[chance.randrange(len(changed) + 1):][:size]
            elif act == 4:
                other = chance.choice(originals)[0]
                changed[place:place] = other[chance.randrange(len(other)):][:size]
            elif place < len(changed):
                changed[place] ^= 1 << chance.randrange(8)
        yield f"mutation {number}", bytes(changed), kind if chance.random() < 0.9 else chance.choice(list(KINDS))


def bombard(service: Service, uploads: Iterator[tuple[str, bytes, str]]) -> Counter[int]:
    """Send every upload over one connection after the other; how often each status came. Fails at the first error of the server's."""
    statuses: Counter[int] = Counter()
    connection = service.connection()
    for name, body, kind in uploads:
        reply = service.send(body, kind, connection)
        assert reply.status < 500, f"{name} is answered with {reply.status}: {reply.body[:300]!r}\n{service.log[-3000:]}"
        assert reply.status == 200 or (reply.headers["content-type"] == "application/problem+json" and reply.json["status"] == reply.status), name
        statuses[reply.status] += 1
    connection.close()
    return statuses


def main() -> None:
    """Bombard a service for longer than the tests do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=10_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the mutations (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=MODEL, help="(default: the pipeline's; without one, a stand-in that answers whatever it is shown)")
    given = parser.parse_args()
    if not given.model.is_file():
        given.model = None
    print(f"the model: {given.model or 'a stand-in, since the pipeline has not run'}", flush=True)
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder), model=given.model.resolve() if given.model else None) as service:
        statuses = bombard(service, hostile())
        warm = service.megabytes()
        for start in range(0, given.mutations, 1000):
            statuses += bombard(service, mutations(min(1000, given.mutations - start), given.seed + start))
            print(f"mutations sent: {min(start + 1000, given.mutations)} of {given.mutations}, {service.megabytes():.0f} MB", flush=True)
        grown, left = service.megabytes() - warm, service.written()
        assert grown < 50, f"the process has grown by {grown:.0f} MB"
        assert not left, f"files have appeared: {left[:5]}"
        assert service.stop() == 0, "it did not end well"
    print(f"answers: {dict(sorted(statuses.items()))}; no server error, no file, {grown:+.0f} MB since the corpus")


if __name__ == "__main__":
    main()
