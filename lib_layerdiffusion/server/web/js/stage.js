// Where pictures are seen: one large, or all of a run; their layers; what can be done with them; the session's history.

import { actions } from "./actions.js";
import { fill, h, icon } from "./dom.js";
import { grounded, swatches } from "./grounds.js";
import { history } from "./history.js";
import { mainLayer } from "./runs.js";
import { describe } from "./run_bar.js";
import { isUnderWay } from "./api.js";
import { t } from "./words.js";
import { welcome } from "./welcome.js";

/** The second column. */
export function createStage(app) {
  const stage = h(
    "section",
    { class: "stage", "aria-label": t("Result") },
    noticeLine(app),
    progressLine(app),
    viewer(app),
    history(app),
  );
  return stage;
}

function noticeLine(app) {
  const text = h("span");
  const close = h(
    "button",
    {
      type: "button",
      class: "quiet square small",
      title: t("Close"),
      "aria-label": t("Close"),
      onclick: () => app.runs.store.set({ notice: null, field: null }),
    },
    icon("close"),
  );
  const line = h("div", { class: "notice", role: "alert", hidden: true }, text, close);
  const update = () => {
    const { notice } = app.runs.store.get();
    line.hidden = !notice;
    line.className = `notice ${notice?.kind ?? ""}`;
    fill(text, notice?.text ?? "");
  };
  app.runs.store.watch(update, "notice");
  update();
  return line;
}

function progressLine(app) {
  const text = h("span");
  const line = h(
    "div",
    { class: "progress-line", "aria-hidden": "true" },
    h("span", { class: "track" }, h("span", { class: "done" })),
    text,
  );
  const update = () => {
    const open = app.runs.store.get().jobs.filter(isUnderWay);
    const current = open.find((job) => job.state === "running") ?? open.at(-1);
    line.classList.toggle("idle", !current);
    if (!current) return;
    line.style.setProperty("--done", String(current.progress?.fraction ?? 0));
    fill(text, describe(current, open.length - 1));
  };
  app.runs.store.watch(update, "jobs");
  update();
  return line;
}

function viewer(app) {
  const view = h("div", { class: "view" });
  let drawn = "";
  const update = () => {
    const { shown, picture, layer, single, trimmed, jobs } = app.runs.store.get();
    const job = app.runs.shown();
    const first = !job && !jobs.some(isUnderWay);
    const now = JSON.stringify([shown, picture, layer, single, trimmed, job?.state ?? first]);
    if (now === drawn) return;
    drawn = now;
    redraw(view, () => (job?.pictures?.length ? result(app, job) : [welcome(app)]));
  };
  app.runs.store.watch(update);
  update();
  return view;
}

/** Draw anew without taking the focus from the control that was used. */
function redraw(view, content) {
  const key = view.contains(document.activeElement) ? document.activeElement.dataset.key : "";
  fill(view, ...content());
  if (key) view.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

function result(app, job) {
  const many = job.pictures.length > 1;
  const { single } = app.runs.store.get();
  const chosen = app.runs.chosen();
  return [
    many && !single ? gallery(app, job) : large(app, job, chosen),
    chosen.picture.layers.length > 1 ? layerTabs(app, chosen) : null,
    caption(job, chosen),
    actions(app, chosen),
  ];
}

/** The address of what is looked at, cut to its content where that was asked for. */
export function addressOf(app, layer) {
  return app.runs.store.get().trimmed && layer.alpha ? `${layer.url}?trim=1&margin=0` : layer.url;
}

function large(app, job, { picture, layer }) {
  const alt = `${t(layer.layer)}: ${job.request.prompt ?? ""}`;
  const image = h("img", { src: addressOf(app, layer), alt, decoding: "async", draggable: true });
  const ground = grounded(image, { class: "fits", style: `--ratio:${layer.width / layer.height}` });
  ground.append(swatches());
  const many = job.pictures.length > 1;
  return h("figure", { class: "large" }, many && pager(app, job, picture), ground);
}

function pager(app, job, picture) {
  const place = job.pictures.indexOf(picture);
  const go = (step) => () =>
    app.runs.store.set({ picture: (place + step + job.pictures.length) % job.pictures.length });
  const button = (name, title, onclick) =>
    h(
      "button",
      {
        type: "button",
        class: "quiet small",
        dataset: { key: name },
        title: t(title),
        "aria-label": t(title),
        onclick,
      },
      icon(name),
    );
  return h(
    "div",
    { class: "pager" },
    h(
      "button",
      {
        type: "button",
        class: "quiet small",
        dataset: { key: "grid" },
        onclick: () => app.runs.store.set({ single: false }),
      },
      icon("grid"),
      t("All pictures"),
    ),
    button("left", "Previous picture", go(-1)),
    h("span", {}, `${place + 1} / ${job.pictures.length}`),
    button("right", "Next picture", go(1)),
  );
}

function gallery(app, job) {
  const tiles = job.pictures.map((picture, index) => tile(app, picture, index));
  const element = h(
    "div",
    {
      class: `gallery ${job.pictures.length > 4 ? "many" : "few"}`,
      role: "group",
      "aria-label": t("Pictures of this run"),
    },
    ...tiles,
  );
  return h(
    "div",
    { class: "gallery-part" },
    h(
      "div",
      { class: "gallery-head" },
      h("span", { class: "help" }, t("Click to choose, twice to enlarge.")),
      swatches(),
    ),
    element,
  );
}

function tile(app, picture, index) {
  const wanted = app.runs.store.get().layer;
  const layer = picture.layers.find((row) => row.layer === wanted) ?? mainLayer(picture);
  const image = h("img", { src: layer.url, alt: `${t(layer.layer)} ${index + 1}`, loading: "lazy", decoding: "async" });
  const choose = () => app.runs.store.set({ picture: index });
  const enlarge = () => app.runs.store.set({ picture: index, single: true });
  const pressed = String(index === app.runs.store.get().picture);
  return h(
    "button",
    {
      type: "button",
      class: "tile",
      "aria-pressed": pressed,
      dataset: { key: `tile-${index}` },
      onclick: choose,
      ondblclick: enlarge,
    },
    grounded(image, { style: `--ratio:${layer.width / layer.height}` }),
    h("span", { class: "tile-seed" }, `${t("Seed")} ${picture.seed}`),
  );
}

function layerTabs(app, { picture, layer }) {
  const tabs = picture.layers.map((row) => {
    const choose = () => app.runs.store.set({ layer: row.layer, trimmed: false });
    return h(
      "button",
      {
        type: "button",
        class: "layer-tab",
        "aria-pressed": String(row === layer),
        dataset: { key: `layer-${row.layer}` },
        onclick: choose,
      },
      grounded(h("img", { src: row.url, alt: "" }), { style: `--ratio:${row.width / row.height}` }),
      h("span", {}, row.given ? `${t(row.layer)} (${t("given")})` : t(row.layer)),
    );
  });
  return h("div", { class: "layer-tabs", role: "group", "aria-label": t("Layers") }, ...tabs);
}

function caption(job, { picture, layer }) {
  const seconds = Object.values(job.seconds ?? {}).reduce((sum, value) => sum + value, 0);
  const facts = [
    `${t("Seed")} ${picture.seed}`,
    `${layer.width} × ${layer.height}`,
    t("{count} s", { count: seconds.toFixed(1) }),
  ];
  return h(
    "p",
    { class: "caption" },
    h("b", {}, job.request.prompt || t("(no prompt)")),
    h("span", { class: "help facts" }, facts.join(" · ")),
  );
}
