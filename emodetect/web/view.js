// What is found, shown: a picture with boxes, and a card for each face with its eight probabilities.
import { percent, say, sayFace, sayFaces } from "./texts.js";

/** An element of a class, with children or a text. */
export function make(name, className = "", ...children) {
  const element = document.createElement(name);
  element.className = className;
  element.append(...children);
  return element;
}

/** The boxes over a picture. */
export function showBoxes(frame, { width, height, faces }) {
  frame.style.setProperty("--ratio", width / height);
  frame.querySelectorAll(".box").forEach((box) => box.remove());
  frame.append(...faces.map((face, number) => {
    const label = make("span", "", `${number + 1} ${face.uncertain ? say("uncertain") : say(`emotion.${face.emotion}`)}`);
    const box = make("div", "box", label);
    box.dataset.emotion = face.uncertain ? "uncertain" : face.emotion;
    box.ariaHidden = "true"; // the cards say the same
    box.classList.toggle("low", face.top < 0.1 * height); // no room for the label above
    const place = { left: face.left / width, top: face.top / height, width: (face.right - face.left) / width, height: (face.bottom - face.top) / height };
    for (const [side, share] of Object.entries(place)) box.style[side] = `${100 * share}%`;
    return box;
  }));
}

/** A card for a face; `update` shows another answer in it. */
function faceCard(number) {
  const title = make("h4"), perhaps = make("p", "quiet"), bars = make("ul", "bars"), card = make("li", "face", make("div", "answer", title, perhaps), bars);
  bars.ariaLabel = say("probabilities", { number });
  const badge = make("span", "badge", String(number));
  badge.ariaLabel = `${say("face.number", { number })}: `;
  badge.role = "img";
  const rows = {};
  const row = (emotion) => {
    const value = make("span", "value"), bar = make("span", "bar", make("span"));
    bars.append(make("li", "", make("span", "name", say(`emotion.${emotion}`)), bar, value));
    bar.parentElement.dataset.emotion = emotion;
    return { value, bar: bar.firstChild };
  };
  card.update = (face) => {
    card.dataset.emotion = face.uncertain ? "uncertain" : face.emotion;
    title.replaceChildren(badge, sayFace(face));
    perhaps.textContent = face.uncertain ? say("uncertain.perhaps", { emotion: say(`emotion.${face.emotion}`), confidence: percent(face.confidence) }) : "";
    perhaps.hidden = !face.uncertain;
    for (const [emotion, share] of Object.entries(face.probabilities)) {
      const { value, bar } = rows[emotion] ??= row(emotion);
      value.textContent = percent(share);
      bar.style.width = `${100 * share}%`;
      bar.parentElement.parentElement.classList.toggle("likeliest", emotion === face.emotion);
    }
  };
  return card;
}

/** The cards of the faces, in a list that may already hold some. */
export function showFaces(list, faces) {
  while (list.children.length > faces.length) list.lastChild.remove();
  faces.forEach((face, place) => {
    const card = list.children[place] ?? list.appendChild(faceCard(place + 1));
    card.update(face);
  });
}

/** The answers in one sentence, for those who hear the page. */
export const sayResult = (name, { faces }) => say("status.found", {
  name, faces: sayFaces(faces.length), list: faces.map((face, place) => say("faces.item", { number: place + 1, answer: sayFace(face) })).join("; "),
});

/** A place for the answer to one picture, above the earlier ones. */
export class Result {
  constructor(name, address, remove) {
    Object.assign(this, { name, remove });
    this.image = Object.assign(make("img"), { src: address, alt: name });
    this.image.onerror = () => this.frame.remove();
    this.frame = make("div", "frame", this.image);
    this.text = make("p", "quiet");
    const close = Object.assign(make("button", "close", "×"), { type: "button", ariaLabel: say("result.remove", { name }), onclick: remove });
    this.element = make("article", "card result", make("div", "caption", make("h3", "", name), this.text, close), this.frame);
    this.element.ariaLabel = name;
    this.element.ariaBusy = "true";
  }

  wait(text) {
    this.text.textContent = text;
  }

  show(result, milliseconds) {
    const list = make("ol", "faces");
    this.text.textContent = [sayFaces(result.faces.length), say("result.time", { time: Math.round(milliseconds) })].join(" · ");
    this.image.alt = say("result.picture", { name: this.name, faces: sayFaces(result.faces.length) });
    showBoxes(this.frame, result);
    showFaces(list, result.faces);
    this.element.append(result.faces.length ? list : make("p", "nobody", say("result.nobody")));
    this.element.ariaBusy = "false";
  }

  fail(problem, again) {
    this.frame.remove();
    this.text.textContent = "";
    this.element.classList.add("problem");
    this.element.append(make("p", "trouble", problem.text));
    if (problem.passes) this.element.append(make("p", "actions", Object.assign(make("button", "", say("result.again")), { type: "button", onclick: again })));
    this.element.ariaBusy = "false";
  }
}
