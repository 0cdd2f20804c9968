// From a picture to boxes with emotions: what emodetect.detector does (nbs/15_detector.ipynb), with the same file and the same answers.
import { agreement, best } from "./boxes.js";
import { FaceFinder, GUESSED } from "./finder.js";
import { metadata, ofAnySize } from "./onnx.js";
import { cutOut, letterbox } from "./pixels.js";

const SETTINGS = { // name → default, for a model of an earlier version
  mode: "frame", confidence: 0.25, iou: 0.5, face_score: 0.5, confirm: 2, smallest_face: 24, reject: 0, share: 0.8, temperature: 1,
};
const BATCH = 32; // squares that go through the network at once
const MOST = 300; // faces in a whole picture

/** The probability of each emotion, given that there is a face: a softmax over the scores' log-odds. */
export function toProbabilities(scores, temperature) {
  const clipped = scores.map((score) => Math.min(Math.max(score, 1e-6), 1 - 1e-6));
  const logits = clipped.map((score) => Math.log(score / (1 - score)) / temperature), top = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - top)), sum = powers.reduce((one, other) => one + other);
  return powers.map((power) => power / sum);
}

/** The scores for a face whose box is known: a mean of the places that agree with it at least half as well as the best does, weighted by how well, and by how sure they are. */
function scoresAt(places, agreements) {
  const least = agreements.reduce((one, other) => Math.max(one, other), 0) / 2;
  const weights = places.map(({ score }, number) => Math.max(agreements[number] - least, 0) * score), sum = Math.max(weights.reduce((one, other) => one + other, 0), 1e-9);
  return places[0].scores.map((_, emotion) => places.reduce((total, { scores }, number) => total + weights[number] * scores[emotion], 0) / sum);
}

/** How sure the network is that there is a face in a box: the best score of the places that agree with it by a half or more, 0 if none does. */
function surenessAt(places, agreements) {
  return places.reduce((most, { score }, number) => (agreements[number] >= 0.5 ? Math.max(most, score) : most), 0);
}

export class Detector {
  /** A detector of a model's bytes; `ort` is ONNX Runtime. Throws if the file is none of emodetect's. */
  static async load(ort, model) {
    const known = metadata(model);
    if (!known.emodetect) throw new Error("the model was not exported by emodetect");
    const settings = { ...SETTINGS, ...JSON.parse(known.emodetect) }, yunet = known["emodetect.face_finder"];
    if (settings.mode !== "frame" && !yunet) throw new Error("the model has no face finder");
    const network = await ort.InferenceSession.create(model);
    let finder = null;
    if (settings.mode !== "frame") {
      const bytes = Uint8Array.from(atob(yunet), (letter) => letter.charCodeAt(0));
      const score = settings.confirm > 1 ? settings.face_score : Math.min(settings.face_score, GUESSED);
      finder = new FaceFinder(ort, await ort.InferenceSession.create(ofAnySize(bytes)), score, settings.smallest_face);
    }
    return new Detector(ort, network, settings, finder);
  }

  constructor(ort, network, settings, finder) {
    Object.assign(this, { ort, network, settings, finder });
  }

  /** The faces of a picture (RGB, see pixels.js), the surest first; `smallest`: pixels of the smallest face that must be found. */
  async detect(picture, smallest) {
    const { mode, iou } = this.settings;
    const faces = mode === "frame" ? [] : await this.named(picture, smallest);
    const whole = mode === "faces" ? [] : await this.framed(picture);
    return [...faces, ...whole.filter((face) => faces.every((other) => agreement(face, other) <= iou))].sort((one, other) => other.face - one.face);
  }

  /** The network's output for each square: an array for each of its 12 rows. */
  async run(squares) {
    const size = this.settings.image_size, plane = size * size, outputs = [];
    for (let start = 0; start < squares.length; start += BATCH) {
      const some = squares.slice(start, start + BATCH), input = new Float32Array(some.length * 3 * plane);
      some.forEach(({ data }, number) => {
        for (let channel = 0; channel < 3; channel++) {
          for (let from = channel, to = (3 * number + channel) * plane; from < data.length; from += 3, to++) input[to] = data[from] / 255;
        }
      });
      const tensor = new this.ort.Tensor("float32", input, [some.length, 3, size, size]);
      const { data, dims: [, rows, places] } = (await this.network.run({ [this.network.inputNames[0]]: tensor }))[this.network.outputNames[0]];
      some.forEach((_, number) => outputs.push(Array.from({ length: rows }, (_, row) => data.subarray((number * rows + row) * places, (number * rows + row + 1) * places))));
    }
    return outputs;
  }

  /** What the network says of each place: its box in pixels of the square, its eight scores and the best of them. */
  places([x, y, width, height, ...scores]) {
    return Array.from(x, (_, place) => {
      const row = scores.map((one) => one[place]);
      const [halfWidth, halfHeight] = [width[place] / 2, height[place] / 2];
      return { left: x[place] - halfWidth, top: y[place] - halfHeight, right: x[place] + halfWidth, bottom: y[place] + halfHeight, scores: row, score: Math.max(...row) };
    });
  }

  /** The faces that the network finds in the whole picture. */
  async framed(picture) {
    const { image_size, confidence, iou } = this.settings, { square, scale, left, top } = letterbox(picture, image_size);
    const sure = this.places((await this.run([square]))[0]).filter((place) => place.score > confidence);
    return best(sure, (place) => place.score, iou).slice(0, MOST).map((place) => {
      const across = (value) => Math.min(Math.max((value - left) / scale, 0), picture.width);
      const down = (value) => Math.min(Math.max((value - top) / scale, 0), picture.height);
      return this.detection({ left: across(place.left), top: down(place.top), right: across(place.right), bottom: down(place.bottom) }, place.score, place.scores);
    });
  }

  /** The faces that the finder finds and, where it is not sure or they are too small, the network confirms, with what the network says of their cut-outs. */
  async named(picture, smallest) {
    const { image_size, share, face_score, confirm, smallest_face } = this.settings, { width, height } = picture;
    const side = (face) => Math.sqrt(face.width * width * face.height * height);
    const found = (await this.finder.find(picture, smallest)).filter((face) => side(face) >= smallest_face / 2), cuts = found.map((face) => cutOut(picture, face, share, image_size));
    return (await this.run(cuts.map((cut) => cut.square))).flatMap((output, number) => {
      const face = found[number], middle = image_size / 2, places = this.places(output);
      const across = (face.width * width * cuts[number].scale) / 2, down = (face.height * height * cuts[number].scale) / 2;
      const agreements = places.map((place) => agreement(place, { left: middle - across, top: middle - down, right: middle + across, bottom: middle + down }));
      const small = side(face) < smallest_face;
      if ((face.score < face_score || (small && confirm <= 1)) && surenessAt(places, agreements) < confirm) return [];
      const [left, right] = [-1, 1].map((side) => (face.x + (side * face.width) / 2) * width), [top, bottom] = [-1, 1].map((side) => (face.y + (side * face.height) / 2) * height);
      return [this.detection({ left, top, right, bottom }, face.score, scoresAt(places, agreements))];
    });
  }

  /** A face of its box and the network's scores, as the service tells it. */
  detection(box, face, scores) {
    const { names, temperature, reject } = this.settings, shares = toProbabilities(scores, temperature);
    const confidence = Math.max(...shares), emotion = names[shares.indexOf(confidence)];
    return { ...box, face, emotion, confidence, probabilities: Object.fromEntries(names.map((name, place) => [name, shares[place]])), uncertain: confidence < reject };
  }
}
