// What is seen before the first picture: a sentence, what the model knows, and one finished sample.

import { h } from "./dom.js";
import { start } from "./run_bar.js";
import { t } from "./words.js";

/** The first view. */
export function welcome(app) {
  return h(
    "div",
    { class: "welcome" },
    h(
      "div",
      { class: "welcome-text" },
      h("h2", {}, t("Say what you want to see. Everything around it stays clear.")),
      h("p", {}, t(sentence(app))),
    ),
    sample(),
    examples(app),
  );
}

function sentence(app) {
  return app.model.subjects.length
    ? "Pictures with real transparency, made by a small model on this machine. Click one to make it."
    : "Pictures with real transparency: glass, glow, hair and soft shadows. Begin with one of these.";
}

/** One picture on three grounds. */
function sample() {
  const bands = ["checker", "white", "dusk"].map((name) => {
    const picture = h("img", { src: "thumbnails/sample.webp", alt: "", width: 128, height: 128 });
    return h("span", { class: `band ${name}` }, picture);
  });
  const caption = t("One picture of the bundled model on three grounds.");
  return h(
    "figure",
    { class: "sample" },
    h("span", { class: "bands" }, ...bands),
    h("figcaption", { class: "help" }, caption),
  );
}

function examples(app) {
  const choices = app.model.examples.slice(0, app.model.subjects.length ? 6 : 12).map((example) => one(app, example));
  return h("div", { class: "examples", role: "group", "aria-label": t("Examples") }, ...choices);
}

function one(app, example) {
  const choose = () => {
    fillIn(app, example);
    const needs = app.form.method()?.inputs.length;
    if (example.thumbnail && !needs) start(app);
    else document.getElementById("prompt")?.focus();
  };
  const picture = example.thumbnail && h("img", { src: example.thumbnail, alt: "", width: 96, height: 96 });
  return h(
    "button",
    { type: "button", class: picture ? "example" : "example plain", onclick: choose },
    picture,
    h("span", {}, t(example.name)),
  );
}

/** Put an example into the form. */
export function fillIn(app, example) {
  const values = { prompt: example.prompt, negative_prompt: example.negative_prompt ?? "" };
  if (app.form.usable.some((method) => method.label === example.method)) values.method = example.method;
  for (const [layer, text] of Object.entries(example.prompts ?? {})) values[`${layer}_prompt`] = text;
  app.form.store.set(values);
}
