// The page's language: English is the key, translations come from the server and from words/.

import { api } from "./api.js";
import { preference } from "./store.js";

let table = {};

export const LANGUAGES = { en: "English", zh_CN: "中文", ja_JP: "日本語" };

/** The text in the page's language; {names} are filled in from `values`. */
export function t(text, values = {}) {
  return (table[text] ?? text).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
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
  const parts = [api.translations(chosen), fetch(`words/${chosen}.json`).then((answer) => answer.json())];
  for (const part of await Promise.allSettled(parts)) {
    if (part.status === "fulfilled") table = { ...table, ...part.value };
  }
}

/** A method's label without what only other programs need to know. */
export function plainLabel(label) {
  return t(label).replace(/ ?[(（][^(（]*\d[^(（]*[)）]$/, "");
}
