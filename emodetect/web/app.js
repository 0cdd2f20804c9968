// The page: a notice, then pictures from files, the clipboard, an example or the camera. Nothing is stored.
import { ask, useKey } from "./access.js";
import { Camera } from "./camera.js";
import { startEngine } from "./engine.js";
import { Problem, percent, say, translate } from "./texts.js";
import { Result, make, sayResult } from "./view.js";

const $ = (id) => document.getElementById(id);
const EXAMPLES = ["happy", "anger", "surprise", "sad", "scene", "unclear", "nobody"]; // drawn by `make examples`
const PAUSE = 2000; // milliseconds between two sentences about the camera's picture, for those who hear the page
const host = location.host;

/** Tell those who hear the page; a trouble is shown, too. */
function tell(text, trouble = false) {
  $("status").textContent = text;
  $("status").classList.toggle("trouble", trouble);
}

await translate(document);

// ---- Whether the service wants a key ----

/** What the service tells of its model, once it takes the reader's key; {} if it doesn't answer. */
async function admit() {
  for (let refused = false; ; refused = true) {
    const response = await ask("v1/model").catch(() => null);
    if (response?.status !== 401) return response?.ok ? response.json() : {};
    useKey(await askKey(refused));
  }
}

const askKey = (refused) => new Promise((resolve) => {
  const field = Object.assign(make("input"), { type: "password", id: "key", autocomplete: "off", required: true, maxLength: 200 });
  field.setAttribute("aria-describedby", "key-text");
  const label = Object.assign(make("label", "", say("key")), { htmlFor: "key" });
  const text = Object.assign(make("p", "quiet", say(refused ? "key.refused" : "key.text", { host })), { id: "key-text" });
  const form = make("form", "card key", make("p", "actions", label, field, make("button", "primary", say("key.use"))), text);
  form.onsubmit = (event) => {
    event.preventDefault();
    form.remove();
    document.querySelector("#about a[href='v1/model']").hidden = true; // a link sends no key
    resolve(field.value.trim());
  };
  $("main").prepend(form);
  field.focus();
});

const admitted = admit();

// ---- Who looks at the pictures ----

let server = false; // whether the reader knows that pictures go to the server

function showEngine(kind, values = {}) {
  const [title, text] = $("engine").children;
  $("engine").dataset.engine = kind;
  title.textContent = say(`engine.${kind}`);
  text.textContent = say(`engine.${kind}.text`, { host, ...values });
  $("where").textContent = kind === "loading" ? say("notice.where") : text.textContent;
}

const progress = (share) => showEngine("loading", { share: share ? ` (${percent(share)})` : "" });

async function start() {
  progress(0);
  await admitted;
  try {
    const engine = await startEngine(progress);
    showEngine(engine.kind, engine.reason && { reason: say(`reason.${engine.reason}`) });
    return engine;
  } catch (problem) {
    showEngine("none");
    throw problem;
  }
}

let engine = start();
engine.catch(() => {}); // told when a picture needs it

/** The engine, once it is there. Before the first picture leaves the device the reader is asked, if the notice could not yet say so. */
async function ready() {
  const one = await engine.catch(() => (engine = start()));
  if (one.kind === "server" && !server) await (asked ??= consent());
  return one;
}

let asked = null;
const consent = () => new Promise((resolve) => {
  const send = Object.assign(make("button", "primary", say("consent.send", { host })), { type: "button" });
  const box = make("div", "card consent", make("p", "", say("consent", { host })), make("p", "actions", send));
  send.onclick = () => {
    server = true;
    box.remove();
    resolve();
  };
  $("status").after(box);
  send.focus();
});

$("agree").onclick = async () => {
  $("notice").hidden = true;
  $("tool").hidden = false;
  $("tool-title").focus();
  server = $("engine").dataset.engine === "server";
};

// ---- Pictures ----

let queue = Promise.resolve(); // one picture after the other

function add(files) {
  if ($("tool").hidden || !files.length) return; // the notice comes first, and a pasted text is no picture
  camera.stop();
  const results = [...files].map((file) => {
    const name = file.name || say("pasted"), address = URL.createObjectURL(file);
    const result = new Result(name, address, () => {
      URL.revokeObjectURL(address);
      result.element.remove();
      $("clear").hidden = !$("results").children.length;
      $("tool-title").focus();
    });
    queue = queue.then(() => look(file, result));
    return result;
  });
  $("results").prepend(...results.map((result) => result.element));
  $("clear").hidden = !$("results").children.length;
}

async function look(file, result) {
  if (!result.element.isConnected) return; // removed meanwhile
  const { name } = result;
  try {
    result.wait(say("status.waiting"));
    const one = await ready(), start = performance.now();
    result.wait(say("status.looking"));
    tell(`${name}: ${say("status.looking")}`);
    const found = await one.file(file);
    result.show(found, performance.now() - start);
    tell(sayResult(name, found));
  } catch (error) {
    const problem = error instanceof Problem ? error : new Problem("problem.engine", { detail: error.message });
    tell(`${name}: ${problem.text}`);
    result.fail(problem, () => {
      result.remove();
      add([file]);
    });
  }
}

$("files").onchange = ({ target }) => {
  add(target.files);
  target.value = ""; // so that the same file can be chosen again
};
document.addEventListener("paste", ({ clipboardData }) => add(clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", ({ relatedTarget }) => { if (!relatedTarget) $("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
$("clear").onclick = () => document.querySelectorAll("#results .close").forEach((close) => close.click());

for (const name of EXAMPLES) {
  const picture = fetch(`examples/${name}.jpg`).then((response) => response.blob()); // at once, so that it is there without a network, too
  const image = make("img"), button = Object.assign(make("button", "", image), { type: "button" });
  image.alt = say(`example.${name}`);
  picture.then((blob) => { image.src = URL.createObjectURL(blob); });
  button.onclick = async () => add([new File([await picture], `${name}.jpg`, { type: "image/jpeg" })]);
  $("examples").append(make("li", "", button));
}

// ---- The camera ----

let told = 0; // when something was last said of the camera's picture

const camera = new Camera($("live"), (on) => {
  $("camera").textContent = say(on ? "camera.stop" : "camera.start");
  tell(say(on ? "camera.started" : "camera.stopped"));
}, (problem) => tell(problem.text, true), (result) => {
  const text = sayResult(say("camera.title"), result), now = performance.now();
  if (now - told < PAUSE || text === $("status").textContent) return;
  told = now;
  tell(text);
});

$("camera").onclick = async () => {
  if (camera.on) return camera.stop();
  try {
    await camera.start(await ready());
  } catch (problem) {
    tell(problem.text, true);
  }
};
window.addEventListener("pagehide", () => camera.stop());

// ---- The model's card ----

const card = $("about"), model = await admitted;
if (model.source) document.querySelectorAll(".source").forEach((link) => { link.href = model.source; });
const facts = {
  name: [model.name, model.version].filter(Boolean).join(" "),
  sha256: model.sha256,
  licence: model.licence,
  uncertain: model.settings && say("card.uncertain.text", { reject: percent(model.settings.reject) }),
  steps: model.provenance?.map((step) => step.stage).filter(Boolean).join(" → "),
};
for (const [key, fact] of Object.entries(facts)) if (fact) card.querySelector("dl").append(make("div", "", make("dt", "", say(`card.${key}`)), make("dd", "", fact)));
if (model.card) Object.assign(card.querySelector("pre"), { textContent: model.card.replace(/^---\n[^]*?\n---\n\s*/, ""), hidden: false }); // without the head, which is for machines
document.querySelector(".card-link").onclick = () => { card.open = true; };
