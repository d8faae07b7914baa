// Small pictures that say what a method takes and what it gives: tiles with a thing on nothing, a scene, or both.

const SIDE = 30;
const GAP = 14;

// What goes in stands before the arrow, what comes out behind it; "+" puts tiles on top of each other.
const SHOWN = {
  "A transparent picture": { out: ["thing"] },
  "All layers at once": { out: ["thing", "scene", "both"] },
  "Put something on my background": { given: "scene", out: ["both"] },
  "Put my cut-out into a scene": { given: "thing", out: ["both"] },
  "Take it off again": { given: "both", out: ["thing"] },
  "Show what is behind it": { given: "both", out: ["scene"] },
};

/** The diagram of a card, as an SVG element; a title without one gets a transparent picture's. */
export function diagram(title) {
  const { given, out } = SHOWN[title] ?? SHOWN["A transparent picture"];
  let x = 1;
  let content = "";
  if (given) {
    content += tile(x, given, "given") + arrow(x + SIDE + 3);
    x += SIDE + GAP;
  }
  for (const kind of out) {
    content += tile(x, kind, "made");
    x += SIDE + 4;
  }
  const width = x - 3;
  const holder = document.createElement("span");
  holder.className = "diagram";
  holder.innerHTML = `<svg viewBox="0 0 ${width} ${SIDE + 2}" width="${width}" height="${SIDE + 2}" aria-hidden="true">${content}</svg>`;
  return holder;
}

function tile(x, kind, role) {
  const back = kind === "thing" ? checker() : scene();
  const front =
    kind === "scene" ? "" : '<path class="thing" d="M15 7.5c4 0 7 3.2 7 7.5s-3 8-7 8-7-3.7-7-8 3-7.5 7-7.5z"/>';
  const frame = `<rect class="frame ${role}" width="${SIDE}" height="${SIDE}" rx="4.5"/>`;
  return `<g transform="translate(${x} 1)">${back}${front}${frame}</g>`;
}

function checker() {
  let squares = "";
  for (let row = 0; row < 5; row++) {
    for (let column = row % 2; column < 5; column += 2) squares += `M${column * 6} ${row * 6}h6v6h-6z`;
  }
  return `<rect class="clear" width="${SIDE}" height="${SIDE}" rx="4.5"/><path class="squares" d="${squares}"/>`;
}

function scene() {
  return (
    `<rect class="sky" width="${SIDE}" height="${SIDE}" rx="4.5"/>` +
    '<path class="hill" d="M0 21l8-7 7 6 6-4 9 6v3.5a4.5 4.5 0 0 1-4.5 4.5h-21A4.5 4.5 0 0 1 0 25.5z"/>' +
    '<circle class="sun" cx="24" cy="6.5" r="2.5"/>'
  );
}

function arrow(x) {
  return `<path class="arrow" d="M${x} 16h7m0 0-3-3m3 3-3 3"/>`;
}
