// The canvas of the compose tool: draws at once, moves and scales under the pointer, and by the keyboard.

import { api } from "./api.js";
import { composition } from "./compose.js";
import { h, settled } from "./dom.js";
import { t } from "./words.js";

const SMALLEST = 0.01;
const LARGEST = 100;

/** The canvas and its frame with handles. store: as in `compose.js`. */
export function createCanvas(store) {
  const canvas = h("canvas", { width: 1, height: 1 });
  const handles = ["nw", "ne", "sw", "se"].map((corner) =>
    h("span", { class: `handle ${corner}`, dataset: { corner } }),
  );
  const frame = h(
    "div",
    {
      class: "grip",
      hidden: true,
      tabIndex: 0,
      role: "application",
      "aria-label": t("Foreground: arrow keys move it, plus and minus scale it"),
    },
    ...handles,
  );
  const board = h("div", { class: "board checker", hidden: true }, canvas, frame);
  const empty = h("p", { class: "empty" }, t("Put in a background and a foreground, or press Compose under a result."));
  const pictures = { foreground: null, background: null, exact: null };
  const draw = () => drawAll({ canvas, frame, board, empty }, pictures, store.get());
  store.watch((changed) => load(changed, pictures, store, draw));
  const exact = settled(() => fetchExact(pictures, store, draw), 200);
  store.watch(
    () => {
      pictures.exact = null;
      if (store.get().linear) exact();
      draw();
    },
    "left",
    "top",
    "scale",
    "linear",
    "foreground",
    "background",
  );
  listen({ board, frame }, pictures, store);
  return h("div", { class: "canvas" }, board, empty);
}

async function load(changed, pictures, store, draw) {
  for (const name of ["foreground", "background"]) {
    if (!changed.has(name)) continue;
    const row = store.get()[name];
    pictures[name] = row ? await picture(api.pictureUrl(row.name)) : null;
    draw();
  }
  if (changed.has("foreground") || changed.has("background")) fit(pictures, store, changed);
}

/** A foreground is put into the middle once, when it comes, and made to fit where it is larger than the background. */
function fit({ foreground, background }, store, changed) {
  if (!foreground || !background) return;
  const { left, top, scale } = store.get();
  if (!changed.has("foreground") && (left || top || scale !== 1)) return;
  const most = Math.min(
    (0.8 * background.naturalWidth) / foreground.naturalWidth,
    (0.8 * background.naturalHeight) / foreground.naturalHeight,
  );
  if (left || top || scale !== 1) return;
  const fitting = most < 0.8 ? Number(most.toFixed(3)) : 1;
  const place = (side) => Math.round((background[side] - foreground[side] * fitting) / 2);
  store.set({ scale: fitting, left: place("naturalWidth"), top: place("naturalHeight") });
}

function picture(address) {
  return new Promise((done) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => done(null);
    image.src = address;
  });
}

/** Linear light is blended by the server: the canvas itself only knows colour values. */
async function fetchExact(pictures, store, draw) {
  const asked = store.get();
  if (!asked.foreground || !asked.background || !asked.linear) return;
  try {
    const address = URL.createObjectURL(await api.compose(composition(asked)));
    const made = await picture(address);
    URL.revokeObjectURL(address);
    if (store.get() === asked) pictures.exact = made;
    draw();
  } catch (error) {
    store.set({ problem: t(error.message) });
  }
}

function drawAll({ canvas, frame, board, empty }, { foreground, background, exact }, { left, top, scale }) {
  const ground = background ?? foreground;
  board.hidden = !ground;
  empty.hidden = Boolean(ground);
  if (!ground) return;
  const [width, height] = [ground.naturalWidth, ground.naturalHeight];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  board.style.setProperty("--ratio", width / height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, width, height);
  if (exact) context.drawImage(exact, 0, 0);
  else {
    if (background) context.drawImage(background, 0, 0);
    if (foreground)
      context.drawImage(foreground, left, top, foreground.naturalWidth * scale, foreground.naturalHeight * scale);
  }
  frame.hidden = !(foreground && background);
  if (!foreground) return;
  const share = (value, whole) => `${(100 * value) / whole}%`;
  frame.style.left = share(left, width);
  frame.style.top = share(top, height);
  frame.style.width = share(foreground.naturalWidth * scale, width);
  frame.style.height = share(foreground.naturalHeight * scale, height);
}

function listen({ board, frame }, pictures, store) {
  frame.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    frame.focus();
    frame.setPointerCapture(event.pointerId);
    drag(event, { board, frame }, pictures, store);
  });
  board.addEventListener(
    "wheel",
    (event) => {
      if (!pictures.foreground || !pictures.background) return;
      event.preventDefault();
      scaleAbout(pictures, store, store.get().scale * 1.0015 ** -event.deltaY);
    },
    { passive: false },
  );
  frame.addEventListener("keydown", (event) => byKey(event, pictures, store));
}

function drag(start, { board, frame }, pictures, store) {
  const begun = store.get();
  const unit = pictures.background.naturalWidth / board.clientWidth;
  const { corner } = start.target.dataset;
  const move = (event) => {
    const dx = (event.clientX - start.clientX) * unit;
    const dy = (event.clientY - start.clientY) * unit;
    if (corner) store.set(cornered(pictures.foreground, begun, corner, dx, dy));
    else store.set({ left: Math.round(begun.left + dx), top: Math.round(begun.top + dy) });
  };
  const end = () => {
    frame.removeEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) frame.removeEventListener(name, end);
  };
  frame.addEventListener("pointermove", move);
  for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, end);
}

/** A corner was pulled: the opposite one stays where it is. */
function cornered(foreground, { left, top, scale }, corner, dx, dy) {
  const [width, height] = [foreground.naturalWidth, foreground.naturalHeight];
  const wide = corner.includes("w") ? -dx : dx;
  const high = corner.includes("n") ? -dy : dy;
  const grown = scale + Math.max(wide / width, high / height);
  const next = Math.min(Math.max(grown, SMALLEST), LARGEST);
  return {
    scale: next,
    left: corner.includes("w") ? Math.round(left - (next - scale) * width) : left,
    top: corner.includes("n") ? Math.round(top - (next - scale) * height) : top,
  };
}

function scaleAbout({ foreground }, store, wanted) {
  const { left, top, scale } = store.get();
  const next = Math.min(Math.max(wanted, SMALLEST), LARGEST);
  const shift = (side) => ((next - scale) * side) / 2;
  store.set({
    scale: next,
    left: Math.round(left - shift(foreground.naturalWidth)),
    top: Math.round(top - shift(foreground.naturalHeight)),
  });
}

function byKey(event, pictures, store) {
  const step = event.shiftKey ? 10 : 1;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  const { left, top, scale } = store.get();
  if (moves[event.key]) store.set({ left: left + moves[event.key][0], top: top + moves[event.key][1] });
  else if (event.key === "+" || event.key === "-")
    scaleAbout(pictures, store, scale * (event.key === "+" ? 1.02 : 1 / 1.02));
  else return;
  event.preventDefault();
}
