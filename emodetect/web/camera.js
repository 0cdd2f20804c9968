// The camera: one frame after the other goes through the engine, never two at once.
import { Problem, say } from "./texts.js";
import { showBoxes, showFaces } from "./view.js";

const WANTED = { video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" }, audio: false };
const REASONS = { NotFoundError: "camera.none", OverconstrainedError: "camera.none", NotAllowedError: "camera.refused" };

export class Camera {
  /** `section` shows it; `changed` hears whether it is on, `failed` the `Problem` that ended it, `seen` each answer. */
  constructor(section, changed, failed, seen) {
    Object.assign(this, { section, changed, failed, seen, stream: null, starting: false });
    this.video = section.querySelector("video");
  }

  get on() {
    return this.stream !== null;
  }

  /** Ask for the camera and begin, unless that is under way; a `Problem` if there is none or it may not be used. */
  async start(engine) {
    if (this.on || this.starting) return;
    if (!navigator.mediaDevices) throw new Problem("camera.insecure");
    this.starting = true;
    try {
      const stream = await navigator.mediaDevices.getUserMedia(WANTED).catch((error) => { throw new Problem(REASONS[error.name] ?? "camera.taken"); });
      this.video.srcObject = stream;
      await this.video.play().catch(() => {
        this.release(stream);
        throw new Problem("camera.taken");
      });
      stream.getVideoTracks()[0].onended = () => this.end(new Problem("camera.taken"));
      this.stream = stream; // not before: it is on from here, and can be stopped
    } finally {
      this.starting = false;
    }
    this.section.hidden = false;
    this.changed(true);
    this.run(engine, this.stream);
  }

  release(stream) {
    stream.getTracks().forEach((track) => track.stop());
    this.stream = this.video.srcObject = null;
  }

  stop() {
    if (!this.on) return;
    this.release(this.stream);
    this.section.hidden = true;
    this.changed(false);
  }

  end(problem) {
    this.stop();
    this.failed(problem);
  }

  async run(engine, stream) {
    const frame = this.section.querySelector(".frame"), list = this.section.querySelector(".faces"), rate = this.section.querySelector("#rate");
    const times = [];
    while (this.stream === stream) {
      const start = performance.now();
      try {
        const result = await engine.frame(this.video);
        if (this.stream !== stream) return;
        showBoxes(frame, result);
        showFaces(list, result.faces);
        this.seen(result);
      } catch (problem) {
        if (this.stream !== stream) return;
        if (!problem.wait) return this.end(problem);
        await new Promise((resolve) => setTimeout(resolve, 1000 * problem.wait));
        continue;
      }
      await new Promise(requestAnimationFrame);
      times.push(performance.now());
      while (times.length > 2 && times.at(-1) - times[0] > 2000) times.shift();
      const span = (times.at(-1) - times[0]) / 1000;
      if (span) rate.textContent = say("camera.rate", { rate: ((times.length - 1) / span).toFixed(1), time: Math.round(times.at(-1) - start) });
    }
  }
}
