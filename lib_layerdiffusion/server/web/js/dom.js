// Elements from plain calls, so that text never passes through an HTML parser.

/**
 * An element. Properties that begin with "on" are listeners, `class` and ARIA names are attributes, the rest is set on
 * the element itself where it has such a property. Children are elements or text; null and false are left out.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) setProperty(element, name, value);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function setProperty(element, name, value) {
  if (value === null || value === undefined) return;
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "dataset") Object.assign(element.dataset, value);
  else if (name === "style") element.style.cssText = value;
  else if (name in element && !name.includes("-") && !["class", "list", "form"].includes(name)) element[name] = value;
  else element.setAttribute(name, value);
}

/** Replace what is in an element. */
export function fill(element, ...children) {
  element.replaceChildren(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** One of the page's icons, 20 by 20, in the colour of the text. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

const ICONS = {
  download: "M10 3v10m0 0 4-4m-4 4-4-4M4 16.5h12",
  copy: "M7 7V4.5A1.5 1.5 0 0 1 8.5 3h7A1.5 1.5 0 0 1 17 4.5v7a1.5 1.5 0 0 1-1.5 1.5H13M4.5 7h7A1.5 1.5 0 0 1 13 8.5v7a1.5 1.5 0 0 1-1.5 1.5h-7A1.5 1.5 0 0 1 3 15.5v-7A1.5 1.5 0 0 1 4.5 7z",
  trim: "M6 2v12h12M2 6h12v12",
  again: "M4 10a6 6 0 1 1 1.8 4.3M4 10V5.5M4 10h4.5",
  seed: "M10 17V9m0 0C10 5.5 7 4 3.5 4 3.5 7.5 6 9 10 9zm0 2c0-3 2.5-4.5 6.5-4.5C16.5 9.5 14 11 10 11z",
  layers: "m10 3 7 4-7 4-7-4zM3 10.5l7 4 7-4M3 14l7 4 7-4",
  close: "M5 5l10 10M15 5 5 15",
  left: "M12 4l-6 6 6 6",
  right: "M8 4l6 6-6 6",
  grid: "M3.5 3.5h5v5h-5zM11.5 3.5h5v5h-5zM3.5 11.5h5v5h-5zM11.5 11.5h5v5h-5z",
  photo: "M3 4.5h14v11H3zM3 13l4-4 4 4 2-2 4 3.5M13.5 8a.5.5 0 1 0 0-.01",
  plus: "M10 4v12M4 10h12",
  sun: "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M15.7 4.3l-1.1 1.1M5.4 14.6l-1.1 1.1",
  moon: "M16.5 12.2A7 7 0 0 1 7.8 3.5a7 7 0 1 0 8.7 8.7z",
  screen: "M3 4h14v9.5H3zM7.5 17h5M10 13.5V17",
  dice: "M4.5 3.5h11a1 1 0 0 1 1 1v11a1 1 0 0 1-1 1h-11a1 1 0 0 1-1-1v-11a1 1 0 0 1 1-1zM7 7h.01M13 7h.01M10 10h.01M7 13h.01M13 13h.01",
  enlarge: "M12 3.5h4.5V8M8 16.5H3.5V12M16.5 3.5 11.5 8.5M3.5 16.5l5-5",
  zip: "M4 6.5h12v10H4zM4 6.5l1.5-3h9l1.5 3M10 9v4m0 0 2-2m-2 2-2-2",
  trash: "M4 6h12M8 6V4h4v2M5.5 6l.7 10.5h7.6L14.5 6",
  compose: "M3 3h10v10H3zM7 7h10v10H7z",
};

/** Tell a screen reader. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** A function that runs once nothing has called it for `wait` milliseconds. */
export function settled(action, wait) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), wait);
  };
}
