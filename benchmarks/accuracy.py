"""Whether the training is as accurate as `yolo train`: the same pictures, network, weights, size, batch and epochs, seed by seed.

Run it with `make bench-accuracy` after `make pipeline`; `SEEDS=3 make bench-accuracy` takes fewer. It writes reports/benchmarks/accuracy.json.

Both start from the pipeline's public weights, with the hyperparameters that `yolo train` chooses by itself for so few steps: what is compared is how they train,
not with what. Ours trains in 32 and in 16 bits. The best checkpoint of each is judged by one and the same function on the validation split, and the differences of the seeds
give a 95 % interval (Student's t) and the p-value of a paired t-test.
"""

import json
import os
import statistics
import tempfile
from pathlib import Path

from record import circumstances, write
from scipy import stats
from train import PRECISIONS, PROJECT, run, yolo_train

from emodetect.core import cores
from emodetect.evaluation import average_precision
from emodetect.labels import EMOTIONS
from emodetect.yolo import load_checkpoint, quiet_ultralytics

RESULT = PROJECT / "reports" / "benchmarks" / "accuracy.json"
WEIGHTS = PROJECT / "models" / "pretrained.pt"
YOLO = "yolo train"
PICTURES, EPOCHS, BATCH, SIZE = 1000, 6, 32, 96
CHOSEN = {"optimizer": "AdamW", "lr0": round(0.002 * 5 / (4 + len(EMOTIONS)), 6), "lrf": 0.01, "momentum": 0.9, "warmup_epochs": 3.0, "scale": 0.5, "hsv_s": 0.7}  # by `yolo train`


def compare(first: list[float], second: list[float]) -> dict[str, object]:
    """The mean difference of pairs, its 95 % interval, and the p-value of a paired t-test."""
    apart = [one - other for one, other in zip(first, second, strict=True)]
    mean, half = statistics.mean(apart), float(stats.t.ppf(0.975, len(apart) - 1)) * statistics.stdev(apart) / len(apart) ** 0.5
    return {"mean": round(mean, 4), "interval": [round(mean - half, 4), round(mean + half, 4)], "p": round(float(stats.ttest_rel(first, second).pvalue), 4)}


def main() -> None:
    """Train with each seed in every way, judge, print the figures and write them down."""
    begun = circumstances()
    if not (said := os.environ.get("SEEDS", "5")).isdecimal() or int(said) < 2:
        raise SystemExit(f"bench-accuracy: SEEDS is {said}; give 2 or more.")
    seeds = int(said)
    if not (WEIGHTS.is_file() and WEIGHTS.stat().st_size):
        raise SystemExit("bench-accuracy: there are no weights; run `make pipeline` first.")
    quiet_ultralytics()
    from ultralytics import YOLO as Yolo

    found: dict[str, list[float]] = {name: [] for name in (YOLO, *PRECISIONS)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("draw", folder=name, pictures=PICTURES)
        kept, data = folder / "kept.pt", folder / "data"
        task = {
            "data": str(data), "weights": str(WEIGHTS), "threads": cores(), "device": "cpu",
            "image_size": SIZE, "batch": BATCH, "epochs": EPOCHS, "keep": str(kept), "parameters": CHOSEN,
        }
        for seed in range(seeds):
            yolo_train(task | {"seed": seed})
            found[YOLO].append(average_precision(Yolo(kept).model, data, "valid", SIZE).map50_95)
            for precision in PRECISIONS:
                run("train", **task | {"seed": seed, "precision": precision})
                found[precision].append(average_precision(load_checkpoint(kept)[0], data, "valid", SIZE).map50_95)
            print(f"seed {seed}: mAP50-95 " + ", ".join(f"{way} {values[-1]:.4f}" for way, values in found.items()), flush=True)
    measured = {
        "pictures": PICTURES, "epochs": EPOCHS, "batch": BATCH, "image_size": SIZE, "seeds": seeds,
        "map50_95": {way: [round(value, 4) for value in values] for way, values in found.items()},
        "less_yolo_train": {precision: compare(found[precision], found[YOLO]) for precision in PRECISIONS}, "bf16_less_fp32": compare(found["bf16"], found["fp32"]),
    }
    print(json.dumps(measured, indent=2))
    write(RESULT, measured, begun)


if __name__ == "__main__":
    main()
