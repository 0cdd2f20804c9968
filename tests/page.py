"""What the page's tests and its screenshots share: a browser, and a camera that films a drawn face."""

import shutil
from pathlib import Path

import cv2
import numpy as np

import emodetect

WEB = Path(emodetect.__file__).parent / "web"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"))), None
)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


def film(path: Path, picture: np.ndarray) -> list[str]:
    """Chromium's options for a camera that sees one RGB picture all the time; `path` is the film's file (.y4m)."""
    height, width = picture.shape[:2]
    planes = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420).tobytes()
    path.write_bytes(f"YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\n".encode() + 2 * (b"FRAME\n" + planes))
    return ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={path}"]
