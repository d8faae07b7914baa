// The runs of this session, newest first.

import { isUnderWay } from "./api.js";
import { fill, h, icon } from "./dom.js";
import { grounded } from "./grounds.js";
import { mainLayer } from "./runs.js";
import { t } from "./words.js";

/** The strip beside or under the picture. */
export function history(app) {
  const list = h("div", { class: "history-list" });
  const element = h("aside", { class: "history", "aria-label": t("History"), hidden: true }, list);
  let drawn = "";
  const update = () => {
    const { jobs, shown } = app.runs.store.get();
    const kept = jobs.filter((job) => isUnderWay(job) || job.state === "done");
    const now = JSON.stringify([shown, kept.map((job) => [job.id, job.state])]);
    if (now === drawn) return;
    drawn = now;
    element.hidden = !kept.length;
    const key = list.contains(document.activeElement) ? document.activeElement.dataset.key : "";
    fill(list, ...kept.map((job) => entry(app, job, job.id === shown)));
    if (key) list.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
  };
  app.runs.store.watch(update, "jobs", "shown");
  update();
  return element;
}

function entry(app, job, isShown) {
  if (isUnderWay(job))
    return h("div", { class: "run-tile waiting", title: job.request.prompt ?? "" }, h("span", { class: "spinner" }));
  const layer = mainLayer(job.pictures[0]);
  const image = h("img", { src: layer.url, alt: job.request.prompt || t("(no prompt)"), loading: "lazy" });
  image.addEventListener("error", () => app.runs.forget(job.id), { once: true });
  const count = job.pictures.length;
  const about = `${job.request.prompt ?? ""} · ${t("Seed")} ${job.seed}`;
  return h(
    "div",
    { class: "run-tile" },
    h(
      "button",
      {
        type: "button",
        class: "run-choice",
        title: about,
        "aria-pressed": String(isShown),
        dataset: { key: job.id },
        onclick: () => app.runs.show(job.id),
      },
      grounded(image),
      count > 1 && h("span", { class: "count" }, String(count)),
    ),
    h(
      "button",
      {
        type: "button",
        class: "remove",
        title: t("Remove from the history"),
        "aria-label": t("Remove from the history"),
        onclick: () => app.runs.forget(job.id),
      },
      icon("close"),
    ),
  );
}
