// Settings after the result: size, number, seed, and everything else in one closed part.

import { fill, h, icon } from "./dom.js";
import { control, labelled, numberBox, textBox } from "./fields.js";
import { isChained, LAYERS } from "./form.js";
import { pictureSlot } from "./slots.js";
import { plainLabel, t } from "./words.js";

const ELSEWHERE = new Set([
  "prompt",
  "width",
  "height",
  "batch",
  "seed",
  "method",
  "enabled",
  "client",
  "attended",
  "preview",
]);
const GROUPS = {
  prompt: "",
  sampling: "Sampling",
  picture: "Start from a picture",
  layers: "Layers",
  edges: "Edges",
};

/** The last part of the form. */
export function settingsPart(app) {
  return h(
    "section",
    { class: "settings", "aria-label": t("Settings") },
    sizes(app),
    h("div", { class: "pair" }, labelled(app, "batch", numberBox(app, "batch"), { help: false }), seed(app)),
    advanced(app),
  );
}

function sizes(app) {
  const { model } = app;
  const sizes = model.subjects.length && !model.fixed_size ? [] : model.sizes;
  const chips = h("fieldset", { class: "aspects" }, h("legend", { class: "unseen" }, t("Shape")));
  chips.append(...sizes.map((size) => aspect(app, size)));
  return h(
    "div",
    { class: "size-part" },
    sizes.length > 1 && chips,
    model.fixed_size ? onlySizes(model) : freeSize(app),
  );
}

/** What a model cannot do is not offered, and why is said before. */
function onlySizes(model) {
  const sizes = model.sizes.map(({ width, height }) => `${width} × ${height}`).join(", ");
  return h("p", { class: "help", id: "size-note" }, t("This small model makes pictures of {sizes} only.", { sizes }));
}

function freeSize(app) {
  const { form, model } = app;
  const note = h("p", { class: "help caution", id: "size-note", hidden: true });
  const side = (name) => labelled(app, name, numberBox(app, name, model.limits.multiple), { help: false });
  const update = () => {
    const { width, height } = form.store.get();
    const told = sizeNote(model, width, height);
    note.hidden = !told;
    fill(note, t(told, { size: model.size }));
  };
  form.store.watch(update, "width", "height");
  update();
  return h("div", {}, h("div", { class: "pair" }, side("width"), side("height")), note);
}

/** What to know of a size before it is made; a model that knows only its subjects can do its own size and no other. */
function sizeNote(model, width, height) {
  if (model.subjects.length) {
    const own = width === model.size && height === model.size;
    return own ? "" : "This small model was made for {size} × {size}: other sizes come out as wreckage.";
  }
  const share = Math.sqrt(width * height) / model.size;
  if (share > 1.5) return "Much larger than this model was made for: things may come out twice.";
  return share < 0.6 ? "Much smaller than this model was made for: things may come out in pieces." : "";
}

function aspect(app, { label, width, height }) {
  const choose = () => app.form.store.set({ width, height });
  const radio = h("input", { type: "radio", name: "aspect", class: "unseen", onchange: choose });
  const update = () => {
    const state = app.form.store.get();
    radio.checked = state.width === width && state.height === height;
  };
  app.form.store.watch(update, "width", "height");
  update();
  const longer = Math.max(width, height);
  const shape = h("span", {
    class: "shape",
    style: `width:${(18 * width) / longer}px;height:${(18 * height) / longer}px`,
  });
  return h("label", { class: "aspect", title: `${width} × ${height}` }, radio, shape, h("span", {}, label));
}

function seed(app) {
  const element = labelled(
    app,
    "seed",
    textBox(app, "seed", { inputMode: "numeric", placeholder: t("random"), autocomplete: "off" }),
    { help: false },
  );
  const clear = () => app.form.store.set({ seed: "" });
  const button = h(
    "button",
    {
      type: "button",
      class: "quiet square inside-end",
      title: t("Random seed"),
      "aria-label": t("Random seed"),
      onclick: clear,
    },
    icon("dice"),
  );
  const box = element.querySelector("input");
  box.after(button);
  box.addEventListener("input", () => app.form.store.set({ seed: box.value.trim() }));
  return element;
}

function advanced(app) {
  const { properties } = app.form.schema;
  const parts = Object.entries(GROUPS).map(([group, title]) => {
    const names = Object.keys(properties).filter((name) => properties[name].group === group && isAdvanced(name));
    return names.length ? groupOf(app, group, title, names) : null;
  });
  return h(
    "details",
    { class: "advanced" },
    h("summary", {}, t("Advanced")),
    h("div", { class: "inside" }, methodList(app), ...parts.filter(Boolean)),
  );
}

function groupOf(app, group, title, names) {
  const rows = names.map((name) => oneOf(app, name));
  const element = h("fieldset", { class: "group" }, title && h("legend", {}, t(title)), ...rows);
  if (group !== "picture") return element;
  const update = () => {
    element.hidden = isChained(app.form); // a chain starts from nothing else
  };
  app.form.store.watch(update, "method", "chained");
  update();
  return element;
}

function isAdvanced(name) {
  return !ELSEWHERE.has(name) && !LAYERS.includes(name) && !LAYERS.some((layer) => name === `${layer}_prompt`);
}

function oneOf(app, name) {
  if (name !== "init" && name !== "mask" && name !== "strength") return control(app, name);
  const element = name === "strength" ? control(app, name) : pictureSlot(app, name);
  const update = () => {
    element.hidden = isChained(app.form) || (name !== "init" && !app.form.store.get().pictures.init);
  };
  app.form.store.watch(update, "pictures", "method", "chained");
  update();
  return element;
}

/** The methods by the labels that papers, forums and other programs use. */
function methodList(app) {
  return labelled(
    app,
    "method",
    (id, about) => {
      const { usable, store } = app.form;
      const options = usable.map((method) => h("option", { value: method.label }, plainLabel(method.label)));
      const box = h(
        "select",
        { id, "aria-describedby": about, onchange: () => store.set({ method: box.value }) },
        ...options,
      );
      const outcome = h("p", { class: "help" });
      const update = () => {
        box.value = store.get().method;
        fill(outcome, t(`Gives ${app.form.method()?.outcome}.`));
      };
      store.watch(update, "method");
      update();
      return h("div", {}, box, outcome);
    },
    { label: t("Method, by its original label") },
  );
}
