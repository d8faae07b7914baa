// Generate, Stop, and how far a run is.

import { fill, h } from "./dom.js";
import { isUnderWay } from "./api.js";
import { labelOf } from "./fields.js";
import { missingPictures, problemOf, requestOf } from "./form.js";
import { t } from "./words.js";

const STAGES = {
  waiting: "Waiting",
  loading: "Loading the model",
  sampling: "Sampling",
  decoding: "Decoding transparency",
  finishing: "Finishing",
};
const DOUBLE_CLICK = 500; // milliseconds within which a second click is not meant
const CHECKED = ["seed", "batch", "width", "height", "steps", "guidance", "strength"];

/** The bar with both buttons. */
export function runBar(app) {
  const label = h("span", { class: "run-label" });
  const detail = h("span", { class: "run-detail" });
  const main = h(
    "button",
    { type: "button", id: "generate", class: "primary", onclick: () => start(app) },
    label,
    detail,
  );
  const stop = h("button", { type: "button", id: "stop", class: "quiet", onclick: () => app.runs.stop() }, t("Stop"));
  const progress = h("progress", { id: "progress", max: 1, class: "unseen", "aria-label": t("Progress") });
  const update = () => showRun(app, { main, label, detail, stop, progress });
  app.runs.store.watch(update, "jobs", "sending");
  update();
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && location.hash !== "#compose") {
      event.preventDefault();
      start(app);
    }
  });
  return h("div", { class: "run-bar" }, main, stop, progress);
}

let lastStart = -DOUBLE_CLICK;

/** Begin a run with what the form says; several wait for each other. */
export function start(app) {
  const isEcho = performance.now() - lastStart < DOUBLE_CLICK && app.runs.underWay().length > 0;
  if (isEcho || app.runs.store.get().sending) return;
  const problem = firstProblem(app);
  if (problem) {
    app.runs.refuse(problem);
    document.getElementById(problem.field)?.focus();
    return;
  }
  lastStart = performance.now();
  const { route, body } = requestOf(app.form, app.runs.client);
  app.runs.start(route, body);
}

function firstProblem(app) {
  const state = app.form.store.get();
  for (const name of CHECKED) {
    const found = problemOf(app.form, name, state[name]);
    if (found) return fault(`${labelOf(app.form, name)}: ${t(...found)}`, name);
  }
  const [layer] = missingPictures(app.form);
  if (!layer) return null;
  return fault(t("A picture is missing: put one into “{slot}”.", { slot: labelOf(app.form, layer) }), layer);
}

function fault(text, field) {
  const error = new Error(text);
  error.field = field;
  return error;
}

function showRun(app, { main, label, detail, stop, progress }) {
  const { jobs, sending } = app.runs.store.get();
  const open = jobs.filter(isUnderWay);
  const current = open.find((job) => job.state === "running") ?? open.at(-1);
  main.classList.toggle("running", Boolean(current) || sending);
  stop.disabled = !current;
  progress.hidden = !current;
  const fraction = current?.progress?.fraction ?? 0;
  progress.value = fraction;
  main.style.setProperty("--done", `${Math.round(fraction * 1000) / 10}%`);
  fill(label, current || sending ? t("Generating…") : t("Generate"));
  fill(
    detail,
    ...(current
      ? [describe(current, open.length - 1)]
      : [h("kbd", {}, /Mac/.test(navigator.platform) ? "⌘ ↵" : "Ctrl ↵")]),
  );
  main.title = current ? t("Once more: the next run waits for this one.") : "";
}

/** "Sampling 12/20, 4 s left" of a run under way. waiting: further runs of this page. */
export function describe(job, waiting = 0) {
  const { stage, done, total, seconds_left: left } = job.progress ?? {};
  const parts = [t(STAGES[stage] ?? "Waiting")];
  if (job.state === "queued" && job.position > 0) parts[0] = t("Waiting for {count} runs", { count: job.position });
  if (job.state === "running" && total && stage !== "loading") parts[0] += ` ${done}/${total}`;
  if (left !== null && left !== undefined && job.state === "running")
    parts.push(t("{time} left", { time: duration(left) }));
  if (waiting) parts.push(t("{count} more waiting", { count: waiting }));
  return parts.join(" · ");
}

function duration(seconds) {
  if (seconds < 60) return t("{count} s", { count: Math.max(1, Math.round(seconds)) });
  return t("{count} min", { count: Math.round(seconds / 6) / 10 });
}
