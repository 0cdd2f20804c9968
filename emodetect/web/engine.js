// Who looks at the pictures: this browser if it can, else the server. Both answer {width, height, faces} as POST /v1/predict does.
import { SILENCE, ask, keyInUse, limited } from "./access.js";
import { readsTrue } from "./pixels.js";
import { Problem } from "./texts.js";

const MOST = 50_000_000; // pixels; a larger picture is refused, as the Python detector does
const PIXELS = 16_000_000, BYTES = 9_900_000; // that a service takes unless it is set otherwise (serve.pixels; serve.body_megabytes, with room for the form)
const AGAIN = 1000; // milliseconds after which what the network failed to bring is fetched once more
const REASONS = ["vendor", "model", "network"]; // why it isn't the browser; what else goes wrong is the browser's fault
const PATIENCE = 60_000; // milliseconds that the server has for an answer
const FAR = 64; // of a large picture, faces smaller than this part of its longer side are not looked for: a browser takes ten times as long as the service
const NEAR = 75; // pixels; the camera's faces are near, and looking for small ones takes several times as long
const AS_STORED = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };

/** An answer whose faces are numbered as one reads them, from the left. */
const ordered = (result) => ({ ...result, faces: result.faces.sort((one, other) => one.left - other.left) });

/** A picture file decoded; a `Problem` if it is none or too large. */
async function decode(file) {
  const bitmap = await createImageBitmap(file, AS_STORED).catch(() => { throw new Problem("problem.unreadable"); });
  const { width, height } = bitmap;
  if (width * height > MOST) {
    bitmap.close();
    throw new Problem("problem.large", { width, height, most: MOST.toLocaleString() });
  }
  return bitmap;
}

/** A picture drawn at a size, on white, as a JPEG file; null if it cannot be. */
function drawn(picture, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), context = canvas.getContext("2d", { alpha: false });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
}

/** A picture as a file that a service takes, smaller if it must be; null if it cannot be drawn. */
async function within(bitmap) {
  const { width, height } = bitmap, pixels = width * height;
  for (let most = Math.min(pixels, PIXELS); ; most /= 2) {
    const scale = Math.sqrt(most / pixels), file = await drawn(bitmap, Math.max(Math.floor(scale * width), 1), Math.max(Math.floor(scale * height), 1));
    if (!file || file.size <= BYTES) return file;
  }
}

/** The answer about a picture that was drawn smaller, in the pixels that it had. */
function enlarged(result, { width, height }) {
  const across = width / result.width, down = height / result.height;
  return { width, height, faces: result.faces.map((face) => ({ ...face, left: across * face.left, top: down * face.top, right: across * face.right, bottom: down * face.bottom })) };
}

class BrowserEngine {
  kind = "browser";
  waiting = new Map();
  last = 0;

  /** The engine, once its model is there; rejects with the name of what is missing. A worker's scripts that don't come are told without a message; that the network fell silent is told by nobody, so that waiting ends. */
  static start(progress) {
    const worker = new Worker("worker.js", { type: "module" }), engine = new BrowserEngine(worker);
    let timer;
    return new Promise((resolve, reject) => {
      const fail = (why) => {
        worker.terminate();
        reject(new Error(why));
      };
      const wait = () => {
        clearTimeout(timer);
        timer = setTimeout(fail, SILENCE, "network");
      };
      worker.onerror = ({ message }) => {
        reject(new Error(message ? "browser" : "network"));
        [...engine.waiting.keys()].forEach((id) => engine.answer({ id, detail: message }));
      };
      worker.onmessage = ({ data }) => {
        if (data.share !== undefined) {
          wait();
          progress(data.share);
        } else if (data.fetched) clearTimeout(timer); // the rest takes as long as this device needs
        else if (data.ready) resolve(engine);
        else if (data.failed) fail(data.failed);
        else engine.answer(data);
      };
      wait();
      worker.postMessage({ key: keyInUse() });
    }).finally(() => clearTimeout(timer));
  }

  constructor(worker) {
    this.worker = worker;
  }

  answer({ id, result, detail }) {
    const { resolve, reject } = this.waiting.get(id);
    this.waiting.delete(id);
    if (result) resolve(ordered(result));
    else reject(new Problem("problem.engine", { detail }));
  }

  look(bitmap, smallest) {
    return new Promise((resolve, reject) => {
      this.waiting.set(++this.last, { resolve, reject });
      this.worker.postMessage({ id: this.last, bitmap, smallest }, [bitmap]);
    });
  }

  async file(file) {
    const bitmap = await decode(file);
    return this.look(bitmap, Math.max(bitmap.width, bitmap.height) / FAR);
  }

  async frame(video) {
    return this.look(await createImageBitmap(video), NEAR);
  }
}

class ServerEngine {
  kind = "server";

  draws = readsTrue(document.createElement("canvas")); // whether it can draw a picture smaller, and the camera's at all

  /** `reason`: why it isn't the browser: vendor, model, network or browser. */
  constructor(reason) {
    this.reason = reason;
  }

  /** A picture that is too large for the service is drawn smaller; one that the browser cannot read may be one for the service. Once `signal` is aborted nothing is sent any more. */
  async file(file, signal) {
    const bitmap = this.draws && await decode(file).catch((problem) => { if (problem.key === "problem.large") throw problem; });
    if (!bitmap) return this.send(file, file.name, signal);
    const { width, height } = bitmap, smaller = width * height > PIXELS || file.size > BYTES ? await within(bitmap) : null;
    bitmap.close();
    return smaller ? enlarged(await this.send(smaller, file.name, signal), { width, height }) : this.send(file, file.name, signal);
  }

  async send(picture, name, signal) {
    const form = new FormData();
    form.append("files", picture, name || "picture");
    const [response, answer] = await limited(PATIENCE, async (end) => {
      const response = await ask("v1/predict", { method: "POST", body: form, signal: end });
      return [response, await response.json().catch(() => ({}))];
    }, signal).catch(() => { throw new Problem("problem.gone", { host: location.host }); });
    if (response.ok && answer.pictures) return ordered(answer.pictures[0]);
    const problem = answer.detail ? new Problem("problem.told", answer) : new Problem("problem.gone", { host: location.host });
    problem.wait = [429, 503].includes(response.status) ? Number(response.headers.get("retry-after")) || 1 : 0;
    throw problem;
  }

  async frame(video, signal) {
    if (!this.draws) throw new Problem("camera.hidden");
    return this.send(await drawn(video, video.videoWidth, video.videoHeight), "", signal);
  }
}

/** The engine that can be had: the browser's, else the server's; a `Problem` if the server doesn't answer. */
export async function startEngine(progress) {
  try {
    return await BrowserEngine.start(progress).catch(async (error) => {
      if (error.message !== "network") throw error;
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
      return BrowserEngine.start(progress);
    });
  } catch (error) {
    const answers = await limited(SILENCE, (signal) => fetch("healthz", { signal })).then((response) => response.ok, () => false);
    if (!answers) throw new Problem("engine.none.text", { host: location.host });
    return new ServerEngine(REASONS.includes(error.message) ? error.message : "browser");
  }
}
