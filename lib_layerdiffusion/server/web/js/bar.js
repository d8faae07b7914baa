// The head of the page: its name, the model, the two tools, language and theme.

import { h, icon } from "./dom.js";
import { preference } from "./store.js";
import { LANGUAGES, language, t } from "./words.js";

const THEMES = ["auto", "light", "dark"];
const THEME_ICONS = { auto: "screen", light: "sun", dark: "moon" };
const THEME_NAMES = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };

/** What stands in the head line. */
export function createBar(model) {
  const tools = h("nav", { "aria-label": t("Tools") }, toolLink("create", "Create"), toolLink("compose", "Compose"));
  addEventListener("hashchange", showTool);
  return [
    h(
      "div",
      { class: "brand" },
      h("img", { src: "mark.svg", alt: "", width: 26, height: 26 }),
      h("h1", {}, "LayerDiffusion"),
    ),
    tools,
    h("p", { class: "model", title: model.source }, t("Model: {name}", { name: t(model.source) })),
    h("div", { class: "bar-end" }, languageChoice(model), themeButton()),
  ];
}

function toolLink(name, title) {
  return h("a", { href: `#${name}`, dataset: { tool: name } }, t(title));
}

/** Show the tool that the address names. */
export function showTool() {
  const chosen = location.hash === "#compose" ? "compose" : "create";
  for (const name of ["create", "compose"]) document.getElementById(name).hidden = name !== chosen;
  for (const link of document.querySelectorAll("[data-tool]")) {
    if (link.dataset.tool === chosen) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function languageChoice(model) {
  const codes = ["en", ...model.languages].filter((code) => code in LANGUAGES);
  const options = codes.map((code) => h("option", { value: code, selected: code === language() }, LANGUAGES[code]));
  const choose = (event) => {
    preference.set("language", event.target.value);
    location.reload();
  };
  return h("select", { id: "language", "aria-label": t("Language"), onchange: choose }, ...options);
}

function themeButton() {
  const button = h("button", { type: "button", id: "theme", class: "quiet square" });
  const show = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    button.replaceChildren(icon(THEME_ICONS[name]));
    button.title = t(THEME_NAMES[name]);
    button.setAttribute("aria-label", t(THEME_NAMES[name]));
  };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(preference.get("theme", "auto")) + 1) % THEMES.length];
    preference.set("theme", next);
    show(next);
  });
  show(preference.get("theme", "auto"));
  return button;
}
