// The camera: one frame after the other goes through the engine, never two at once.
import { Problem, say } from "./texts.js";
import { showBoxes, showFaces } from "./view.js";

const WANTED = { video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" }, audio: false };
const REASONS = { NotFoundError: "camera.none", OverconstrainedError: "camera.none", NotAllowedError: "camera.refused" };

const release = (stream) => stream.getTracks().forEach((track) => track.stop());

export class Camera {
  on = false; // from when it is wanted until it is stopped
  stopped = null; // of the last start, an AbortController; what waits for something knows by it that it is outdated
  stream = null;

  /** `section` shows it; `changed` hears that it is waiting, started or stopped, `failed` the `Problem` that ended it, `delayed` the one for which it waits, `seen` each answer. */
  constructor(section, { changed, failed, delayed, seen }) {
    Object.assign(this, { section, changed, failed, delayed, seen });
    this.video = section.querySelector("video");
    this.frame = section.querySelector(".frame");
    this.list = section.querySelector(".faces");
    this.rate = section.querySelector("#rate");
  }

  /** Begin once `ready` gives the engine, asked with a function that tells whether it is still wanted; a `Problem` if there is no camera or it may not be used. */
  async start(ready) {
    if (!navigator.mediaDevices) throw new Problem("camera.insecure");
    const { signal } = this.stopped = new AbortController(), wanted = () => !signal.aborted;
    this.on = true;
    this.changed("waiting");
    try {
      const engine = await ready(wanted);
      if (!wanted()) return;
      if (!engine) return this.stop();
      const stream = await navigator.mediaDevices.getUserMedia(WANTED).catch((error) => { throw new Problem(REASONS[error.name] ?? "camera.taken"); });
      if (!wanted()) return release(stream);
      this.stream = this.video.srcObject = stream; // from here on `stop` releases it
      await this.video.play().catch(() => { throw new Problem("camera.taken"); });
      if (!wanted()) return;
      stream.getVideoTracks()[0].onended = () => this.end(new Problem("camera.taken"));
      this.section.hidden = false;
      this.changed("started");
      this.run(engine, signal);
    } catch (problem) {
      if (!wanted()) return; // it was stopped, so that nobody asks why it doesn't start
      this.stop();
      throw problem;
    }
  }

  stop() {
    if (!this.on) return;
    this.on = false;
    this.stopped.abort();
    this.clear();
    if (this.stream) release(this.stream);
    this.stream = this.video.srcObject = null;
    this.section.hidden = true;
    this.changed("stopped");
  }

  end(problem) {
    this.stop();
    this.failed(problem);
  }

  show(result) {
    showBoxes(this.frame, result);
    showFaces(this.list, result.faces);
  }

  /** Take away what was seen in a picture that is gone. */
  clear() {
    this.show({ width: this.video.videoWidth || 1, height: this.video.videoHeight || 1, faces: [] });
    this.rate.textContent = "";
  }

  async run(engine, signal) {
    const times = [];
    while (!signal.aborted) {
      const start = performance.now();
      try {
        const result = await engine.frame(this.video, signal);
        if (signal.aborted) return;
        this.show(result);
        this.seen(result);
      } catch (problem) {
        if (signal.aborted) return; // what was asked was broken off
        if (!problem.wait) return this.end(problem);
        this.clear();
        this.delayed(problem);
        await new Promise((resolve) => setTimeout(resolve, 1000 * problem.wait));
        times.length = 0;
        continue;
      }
      await new Promise(requestAnimationFrame);
      times.push(performance.now());
      while (times.length > 2 && times.at(-1) - times[0] > 2000) times.shift();
      const span = (times.at(-1) - times[0]) / 1000;
      if (span) this.rate.textContent = say("camera.rate", { rate: ((times.length - 1) / span).toFixed(1), time: Math.round(times.at(-1) - start) });
    }
  }
}
