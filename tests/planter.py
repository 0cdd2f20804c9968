"""Makes a small clean data set and plants defects into it, in numbers that are known because they are drawn here."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from emodetect.dataset import SPLITS
from emodetect.labels import EMOTIONS, Face, read_labels, write_labels
from emodetect.sample import write_sample

PICTURES = {"train": 84, "valid": 40, "test": 40}  # enough that each defect has pictures of its own
JUNK = b"this is no picture"


def label_of(picture: Path) -> Path:
    """The label file of a picture."""
    return picture.parent.parent / "labels" / f"{picture.stem}.txt"


def write_clean(folder: Path, seed: int, pictures: dict[str, int] | None = None) -> list[Path]:
    """Draw a set without a single defect: a face in each picture, and no stem twice; its pictures."""
    write_sample(folder, pictures or PICTURES, seed=seed, processes=1)
    kept = []
    for split in SPLITS:
        for path in sorted((folder / split / "images").iterdir()):
            label = label_of(path)
            if label.read_text():
                name = f"image{len(kept):05}"
                kept.append(path.rename(path.with_name(f"{split}-{name}.jpg")))
                label.rename(label_of(kept[-1]))
            else:
                path.unlink()
                label.unlink()
    renamed = [path.rename(path.with_name(path.name.split("-")[1])) for path in kept]
    for old, new in zip(kept, renamed, strict=True):
        label_of(old).rename(label_of(new))
    return renamed


class Planter:
    """Plants defects into a clean set; `planted` counts what the check must find."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random, self.planted = folder, random.Random(seed), dict[str, int]()
        self.untouched = write_clean(folder, seed)
        self.random.shuffle(self.untouched)
        self.numbers = iter(range(50000, 60000))

    def take(self, split: str | None = None) -> Path:
        """A picture that nothing was planted into."""
        place = next(place for place, path in enumerate(self.untouched) if split in (None, path.parent.parent.name))
        return self.untouched.pop(place)

    def count(self, defect: str, times: int = 1) -> None:
        """Expect a defect more often."""
        self.planted[defect] = self.planted.get(defect, 0) + times

    def all_files(self) -> dict[str, int]:
        """Plant every defect that files can have, one to three times each; the numbers."""
        steps: dict[str, Callable[[], None]] = {**self.pictures(), **self.rows(), **self.labels(), **self.others(), **self.copies()}
        for defect, step in steps.items():
            times = self.random.randint(1, 3)
            for _ in range(times):
                step()
            self.count(defect, times)
        self.constant_boxes(self.random.randint(38, 42))
        return self.planted

    def pictures(self) -> dict[str, Callable[[], None]]:
        """Steps that spoil a picture."""

        def saved(kind: str, change: Callable[[Image.Image], Image.Image] = lambda image: image, suffix: str = "", **options: object) -> Callable[[], None]:
            def step() -> None:
                path = self.take()
                with Image.open(path) as image:
                    changed = change(image.convert("RGB"))
                path.unlink()
                changed.save(path.with_suffix(suffix or f".{kind}"), kind, **options)

            return step

        def bytes_of(change: Callable[[bytes], bytes]) -> Callable[[], None]:
            def step() -> None:
                path = self.take()
                path.write_bytes(change(path.read_bytes()))

            return step

        def sixteen_bits() -> None:
            path = self.take()
            picture = cv2.imread(str(path)).astype(np.uint16) * 257
            path.unlink()
            cv2.imwrite(str(path.with_suffix(".png")), picture)

        def animated() -> None:
            path = self.take()
            with Image.open(path) as image:
                image.save(path.with_suffix(".png"), save_all=True, append_images=[image.rotate(180)])
            path.unlink()

        def turned() -> None:
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = self.random.randint(2, 8)
            saved("jpeg", exif=exif)()

        def not_text() -> None:
            path = self.take()
            stem = path.stem + os.fsdecode(b"\xe9")
            label_of(path).rename(label_of(path).with_stem(stem))
            path.rename(path.with_stem(stem))

        return {
            "picture_unreadable": bytes_of(lambda data: JUNK + data[:40]),
            "picture_truncated": bytes_of(lambda data: data[: len(data) * 2 // 3]),
            "picture_wrong_suffix": saved("png", suffix=".jpg"),
            "picture_animated": animated,
            "picture_cmyk": saved("jpeg", lambda image: image.convert("CMYK")),
            "picture_16_bit": sixteen_bits,
            "picture_alpha": saved("png", lambda image: image.convert("RGBA")),
            "picture_exif_rotation": turned,
            "picture_too_large": saved("png", lambda image: Image.new("1", (8000 + next(self.numbers) % 100, 7000))),
            "picture_too_small": saved("png", lambda image: image.resize((15, 15))),
            "picture_other_format": saved("gif", suffix=self.random.choice([".jpg", ".png"])),
            "name_not_text": not_text,
        }

    def rows(self) -> dict[str, Callable[[], None]]:
        """Steps that add a row to a label file."""

        def added(*rows: str) -> Callable[[], None]:
            def step() -> None:
                with label_of(self.take()).open("a") as file:
                    file.write(self.random.choice(rows) + "\n")

            return step

        def repeated() -> None:
            label = label_of(self.take())
            label.write_text(label.read_text() + label.read_text().splitlines()[0] + "\n")

        def whole_frame() -> None:
            path = self.take()
            size = 0.98 + next(self.numbers) % 1000 * 1e-5
            write_labels(label_of(path), [Face(read_labels(label_of(path))[0].emotion, 0.5, 0.5, size, size)])

        return {
            "label_missing_columns": added("4 0.5 0.5 0.2", "4"),
            "label_extra_columns": added("4 0.1 0.1 0.9 0.1 0.9 0.9", "4 0.5 0.5 0.2 0.2 0.97"),
            "label_not_a_number": added("4 nan 0.5 0.2 0.2", "happy 0.5 0.5 0.2 0.2", "4 0.5 inf 0.2 0.2"),
            "label_wrong_class": added("8 0.5 0.5 0.2 0.2", "-1 0.5 0.5 0.2 0.2", "3.5 0.5 0.5 0.2 0.2"),
            "label_zero_area": added("4 0.5 0.5 0 0.2", "4 0.5 0.5 0.2 -0.1", "4 0.5 0.5 0.0000003 0.2"),
            "label_out_of_frame": added("4 0.95 0.5 0.2 0.2", "4 0.5 0.05 0.2 0.2", "4 60 80 20 20", "4 -0.001 0.5 0.001 0.2", "4 0.5 1.0012 0.2 0.001"),
            "label_duplicate_row": repeated,
            "box_whole_frame": whole_frame,
        }

    def labels(self) -> dict[str, Callable[[], None]]:
        """Steps that spoil a label file as a whole."""
        return {
            "label_missing": lambda: label_of(self.take()).unlink(),
            "label_unreadable": lambda: label_of(self.take()).write_bytes(b"\xff\xfe\x00 0.5"),
            "label_empty": lambda: label_of(self.take()).write_text(self.random.choice(["", "\n", "  \n\n"])),
            "label_orphan": lambda: label_of(self.new("train", ".jpg")).write_text("4 0.5 0.5 0.4 0.4\n"),
        }

    def others(self) -> dict[str, Callable[[], None]]:
        """Steps that put files where they don't belong, or under names that others have."""

        def stray() -> None:
            number = next(self.numbers)
            path = self.folder / self.random.choice([f"train/images/{number}.db", f"train/images/more/{number}.jpg", f"valid/{number}.cache", f"old/{number}.png", f"{number}.jpg"])
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(JUNK)

        def shared() -> None:
            path = self.take()
            cv2.imwrite(str(path.with_suffix(".png")), cv2.flip(cv2.imread(str(path)), 0))

        def across() -> None:
            path = self.take("train")
            twin = self.folder / "test" / "images" / f"{path.stem}.png"
            cv2.imwrite(str(twin), cv2.flip(cv2.imread(str(path)), 0))
            shutil.copyfile(label_of(path), label_of(twin))

        return {"stray_file": stray, "stem_shared": shared, "stem_across_splits": across}

    def copies(self) -> dict[str, Callable[[], None]]:
        """Steps that copy a picture, as it is or saved anew, within a split or into another."""

        def copied(near: bool, split: str, conflict: bool = False) -> Callable[[], None]:
            def step() -> None:
                path = self.take("train")
                twin = self.new(split, ".png" if near else path.suffix)
                if near:
                    cv2.imwrite(str(twin), np.round(cv2.imread(str(path)) * 0.9 + 8).astype(np.uint8))
                else:
                    shutil.copyfile(path, twin)
                faces = read_labels(label_of(path))
                first = faces[0]
                faces[0] = Face((first.emotion + conflict) % len(EMOTIONS), first.x, first.y, first.width, first.height)
                write_labels(label_of(twin), faces)
                if conflict:
                    self.count("duplicate_near_across" if near else "duplicate_exact_within")

            return step

        return {
            "duplicate_exact_within": copied(False, "train"),
            "duplicate_exact_across": copied(False, "test"),
            "duplicate_near_within": copied(True, "train"),
            "duplicate_near_across": copied(True, "valid"),
            "duplicate_conflict": self.random.choice([copied(False, "train", conflict=True), copied(True, "test", conflict=True)]),
        }

    def constant_boxes(self, times: int) -> None:
        """Give the same box to the first face of many pictures."""
        for _ in range(times):
            label = label_of(self.take())
            first, *rest = read_labels(label)
            write_labels(label, [Face(first.emotion, 0.52, 0.48, 0.6, 0.6), *rest])
        self.count("box_constant", times)

    def new(self, split: str, suffix: str) -> Path:
        """A name in a split that nothing has."""
        return self.folder / split / "images" / f"image{next(self.numbers)}{suffix}"


def relabel(folder: Path, change: Callable[[str, int], int]) -> None:
    """Give each face the emotion that `change` makes of its split and emotion."""
    for split in SPLITS:
        for path in sorted((folder / split / "labels").iterdir()):
            write_labels(path, [Face(change(split, face.emotion), face.x, face.y, face.width, face.height) for face in read_labels(path)])


def plant_names(folder: Path) -> None:
    """Name a ninth class."""
    (folder / "data.yaml").write_text(f"names: [{', '.join(EMOTIONS)}, yawn]\n")


def plant_empty_split(folder: Path) -> None:
    """Empty the folders of valid."""
    for kind in ("images", "labels"):
        shutil.rmtree(folder / "valid" / kind)
        (folder / "valid" / kind).mkdir()


def plant_missing_class(folder: Path) -> None:
    """Take contempt out of train, where it turns into anger."""
    relabel(folder, lambda split, emotion: 0 if split == "train" and emotion == 1 else emotion)


def plant_imbalance(folder: Path) -> None:
    """Turn all but two faces of train that are not happy or sad into happy and sad ones, in every split alike."""
    seen: dict[str, int] = {}

    def change(split: str, emotion: int) -> int:
        seen[f"{split}{emotion}"] = seen.get(f"{split}{emotion}", 0) + 1
        return emotion if emotion in (4, 6) or seen[f"{split}{emotion}"] <= 2 else 4

    relabel(folder, change)


def plant_shift(folder: Path) -> None:
    """Turn four emotions of test into the other four, but for a face of each."""
    seen: dict[int, int] = {}

    def change(split: str, emotion: int) -> int:
        if split == "test" and emotion < 4:
            seen[emotion] = seen.get(emotion, 0) + 1
            return emotion if seen[emotion] == 1 else emotion + 4
        return emotion

    relabel(folder, change)


def plant_leak(folder: Path) -> None:
    """Name the pictures whose first face is of the first four emotions `ffhq_…`, as if from another collection."""
    for path in sorted(folder.glob("*/images/*")):
        if read_labels(label_of(path))[0].emotion < 4:
            new = path.with_name(f"ffhq_{path.name[5:]}")
            label_of(path).rename(label_of(new))
            path.rename(new)


SET_DEFECTS: dict[str, tuple[Callable[[Path], None], int]] = {  # defect → what plants it, and how often it is then found
    "names_wrong": (plant_names, 1),
    "split_empty": (plant_empty_split, 1),
    "class_missing": (plant_missing_class, 1),
    "class_imbalance": (plant_imbalance, 1),
    "class_shift": (plant_shift, 1),
    "source_leak": (plant_leak, 1),
}
