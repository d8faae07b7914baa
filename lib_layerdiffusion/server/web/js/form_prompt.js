// What one wants: the kind of picture as cards, the prompt, and the pictures that the method needs.

import { api } from "./api.js";
import { diagram } from "./diagrams.js";
import { fill, h, settled } from "./dom.js";
import { labelled, labelOf, textArea } from "./fields.js";
import { canChain, cardsOf, isChained, LAYERS } from "./form.js";
import { pictureSlot } from "./slots.js";
import { unknownNote } from "./unknown.js";
import { t } from "./words.js";

/** The first part of the form. */
export function promptPart(app) {
  return h(
    "section",
    { class: "ask", "aria-label": t("What to make") },
    cards(app),
    prompts(app),
    unknownWords(app),
    ideas(app),
    slots(app),
    chainSwitch(app),
    layerPrompts(app),
  );
}

function cards(app) {
  const radios = cardsOf(app.form).map((method) => card(app, method));
  return h("fieldset", { class: "cards" }, h("legend", {}, labelOf(app.form, "method")), ...radios);
}

function card(app, method) {
  const choose = () => app.form.store.set({ method: method.label });
  const radio = h("input", { type: "radio", name: "card", class: "unseen", value: method.title, onchange: choose });
  const update = () => {
    radio.checked = app.form.method()?.title === method.title;
  };
  app.form.store.watch(update, "method");
  update();
  return h(
    "label",
    { class: "card" },
    radio,
    diagram(method.title),
    h("span", { class: "card-title" }, t(method.title)),
  );
}

function prompts(app) {
  const rows = { rows: 2, spellcheck: true, autocomplete: "off" };
  const who = labelled(app, "prompt", textArea(app, "prompt", rows), { help: false });
  const scene = labelled(app, "scene", textArea(app, "scene", rows), { help: false, label: t("The scene") });
  const hint = h("p", { class: "help hint", id: "prompt-hint" });
  const label = who.querySelector("label");
  const box = who.querySelector("textarea");
  const update = () => {
    const chained = isChained(app.form);
    scene.hidden = !chained;
    fill(label, chained ? t("Who or what") : labelOf(app.form, "prompt"));
    box.placeholder = t(placeholderOf(app, chained));
    scene.querySelector("textarea").placeholder = t("on a bench in a park");
    const text = chained ? "" : describes(app.form.method());
    fill(hint, t(text));
    hint.hidden = !text;
  };
  app.form.store.watch(update, "method", "chained");
  update();
  return h("div", { class: "prompts" }, who, hint, scene);
}

function placeholderOf(app, chained) {
  if (app.model.subjects.length) return "red apple";
  return chained ? "an old man sitting" : "an apple, high quality";
}

/** What the prompt of a method should say, where that is not plain. */
function describes(method) {
  if (!method?.inputs.length) return "";
  const made = method.layers.map((row) => row.layer);
  if (made.includes("blended")) return "Describe the whole scene: what is put there, and where.";
  return made.includes("foreground") ? "Describe only what is taken off." : "Describe only what is behind it.";
}

function unknownWords(app) {
  const line = h("p", { class: "help hint", id: "unknown-words", role: "status", hidden: true });
  const look = settled(async () => {
    const state = app.form.store.get();
    const own = (app.form.method()?.own_prompts ?? []).map((layer) => state[`${layer}_prompt`] ?? "");
    const said = [state.prompt, ...(isChained(app.form) ? [state.scene] : own)].join(" ");
    const unknown = app.model.subjects.length ? await api.unknownWords(said).catch(() => []) : [];
    const text = said.trim()
      ? unknownNote(unknown)
      : "The prompt is empty, so the picture shows anything: say what to show.";
    line.hidden = !text;
    fill(line, t(text));
  }, 250);
  app.form.store.watch(look, "prompt", "scene", "chained", "method", ...LAYERS.map((layer) => `${layer}_prompt`));
  look();
  return line;
}

/** Everything that a small model knows, folded away. */
function ideas(app) {
  const { subjects } = app.model;
  if (!subjects.length) return null;
  const choose = (subject) => () => app.form.store.set({ prompt: subject });
  const chips = subjects.map((subject) =>
    h("button", { type: "button", class: "chip", onclick: choose(subject) }, subject),
  );
  const title = t("All {count} subjects that this model knows", { count: subjects.length });
  return h("details", { class: "ideas" }, h("summary", {}, title), h("div", { class: "chips" }, ...chips));
}

function slots(app) {
  const holder = h("div", { class: "slots" });
  const made = new Map();
  const update = () => {
    const wanted = app.form.method()?.inputs ?? [];
    for (const name of wanted) if (!made.has(name)) made.set(name, pictureSlot(app, name));
    const shown = wanted.map((name) => made.get(name));
    if (shown.length !== holder.children.length || shown.some((slot, i) => slot !== holder.children[i]))
      fill(holder, shown);
    holder.hidden = !wanted.length;
  };
  app.form.store.watch(update, "method");
  update();
  return holder;
}

function chainSwitch(app) {
  const box = h("input", { type: "checkbox", id: "chained", class: "switch", "aria-describedby": "chained-about" });
  box.addEventListener("change", () => app.form.store.set({ chained: box.checked }));
  const label = h("label", { for: "chained" });
  const help = h("p", { class: "help", id: "chained-about" });
  const element = h("div", { class: "field switch-line" }, label, help, box);
  const update = () => {
    element.hidden = !canChain(app.form);
    box.checked = app.form.store.get().chained;
    const fromBackground = app.form.method()?.inputs[0] === "background";
    fill(label, t(fromBackground ? "Take it off again in a second step" : "Show what is behind it in a second step"));
    fill(help, t("Two runs, two prompts; the result has all three layers."));
  };
  app.form.store.watch(update, "method", "chained");
  update();
  return element;
}

function layerPrompts(app) {
  const holder = h("details", { class: "layer-prompts" });
  const update = () => {
    const own = isChained(app.form) ? [] : (app.form.method()?.own_prompts ?? []);
    holder.hidden = !own.length;
    if (holder.dataset.own === own.join()) return;
    holder.dataset.own = own.join();
    const rows = own.map((layer) => labelled(app, `${layer}_prompt`, textArea(app, `${layer}_prompt`, { rows: 1 })));
    fill(holder, h("summary", {}, t("A prompt for each layer")), h("div", { class: "inside" }, ...rows));
  };
  app.form.store.watch(update, "method", "chained");
  update();
  return holder;
}
