// The browser's engine, off the page's thread: fetches ONNX Runtime and the model, then answers pictures.
import { Detector } from "./detector.js";
import { withoutAlpha } from "./pixels.js";

let detector;

/** The model's bytes; the page hears how much of it has come. */
async function fetchModel(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${response.status}`);
  const parts = [], all = Number(response.headers.get("content-length"));
  let length = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    length += value.length;
    if (all) postMessage({ share: Math.min(length / all, 1) });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Make the detector; what fails is told by name: vendor, model or browser. */
async function load(address) {
  let step = "vendor";
  try {
    const ort = await import("./vendor/ort.wasm.bundle.min.mjs");
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1;
    step = "model";
    const model = await fetchModel(address);
    step = "browser";
    detector = await Detector.load(ort, model);
    postMessage({ ready: true });
  } catch (error) {
    postMessage({ failed: step, detail: String(error) });
  }
}

/** The pixels of a picture as a person sees them; transparency falls on white. */
function pixels(bitmap) {
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const { width, height } = bitmap;
  bitmap.close();
  return withoutAlpha(context.getImageData(0, 0, width, height));
}

self.onmessage = async ({ data: { model, id, bitmap, smallest } }) => {
  if (model) return load(model);
  try {
    const picture = pixels(bitmap);
    postMessage({ id, result: { width: picture.width, height: picture.height, faces: await detector.detect(picture, smallest) } });
  } catch (error) {
    postMessage({ id, detail: error.message });
  }
};
