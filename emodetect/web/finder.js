// Where are the faces? YuNet answers, looking at a picture at several sizes, as in nbs/16_yunet.ipynb.
import { agreement, best } from "./boxes.js";
import { resize, round } from "./pixels.js";

const SEEN = 48; // pixels; from this size on YuNet finds a face with hardly an exception, up to about 300
const STEP = 4; // from one look to the next, coarser one
const LONGEST = 2560; // pixels; a picture is not enlarged beyond this, and a larger one is brought to it
const STRIDES = [8, 16, 32]; // pixels from one place to the next in YuNet's three grids
const OVERLAP = 0.3; // of two boxes that overlap more than this, the weaker goes

/** The scales at which a picture is looked at, the finest first. */
export function scales(height, width, smallest) {
  const long = Math.max(height, width), found = [Math.min(SEEN / smallest, LONGEST / long)];
  while ((found.at(-1) * long) / STEP >= 160) found.push(found.at(-1) / STEP);
  return found;
}

export class FaceFinder {
  /** `session`: YuNet, taking any size; `score`: faces less sure than this don't count, 0 to 1; `smallest`: pixels. */
  constructor(ort, session, score, smallest) {
    Object.assign(this, { ort, session, score, smallest });
  }

  /** The faces of a picture, the surest first: {score, x, y, width, height}, the centre and size as fractions of the picture. */
  async find(picture, smallest = this.smallest) {
    const seen = [];
    for (const scale of scales(picture.height, picture.width, smallest)) seen.push(...await this.look(picture, scale));
    return best(seen, (box) => box.score, OVERLAP).map(({ score, ...box }) => {
      const [left, top, right, bottom] = [box.left, box.top, box.right, box.bottom].map((side) => Math.min(Math.max(side, 0), 1));
      return { score, x: (left + right) / 2, y: (top + bottom) / 2, width: right - left, height: bottom - top };
    }).filter((face) => face.width > 0 && face.height > 0);
  }

  /** What is seen at one scale: boxes as fractions of the picture. */
  async look(picture, scale) {
    const width = Math.max(1, round(picture.width * scale)), height = Math.max(1, round(picture.height * scale));
    const resized = resize(picture, width, height, scale < 1);
    const wide = Math.ceil(width / 32) * 32, high = Math.ceil(height / 32) * 32, plane = wide * high;
    const input = new Float32Array(3 * plane); // blue, green, red; black beyond the picture
    for (let y = 0, from = 0; y < height; y++) {
      for (let to = y * wide; to < y * wide + width; to++) {
        input[2 * plane + to] = resized.data[from++];
        input[plane + to] = resized.data[from++];
        input[to] = resized.data[from++];
      }
    }
    const output = await this.session.run({ input: new this.ort.Tensor("float32", input, [1, 3, high, wide]) });
    const boxes = STRIDES.flatMap((stride) => this.boxes(output, stride, wide / stride));
    return best(boxes, (box) => box.score, OVERLAP, 1000)
      .map((box) => ({ score: box.score, left: box.left / width, top: box.top / height, right: box.right / width, bottom: box.bottom / height }));
  }

  /** The boxes of one grid, in pixels. */
  boxes(output, stride, columns) {
    const [classes, objects, shapes] = ["cls", "obj", "bbox"].map((name) => output[`${name}_${stride}`].data);
    const found = [], share = (value) => Math.min(Math.max(value, 0), 1);
    for (let place = 0; place < classes.length; place++) {
      const score = Math.sqrt(share(classes[place]) * share(objects[place]));
      if (score < this.score) continue;
      const [right, down, width, height] = shapes.subarray(4 * place, 4 * place + 4);
      const x = ((place % columns) + right) * stride, y = (Math.floor(place / columns) + down) * stride;
      const [halfWidth, halfHeight] = [width, height].map((size) => (Math.exp(size) * stride) / 2);
      found.push({ score, left: x - halfWidth, top: y - halfHeight, right: x + halfWidth, bottom: y + halfHeight });
    }
    return found;
  }
}
