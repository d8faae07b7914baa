// The compose tool: a foreground over a background, dragged and scaled on the canvas, numbers beside it.

import { api } from "./api.js";
import { createCanvas } from "./compose_canvas.js";
import { h, settled } from "./dom.js";
import { createSlot } from "./slots.js";
import { createStore } from "./store.js";
import { t } from "./words.js";

const NUMBERS = { left: "Left", top: "Top", scale: "Scale" };

/** What stands in the second tool. */
export function createCompose(app) {
  const store = createStore({
    foreground: null,
    background: null,
    left: 0,
    top: 0,
    scale: 1,
    linear: false,
    problem: "",
  });
  app.takeToCompose = (chosen) => store.set(layersOf(chosen));
  const canvas = createCanvas(store);
  const problem = h("p", { class: "notice error", role: "alert", hidden: true });
  store.watch((_, state) => {
    problem.hidden = !state.problem;
    problem.textContent = state.problem;
  }, "problem");
  const slots = ["background", "foreground"].map((name) => slot(app, store, name));
  const panel = h(
    "section",
    { class: "compose-panel", "aria-label": t("Compose") },
    h(
      "p",
      { class: "help" },
      t("Drag the foreground; pull a corner or turn the wheel to scale it. Arrow keys move it by a pixel."),
    ),
    ...slots,
    numbers(store),
    blending(store),
    saving(app, store),
  );
  return [panel, h("section", { class: "compose-stage", "aria-label": t("Canvas") }, problem, canvas)];
}

/** Foreground and background of a result; the blended picture stands in for a background. */
function layersOf(chosen) {
  if (!chosen) return {};
  const rows = chosen.picture.layers;
  const find = (name) => rows.find((row) => row.layer === name) ?? null;
  const background = find("background") ?? (chosen.layer.alpha ? null : chosen.layer);
  const values = { left: 0, top: 0, scale: 1 };
  if (find("foreground")) values.foreground = find("foreground");
  return background ? { ...values, background } : values;
}

function slot(app, store, name) {
  const label = t(name === "foreground" ? "Foreground" : "Background");
  const get = () => store.get()[name];
  const made = createSlot(app, {
    id: `compose-${name}`,
    label,
    name: `compose-${name}`,
    get,
    set: (picture) => store.set({ [name]: picture }),
  });
  store.watch(made.update, name);
  return made.element;
}

function numbers(store) {
  const boxes = Object.entries(NUMBERS).map(([name, title]) => {
    const scale = name === "scale";
    const box = h("input", { id: `compose-${name}`, type: "number", step: scale ? 0.01 : 1, min: scale ? 0.01 : "" });
    box.addEventListener("input", () => {
      const value = Number(box.value);
      if (box.value !== "" && Number.isFinite(value) && (!scale || value > 0))
        store.set({ [name]: scale ? value : Math.round(value) });
    });
    const update = () => {
      if (document.activeElement !== box) box.value = scale ? Number(store.get().scale.toFixed(3)) : store.get()[name];
    };
    store.watch(update, name);
    update();
    return h("div", { class: "field" }, h("label", { for: `compose-${name}` }, t(title)), box);
  });
  return h("div", { class: "triple" }, ...boxes);
}

function blending(store) {
  const box = h("input", {
    type: "checkbox",
    id: "compose-linear",
    class: "switch",
    "aria-describedby": "compose-linear-about",
  });
  box.addEventListener("change", () => store.set({ linear: box.checked }));
  const help = t("As a camera sees it: soft edges between strong colours get brighter. Editors blend colour values.");
  return h(
    "div",
    { class: "field switch-line" },
    h("label", { for: "compose-linear" }, t("Blend light")),
    h("p", { class: "help", id: "compose-linear-about" }, help),
    box,
  );
}

/** What the server is asked for. */
export function composition({ foreground, background, left, top, scale, linear }) {
  return {
    foreground: foreground.name,
    background: background.name,
    left,
    top,
    scale: Number(scale.toFixed(4)),
    linear,
  };
}

function saving(app, store) {
  const guarded = (action) => async () => {
    store.set({ problem: "" });
    try {
      await action(store.get());
    } catch (error) {
      store.set({ problem: t(error.message) });
    }
  };
  const png = h(
    "button",
    { type: "button", class: "primary", id: "compose-png", onclick: guarded(savePng) },
    t("Download PNG"),
  );
  const files = app.model.layer_files.map((format) =>
    h(
      "button",
      {
        type: "button",
        class: "button",
        id: `compose-${format}`,
        onclick: guarded((state) => saveLayers(state, format)),
      },
      `.${format}`,
    ),
  );
  const update = settled(() => {
    const { foreground, background } = store.get();
    for (const button of [png, ...files]) button.disabled = !(foreground && background);
  }, 0);
  store.watch(update, "foreground", "background");
  update();
  return h("div", { class: "compose-save" }, png, ...files);
}

async function savePng(state) {
  save(await api.compose(composition(state)), "composed.png");
}

/** Both layers in their places; the foreground is scaled here, as the file keeps whole pixels. */
async function saveLayers(state, format) {
  const { foreground, background, left, top, scale } = state;
  const upper = scale === 1 ? foreground.name : await scaledPicture(foreground, scale);
  const layers = [
    { name: "background", picture: background.name },
    { name: "foreground", picture: upper, left, top },
  ];
  const answer = await api.layers({ layers, width: background.width, height: background.height, format });
  const bytes = Uint8Array.from(atob(answer.file), (character) => character.charCodeAt(0));
  save(new Blob([bytes]), answer.name.replace("layers", "composed"));
}

async function scaledPicture({ name, width, height }, scale) {
  const blob = await (await fetch(api.pictureUrl(name))).blob();
  const size = {
    resizeWidth: Math.max(1, Math.round(width * scale)),
    resizeHeight: Math.max(1, Math.round(height * scale)),
  };
  const bitmap = await createImageBitmap(blob, { ...size, resizeQuality: "high", premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return (await api.upload(await canvas.convertToBlob({ type: "image/png" }))).name;
}

function save(blob, name) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
