// What can be done with the chosen picture.

import { h, icon } from "./dom.js";
import { LAYERS, restore } from "./form.js";
import { put } from "./slots.js";
import { addressOf } from "./stage.js";
import { t } from "./words.js";

/** The tools under the picture. */
export function actions(app, chosen) {
  return h(
    "div",
    { class: "actions" },
    files(app, chosen),
    onPicture(app, chosen),
    further(app, chosen),
    settings(app, chosen),
  );
}

function group(title, ...content) {
  return h(
    "div",
    { class: "action-group", role: "group", "aria-label": t(title) },
    h("span", { class: "action-title" }, t(title)),
    h("div", { class: "action-row" }, ...content.filter(Boolean)),
  );
}

function link(href, name, title, about = "") {
  return h(
    "a",
    { href, class: "button small", download: "", title: t(about || title), dataset: { key: `file-${title}` } },
    name ? icon(name) : null,
    t(title),
  );
}

function button(name, title, onclick, properties = {}) {
  return h(
    "button",
    { type: "button", class: "button small", dataset: { key: title }, onclick, ...properties },
    icon(name),
    t(title),
  );
}

function files(app, { job, picture, layer }) {
  const { ora, psd } = picture.files ?? {};
  const png = addressOf(app, layer);
  const named = `${png}${png.includes("?") ? "&" : "?"}download=`;
  return group(
    "Download",
    link(named, "download", "PNG"),
    ora && link(ora, "", ".ora", "All layers of this picture, for Krita and GIMP"),
    psd && link(psd, "", ".psd", "All layers of this picture, for Photoshop"),
    job.zip && link(job.zip, "zip", "All as one zip", "Every layer of every picture of this run"),
  );
}

function onPicture(app, { layer }) {
  const { trimmed } = app.runs.store.get();
  const toggle = () => app.runs.store.set({ trimmed: !trimmed });
  const mayCopy = Boolean(navigator.clipboard?.write && globalThis.ClipboardItem);
  return group(
    "Picture",
    button("copy", "Copy picture", () => copy(app, layer), {
      disabled: !mayCopy,
      title: mayCopy ? "" : t("The browser copies only on https or localhost."),
    }),
    layer.alpha && button("trim", "Trim to content", toggle, { "aria-pressed": String(trimmed) }),
    button("compose", "Compose", () => compose(app)),
  );
}

async function copy(app, layer) {
  try {
    const content = fetch(addressOf(app, layer)).then((answer) => answer.blob());
    await navigator.clipboard.write([new ClipboardItem({ "image/png": content })]);
    app.runs.note(t("The picture is copied."));
  } catch {
    app.runs.refuse(new Error("The browser did not let the picture be copied: download it instead."));
  }
}

function compose(app) {
  app.takeToCompose?.(app.runs.chosen());
  location.hash = "#compose";
}

function further(app, { job, layer }) {
  const method = app.form.usable.find((row) => row.label === job.method);
  const buttons = LAYERS.filter((name) => method?.next?.[name]).map((name) => {
    const title = `Use as ${name}`;
    return h(
      "button",
      {
        type: "button",
        class: "button small",
        dataset: { key: title },
        onclick: () => useAs(app, job, name, layer, method.next[name]),
      },
      t(title),
    );
  });
  return buttons.length ? group("Next step", ...buttons) : null;
}

/** Take the chosen picture to the next step: with the pictures that it was made from, under the method that goes on. */
function useAs(app, job, name, layer, label) {
  const { store, usable } = app.form;
  const next = usable.find((row) => row.label === label);
  if (next) store.set({ method: label, chained: false });
  for (const given of next?.inputs ?? []) {
    const known = app.runs.chosen().picture.layers.find((row) => row.layer === given);
    const named = job.request[given];
    if (given !== name && (known || typeof named === "string")) put(app, given, known ?? { name: named });
  }
  put(app, name, layer);
  const box = document.getElementById("prompt");
  box.focus({ preventScroll: false });
  box.select();
  app.runs.note(t(nextHint(next)));
}

function nextHint(method) {
  const made = method?.layers.map((row) => row.layer) ?? [];
  if (made.includes("blended")) return "The prompt should now describe the scene: what is put there, and where.";
  return made.includes("foreground")
    ? "The prompt should now describe only what is taken off."
    : "The prompt should now describe only what is behind it.";
}

function settings(app, { job, picture }) {
  return group(
    "Settings",
    button("again", "Use these settings again", () => useAgain(app, job)),
    button("seed", "Reuse seed", () => app.form.store.set({ seed: picture.seed })),
    h(
      "details",
      { class: "infotext" },
      h("summary", { class: "button small", dataset: { key: "infotext" } }, t("Show all")),
      h("pre", { tabIndex: 0 }, picture.infotext),
    ),
  );
}

/** The settings of an earlier run, without its seed: the same kind of picture, another one. */
function useAgain(app, job) {
  const pictures = {};
  for (const given of job.pictures[0]?.layers ?? []) if (given.given) pictures[given.layer] = given;
  restore(app.form, job.request, { seed: false, pictures });
  app.runs.note(t("The settings are in the form; “Reuse seed” takes the seed, too."));
}
