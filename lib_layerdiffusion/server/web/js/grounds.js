// What transparency is shown on: swatches on the picture's corner, one choice for the whole page.

import { h, icon } from "./dom.js";
import { createStore, preference } from "./store.js";
import { t } from "./words.js";

const NAMES = { checker: "Checkerboard", white: "White", black: "Black", colour: "Any colour", photo: "Own photo" };
const store = createStore({
  ground: preference.get("ground", "checker"),
  colour: preference.get("colour", "#5b8c5a"),
  photo: "",
});

/** An element behind a picture that shows the chosen ground. `picture` is put into it. */
export function grounded(picture, properties = {}) {
  const element = h("span", { ...properties, class: `ground ${properties.class ?? ""}` }, picture);
  picture.addEventListener("load", () => {
    if (picture.naturalWidth) element.style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight);
  });
  return element;
}

/** Keep the page's grounds as they were chosen. */
function show() {
  const { ground, colour, photo } = store.get();
  const root = document.documentElement;
  root.dataset.ground = ground === "photo" && !photo ? "checker" : ground;
  root.style.setProperty("--own-colour", colour);
  root.style.setProperty("--own-photo", photo ? `url("${photo}")` : "none");
}

store.watch(show);
show();

/** The swatches. */
export function swatches() {
  const file = h("input", { type: "file", accept: "image/*", class: "unseen", tabIndex: -1, "aria-hidden": "true" });
  const colour = h("input", {
    type: "color",
    value: store.get().colour,
    "aria-label": t("Any colour"),
    title: t("Any colour"),
  });
  const buttons = ["checker", "white", "black"].map((name) => swatch(name, () => choose(name)));
  const photo = swatch("photo", () =>
    store.get().photo && store.get().ground !== "photo" ? choose("photo") : file.click(),
  );
  photo.append(icon("photo"));
  colour.addEventListener("input", () => {
    preference.set("colour", colour.value);
    store.set({ colour: colour.value });
    choose("colour");
  });
  colour.addEventListener("click", () => choose("colour"));
  file.addEventListener("change", () => {
    if (!file.files[0]) return;
    URL.revokeObjectURL(store.get().photo);
    store.set({ photo: URL.createObjectURL(file.files[0]), ground: "photo" });
    file.value = "";
  });
  const own = h("span", { class: "swatch colour", dataset: { name: "colour" } }, colour);
  const element = h(
    "span",
    { class: "swatches", role: "group", "aria-label": t("Show on") },
    ...buttons,
    own,
    photo,
    file,
  );
  const mark = () => {
    for (const button of element.querySelectorAll("[data-name]")) {
      const chosen = String(button.dataset.name === document.documentElement.dataset.ground);
      button.dataset.chosen = chosen;
      if (button.tagName === "BUTTON") button.setAttribute("aria-pressed", chosen);
    }
  };
  store.watch(mark);
  mark();
  return element;
}

function swatch(name, onclick) {
  return h("button", {
    type: "button",
    class: `swatch ${name}`,
    title: t(NAMES[name]),
    "aria-label": t(NAMES[name]),
    dataset: { name },
    onclick,
  });
}

function choose(ground) {
  preference.set("ground", ground);
  store.set({ ground });
}
