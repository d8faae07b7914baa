// Controls for single values, made from what the server's schema says of them.

import { fill, h } from "./dom.js";
import { problemOf } from "./form.js";
import { t } from "./words.js";

/** The name of a value in the page's language. */
export function labelOf(form, name) {
  return t(form.schema.properties[name]?.title ?? name);
}

/**
 * A labelled control of one value of the form, with its help and a line for what is wrong with it.
 * control: (id, described by) -> the element. Refusals that name this field are shown here, too.
 */
export function labelled(app, name, control, { help = true, label = labelOf(app.form, name), hidden = false } = {}) {
  const description = help ? t(app.form.schema.properties[name]?.description ?? "") : "";
  const about = `${name}-about`;
  const wrong = h("p", { class: "wrong", id: `${name}-wrong`, hidden: true });
  const element = h(
    "div",
    { class: `field field-${name}` },
    h("label", { for: name, class: hidden ? "unseen" : "" }, label),
    description && h("p", { class: "help", id: about }, description),
    control(name, `${description ? `${about} ` : ""}${name}-wrong`),
    wrong,
  );
  showProblems(app, name, element, wrong);
  return element;
}

/** Keep the line under a control up to date with the form and with what the server refused. */
export function showProblems(app, name, element, wrong) {
  const show = () => {
    const found = problemOf(app.form, name, app.form.store.get()[name]);
    const refused = app.runs.store.get().field;
    const text = found ? t(...found) : refused?.name === name ? refused.text : "";
    wrong.hidden = !text;
    fill(wrong, text);
    for (const control of element.querySelectorAll("input, select, textarea")) {
      control.toggleAttribute("data-wrong", Boolean(text));
      control.setAttribute("aria-invalid", String(Boolean(text)));
    }
  };
  app.form.store.watch(show, name);
  app.runs.store.watch(show, "field");
  show();
}

/** The control that fits a value's schema. */
export function control(app, name) {
  const schema = app.form.schema.properties[name];
  if (name === "sampler") return samplerControl(app);
  if (schema.type === "boolean") return switchControl(app, name);
  if (schema.enum) return choiceControl(app, name, schema.enum);
  if (schema.type === "number" && schema.maximum <= 2) return sliderControl(app, name, schema);
  if (schema.type === "integer" || schema.type === "number") return labelled(app, name, numberBox(app, name));
  return labelled(app, name, textBox(app, name));
}

function bound(app, name, element, read, show) {
  element.addEventListener("input", () => app.form.store.set({ [name]: read(element) }));
  const update = () => show(element, app.form.store.get()[name]);
  app.form.store.watch(update, name);
  update();
  return element;
}

const showValue = (element, value) => {
  if (element.value !== String(value ?? "")) element.value = value ?? "";
};

/** A number is kept as it was typed where it is none, so that the line beside it can say so. */
const readNumber = (element) => {
  const text = element.value.trim();
  return text === "" || !Number.isFinite(Number(text)) ? text : Number(text);
};

/** A box for a number; its arrows step by one, or by half where it is no whole number. */
export function numberBox(app, name, step = null) {
  const { type, minimum, maximum } = app.form.schema.properties[name];
  return (id, about) => {
    const properties = {
      id,
      type: "number",
      inputMode: "decimal",
      step: "any",
      min: minimum ?? "",
      max: maximum ?? "",
    };
    const element = h("input", { ...properties, "aria-describedby": about });
    element.addEventListener("keydown", (event) => stepBy(event, app, name, step ?? (type === "integer" ? 1 : 0.5)));
    return bound(app, name, element, readNumber, showValue);
  };
}

/** The browser's own steps would begin at the minimum: 64 + 8n is right, 1 + 0.5n is not. */
function stepBy(event, app, name, step) {
  const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  const { minimum, maximum } = app.form.schema.properties[name];
  const value = Number(app.form.store.get()[name]);
  if (!direction || !Number.isFinite(value)) return;
  event.preventDefault();
  const next = Math.min(Math.max(value + direction * step, minimum ?? -Infinity), maximum ?? Infinity);
  app.form.store.set({ [name]: next });
}

/** A line of text. */
export function textBox(app, name, properties = {}) {
  return (id, about) =>
    bound(
      app,
      name,
      h("input", { id, type: "text", "aria-describedby": about, ...properties }),
      (box) => box.value,
      showValue,
    );
}

/** Text of several lines that grows with its content. */
export function textArea(app, name, properties = {}) {
  return (id, about) => {
    const element = h("textarea", { id, "aria-describedby": about, ...properties });
    return bound(app, name, element, (box) => box.value, showValue);
  };
}

function switchControl(app, name) {
  const line = labelled(app, name, (id, about) => {
    const element = h("input", { id, type: "checkbox", class: "switch", "aria-describedby": about });
    return bound(
      app,
      name,
      element,
      (box) => box.checked,
      (box, value) => {
        box.checked = Boolean(value);
      },
    );
  });
  line.classList.add("switch-line");
  return line;
}

function choiceControl(app, name, values) {
  return labelled(app, name, (id, about) => {
    const options = values.map((value) => h("option", { value }, t(String(value))));
    const read = (box) => values[box.selectedIndex];
    const show = (box, value) => {
      box.selectedIndex = values.indexOf(value);
    };
    return bound(app, name, h("select", { id, "aria-describedby": about }, ...options), read, show);
  });
}

function sliderControl(app, name, { minimum, maximum }) {
  return labelled(app, name, (id, about) => {
    const range = h("input", {
      type: "range",
      min: minimum,
      max: maximum,
      step: 0.01,
      "aria-label": labelOf(app.form, name),
    });
    bound(app, name, range, (box) => Number(box.value), showValue);
    return h("div", { class: "slider" }, range, numberBox(app, name, 0.05)(id, about));
  });
}

function samplerControl(app) {
  const { samplers, schedules } = app.model;
  return labelled(app, "sampler", (id, about) => {
    const names = h("datalist", { id: "samplers" }, ...samplers.map((value) => h("option", { value })));
    const placeholder = t("the model's own");
    const box = textBox(app, "sampler", { list: "samplers", placeholder, autocomplete: "off", spellcheck: false });
    const more = schedules.length
      ? t("A schedule may stand behind the name: {names}.", { names: schedules.join(", ") })
      : "";
    return h("div", {}, box(id, about), names, more && h("p", { class: "help" }, more));
  });
}
