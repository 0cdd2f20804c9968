// Where are the faces? YuNet answers, looking at a picture at several sizes, and once more at what is neither surely a face nor surely none, as in nbs/16_yunet.ipynb.
import { best } from "./boxes.js";
import { part, resize, round, upright } from "./pixels.js";

const SEEN = 64; // pixels; from this size on YuNet finds a face with hardly an exception, up to about 300
const LONGEST = 2560; // pixels; a picture is enlarged up to this until its smallest face has that size, and
const GLIMPSED = 48; // pixels; beyond it until it has this one, at which YuNet trusts itself less, but
const ENLARGED = 2; // times at most; and no look has more than
const MOST = 30_000_000; // pixels (at most a quarter more with those that parts share or YuNet fills up), however large the picture is, for a look costs as much as it has pixels
const NARROW = 320; // pixels; a narrower look counts as one of this width, for YuNet fills each side up to a multiple of 32
const STEP = 4; // from one look to the next, coarser one
export const GUESSED = 0.3, DOUBTED = 0.2; // from this score on something may be a face, in a look that shows the smallest one less large than `SEEN` from the second; and
const SURE = 0.85; // from this one on it is; between them a second, closer look decides
const CLOSE = 100; // pixels; the longer side of a face at the second look, in a square of twice that
const TILTED = 8; // degrees; a head that is tilted as much is turned upright, in up to
const TURNS = 2; // closer looks, for YuNet takes a head for less tilted than it is
const LARGE = 1920; // pixels; a larger look is taken in parts that share
const SHARED = 160; // pixels; what is larger is seen in a coarser look, too, and
const EDGE = 8; // pixels; what comes as near to where a part was cut off is seen whole in another
const STRIDES = [8, 16, 32]; // pixels from one place to the next in YuNet's three grids
const OVERLAP = 0.3; // of two boxes that overlap more than this, the weaker goes

/** The scales at which a picture is looked at, the finest first. */
export function scales(height, width, smallest) {
  const long = Math.max(height, width), most = Math.min(Math.sqrt(MOST / (height * width)), MOST / (NARROW * long));
  const found = [Math.min(SEEN / smallest, Math.max(LONGEST / long, Math.min(GLIMPSED / smallest, ENLARGED, most)))];
  while ((found.at(-1) * long) / STEP >= 160) found.push(found.at(-1) / STEP);
  return found;
}

/** In which parts a side is looked at, so that none is larger than `LARGE` at a scale: [from, to], pixels. */
function spans(length, scale) {
  const side = LARGE / scale, shared = SHARED / scale, count = Math.max(1, Math.ceil((length - shared) / (side - shared)));
  const reach = Math.ceil((length + (count - 1) * shared) / count);
  return Array.from({ length: count }, (_, place) => round((place * (length - reach)) / Math.max(count - 1, 1))).map((start) => [start, start + reach]);
}

/** A picture at a scale. */
function scaled(picture, scale) {
  return resize(picture, Math.max(1, round(picture.width * scale)), Math.max(1, round(picture.height * scale)), scale < 1);
}

/** How far the line of two eyes is tilted, degrees clockwise. */
function slope([[x, y], [otherX, otherY]]) {
  return (Math.atan2(otherY - y, otherX - x) * 180) / Math.PI;
}

export class FaceFinder {
  /** `session`: YuNet, taking any size; `score`: faces less sure than this don't count, 0 to 1; `smallest`: pixels. */
  constructor(ort, session, score, smallest) {
    Object.assign(this, { ort, session, score, smallest });
  }

  /** The faces of a picture that have `least` pixels, the surest first: {score, x, y, width, height, tilt}, the centre and size as fractions of the picture. */
  async find(picture, least = this.smallest) {
    const smallest = Math.max(least, this.smallest);
    const steps = scales(picture.height, picture.width, smallest), looks = steps.map((scale) => (scale < 1 ? scaled(picture, scale) : picture));
    const guessed = steps[0] < SEEN / smallest ? DOUBTED : GUESSED, seen = [], faces = [];
    for (const [number, look] of looks.entries()) {
      const scale = Math.max(steps[number], 1), columns = spans(look.width, scale);
      for (const rows of spans(look.height, scale)) {
        for (const span of columns) seen.push(...await this.look(look, rows, span, scale));
      }
    }
    const likely = seen.filter((box) => box.score >= Math.min(this.score, guessed));
    for (const one of best(likely, (box) => box.score, OVERLAP)) {
      const { score, tilt = 0, ...box } = one.score < guessed ? one : await this.lookedAt(looks, one);
      const [left, top, right, bottom] = [box.left, box.top, box.right, box.bottom].map((side) => Math.min(Math.max(side, 0), 1));
      faces.push({ score, tilt, left, top, right, bottom });
    }
    return best(faces, (face) => face.score, OVERLAP) // a closer look may see the same face from two guesses
      .map(({ score, tilt, left, top, right, bottom }) => ({ score, x: (left + right) / 2, y: (top + bottom) / 2, width: right - left, height: bottom - top, tilt }))
      .filter((face) => face.score >= this.score && face.width > 0 && face.height > 0)
      .sort((one, other) => other.score - one.score || one.x - other.x || one.y - other.y);
  }

  /** What is seen whole in a part (of rows and columns) of a picture: boxes and eyes as fractions of the picture. */
  async look(picture, [above, below], [before, behind], scale) {
    const { width, height } = picture, look = scaled(part(picture, before, above, behind - before, below - above), scale);
    const across = (x) => ((x * (behind - before)) / look.width + before) / width, down = (y) => ((y * (below - above)) / look.height + above) / height;
    const whole = ({ left, top, right, bottom }) => (left >= EDGE || before === 0) && (top >= EDGE || above === 0)
      && (right <= look.width - EDGE || behind === width) && (bottom <= look.height - EDGE || below === height);
    return (await this.detected(look)).filter(whole).map(({ score, left, top, right, bottom, eyes }) => (
      { score, left: across(left), top: down(top), right: across(right), bottom: down(bottom), eyes: eyes.map(([x, y]) => [across(x), down(y)]) }));
  }

  /** Something that was seen, after closer looks at it if it is no sure face or a tilted one; its score is 0 if no face is seen there any more. */
  async lookedAt(looks, seen) {
    const look = looks.findLast(({ width, height }) => Math.max((seen.right - seen.left) * width, (seen.bottom - seen.top) * height) >= CLOSE) ?? looks[0]; // the coarsest that shows it as large
    const scaledBy = ([x, y]) => [x * look.width, y * look.height];
    let [width, height] = scaledBy([seen.right - seen.left, seen.bottom - seen.top]), [x, y] = scaledBy([(seen.left + seen.right) / 2, (seen.top + seen.bottom) / 2]);
    let { score } = seen, change = slope(seen.eyes.map(scaledBy)), tilt = change;
    for (let turn = 0; turn < TURNS; turn++) {
      const undecided = turn === 0 && score < SURE, scale = CLOSE / Math.max(width, height, 1);
      if (!undecided && Math.abs(change) < TILTED) break;
      const near = (await this.detected(upright(look, x, y, tilt, scale, 2 * CLOSE))).find(({ left, top, right, bottom }) => { // another face beside it does not count
        const aside = Math.max(Math.abs((left + right) / 2 - CLOSE), Math.abs((top + bottom) / 2 - CLOSE)), size = Math.max(right - left, bottom - top);
        return aside < 0.25 * CLOSE && size > 0.6 * CLOSE && size < 1.5 * CLOSE;
      });
      if (undecided) score = near?.score ?? 0;
      if (!near) break;
      const [cosine, sine] = [Math.cos, Math.sin].map((of) => of((tilt * Math.PI) / 180) / scale);
      const right = (near.left + near.right) / 2 - CLOSE, below = (near.top + near.bottom) / 2 - CLOSE;
      [x, y] = [x + cosine * right - sine * below, y + sine * right + cosine * below];
      [width, height] = [(near.right - near.left) / scale, (near.bottom - near.top) / scale];
      change = slope(near.eyes);
      tilt += change;
    }
    if (Math.abs(tilt) < TILTED) tilt = 0;
    const [cosine, sine] = [Math.cos, Math.sin].map((of) => of((tilt * Math.PI) / 180));
    const across = Math.hypot(width * cosine, height * sine) / 2, down = Math.hypot(height * cosine, width * sine) / 2;
    return { score, tilt, left: (x - across) / look.width, top: (y - down) / look.height, right: (x + across) / look.width, bottom: (y + down) / look.height };
  }

  /** YuNet's boxes and eyes, in pixels. */
  async detected(picture) {
    const { width, height, data } = picture;
    const wide = Math.ceil(width / 32) * 32, high = Math.ceil(height / 32) * 32, plane = wide * high;
    const input = new Float32Array(3 * plane); // blue, green, red; black beyond the picture
    for (let y = 0, from = 0; y < height; y++) {
      for (let to = y * wide; to < y * wide + width; to++) {
        input[2 * plane + to] = data[from++];
        input[plane + to] = data[from++];
        input[to] = data[from++];
      }
    }
    const output = await this.session.run({ input: new this.ort.Tensor("float32", input, [1, 3, high, wide]) });
    return best(STRIDES.flatMap((stride) => this.boxes(output, stride, wide / stride)), (box) => box.score, OVERLAP, 1000);
  }

  /** The boxes of one grid, in pixels. */
  boxes(output, stride, columns) {
    const [classes, objects, shapes, points] = ["cls", "obj", "bbox", "kps"].map((name) => output[`${name}_${stride}`].data);
    const found = [], share = (value) => Math.min(Math.max(value, 0), 1), least = Math.min(this.score, DOUBTED);
    for (let place = 0; place < classes.length; place++) {
      const score = Math.sqrt(share(classes[place]) * share(objects[place]));
      if (score < least) continue;
      const [right, down, width, height] = shapes.subarray(4 * place, 4 * place + 4), column = place % columns, row = Math.floor(place / columns);
      const x = (column + right) * stride, y = (row + down) * stride;
      const [halfWidth, halfHeight] = [width, height].map((size) => (Math.exp(size) * stride) / 2);
      const eyes = [0, 2].map((from) => [(column + points[10 * place + from]) * stride, (row + points[10 * place + from + 1]) * stride]);
      found.push({ score, left: x - halfWidth, top: y - halfHeight, right: x + halfWidth, bottom: y + halfHeight, eyes });
    }
    return found;
  }
}
