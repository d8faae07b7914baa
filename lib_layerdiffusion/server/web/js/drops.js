// A picture that is dropped or pasted anywhere: its settings are restored, or it becomes what the method works on.

import { api } from "./api.js";
import { fill, h } from "./dom.js";
import { cardsOf, restore } from "./form.js";
import { fileOf, put } from "./slots.js";
import { t } from "./words.js";

/** Listen on the whole page. */
export function takeDrops(app) {
  const hint = document.getElementById("drop-hint");
  fill(hint, h("p", {}, t("Drop a picture: its settings are restored, or it is what to work on.")));
  let depth = 0;
  const show = (visible) => {
    depth = visible ? depth : 0;
    hint.hidden = !visible;
  };
  const inCreate = () => location.hash !== "#compose";
  addEventListener("dragenter", (event) => {
    if (!inCreate() || ![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    depth++;
    show(true);
  });
  addEventListener("dragleave", () => {
    if (--depth <= 0) show(false);
  });
  addEventListener("dropped", () => show(false));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    show(false);
    if (inCreate()) take(app, fileOf(event.dataTransfer));
  });
  addEventListener("paste", (event) => {
    if (inCreate() && fileOf(event.clipboardData)) take(app, fileOf(event.clipboardData));
  });
}

async function take(app, file) {
  if (!file) return;
  try {
    const picture = await api.upload(file);
    if (picture.request) restored(app, picture);
    else workOn(app, picture);
  } catch (error) {
    app.runs.refuse(error);
  }
}

function restored(app, picture) {
  restore(app.form, picture.request);
  const ignored = (picture.ignored ?? []).map((sentence) => t(sentence));
  app.runs.note([t("The settings of this picture are restored."), ...ignored].join(" "));
}

/** Into the first empty slot of the chosen method, else under the method that begins with such a picture. */
function workOn(app, picture) {
  const state = app.form.store.get();
  const free = app.form.method()?.inputs.find((layer) => !state.pictures[layer]);
  if (free) return put(app, free, picture);
  const layer = picture.alpha ? "foreground" : "background";
  const method = cardsOf(app.form).find(({ inputs }) => inputs.length === 1 && inputs[0] === layer);
  if (!method) return app.runs.note(t("This picture has no settings in it."));
  app.form.store.set({ method: method.label });
  put(app, layer, picture);
  const box = document.getElementById("prompt");
  box.focus();
  box.select();
}
