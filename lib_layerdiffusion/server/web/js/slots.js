// A place for a picture: dropped, pasted, chosen from the disk or among the results of this session.

import { api } from "./api.js";
import { fill, h, icon } from "./dom.js";
import { labelOf } from "./fields.js";
import { mainLayer } from "./runs.js";
import { t } from "./words.js";

const KINDS = "image/*,.png,.jpg,.jpeg,.webp,.avif,.tif,.tiff,.bmp";

/** The file in a drop or a paste, or null. */
export function fileOf(transfer) {
  return [...(transfer?.files ?? [])][0] ?? null;
}

/**
 * A slot that keeps its picture in the form's `pictures` under `name`. Files are sent when they are given, so that an
 * unreadable one is refused at once, beside the slot.
 */
export function pictureSlot(app, name) {
  const slot = createSlot(app, {
    id: `slot-${name}`,
    label: labelOf(app.form, name),
    name,
    get: () => app.form.store.get().pictures[name] ?? null,
    set: (picture) => put(app, name, picture),
  });
  app.form.store.watch(slot.update, "pictures");
  return slot.element;
}

/** Put a picture (as `POST pictures` answers), or nothing, into a slot of the form. */
export function put(app, name, picture) {
  const pictures = { ...app.form.store.get().pictures };
  if (picture)
    pictures[name] = { name: picture.name, width: picture.width, height: picture.height, alpha: picture.alpha };
  else delete pictures[name];
  app.form.store.set({ pictures });
}

/** A slot anywhere: {id, label, name, get, set} -> {element, update}. */
export function createSlot(app, { id, label, name, get, set }) {
  const wrong = h("p", { class: "wrong", role: "alert", hidden: true });
  const file = h("input", { type: "file", id, accept: KINDS, class: "unseen" });
  const body = h("div", { class: "slot-body" });
  const element = h("div", { class: "slot", role: "group", "aria-label": label, tabIndex: -1 }, body, file, wrong);
  const say = (text) => {
    wrong.hidden = !text;
    fill(wrong, text);
  };
  const take = async (blob) => {
    if (!blob) return;
    element.classList.add("busy");
    say("");
    try {
      set(await api.upload(blob));
    } catch (error) {
      say(t(error.message));
    } finally {
      element.classList.remove("busy");
      file.value = "";
    }
  };
  const update = () => fill(body, ...slotContent(app, { id, label, get, set, say }));
  file.addEventListener("change", () => take(file.files[0]));
  listenForDrops(element, take);
  app.runs.store.watch((_, state) => {
    if (state.field?.name === name) say(state.field.text);
    else if (!state.field) say("");
  }, "field");
  let offered = 0;
  app.runs.store.watch((_, state) => {
    const results = state.jobs.filter((job) => job.pictures?.length).length;
    if (results !== offered) update();
    offered = results;
  }, "jobs");
  update();
  return { element, update };
}

function listenForDrops(element, take) {
  element.addEventListener("dragover", (event) => {
    event.preventDefault();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    element.classList.remove("over");
    dispatchEvent(new Event("dropped"));
    take(fileOf(event.dataTransfer));
  });
  element.addEventListener("paste", (event) => {
    event.stopPropagation();
    take(fileOf(event.clipboardData));
  });
}

function slotContent(app, slot) {
  const picture = slot.get();
  return picture ? filled(slot, picture) : empty(app, slot);
}

function filled({ id, label, set }, picture) {
  const size = picture.width ? `${picture.width} × ${picture.height}` : "";
  const gone = () => set(null);
  return [
    h("img", { src: api.pictureUrl(picture.name), alt: label, class: "slot-picture checker", onerror: gone }),
    h("div", { class: "slot-text" }, h("b", {}, label), h("span", { class: "help" }, size)),
    h("label", { for: id, class: "button small" }, t("Replace")),
    h(
      "button",
      { type: "button", class: "quiet square small", title: t("Take out"), "aria-label": t("Take out"), onclick: gone },
      icon("close"),
    ),
  ];
}

function empty(app, { id, label, set }) {
  const results = app.runs.store.get().jobs.some((job) => job.pictures?.length);
  const choices = h("div", { class: "picker", hidden: true });
  const toggle = () => {
    choices.hidden = !choices.hidden;
    fill(choices, ...resultChoices(app, set));
  };
  return [
    h("span", { class: "slot-picture blank" }, icon("photo")),
    h(
      "div",
      { class: "slot-text" },
      h("b", {}, label),
      h("span", { class: "help" }, t("Drop it here, paste it, or choose it.")),
    ),
    h("label", { for: id, class: "button small" }, t("Choose")),
    results && h("button", { type: "button", class: "quiet small", onclick: toggle }, t("Results")),
    choices,
  ];
}

function resultChoices(app, set) {
  const layers = app.runs.store
    .get()
    .jobs.flatMap((job) => job.pictures ?? [])
    .slice(0, 24)
    .flatMap((picture) =>
      picture.layers.length > 1 ? picture.layers.filter((row) => !row.given) : [mainLayer(picture)],
    );
  return layers.map((layer) =>
    h(
      "button",
      { type: "button", class: "pick", title: t(layer.layer), onclick: () => set(layer) },
      h("img", { src: layer.url, alt: t(layer.layer), class: "checker", loading: "lazy" }),
    ),
  );
}
