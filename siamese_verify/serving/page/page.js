"use strict";
// The page of siamese-verify serve. It sends requests to its own server only, and keeps photos and key in memory.

const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const sides = { a: { file: null, url: null }, b: { file: null, url: null } };
const names = { a: "first", b: "second" };
let model = null;
let key = "";
let last = null; // the decision that is shown
let asked = 0; // number of requests, so that a late answer to an old one is dropped

function make(tag, attributes = {}, ...children) {
  const drawn = ["svg", "path", "circle", "rect", "line", "text"].includes(tag);
  const element = drawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const number = (value, digits = 3) => value.toFixed(digits).replace("-", "\u2212");
const percent = (rate) => {
  const shown = 100 * rate;
  return `${shown === 0 ? 0 : Number(shown.toPrecision(shown >= 10 ? 3 : 2))}\u00a0%`;
};
const whole = (value) => value.toLocaleString("en");

// ---- server

async function ask(path, options = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch {
    throw Object.assign(new Error("The server does not answer: check that it runs."), { reason: "offline" });
  }
  const content = await response.json().catch(() => ({}));
  if (response.ok) return content;
  throw Object.assign(new Error(content.detail || `The server answered ${response.status}.`), { ...content, status: response.status });
}

async function meet() {
  try {
    model = await ask("v1/model");
  } catch (error) {
    if (error.status === 401) {
      const again = !$("key-form").hidden;
      $("key-form").hidden = false;
      $("key-note").textContent = again ? "This key is not known to the server: try another." : "It is kept in the memory of this page only.";
      if (again) $("key").select();
    } else {
      $("status").textContent = error.message;
    }
    return;
  }
  $("key-form").hidden = true;
  $("prior").disabled = model.calibration === null;
  if ($("prior").disabled) $("prior-note").textContent = "This model was not calibrated, so no probability can be given.";
  $("model").textContent = model.name.split("/").pop();
  $("model").title = model.name;
  if (model.liveness) $("notice").textContent = "This server checks each photo for liveness first. No such check detects every attack.";
  $("measured").textContent = model.measured_on ? `Thresholds measured on ${model.measured_on}.` : "No thresholds were measured for this model.";
  const choices = model.operating_points.filter((point) => point.threshold !== null);
  $("far").replaceChildren(
    $("far").options[0],
    ...choices.map((point) => make("option", { value: point.target }, `1 in ${whole(Math.round(1 / point.target))}${point.insufficient ? " (a rough guess)" : ""}`)),
  );
}

// ---- photos

function put(side, file) {
  const state = sides[side];
  const well = $(`side-${side}`).querySelector(".well");
  if (state.url) URL.revokeObjectURL(state.url);
  for (const old of well.querySelectorAll("img, svg.marks, .blind")) old.remove();
  state.file = file;
  state.url = file ? URL.createObjectURL(file) : null;
  well.classList.toggle("filled", Boolean(file));
  $(`side-${side}`).querySelector(".remove").hidden = !file;
  $(`side-${side}`).querySelector(".do").textContent = file ? "Choose another photo" : "Choose a photo";
  if (file) {
    const picture = make("img", { alt: `The ${names[side]} photo` });
    picture.addEventListener("error", () => {
      picture.remove();
      well.append(make("p", { class: "blind" }, "This browser cannot show the photo, but the server may read it."));
    });
    picture.src = state.url;
    well.append(picture);
  } else {
    $(names[side]).value = "";
  }
  clear();
  const missing = Object.keys(sides).filter((one) => !sides[one].file);
  $("go").setAttribute("aria-disabled", String(missing.length > 0));
  if (file && model && file.size > model.limits.photo_bytes) {
    $("status").textContent = `The ${names[side]} photo is larger than ${Math.floor(model.limits.photo_bytes / 2 ** 20)} MB: choose a smaller one.`;
  } else {
    $("status").textContent = missing.length === 1 ? `Now the ${names[missing[0]]} photo.` : "";
  }
}

function clear() {
  asked += 1;
  last = null;
  $("result").hidden = true;
  $("failure").hidden = true;
  $("go").setAttribute("aria-busy", "false");
  $("go").firstElementChild.textContent = "Compare";
  for (const marks of document.querySelectorAll(".well > svg.marks")) marks.remove();
}

function picture(files) {
  const found = [...files].find((file) => file.type.startsWith("image/") || /\.(heic|heif|avif)$/i.test(file.name));
  if (!found && files.length) $("status").textContent = "This is not a photo: choose a JPEG, PNG, WebP, AVIF or HEIC file.";
  return found;
}

for (const side of Object.keys(sides)) {
  const place = $(`side-${side}`);
  const well = place.querySelector(".well");
  $(names[side]).addEventListener("change", (event) => {
    const file = picture(event.target.files);
    if (file) put(side, file);
  });
  for (const type of ["dragenter", "dragover"]) {
    place.addEventListener(type, (event) => {
      event.preventDefault();
      well.classList.add("over");
    });
  }
  place.addEventListener("dragleave", (event) => {
    if (!place.contains(event.relatedTarget)) well.classList.remove("over");
  });
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    well.classList.remove("over");
    const file = picture(event.dataTransfer.files);
    if (file) put(side, file);
  });
  place.querySelector(".remove").addEventListener("click", () => {
    put(side, null);
    $(names[side]).focus();
  });
  place.querySelector(".camera").addEventListener("click", () => film(side));
}
for (const type of ["dragover", "drop"]) document.addEventListener(type, (event) => event.preventDefault());

document.addEventListener("paste", (event) => {
  const files = event.clipboardData ? event.clipboardData.files : [];
  if (!files.length) return;
  event.preventDefault();
  const file = picture(files);
  const here = document.activeElement && document.activeElement.closest("#side-b") ? "b" : document.activeElement && document.activeElement.closest("#side-a") ? "a" : null;
  if (file) put(here || (sides.a.file && !sides.b.file ? "b" : "a"), file);
});

// ---- camera

let stream = null;
let filmed = null;

async function film(side) {
  if (!navigator.mediaDevices) {
    $("status").textContent = "The camera needs https, or a server on this machine.";
    return;
  }
  filmed = side;
  $("shoot").disabled = true;
  $("camera-note").textContent = "The photo is not sent before you compare.";
  $("camera").showModal();
  try {
    const opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 1280 } }, audio: false });
    if (!$("camera").open) {
      for (const track of opened.getTracks()) track.stop();
      return;
    }
    stream = opened;
    $("video").srcObject = stream;
    $("shoot").disabled = false;
    $("shoot").focus();
  } catch {
    $("camera-note").textContent = "There is no camera, or this page may not use it: allow it in the browser's settings.";
  }
}

$("camera").addEventListener("close", () => {
  if (stream) for (const track of stream.getTracks()) track.stop();
  stream = null;
  $("video").srcObject = null;
  $(`side-${filmed}`).querySelector(".camera").focus();
});
$("cancel").addEventListener("click", () => $("camera").close());
$("shoot").addEventListener("click", () => {
  const canvas = make("canvas", { width: $("video").videoWidth, height: $("video").videoHeight });
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  canvas.toBlob((blob) => {
    if (blob) put(filmed, new File([blob], "camera.jpg", { type: "image/jpeg" }));
    $("camera").close();
  }, "image/jpeg", 0.95);
});

// ---- asking

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  meet();
});

$("compare").addEventListener("submit", async (event) => {
  event.preventDefault();
  if ($("go").getAttribute("aria-busy") === "true") return;
  const missing = Object.keys(sides).find((side) => !sides[side].file);
  if (missing) {
    $("status").textContent = `Choose the ${names[missing]} photo first.`;
    $(names[missing]).focus();
    return;
  }
  const prior = statedPrior();
  if (prior === null) {
    $("status").textContent = "The share of pairs of one person is a number above 0 and below 100, or empty.";
    $("prior").closest("details").open = true;
    $("prior").focus();
    return;
  }
  clear();
  const mine = asked;
  $("go").setAttribute("aria-busy", "true");
  $("go").firstElementChild.textContent = "Comparing…";
  $("status").textContent = "Comparing the two faces.";
  const form = new FormData();
  for (const side of Object.keys(sides)) form.append(side, sides[side].file, `${side}.jpg`); // without the file's own name
  if ($("far").value) form.append("far", $("far").value);
  if ($("on_multiple_faces").value) form.append("on_multiple_faces", $("on_multiple_faces").value);
  if (prior) form.append("prior", prior);
  if ($("decide").checked) form.append("decide", "true");
  if ($("explain").checked) form.append("explain", "true");
  form.append("crops", "true");
  try {
    const answer = await ask("v1/verify", { method: "POST", body: form });
    if (mine === asked) show(answer);
  } catch (error) {
    if (mine === asked) fail(error);
  }
  if (mine === asked) {
    $("go").setAttribute("aria-busy", "false");
    $("go").firstElementChild.textContent = "Compare";
    $("status").textContent = "";
  }
});

// The prior as the server takes it; "" without one, null if the text is invalid.
function statedPrior() {
  const text = $("prior").value.trim().replace("%", "").replace(",", ".").trim();
  if (!text || $("prior").disabled) return "";
  const share = Number(text) / 100;
  return share > 0 && share < 1 ? String(share) : null;
}

function fail(error) {
  if (error.status === 401) {
    meet();
    $("key-form").hidden = false;
  }
  const side = { a: "first", b: "second" }[error.photo];
  $("failure-text").textContent = side ? error.message.replace(new RegExp(`(The )?photo ${error.photo}\\b`), (said) => `${said.startsWith("The") ? "The" : "the"} ${side} photo`) : error.message;
  $("failure").hidden = false;
  reveal($("failure"));
}

function reveal(element) {
  element.scrollIntoView({ behavior: calm.matches ? "auto" : "smooth", block: "nearest" });
}

// ---- showing

const SIGNS = { true: "M14 25l7 7 13-15", false: "M16 20h16M16 28h16M29 13L19 35", null: "M18.5 19c0-3.3 2.4-5.5 5.6-5.5s5.5 2.2 5.5 5.1c0 4.4-5.5 4.3-5.5 8.6M24 34v.2" };
const VERDICTS = { true: "The same person", false: "Different people", null: "Not sure enough to say" };

function show(answer) {
  last = answer;
  const same = String(answer.same);
  $("result").dataset.same = same;
  $("sign").setAttribute("d", SIGNS[same]);
  $("verdict").textContent = VERDICTS[same];
  const rarity = answer.impostor_tail || "How many pairs of different people would score this high is not known for this model.";
  $("meaning").textContent = [rarity, answer.likelihood].filter(Boolean).join(" ");
  remarks("reasons", answer.reasons);
  remarks("warnings", answer.warnings);
  facts(answer);
  $("faces").replaceChildren(...answer.faces.map(face));
  if (answer.faces.some((seen) => seen.explanation)) {
    $("faces").append(make("p", { class: "note across" }, "Blue parts raise the score, orange parts lower it. A line surrounds the strongest, solid for blue and dashed for orange."));
  }
  answer.faces.forEach((one, row) => mark("ab"[row], one));
  numbers(answer);
  $("result").hidden = false;
  draw();
  $("verdict").focus({ preventScroll: true });
  reveal($("result"));
}

function remarks(id, sentences) {
  $(id).hidden = !sentences.length;
  $(id).replaceChildren(...sentences.map((text) => make("li", {}, plain(text))));
}

const plain = (text) => text.replace(/^photo a\b/, "First photo").replace(/^photo b\b/, "Second photo").replace(/\bphoto a\b/g, "the first photo").replace(/\bphoto b\b/g, "the second photo");

function ends([low, high]) {
  if (low === null) return high === null ? "unknown" : `below ${number(high)}`;
  return high === null ? `from ${number(low)} on, its upper end is unknown` : `${number(low)} to ${number(high)}`;
}

function facts(answer) {
  const rows = [["Score", number(answer.score), "how alike the faces are, \u22121 to 1"]];
  const interval = answer.threshold_interval;
  const between = interval ? `; 95\u00a0% interval ${ends(interval)}` : "";
  rows.push(["Threshold", answer.threshold === null ? "\u221e" : number(answer.threshold), answer.far === null ? "your own" : `at most ${percent(answer.far)} of pairs of two people pass${between}`]);
  if (answer.probability !== null) {
    const p = answer.probability;
    rows.push(["Probability", p > 0.999 ? `over ${percent(0.999)}` : p < 0.001 ? `under ${percent(0.001)}` : percent(p), `of one person, if ${percent(answer.prior)} of the pairs you ask about are`]);
  }
  $("facts").replaceChildren(...rows.map(([name, value, note]) => make("div", {}, make("dt", {}, name), make("dd", { class: "value" }, value), make("dd", {}, note))));
}

function face(seen, row) {
  const title = row ? "Second face" : "First face";
  const shown = make("div", { class: "seen" });
  if (seen.crop) shown.append(make("figure", {}, make("img", { src: seen.crop, alt: `${title} as the model sees it` }), make("figcaption", {}, "as the model sees it")));
  if (seen.explanation) shown.append(make("figure", {}, make("img", { src: seen.explanation, alt: `${title}: where the similarity comes from` }), make("figcaption", {}, "where the similarity comes from")));
  const quality = make("dl", { class: "quality" });
  const words = { sharpness: ["Sharpness", (v) => v.toPrecision(3)], size: ["Size", (v) => `${Math.round(v)} pixels`], turn: ["Turned", (v) => `${Math.round(v)}°`], light: ["Light", percent], contrast: ["Contrast", percent], noise: ["Noise", (v) => v.toPrecision(2)], roll: ["Tilted", (v) => `${Math.round(v)}°`] };
  for (const [name, [word, write]] of Object.entries(words)) {
    const value = seen.quality[name];
    if (value === null || value === undefined) continue;
    const [low, high] = (model && model.quality[name]) || [null, null];
    const odd = (low !== null && value < low) || (high !== null && value > high);
    quality.append(make("dt", {}, word), make("dd", {}, odd ? `${write(value)} \u26a0\ufe0e unusual` : write(value)));
  }
  return make("section", { class: "face" }, make("h3", {}, title), make("div", { class: "beside" }, shown, quality));
}

function mark(side, seen) {
  const shown = $(`side-${side}`).querySelector("img");
  if (!seen.box || !shown || !shown.naturalWidth) return;
  const [w, h] = [shown.naturalWidth, shown.naturalHeight];
  const [x1, y1, x2, y2] = seen.box; // of the photo as it was turned about its middle, which made it larger
  const [cos, sin] = [Math.cos, Math.sin].map((of) => Math.abs(of((seen.rotated_by * Math.PI) / 180)));
  const back = `translate(${w / 2} ${h / 2}) rotate(${seen.rotated_by}) translate(${-(w * cos + h * sin) / 2} ${-(w * sin + h * cos) / 2})`;
  const at = { x: x1, y: y1, width: x2 - x1, height: y2 - y1, rx: (x2 - x1) / 20, transform: back };
  shown.after(make("svg", { class: "marks", viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: "xMidYMid meet", "aria-hidden": "true" }, make("rect", { ...at, class: "halo" }), make("rect", { ...at, class: "box" })));
}

function numbers(answer) {
  const rows = [["Model", answer.model], ["Measured on", answer.measured_on || "your own threshold"], ["Impostor pairs", whole(answer.impostors)]];
  if (answer.log_likelihood_ratio !== null) rows.push(["Log-likelihood ratio", `${number(answer.log_likelihood_ratio, 2)} nats for one person`]);
  rows.push(["Time", Object.entries(answer.milliseconds).map(([stage, spent]) => `${stage} ${spent.toFixed(0)} ms`).join(", ")]);
  $("numbers").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

// The score and the threshold, over the histogram of the model's scores where the server has one.
function draw() {
  if (!last || $("result").hidden) return;
  const width = Math.max(260, $("scale").clientWidth);
  const histogram = model && model.histogram;
  const height = histogram ? 210 : 120;
  const base = height - 28;
  const top = 58;
  const foot = histogram ? histogram.edges[0] : -0.2;
  const low = Math.max(-1, Math.min(-0.2, Math.floor(Math.min(foot, last.score - 0.05) * 5) / 5));
  const x = (score) => 8 + ((score - low) / (1 - low)) * (width - 16);
  const parts = [];
  const labels = [];
  if (histogram) {
    const { edges, genuine, impostors } = histogram;
    const most = Math.max(...genuine, ...impostors);
    const edge = (bin) => x(Math.min(1, Math.max(low, edges[bin]))).toFixed(1);
    const taken = []; // places of labels
    const near = (place) => taken.some((other) => Math.abs(place - other) < 80);
    for (const [kind, shares, word] of [["impostors", impostors, "two people"], ["one", genuine, "one person"]]) {
      const steps = shares.map((share, bin) => `V${(base - (share / most) * (base - top)).toFixed(1)}H${edge(bin + 1)}`);
      parts.push(make("path", { class: `steps ${kind}`, d: `M${edge(0)} ${base}${steps.join("")}V${base}Z` }));
      const middle = x(shares.reduce((sum, share, bin) => sum + (share * (edges[bin] + edges[bin + 1])) / 2, 0));
      const free = (place) => place > 40 && place < width - 44 && Math.abs(place - x(last.score)) > 44 && Math.abs(place - x(last.threshold ?? 2)) > 44 && !near(place);
      const places = [0, 50, -50, 80, -80, 110, -110].map((shift) => middle + shift);
      const at = places.find(free) ?? Math.min(width - 44, Math.max(40, middle));
      labels.push(make("text", { class: kind, x: at, y: base - (near(at) ? 28 : 10), "text-anchor": "middle" }, word));
      taken.push(at);
    }
  }
  parts.push(make("line", { class: "axis", x1: x(low), x2: x(1), y1: base, y2: base }));
  const step = width < 480 ? 0.5 : 0.2;
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= 1.001; tick += step) {
    parts.push(make("text", { x: x(tick), y: base + 20, "text-anchor": tick > 0.95 ? "end" : tick < low + 0.05 ? "start" : "middle" }, number(Math.round(tick * 10) / 10 + 0, 1)));
  }
  const limit = last.threshold;
  const interval = last.threshold_interval;
  if (interval) {
    const [from, to] = [Math.max(low, interval[0] ?? low), Math.min(1, interval[1] ?? 1)].map(x);
    parts.push(make("rect", { class: "interval", x: from, width: Math.max(1, to - from), y: top - 22, height: base - top + 22 }));
  }
  if (limit !== null && limit >= low && limit <= 1) {
    parts.push(make("line", { class: "limit", x1: x(limit), x2: x(limit), y1: top - 22, y2: base }));
    const room = [x(limit) > 160, x(limit) < width - 160];
    const right = room[1] && (last.score < limit || !room[0]); // away from the score's stem, and within the drawing
    parts.push(make("text", { class: "threshold", x: x(limit) + (right ? 7 : -7), y: top - 10, "text-anchor": right ? "start" : "end" }, right ? "one person from here \u2192" : "\u2190 different up to here"));
  }
  parts.push(...labels);
  const at = x(last.score);
  const label = `score ${number(last.score)}`;
  const half = 4 + 4.1 * label.length; // of the flag
  const flag = Math.min(width - half - 1, Math.max(half + 1, at));
  parts.push(make("line", { class: "stem", x1: at, x2: at, y1: 26, y2: base }));
  parts.push(make("rect", { class: "flag", x: flag - half, y: 2, width: 2 * half, height: 26, rx: 13 }));
  parts.push(make("text", { class: "score", x: flag, y: 19.5, "text-anchor": "middle" }, label));
  parts.push(make("circle", { class: "dot", cx: at, cy: base, r: 6 }));
  const said = `${histogram ? "Scores of impostor and genuine pairs; " : ""}${label} on a scale from ${number(low, 1)} to 1; ${limit === null ? "no threshold can be reached" : `the threshold is ${number(limit)}`}.`;
  $("scale").replaceChildren(make("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": said }, ...parts));
  const strip = interval ? "The gray strip is the 95\u00a0% interval of the threshold. " : "";
  $("scale-note").textContent = histogram ? `${strip}The steps are measured scores of impostor and genuine pairs.` : strip;
}

new ResizeObserver(draw).observe($("scale"));
const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
$("where").textContent = local ? "Your photos stay on this machine and are not stored." : `Your photos go to ${location.hostname}, which does not store them.`;
$("go").setAttribute("aria-disabled", "true");
meet();
