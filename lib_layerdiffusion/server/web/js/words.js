// The page's language: English is the key, translations come from the server and from words/.

import { api } from "./api.js";
import { preference } from "./store.js";

let table = {};
let templates = [];

export const LANGUAGES = { en: "English", zh_CN: "中文", ja_JP: "日本語" };

/** The text in the page's language; {names} are filled in from `values`, or from what a sentence of the server says. */
export function t(text, values = {}) {
  if (table[text] !== undefined) return filled(table[text], values);
  for (const { pattern, own } of templates) {
    const found = pattern.exec(text);
    if (found) return filled(own, found.groups);
  }
  return filled(text, values);
}

function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => (values[name] === undefined ? whole : words(values[name])));
}

const words = (value) => table[value] ?? value;

/** The server's sentences: English with {names} -> what recognises it with anything in their places; longest first. */
function patternsOf(texts) {
  const literal = (part) => part.replace(/[\\^$.*+?()[\]|]/g, "\\$&");
  return Object.entries(texts)
    .filter(([text]) => text.includes("{"))
    .sort(([one], [other]) => other.length - one.length)
    .map(([text, own]) => {
      const parts = text.split(/\{(\w+)\}/);
      const source = parts.map((part, index) => (index % 2 ? `(?<${part}>[^]+?)` : literal(part))).join("");
      return { pattern: new RegExp(`^${source}$`), own };
    });
}

/** The language that was chosen, or the browser's own. */
export function language() {
  const own = { zh: "zh_CN", ja: "ja_JP" }[navigator.language.slice(0, 2)] ?? "en";
  return preference.get("language", own);
}

/** Fetch the translations; the page is English where that fails. */
export async function loadWords() {
  const chosen = language();
  document.documentElement.lang = chosen.replace("_", "-");
  if (chosen === "en") return;
  const file = async (name) => (await fetch(`words/${name}.json`)).json();
  const parts = await Promise.allSettled([api.translations(chosen), file(chosen), file(`said.${chosen}`)]);
  const [labels, own, said] = parts.map((part) => part.value ?? {});
  table = { ...labels, ...own, ...said };
  templates = patternsOf(said);
}

/** A method's label without what only other programs need to know. */
export function plainLabel(label) {
  return t(label).replace(/ ?[(（][^(（]*\d[^(（]*[)）]$/, "");
}
