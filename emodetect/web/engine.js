// Who looks at the pictures: this browser if it can, else the server. Both answer {width, height, faces} as POST /v1/predict does.
import { ask, keyInUse } from "./access.js";
import { Problem } from "./texts.js";

const MOST = 50_000_000; // pixels; a larger picture is refused, as the Python detector does
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

class BrowserEngine {
  kind = "browser";
  waiting = new Map();
  last = 0;

  /** The engine, once its model is there; rejects with the name of what is missing. */
  static start(progress) {
    const worker = new Worker("worker.js", { type: "module" }), engine = new BrowserEngine(worker);
    return new Promise((resolve, reject) => {
      worker.onerror = ({ message }) => {
        reject(new Error("browser"));
        [...engine.waiting.keys()].forEach((id) => engine.answer({ id, detail: message }));
      };
      worker.onmessage = ({ data }) => {
        if (data.share !== undefined) progress(data.share);
        else if (data.ready) resolve(engine);
        else if (data.failed) {
          worker.terminate();
          reject(new Error(data.failed));
        } else engine.answer(data);
      };
      worker.postMessage({ key: keyInUse() });
    });
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

  /** `reason`: why it isn't the browser: vendor, model or browser. */
  constructor(reason) {
    this.reason = reason;
  }

  async file(file) {
    const form = new FormData();
    form.append("files", file, file.name || "picture");
    const options = { method: "POST", body: form, signal: AbortSignal.timeout(PATIENCE) };
    const response = await ask("v1/predict", options).catch(() => { throw new Problem("problem.gone", { host: location.host }); });
    const answer = await response.json().catch(() => ({}));
    if (response.ok) return ordered(answer.pictures[0]);
    const problem = answer.detail ? new Problem("problem.told", answer) : new Problem("problem.gone", { host: location.host });
    problem.wait = [429, 503].includes(response.status) ? Number(response.headers.get("retry-after")) || 1 : 0;
    throw problem;
  }

  async frame(video) {
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    return this.file(await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9)));
  }
}

/** The engine that can be had: the browser's, else the server's; a `Problem` if the server doesn't answer. */
export async function startEngine(progress) {
  try {
    return await BrowserEngine.start(progress);
  } catch (error) {
    const answers = await fetch("healthz").then((response) => response.ok, () => false);
    if (!answers) throw new Problem("engine.none.text", { host: location.host });
    return new ServerEngine(error.message);
  }
}
