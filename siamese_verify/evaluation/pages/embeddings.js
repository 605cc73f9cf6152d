"use strict";
// The photo and the neighbors of the dot under the pointer, and rings around the dots of one person.
const data = JSON.parse(document.getElementById("numbers").textContent), chosen = document.getElementById("person");
const REACH = 14;  // of the pointer, in the units of the figures

function face(row) {
  const made = document.createElement("span"), column = row % data.columns, line = Math.floor(row / data.columns);
  made.className = "face";
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", data.names[row]);
  made.style.backgroundPosition = `-${column * data.tile}px -${line * data.tile}px`;
  return made;
}
function labeled(parent, row, title, text) {
  if (data.pictures) parent.append(face(row));
  const bold = document.createElement("b");
  bold.textContent = title;
  parent.append(bold, text);
  return parent;
}
function box(kind) {
  const made = document.createElement("div");
  made.className = kind;
  return made;
}
function circle(layer, [x, y], radius, kind) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  for (const [key, value] of Object.entries({ cx: x, cy: y, r: radius, class: kind })) made.setAttribute(key, value);
  layer.append(made);
}
function layerOf(svg, kind) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "g");
  made.setAttribute("class", kind);
  return svg.appendChild(made);
}

const rings = [];
for (const figure of document.querySelectorAll("figure.map")) {
  const points = data.points[figure.id], picture = figure.querySelector(".picture"), svg = figure.querySelector("svg");
  const output = figure.querySelector("output"), near = figure.querySelector(".near");
  const ring = layerOf(svg, "rings"), hover = layerOf(svg, "hover");
  let current = -1, tip = null;
  rings.push(identity => {
    ring.replaceChildren();
    points.forEach((point, row) => { if (data.identities[row] === identity) circle(ring, point, 5, "ring"); });
  });

  function show(row) {
    current = row;
    hover.replaceChildren();
    if (tip) tip.remove();
    circle(hover, points[row], 7, "here");
    mark(data.identities[row]);
    tip = labeled(box("card tip"), row, data.identities[row], data.names[row]);
    figure.append(tip);
    const at = new DOMPoint(...points[row]).matrixTransform(svg.getScreenCTM()), frame = figure.getBoundingClientRect();
    const x = at.x - frame.left, left = x > frame.width / 2 ? x - tip.offsetWidth - 16 : x + 16;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, at.y - frame.top - tip.offsetHeight / 2)}px`;
    list(row);
  }
  function list(row) {
    output.textContent = `${data.identities[row]}, ${data.names[row]}, and its nearest neighbors:`;
    near.replaceChildren(...data.neighbors[row].map((other, place) => {
      const wrong = data.identities[other] !== data.identities[row];
      return labeled(box(wrong ? "neighbor wrong" : "neighbor"), other, data.scores[row][place].toFixed(3),
        data.identities[other] + (wrong ? " (wrong)" : ""));
    }));
  }
  function leave() {
    if (tip) tip.remove();
    tip = null;
    hover.replaceChildren();
    mark(chosen.value);
  }
  list(data.worst);
  svg.addEventListener("pointermove", event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let best = -1, least = REACH * REACH;
    points.forEach(([x, y], row) => {
      const distance = (x - at.x) ** 2 + (y - at.y) ** 2;
      if (distance < least) [best, least] = [row, distance];
    });
    if (best < 0) leave(); else if (best !== current || !tip) show(best);
  });
  svg.addEventListener("pointerleave", leave);
  picture.addEventListener("blur", leave);
  picture.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") leave();
    if (!step) return;
    event.preventDefault();
    show((Math.max(current, step < 0 ? 0 : -1) + step + points.length) % points.length);
  });
}
function mark(identity) { for (const draw of rings) draw(identity); }
chosen.addEventListener("change", () => mark(chosen.value));
