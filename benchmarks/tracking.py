"""Who stays who in a film: the tracker of this project against Ultralytics' ByteTrack, on the same found faces.

Run it with `make bench-tracking` after `make pipeline`; `FILMS=4 make bench-tracking` takes fewer. It writes reports/benchmarks/tracking.json.

The films are drawn: two to six people walk to and fro at 25 frames a second, nod, turn and sway, pass in front of each other, are out of sight for up to a second,
and change their expression half-way. Some come later, some leave early, and every fourth film is cut in its middle: from there on it shows other people.
The exported model finds the faces of every frame once; both trackers follow what it answers, at the full rate, at a half and at a fifth of it.
ByteTrack (Zhang et al. 2022, https://arxiv.org/abs/2110.06864) is set as Ultralytics' bytetrack.yaml sets it; its second pass, for answers of a confidence of 0.1 to 0.25,
has nothing to do here, since the detector gives none. The constants of our tracker were chosen on films of another seed, without cuts.

A face counts while at least half of its box is not covered by a nearer one; answers to other faces are left out.
IDF1 (Ristani et al. 2016, https://arxiv.org/abs/1609.01775) is the share of faces and answers that agree under the best one-to-one naming of people by tracks;
a switch is a face that is found under another track than when it was last found; the share followed is that of visible faces that belong to any track.
The difference of the films' IDF1 has a 95 % interval (Student's t over films).
Beside them stands which share of the followed faces is named rightly, and how often a minute the name changes, by the track (emodetect) and by the single frame (ByteTrack,
which does not name); and how often a minute, on the same faces, the drawn expression does.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from record import circumstances, write
from scipy import stats
from scipy.optimize import linear_sum_assignment

from emodetect.core import print_progress
from emodetect.detector import Detection, Detector, load_detector
from emodetect.evaluation import match
from emodetect.faces import Person, Pose, draw_face, express, face_box, random_person
from emodetect.labels import EMOTIONS
from emodetect.scenes import draw_background
from emodetect.track import Tracker
from emodetect.yolo import quiet_ultralytics

PROJECT = Path(__file__).parent.parent
RESULT = PROJECT / "reports" / "benchmarks" / "tracking.json"
HEIGHT, WIDTH, RATE, FRAMES = 480, 640, 25, 100  # pixels, frames a second, frames of a film
STEPS = (1, 2, 5)  # of the frames, each, every second and every fifth is shown
OURS, BYTETRACK = "emodetect", "ByteTrack"

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Follow = Callable[[Sequence[Detection], float], list[tuple[int, int, str]]]  # faces of a frame, its time → (index of a face, its track, emotion of the track)


@dataclass(frozen=True)
class Walker:
    """Somebody who walks through a film."""

    person: Person
    size: float  # as `Pose.size`
    start: np.ndarray  # x and y, pixels
    speed: np.ndarray  # pixels a second
    sway: np.ndarray  # phases of nodding, turning and tilting
    emotions: tuple[str, str]  # in the first half and in the second
    stay: tuple[float, float]  # seconds from which and until which they are in the film
    gone: tuple[float, float]  # and from which and until which they are out of sight meanwhile

    def shown(self, seconds: float) -> bool:
        """Whether they can be seen."""
        return self.stay[0] <= seconds < self.stay[1] and not self.gone[0] <= seconds < self.gone[1]

    def pose(self, seconds: float) -> Pose:
        """Where they are; they turn round at the edges."""
        margin = np.array([1.2, 1.6]) * self.size
        room = np.array([WIDTH, HEIGHT]) - 2 * margin
        way = (self.start * room + self.speed * seconds) % (2 * room)
        x, y = margin + np.where(way > room, 2 * room - way, way)
        nod, turn, tilt = np.sin(2 * np.pi * np.array([1.1, 0.4, 0.6]) * seconds + self.sway)
        return Pose(float(x), float(y + 0.15 * self.size * nod), self.size, float(0.35 * turn), float(0.15 * tilt))


@dataclass(frozen=True)
class Shown:
    """A frame: who is visible where, what they express, and which faces were found."""

    seconds: float
    people: tuple[tuple[int, Box, str], ...]  # number, box and expression
    hidden: tuple[Box, ...]  # of those who are mostly covered
    found: tuple[Detection, ...]


def cast(random: np.random.Generator, begin: float, end: float) -> list[Walker]:
    """The people between two seconds of a film, the farthest first."""
    def one() -> Walker:
        lost, length = random.uniform(begin + 0.3, end - 0.5), random.uniform(0.1, 1.0)
        angle, pace = random.uniform(0, 2 * np.pi), random.uniform(40, 160)
        first, second = random.choice(len(EMOTIONS), 2, replace=False)
        late, early = random.random(2) < 0.25
        stay = (random.uniform(begin, end) if late else begin, random.uniform(begin, end) if early and not late else end)
        return Walker(
            random_person(random), float(random.uniform(16, 40)), random.uniform(0, 1, 2), pace * np.array([np.cos(angle), 0.5 * np.sin(angle)]),
            random.uniform(0, 2 * np.pi, 3), (EMOTIONS[first], EMOTIONS[second]), stay, (lost, lost + length),
        )
    return sorted((one() for _ in range(random.integers(2, 7))), key=lambda walker: walker.size)


def covered(box: Box, nearer: Sequence[Box]) -> float:
    """Which share of a box others cover."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for left, top, right, bottom in nearer:
        mask[max(round(top), 0):round(bottom), max(round(left), 0):round(right)] = True
    left, top, right, bottom = map(round, box)
    return float(mask[max(top, 0):bottom, max(left, 0):right].mean())


def drawn(picture: np.ndarray, walker: Walker, pose: Pose, emotion: str) -> None:
    """Draw somebody into a picture, of which only the surroundings are looked at."""
    reach = 3 * walker.size
    left, top = max(int(pose.x - reach), 0), max(int(pose.y - reach), 0)
    around = picture[top:int(pose.y + reach) + 1, left:int(pose.x + reach) + 1]
    around[:] = draw_face(around.copy(), walker.person, replace(pose, x=pose.x - left, y=pose.y - top), express(emotion))


def film(number: int, seed: int = 11) -> Iterator[tuple[np.ndarray, tuple[tuple[int, Box, str], ...], tuple[Box, ...]]]:
    """The pictures of a film; who is visible in each, and who is mostly covered."""
    random, whole = np.random.default_rng([seed, number]), FRAMES / RATE
    ground = draw_background(random, HEIGHT, WIDTH).astype(np.uint8)
    walkers = [*cast(random, 0, whole / 2), *cast(random, whole / 2, whole)] if number % 4 == 3 else cast(random, 0, whole)
    for frame in range(FRAMES):
        seconds = frame / RATE
        picture, boxes = ground.copy(), []
        for index, walker in enumerate(walkers):
            if walker.shown(seconds):
                emotion, pose = walker.emotions[seconds >= whole / 2], walker.pose(seconds)
                drawn(picture, walker, pose, emotion)
                boxes.append((index, face_box(walker.person, pose, express(emotion)), emotion))
        noisy = (picture + random.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8)
        clear = [covered(one[1], [box for _, box, _ in boxes[place + 1:]]) < 0.5 for place, one in enumerate(boxes)]
        yield noisy, tuple(one for one, seen in zip(boxes, clear, strict=True) if seen), tuple(one[1] for one, seen in zip(boxes, clear, strict=True) if not seen)


def watched(number: int, detector: Detector, seed: int = 11) -> list[Shown]:
    """The frames of a film, with what the detector finds."""
    pictures, people, hidden = zip(*film(number, seed), strict=True)
    return [Shown(frame / RATE, people[frame], hidden[frame], tuple(found)) for frame, found in enumerate(detector(pictures))]


def by_us() -> Follow:
    """The tracker of this project, as `emodetect track` uses it."""
    tracker = Tracker()

    def follow(faces: Sequence[Detection], seconds: float) -> list[tuple[int, int, str]]:
        places = {(face.left, face.top, face.right, face.bottom): place for place, face in enumerate(faces)}
        return [(places[one.face.left, one.face.top, one.face.right, one.face.bottom], one.track, one.face.emotion) for one in tracker.update(faces, seconds)]
    return follow


def by_bytetrack() -> Follow:
    """Ultralytics' ByteTrack; what it says of a face is what the single frame says."""
    from ultralytics.engine.results import Boxes
    from ultralytics.trackers.byte_tracker import BYTETracker
    from ultralytics.utils import YAML, IterableSimpleNamespace
    from ultralytics.utils.checks import check_yaml

    tracker = BYTETracker(IterableSimpleNamespace(**YAML.load(check_yaml("bytetrack.yaml"))))

    def follow(faces: Sequence[Detection], seconds: float) -> list[tuple[int, int, str]]:
        rows = np.array([(face.left, face.top, face.right, face.bottom, face.face, 0) for face in faces], np.float32).reshape(-1, 6)
        return [(int(row[7]), int(row[4]), faces[int(row[7])].emotion) for row in tracker.update(Boxes(rows, (HEIGHT, WIDTH)))]
    return follow


@dataclass
class Score:
    """What was counted in one film or several."""

    faces: int = 0  # visible
    answers: int = 0  # faces that belong to a track
    agreeing: int = 0  # of both, under the best one-to-one naming
    followed: int = 0  # visible faces that belong to a track
    switches: int = 0
    right: int = 0  # of those followed, named as they were drawn
    changes: int = 0  # of a person's name for what they express, from one frame in which they are followed to the next
    meant: int = 0  # changes of what they express, likewise

    @property
    def idf1(self) -> float:
        """The share of faces and answers that agree, 0 to 1."""
        return 2 * self.agreeing / (self.faces + self.answers)

    def to_dict(self, rate: float) -> dict[str, float]:
        """The figures, for so many frames a second."""
        return {
            "idf1": round(self.idf1, 4), "switches": self.switches, "followed": round(self.followed / self.faces, 4),
            "emotion_right": round(self.right / self.followed, 4), "emotion_changes_a_minute": round(60 * rate * self.changes / self.followed, 1),
            "true_changes_a_minute": round(60 * rate * self.meant / self.followed, 1),
        }


def judge(shown: Sequence[Shown], follow: Follow) -> Score:
    """Let a tracker follow a film and count."""
    score, together = Score(), Counter[tuple[int, int]]()
    last: dict[int, int] = {}
    before: dict[int, tuple[str, str]] = {}
    for frame in shown:
        tracked = {face: (track, emotion) for face, track, emotion in follow(frame.found, frame.seconds)}
        kept = [face for face in range(len(frame.found)) if face in tracked]
        pairs = match([*(box for _, box, _ in frame.people), *frame.hidden], [frame.found[face] for face in kept])
        score.faces += len(frame.people)
        score.answers += len(kept) - sum(person >= len(frame.people) for person, _ in pairs)
        for person, place in pairs:
            if person < len(frame.people):
                index, _, emotion = frame.people[person]
                track, named = tracked[kept[place]]
                together[index, track] += 1
                score.followed += 1
                score.right += named == emotion
                score.switches += last.get(index, track) != track
                said, drawn_as = before.get(index, (named, emotion))
                score.changes += said != named
                score.meant += drawn_as != emotion
                last[index], before[index] = track, (named, emotion)
    people, tracks = sorted({index for index, _ in together}), sorted({track for _, track in together})
    table = np.array([[together[index, track] for track in tracks] for index in people]).reshape(len(people), len(tracks))
    score.agreeing += int(table[linear_sum_assignment(-table)].sum())
    return score


def total(scores: Sequence[Score]) -> Score:
    """The counts of several films together."""
    return Score(*(sum(getattr(score, one.name) for score in scores) for one in fields(Score)))


def more(ours: Sequence[Score], theirs: Sequence[Score]) -> dict[str, object]:
    """The mean difference of the films' IDF1 with its 95 % interval."""
    apart = np.array([one.idf1 - other.idf1 for one, other in zip(ours, theirs, strict=True)])
    half = float(stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / len(apart) ** 0.5)
    return {"mean": round(float(apart.mean()), 4), "interval": [round(float(apart.mean()) - half, 4), round(float(apart.mean()) + half, 4)]}


def main() -> None:
    """Find the faces, follow them with both at each rate, print the figures and write them down."""
    begun = circumstances()
    said, model = os.environ.get("FILMS", "16"), PROJECT / "models" / "emodetect.onnx"
    if not said.isdecimal() or int(said) < 2:
        raise SystemExit(f"bench-tracking: FILMS is {said}; give 2 or more.")
    if not model.is_file():
        raise SystemExit("bench-tracking: there is no model; run `make pipeline` first.")
    quiet_ultralytics()
    detector, told, films = load_detector(model), print_progress("films", 3), []
    for number in range(int(said)):
        films.append(watched(number, detector))
        told(number + 1, int(said))
    people = sum(len({index for shown in one for index, _, _ in shown.people}) for one in films)
    measured: dict[str, Any] = {"films": len(films), "frames": len(films) * FRAMES, "people": people, "rates": {}}
    for step in STEPS:
        scores = {name: [judge(one[::step], new()) for one in films] for name, new in ((OURS, by_us), (BYTETRACK, by_bytetrack))}
        figures = {name: total(some).to_dict(RATE / step) for name, some in scores.items()}
        measured["rates"][f"{RATE / step:g}"] = figures | {"idf1_more": more(scores[OURS], scores[BYTETRACK])}
    print(json.dumps(measured, indent=2))
    write(RESULT, measured, begun)


if __name__ == "__main__":
    main()
