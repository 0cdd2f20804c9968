"""What one writes first: FastAPI around `YOLO.predict`. `make bench-serve` compares the service with it."""

import os
from typing import Annotated

from fastapi import FastAPI, UploadFile
from PIL import Image

from emodetect.yolo import load_checkpoint, quiet_ultralytics

quiet_ultralytics()
from ultralytics import YOLO  # noqa: E402  (it reports home unless it is quieted first)

network, described = load_checkpoint(os.environ["CHECKPOINT"])
app, model = FastAPI(), YOLO(f"{described['architecture']}.yaml")
model.model = network


@app.get("/readyz")
def readyz() -> dict[str, str]:
    """It is, once it answers."""
    return {"status": "ready"}


@app.post("/v1/predict")
def predict(files: Annotated[list[UploadFile], "pictures"]) -> list[dict]:
    """The boxes of each picture; in a thread, as FastAPI does with a plain function."""
    answers = model.predict([Image.open(file.file).convert("RGB") for file in files], imgsz=int(os.environ["IMAGE_SIZE"]), verbose=False)
    return [{"boxes": answer.boxes.xyxy.tolist(), "scores": answer.boxes.conf.tolist(), "classes": answer.boxes.cls.tolist()} for answer in answers]
