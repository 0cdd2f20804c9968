// Every text that the page shows stands in texts.json, once for each language; a new language is one more entry there, and what it lacks is shown in English.

let texts = {}, numbers, language = "en";

/** Fetch the texts and put them into the page, in the first of the reader's languages that there is, or in English. */
export async function translate(page) {
  const all = await (await fetch("texts.json")).json();
  language = navigator.languages.map((one) => one.split("-")[0]).find((one) => one in all) ?? "en";
  texts = { ...all.en, ...all[language] };
  numbers = new Intl.NumberFormat(language, { style: "percent" });
  page.documentElement.lang = language;
  for (const element of page.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
}

/** The text of a key, with values for what stands in braces; the key itself if there is no such text, as in a file of another version. */
export const say = (key, values = {}) => (texts[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name]);

/** How many faces there are, in words; a form of the plural that has no text of its own is said as the other ones. */
export function sayFaces(count) {
  const key = count === 0 ? "faces.none" : `faces.${new Intl.PluralRules(language).select(count)}`;
  return say(key in texts ? key : "faces.other", { count });
}

/** A share from 0 to 1 as percent. */
export const percent = (share) => numbers.format(share);

/** What is said of a face in a few words. */
export const sayFace = (face) => (face.uncertain ? say("uncertain") : say("answer", { emotion: say(`emotion.${face.emotion}`), confidence: percent(face.confidence) }));

const LASTING = new Set(["problem.unreadable", "problem.large"]);

/** A trouble that the reader is told of; `key` is a text's, `values` what it says, with the `status` of a server's answer. */
export class Problem extends Error {
  constructor(key, values = {}) {
    super(key);
    Object.assign(this, { key, values });
  }

  get text() {
    return say(this.key, this.values);
  }

  /** Whether another try may help. */
  get passes() {
    const { status = 500 } = this.values;
    return !LASTING.has(this.key) && (status >= 500 || status === 429 || status === 401);
  }
}
