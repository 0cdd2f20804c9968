// The browser's engine, off the page's thread: fetches ONNX Runtime and the model, then answers pictures.
import { ask, useKey } from "./access.js";
import { Detector } from "./detector.js";
import { readsTrue, withoutAlpha } from "./pixels.js";

const ENGINE = "./vendor/ort.wasm.bundle.min.mjs";
const WITHHELD = [401, 403, 404]; // what isn't there, or not for this reader: another try would not help

let detector, come = 0, all = 0; // bytes of what is fetched

/** A file's bytes; the page hears how much of everything has come. */
async function fetchBytes(address) {
  const response = await ask(address), parts = [];
  if (!response.ok) throw Object.assign(new Error(`${address}: ${response.status}`), { withheld: WITHHELD.includes(response.status) });
  all += Number(response.headers.get("content-length"));
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(value);
    come += value.length;
    postMessage({ share: all && Math.min(come / all, 1) }); // also if nobody says how much there is: that something comes is what counts
  }
}

/** ONNX Runtime. An import doesn't tell why it failed, so that what it wanted is fetched then. */
const importEngine = () => import(ENGINE).catch(async (error) => {
  await fetchBytes(ENGINE);
  throw error;
});

/** Make the detector; what fails is told by name: vendor or model if it is withheld, browser, or network, after which another try may help. */
async function load() {
  let step = "browser";
  try {
    if (!readsTrue(new OffscreenCanvas(1, 1))) throw new Error("pixels that are read are not those that were drawn");
    step = "vendor";
    const ort = await importEngine(), model = fetchBytes("v1/model.onnx");
    model.catch(() => {}); // told below, in its turn
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.max(1, Math.min(navigator.hardwareConcurrency >> 1, 4)) : 1; // on a busy machine more are slower
    ort.env.wasm.wasmBinary = (await fetchBytes("vendor/ort-wasm-simd-threaded.wasm")).buffer;
    step = "model";
    const bytes = await model;
    postMessage({ fetched: true });
    step = "browser";
    detector = await Detector.load(ort, bytes);
    postMessage({ ready: true });
  } catch (error) {
    const unable = step === "browser" || error instanceof SyntaxError;
    postMessage({ failed: unable ? "browser" : error.withheld ? step : "network", detail: String(error) });
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

self.onmessage = async ({ data: { id, bitmap, smallest, key } }) => {
  if (key !== undefined) {
    useKey(key);
    return load();
  }
  try {
    const picture = pixels(bitmap);
    postMessage({ id, result: { width: picture.width, height: picture.height, faces: await detector.detect(picture, smallest) } });
  } catch (error) {
    postMessage({ id, detail: error.message });
  }
};
