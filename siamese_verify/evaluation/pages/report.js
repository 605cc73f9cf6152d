"use strict";
// The threshold slider and the read-out under the pointer; the figures themselves are drawn already.
const data = JSON.parse(document.getElementById("numbers").textContent), own = data.curves[0];
const percent = rate => `${Number((100 * rate).toPrecision(3))} %`;
const whole = count => count.toLocaleString("en");

// An axis is a table of values at equal distances: position (0 to 1) of a value, and value at a position.
function position(value, table) {
  let low = 0, high = table.length - 1;
  if (value <= table[0]) return 0;
  if (value >= table[high]) return 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (table[middle] <= value) low = middle; else high = middle; }
  return (low + (value - table[low]) / (table[high] - table[low])) / (table.length - 1);
}
function valueAt(share, table) {
  const place = Math.min(Math.max(share, 0), 1) * (table.length - 1), low = Math.min(Math.floor(place), table.length - 2);
  return table[low] + (place - low) * (table[low + 1] - table[low]);
}

// Operating points of a curve, from strict to lenient; before the first, nothing is accepted.
function last(holds, count) {
  let low = 0, high = count;
  while (low < high) { const middle = (low + high) >> 1; if (holds(middle)) low = middle + 1; else high = middle; }
  return low - 1;
}
const byThreshold = (curve, threshold) => last(k => curve.threshold[k] >= threshold, curve.threshold.length);
const byFar = (curve, far) => last(k => curve.false_accepts[k] <= far * curve.impostors, curve.threshold.length);
const rates = (curve, k) => k < 0 ? [0, 1] :
  [curve.false_accepts[k] / curve.impostors, 1 - curve.true_accepts[k] / curve.genuine];

const kinds = {  // figure -> where the pointer is on a curve, and which points of the figure show that
  roc: { find: byFar, points: ([far, frr]) => [[far, 1 - frr]] },
  det: { find: byFar, points: ([far, frr]) => [[far, frr]] },
  errors: { find: byThreshold, points: ([far, frr], threshold) => [[threshold, far], [threshold, frr]], line: true },
  histogram: { find: byThreshold, points: () => [], line: true },
};

function element(parent, name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return parent.appendChild(made);
}
function show(figure, layer, points, threshold) {
  const { box: [left, top, right, bottom], x, y } = data.axes[figure.id];
  layer.replaceChildren();
  if (kinds[figure.id].line && Number.isFinite(threshold)) {
    const at = left + position(threshold, x) * (right - left);
    element(layer, "line", { x1: at, x2: at, y1: top, y2: bottom });
  }
  for (const [first, second] of points)
    element(layer, "circle", { cx: left + position(first, x) * (right - left), cy: bottom - position(second, y) * (bottom - top), r: 4 });
}

const marks = {};
for (const figure of document.querySelectorAll("figure.plot")) {
  const kind = kinds[figure.id], svg = figure.querySelector("svg"), output = figure.querySelector("output");
  if (!kind || !svg) continue;
  const axes = data.axes[figure.id], [left, , right] = axes.box;
  marks[figure.id] = [figure, element(svg, "g", { class: "mark" })];
  const layer = element(svg, "g", { class: "hover" });
  svg.addEventListener("pointermove", event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const value = valueAt((at.x - left) / (right - left), axes.x), points = [], lines = [];
    for (const curve of data.curves) {
      const k = kind.find(curve, value), [far, frr] = rates(curve, k);
      const threshold = kind.find === byThreshold ? value : k < 0 ? Infinity : curve.threshold[k];
      points.push(...kind.points([far, frr], threshold));
      lines.push(`${data.curves.length > 1 ? curve.name + ": " : ""}FAR ${percent(far)}, FRR ${percent(frr)}, TAR ${percent(1 - frr)}, threshold ${Number.isFinite(threshold) ? threshold.toFixed(4) : "∞"}`);
    }
    show(figure, layer, points, value);
    output.textContent = lines.join("\n");
  });
  svg.addEventListener("pointerleave", () => { layer.replaceChildren(); output.textContent = ""; });
}

const slider = document.getElementById("threshold");
function follow() {
  const threshold = Number(slider.value), [far, frr] = rates(own, byThreshold(own, threshold));
  document.getElementById("rates").textContent = `Threshold ${threshold.toFixed(4)}: ` +
    `${percent(far)} of the impostors are accepted (${whole(Math.round(far * own.impostors))} of ${whole(own.impostors)}), ` +
    `${percent(frr)} of the genuine pairs are rejected (${whole(Math.round(frr * own.genuine))} of ${whole(own.genuine)}).`;
  for (const [figure, layer] of Object.values(marks)) show(figure, layer, kinds[figure.id].points([far, frr], threshold), threshold);
}
if (slider) { slider.addEventListener("input", follow); follow(); }
