"use strict";
// Draws the curves of a report, or of several to compare, from the numbers in the page, in the page's own colours.
const data = JSON.parse(document.getElementById("numbers").textContent), own = data.curves[0];
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const percent = (rate, digits = 3) => `${Number((100 * rate).toPrecision(digits))} %`;
const probit = rate => {  // Acklam's rational approximation, relative error below 1.2e-9: more than a screen can show
  const a = [-39.69683028665376, 220.9460984245205, -275.9285104469687, 138.357751867269, -30.66479806614716, 2.506628277459239];
  const b = [-54.47609879822406, 161.5858368580409, -155.6989798598866, 66.80131188771972, -13.28068155288572];
  const c = [-0.007784894002430293, -0.3223964580411365, -2.400758277161838, -2.549732539343734, 4.374664141464968, 2.938163982698783];
  const d = [0.007784695709041462, 0.3224671290700398, 2.445134137142996, 3.754408661907416];
  const fold = (terms, x) => terms.reduce((sum, term) => sum * x + term, 0);
  if (rate < 0.02425) { const q = Math.sqrt(-2 * Math.log(rate)); return fold(c, q) / fold([...d, 1], q); }
  if (rate > 0.97575) return -probit(1 - rate);
  const q = rate - 0.5, r = q * q;
  return fold(a, r) * q / fold([...b, 1], r);
};
const settings = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };

function axis(title, extra = {}) {
  return { title: { text: title, standoff: 8 }, gridcolor: colour("--line"), zeroline: false, automargin: true,
    linecolor: colour("--line"), ...extra };
}
function layout(x, y, extra = {}) {
  return { xaxis: x, yaxis: y, margin: { l: 60, r: 14, t: 10, b: 48 }, height: 360,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 13 },
    legend: { bgcolor: "rgba(0,0,0,0)", font: { size: 12 } }, ...extra };
}
const decades = { type: "log", dtick: 1, exponentformat: "power" };
function below(names, target) {  // a legend under the axis, where it covers nothing, and room for it
  const width = Math.max(...names.map(name => 45 + 6.5 * name.length)), columns = Math.max(1, Math.floor((target.clientWidth - 80) / width));
  const rows = names.length > 1 ? Math.ceil(names.length / columns) : 0;
  return { showlegend: rows > 0, height: 360 + 19 * rows, margin: { l: 60, r: 14, t: 10, b: 48 + 19 * rows },
    legend: { orientation: "h", entrywidth: width, x: 0, y: -52 / 302, yanchor: "top", bgcolor: "rgba(0,0,0,0)", font: { size: 11 } } };
}
function line(x, y, name, shade, extra = {}) {
  return { x, y, name, type: "scatter", mode: "lines", line: { color: shade, width: 2, shape: "hv", ...extra.line },
    ...Object.fromEntries(Object.entries(extra).filter(([key]) => key !== "line")) };
}
const mark = threshold => ({ type: "line", x0: threshold, x1: threshold, yref: "paper", y0: 0, y1: 1,
  line: { color: colour("--ink"), width: 1.5, dash: "dash" } });
const shades = () => [colour("--genuine"), colour("--impostor"), "#2a9d6f", "#8c5fc7", "#b8860b", "#c2407c", "#4d908e", "#7b8694"];
const greys = ["#7b8694", "#a3793c", "#6d8f5a", "#8c6fae", "#b56576", "#4d908e", "#9a8c6b", "#5c7c9e", "#a05c9a"];

function place(threshold) {  // the last operating point that is not below the threshold
  let low = 0, high = own.threshold.length;
  while (low < high) { const middle = (low + high) >> 1; if (own.threshold[middle] >= threshold) low = middle + 1; else high = middle; }
  return low - 1;
}
const rates = threshold => {
  const at = place(threshold);
  return at < 0 ? [0, 1] : [own.far[at], own.frr[at]];
};

const drawings = {
  roc(target) {
    const floor = Math.min(0.5 / Math.max(...data.curves.map(curve => curve.impostors)), 0.005);
    const measured = data.points.filter(point => point.target >= floor), drawn = rates => rates.map(rate => Math.max(rate, floor));
    const others = data.published.map((one, i) => line(drawn(one.far), one.tar, one.name, greys[i % greys.length],
      { line: { width: 1.2, shape: "linear" } }));
    const curves = data.curves.map((curve, i) => line(drawn(curve.far), curve.frr.map(rate => 1 - rate), curve.name, shades()[i % 8],
      { text: curve.threshold.map(t => t.toFixed(4)), line: { width: 2.5 },
        hovertemplate: "FAR %{x:.3g}<br>TAR %{y:.2%}<br>threshold %{text}<extra></extra>" }));
    const points = { x: measured.map(point => point.target), y: measured.map(point => point.tar), type: "scatter", mode: "markers",
      showlegend: false, hovertemplate: "FAR ≤ %{x}<br>TAR %{y:.2%}<extra></extra>",
      marker: { size: 10, color: colour("--impostor"), symbol: measured.map(p => p.insufficient ? "circle-open" : "circle") } };
    const here = { x: [], y: [], type: "scatter", mode: "markers", showlegend: false, hoverinfo: "skip",
      marker: { size: 13, symbol: "cross-thin-open", color: colour("--ink"), line: { width: 2 } } };
    return [[...others, ...curves, points, here], layout(
      axis("false accept rate (log)", { ...decades, range: [Math.log10(floor), 0], tickangle: 0, dtick: Math.ceil(-Math.log10(floor) * 38 / (target.clientWidth - 74)) }),
      axis("true accept rate", { tickformat: ".0%", range: [Math.max(0, Math.min(...data.curves.map(curve => 1 - curve.frr[curve.far.findIndex(rate => rate > 0)])) - 0.15), 1.005] }), below([...others, ...curves].map(one => one.name), target))];
  },
  det(target) {
    const curves = data.curves.length, most = kind => Math.max(...data.curves.map(curve => curve[kind]));
    const floors = [Math.min(0.5 / most("impostors"), 0.01), Math.min(0.5 / most("genuine"), 0.01)];
    const drawn = (rates, floor) => rates.map(rate => probit(Math.min(Math.max(rate, floor), 1 - 1e-9)));
    const ticks = [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95];
    const worst = Math.max(...data.curves.map(curve => curve.eer)), top = probit(worst < 0.35 ? 0.5 : 0.99);
    const scale = (floor, gap) => {  // ticks that are no closer than `gap` of the axis
      const least = gap * (top - probit(floor)), shown = [];
      for (const tick of ticks) if (tick >= floor && (!shown.length || probit(tick) - probit(shown.at(-1)) >= least)) shown.push(tick);
      return { range: [probit(floor), top], tickvals: shown.map(probit), ticktext: shown.map(rate => percent(rate)), tickangle: 0 };
    };
    const named = curve => curves > 1 ? `${curve.name}, EER ${percent(curve.eer)}` : curve.name;
    const lines = data.curves.map((curve, i) => line(drawn(curve.far, floors[0]), drawn(curve.frr, floors[1]), named(curve), shades()[i % 8], {
      text: curve.far.map((rate, k) => `FAR ${percent(rate)}<br>FRR ${percent(curve.frr[k])}<br>threshold ${curve.threshold[k].toFixed(4)}`),
      hovertemplate: "%{text}<extra></extra>" }));
    const equal = { x: drawn(data.curves.map(curve => curve.eer), floors[0]), y: drawn(data.curves.map(curve => curve.eer), floors[1]),
      type: "scatter", mode: curves > 1 ? "markers" : "markers+text", text: data.curves.map(curve => `EER ${percent(curve.eer)}`), textposition: "top right",
      marker: { size: 9, color: data.curves.map((_, i) => shades()[i % 8]) }, hoverinfo: "skip", showlegend: false };
    return [[...lines, equal], layout(axis("false accept rate (probit)", scale(floors[0], 60 / (target.clientWidth - 74))),
      axis("false reject rate (probit)", scale(floors[1], 0.07)), below(lines.map(one => one.name), target))];
  },
  histogram() {
    const { edges, genuine, impostors } = data.histogram;
    const middle = genuine.map((_, i) => (edges[i] + edges[i + 1]) / 2), width = genuine.map((_, i) => edges[i + 1] - edges[i]);
    const bars = (counts, total, name, shade) => ({ x: middle, y: counts.map(count => count / total), width, name, type: "bar",
      marker: { color: shade, opacity: 0.55 }, hovertemplate: "%{y:.2%} of them near %{x:.3f}<extra>" + name + "</extra>" });
    return [[bars(impostors, own.impostors, "impostors", colour("--impostor")), bars(genuine, own.genuine, "genuine pairs", colour("--genuine"))],
      layout(axis("score (higher: more alike)"), axis("share of the pairs of its kind", { tickformat: ".0%" }),
        { barmode: "overlay", bargap: 0, shapes: [mark(data.threshold)], legend: { orientation: "h", y: 1.12 } })];
  },
  errors() {
    const shown = rate => rate > 0 ? rate : null;
    return [[line(own.threshold, own.far.map(shown), "false accepts", colour("--impostor")),
      line(own.threshold, own.frr.map(shown), "false rejects", colour("--genuine"))],
      layout(axis("threshold"), axis("error rate (log)", decades),
        { shapes: [mark(data.threshold)], legend: { orientation: "h", y: 1.12 } })];
  },
  folds() {
    return [[{ x: data.folds.map((_, i) => i + 1), y: data.folds, type: "bar", marker: { color: colour("--genuine") },
      hovertemplate: "fold %{x}: %{y:.2%}<extra></extra>" }],
      layout(axis("fold", { dtick: 1 }), axis("accuracy", { tickformat: ".1%",
        range: [Math.max(0, Math.min(...data.folds) - 0.02), Math.min(1, Math.max(...data.folds) + 0.005)] }), { showlegend: false })];
  },
  reliability() {
    const bins = data.reliability, ideal = line([0, 1], [0, 1], "calibrated", colour("--soft"), { line: { dash: "dot", width: 1.2, shape: "linear" } });
    return [[ideal, { x: bins.map(bin => bin.predicted), y: bins.map(bin => bin.observed), type: "scatter", mode: "lines+markers", name: own.name,
      marker: { color: colour("--genuine"), size: bins.map(bin => 6 + 2 * Math.log10(bin.pairs)) }, line: { color: colour("--genuine") },
      text: bins.map(bin => `${Math.round(bin.pairs).toLocaleString()} pairs`), hovertemplate: "said %{x:.1%}, was %{y:.1%}<br>%{text}<extra></extra>" }],
      layout(axis("probability said", { range: [0, 1], tickformat: ".0%" }), axis("share that was genuine", { range: [0, 1.02], tickformat: ".0%" }), { showlegend: false })];
  },
  robustness() {
    const kinds = [...new Set(data.robustness.map(row => row.kind))];
    return [kinds.map((kind, i) => {
      const rows = data.robustness.filter(row => row.kind === kind);
      return { x: rows.map((_, step) => step + 1), y: rows.map(row => row.eer), name: kind, type: "scatter", mode: "lines+markers",
        line: { color: greys[i % greys.length], width: 2 }, text: rows.map(row => row.corruption), hovertemplate: "%{text}<br>EER %{y:.2%}<extra></extra>" };
    }), layout(axis("severity, as in the table", { dtick: 1 }), axis("equal error rate", { tickformat: ".0%", rangemode: "tozero" }),
      { legend: { orientation: "h", y: 1.2 }, shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: own.eer, y1: own.eer,
        line: { color: colour("--soft"), dash: "dot", width: 1.2 } }] })];
  },
};

function draw() {
  for (const [name, make] of Object.entries(drawings)) {
    const target = document.getElementById(name);
    if (target) Plotly.react(target, ...make(target), settings);
  }
  if (slider) follow();
}
const slider = document.getElementById("threshold");
function follow() {
  const threshold = Number(slider.value), [far, frr] = rates(threshold);
  document.getElementById("rates").textContent = `Threshold ${threshold.toFixed(4)}: ` +
    `${percent(far)} of the impostors get in (${Math.round(far * own.impostors).toLocaleString()} of ${own.impostors.toLocaleString()}), ` +
    `${percent(frr)} of the genuine pairs are refused (${Math.round(frr * own.genuine).toLocaleString()} of ${own.genuine.toLocaleString()}).`;
  for (const name of ["errors", "histogram"]) Plotly.relayout(name, { shapes: [mark(threshold)] });
  const floor = Math.min(0.5 / own.impostors, 0.005), roc = document.getElementById("roc");
  Plotly.restyle(roc, { x: [[Math.max(far, floor)]], y: [[1 - frr]] }, [roc.data.length - 1]);
}
slider?.addEventListener("input", follow);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
for (const [event, paper] of [["beforeprint", true], ["afterprint", false]])  // ink on white, whatever the screen shows
  addEventListener(event, () => { document.documentElement.classList.toggle("paper", paper); draw(); });
draw();
