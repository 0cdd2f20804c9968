// The page: a notice, then pictures from files, the clipboard, an example or the camera. Nothing is stored.
import { SILENCE, ask, keyInUse, limited, useKey } from "./access.js";
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

/** What went wrong, in a form that the reader can be told. */
const asProblem = (error) => (error instanceof Problem ? error : new Problem("problem.engine", { detail: error.message }));

await translate(document);

// ---- Whether the service wants a key ----

/** What the service tells of its model, once it takes the reader's key; {} if it doesn't answer in time. With a key that cannot even be sent nothing else could be asked. */
async function admit() {
  for (;;) {
    const [status, model] = await limited(SILENCE, async (signal) => {
      const response = await ask("v1/model", { signal });
      return [response.status, response.ok ? await response.json().catch(() => ({})) : {}];
    }).catch(() => [0, {}]);
    if (status ? status !== 401 : !keyInUse()) return model;
    useKey(await askKey(!keyInUse() ? "key.text" : status ? "key.refused" : "key.unsent"));
  }
}

const askKey = (why) => new Promise((resolve) => {
  const field = Object.assign(make("input"), { type: "password", id: "key", autocomplete: "off", required: true, maxLength: 200 });
  field.setAttribute("aria-describedby", "key-text");
  const label = Object.assign(make("label", "", say("key")), { htmlFor: "key" });
  const text = Object.assign(make("p", "quiet", say(why, { host })), { id: "key-text" });
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

let admitted = admit();

/** Begin again with another key, after an answer that the one in use, or none, is not taken; whether there is another. */
async function readmit() {
  const before = keyInUse();
  if ($("engine").dataset.engine !== "loading") { // else it is under way
    admitted = admit();
    engine = start();
    engine.catch(() => {});
  }
  await admitted;
  return keyInUse() !== before;
}

// ---- Who looks at the pictures ----

function showEngine(kind, values = {}) {
  const [title, text] = $("engine").children;
  $("engine").dataset.engine = kind;
  title.textContent = say(`engine.${kind}`);
  text.textContent = say(`engine.${kind}.text`, { host, ...values });
  $("where").textContent = kind === "loading" ? say("notice.where") : text.textContent;
  $("where-told").textContent = kind === "loading" ? "" : `${title.textContent}: ${text.textContent}`;
}

const progress = (share) => showEngine("loading", { share: share ? ` (${percent(share)})` : "" });

async function start() {
  progress(0);
  showModel(await admitted);
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

const allowed = { pictures: false, camera: false }; // what the reader lets go to the server, asked on a card: the notice is read while nobody knows yet who looks at the pictures
const questions = {}; // about which of them is being asked: {answer, close}

/** The engine, once it is there, for pictures or the camera's; null if they are no longer wanted, or may not leave the device. The reader is asked before the first one does. */
async function ready(what, wanted) {
  const one = await engine.catch(() => (engine = start()));
  if (!wanted()) return null;
  if (one.kind !== "server" || allowed[what]) return one;
  questions[what] ??= consent(what);
  return await questions[what].answer && wanted() ? one : null;
}

/** Ask on a card whether pictures, or the camera's, may go to the server. */
function consent(what) {
  const title = Object.assign(make("h3", "", say(`consent.${what}`, { host })), { id: `consent-${what}` });
  const text = Object.assign(make("p", "", say(`consent.${what}.text`)), { id: `consent-${what}-text` });
  const [send, keep] = ["send", "keep"].map((key) => Object.assign(make("button", "", say(`consent.${key}`)), { type: "button" }));
  const card = Object.assign(make("div", "card consent", title, text, make("p", "actions", send, keep)), { tabIndex: -1 });
  card.setAttribute("role", "group");
  card.setAttribute("aria-labelledby", title.id);
  for (const element of [card, send, keep]) element.setAttribute("aria-describedby", text.id);
  let told;
  const answer = new Promise((resolve) => { told = resolve; });
  const close = (yes) => {
    allowed[what] = yes;
    delete questions[what];
    if (card.contains(document.activeElement)) $(what === "camera" ? "camera" : "tool-title").focus();
    card.remove();
    told(yes);
  };
  send.onclick = () => close(true);
  keep.onclick = () => {
    close(false);
    if (what === "pictures") document.querySelectorAll("#results [aria-busy=true] .close").forEach((one) => one.click());
    else camera.stop();
    tell(say("consent.kept"));
  };
  $("status").after(card);
  card.focus(); // the card, not a button: a key that is pressed by chance sends nothing
  return { answer, close };
}

$("agree").onclick = () => {
  $("notice").hidden = true;
  $("tool").hidden = false;
  $("tool-title").focus();
};

// ---- Pictures ----

let queue = Promise.resolve(); // one picture after the other

function add(files) {
  if ($("tool").hidden || !files.length) return; // the notice comes first, and a pasted text is no picture
  camera.stop();
  const results = [...files].map((file) => {
    const name = file.name || say("pasted"), address = URL.createObjectURL(file), removed = new AbortController();
    const result = new Result(name, address, () => {
      removed.abort();
      URL.revokeObjectURL(address);
      result.element.remove();
      $("clear").hidden = !$("results").children.length;
      $("tool-title").focus();
      if (!document.querySelector("#results [aria-busy=true]")) questions.pictures?.close(false); // nothing waits for the answer
    });
    queue = queue.then(() => look(file, result, removed.signal));
    return result;
  });
  $("results").prepend(...results.map((result) => result.element));
  $("clear").hidden = !$("results").children.length;
}

async function look(file, result, removed) {
  const { name } = result, wanted = () => !removed.aborted;
  if (!wanted()) return;
  try {
    result.wait(say("status.waiting"));
    const one = await ready("pictures", wanted), start = performance.now();
    if (!one) return;
    result.wait(say("status.looking"));
    tell(`${name}: ${say("status.looking")}`);
    const found = await one.file(file, removed);
    if (!wanted()) return;
    result.show(found, performance.now() - start);
    tell(sayResult(name, found));
  } catch (error) {
    const problem = asProblem(error), again = wanted() && problem.values.status === 401 && await readmit();
    if (!wanted()) return; // that what was asked was broken off is no trouble
    if (again) return look(file, result, removed);
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

/** Show and tell why the camera gives no answer. */
function trouble(problem) {
  told = -PAUSE; // so that the next answer takes its place at once
  tell(problem.text, true);
}

const camera = new Camera($("live"), {
  changed: (state) => {
    $("camera").textContent = say(state === "stopped" ? "camera.start" : "camera.stop");
    tell(say(`camera.${state}`));
    if (state === "stopped") questions.camera?.close(false);
  },
  failed: (error) => {
    const problem = asProblem(error);
    trouble(problem);
    if (problem.values.status === 401) readmit();
  },
  delayed: trouble,
  seen: (result) => {
    const text = sayResult(say("camera.title"), result), now = performance.now();
    if (now - told < PAUSE || text === $("status").textContent) return;
    told = now;
    tell(text);
  },
});

$("camera").onclick = async () => {
  if (camera.on) return camera.stop();
  try {
    await camera.start((wanted) => ready("camera", wanted));
  } catch (error) {
    trouble(asProblem(error));
  }
};
window.addEventListener("pagehide", () => camera.stop());

// ---- The model's card ----

document.querySelector(".card-link").onclick = () => { $("about").open = true; };

/** Show what the service tells of its model. */
function showModel(model) {
  if (model.source) document.querySelectorAll(".source").forEach((link) => { link.href = model.source; });
  const facts = {
    name: [model.name, model.version].filter(Boolean).join(" "),
    sha256: model.sha256,
    licence: model.licence,
    uncertain: model.settings && say("card.uncertain.text", { reject: percent(model.settings.reject) }),
    steps: model.provenance?.map((step) => step.stage).filter(Boolean).join(" → "),
  };
  const told = Object.entries(facts).filter(([, fact]) => fact).map(([key, fact]) => make("div", "", make("dt", "", say(`card.${key}`)), make("dd", "", fact)));
  document.querySelector("#about dl").replaceChildren(...told);
  if (model.card) Object.assign(document.querySelector("#about pre"), { textContent: model.card.replace(/^---\n[^]*?\n---\n\s*/, ""), hidden: false }); // without the head, which is for machines
}
