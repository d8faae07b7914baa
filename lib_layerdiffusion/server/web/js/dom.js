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
  copy: "M7 7V4.5A1.5 1.5 0 0 1 8.500 3h7A1.500 1.500 0 0 1 17 4.500v7a1.500 1.500 0 0 1-1.500 1.500H13M4.500 7h7A1.500 1.500 0 0 1 13 8.500v7a1.500 1.500 0 0 1-1.500 1.500h-7A1.500 1.500 0 0 1 3 15.500v-7A1.500 1.500 0 0 1 4.500 7z",
  trim: "M6 2v12h12M2 6h12v12",
  again: "M4 10a6 6 0 1 1 1.800 4.300M4 10V5.500M4 10h4.500",
  seed: "M10 17V9m0 0C10 5.500 7 4 3.500 4 3.500 7.500 6 9 10 9zm0 2c0-3 2.500-4.500 6.500-4.500C16.500 9.500 14 11 10 11z",
  layers: "m10 3 7 4-7 4-7-4zM3 10.500l7 4 7-4M3 14l7 4 7-4",
  close: "M5 5l10 10M15 5 5 15",
  left: "M12 4l-6 6 6 6",
  right: "M8 4l6 6-6 6",
  grid: "M3.500 3.500h5v5h-5zM11.500 3.500h5v5h-5zM3.500 11.500h5v5h-5zM11.500 11.500h5v5h-5z",
  photo: "M3 4.500h14v11H3zM3 13l4-4 4 4 2-2 4 3.500M13.500 8a.5.5 0 1 0 0-.01",
  plus: "M10 4v12M4 10h12",
  sun: "M10 6.500a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7zM10 2v1.500M10 16.500V18M2 10h1.500M16.500 10H18M4.300 4.300l1.100 1.100M14.600 14.600l1.100 1.100M15.700 4.300l-1.100 1.100M5.400 14.600l-1.100 1.100",
  moon: "M16.500 12.200A7 7 0 0 1 7.800 3.500a7 7 0 1 0 8.700 8.700z",
  screen: "M3 4h14v9.500H3zM7.500 17h5M10 13.500V17",
  dice: "M4.500 3.500h11a1 1 0 0 1 1 1v11a1 1 0 0 1-1 1h-11a1 1 0 0 1-1-1v-11a1 1 0 0 1 1-1zM7 7h.01M13 7h.01M10 10h.01M7 13h.01M13 13h.01",
  enlarge: "M12 3.500h4.500V8M8 16.500H3.500V12M16.500 3.500 11.500 8.500M3.500 16.500l5-5",
  zip: "M4 6.500h12v10H4zM4 6.500l1.500-3h9l1.500 3M10 9v4m0 0 2-2m-2 2-2-2",
  trash: "M4 6h12M8 6V4h4v2M5.500 6l.7 10.500h7.600L14.500 6",
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
