"use strict";
// The page of siamese-verify group --serve. It asks its own server only, and keeps nothing: faces are addressed by row.

const $ = (id) => document.getElementById(id);
const whole = (value) => value.toLocaleString("en");
const KEPT = 600; // pictures
const EMPTY = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="; // before one is there

const chosen = new Set(); // numbers of people
const picked = new Set(); // rows of faces of the person that is shown
const later = new Set(); // questions put off, until the page is loaded anew
// The key behind # leaves the address bar; this tab keeps it, for when the page is loaded anew.
if (location.hash.length > 1) history.replaceState(location.hash.slice(1), "", location.pathname);
const key = history.state || "";
let shown = { page: 0, person: null, sheet: 0 }; // pages, and the person whose faces are shown
let version = -1; // of what is shown
let asked = []; // questions
let sending = false;
let opening = 0; // number of the last request for a list, so that a late answer to an old one is dropped

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

let told = ""; // what was decided
/** Say something once: a screen reader repeats what is written again. */
function say(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}
const faces = (count) => `${whole(count)} ${count === 1 ? "face" : "faces"}`;
const called = (person) => person.name || `Person ${person.number}`;

// ---- server

async function ask(path, body) {
  const options = { headers: { Authorization: `Bearer ${key}` }, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The command does not answer: it has ended, start it again.");
  }
  if (response.ok) return response;
  if (response.status === 401) throw new Error("Open the address that the command printed, with all that follows #: it is another at each start.");
  const content = await response.json().catch(() => ({}));
  throw Object.assign(new Error(content.detail || `The command answered ${response.status}.`), { status: response.status });
}
const get = async (path) => (await ask(path)).json();

function fail(error) {
  $("failure").textContent = error ? error.message : "";
  $("failure").hidden = !error;
}

async function decide(decision) {
  if (sending) return;
  sending = true;
  document.body.setAttribute("aria-busy", "true");
  fail(null);
  try {
    const { said } = await (await ask("v1/decide", decision)).json();
    chosen.clear();
    picked.clear();
    told = said;
    say(said);
    await refresh();
  } catch (error) {
    fail(error);
  } finally {
    sending = false;
    document.body.setAttribute("aria-busy", "false");
  }
  watch();
}

// ---- pictures

const pictures = new Map(); // row -> promise of an address, those used last at the end

function address(row) {
  const found = pictures.get(row) || ask(`v1/faces/${row}`).then((response) => response.blob()).then((blob) => URL.createObjectURL(blob));
  pictures.delete(row);
  pictures.set(row, found);
  if (pictures.size > KEPT) {
    const [oldest, old] = pictures.entries().next().value;
    pictures.delete(oldest);
    old.then((url) => URL.revokeObjectURL(url), () => {});
  }
  return found;
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    const row = Number(target.dataset.row);
    address(row).then(
      (url) => {
        target.src = url;
      },
      (error) => {
        pictures.delete(row);
        target.replaceWith(make("span", { class: "picture", title: error.message }, `No picture: ${target.alt}`));
      },
    );
  }
}, { rootMargin: "200px" });

function picture(face) {
  const element = make("img", { class: "picture", alt: `Face on ${face.photo}`, title: face.photo, src: EMPTY, "data-row": face.row, width: 160, height: 160 });
  seen.observe(element);
  return element;
}

const strip = (person) => make("ul", { class: "strip", "aria-label": `Faces of ${called(person)}` }, ...person.sample.map((face) => make("li", {}, picture(face))));

// ---- parts

function naming(person, place) {
  const id = `name-${place}-${person.number}`;
  const input = make("input", { type: "text", id, list: "names", maxlength: 200, autocomplete: "off", spellcheck: "false", enterkeyhint: "done", value: person.name, placeholder: "Name" });
  input.addEventListener("input", () => complete(input.value));
  const form = make("form", {}, make("label", { class: "hidden", for: id }, `Name of person ${person.number}`), input, make("button", { class: "quiet", id: `${id}-go` }, "Name", make("span", { class: "hidden" }, ` person ${person.number}`)));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    input.defaultValue = input.value;
    decide({ kind: "name", people: [person.number], name: input.value });
  });
  return form;
}

let completed = 0;
async function complete(start) {
  const mine = ++completed;
  const names = start.trim() ? await get(`v1/names?start=${encodeURIComponent(start.slice(0, 200))}`).catch(() => []) : [];
  if (mine === completed) $("names").replaceChildren(...names.map((name) => make("option", { value: name })));
}

// A checkbox that puts a number into a set.
function choice(numbers, number, id) {
  const box = make("input", { type: "checkbox", id });
  box.checked = numbers.has(number);
  box.addEventListener("change", () => {
    if (box.checked) numbers.add(number);
    else numbers.delete(number);
    tell();
  });
  return box;
}

function card(person) {
  const box = choice(chosen, person.number, `choose-${person.number}`);
  const open = make("button", { type: "button", class: "quiet", id: `open-${person.number}` }, person.size === 1 ? "The face" : `All ${faces(person.size)}`, make("span", { class: "hidden" }, ` of ${called(person)}`));
  open.addEventListener("click", () => show(person.number));
  return make(
    "li",
    { class: "card person" },
    make("h3", {}, called(person)),
    make("p", { class: "note" }, `${person.name ? `Person ${person.number}, ` : ""}${faces(person.size)}`),
    strip(person),
    naming(person, "list"),
    make("div", { class: "row" }, open, make("label", { class: "check", for: box.id }, box, " Choose", make("span", { class: "hidden" }, ` ${called(person)}`))),
  );
}

function pager(place, page, pages, go) {
  const turn = (text, to, name) => {
    const button = make("button", { type: "button", class: "quiet", id: `${place.id}-${name}` }, text);
    button.disabled = to < 0 || to >= pages;
    button.addEventListener("click", () => go(to));
    return button;
  };
  place.hidden = pages < 2;
  place.replaceChildren(turn("Previous", page - 1, "previous"), make("p", {}, `Page ${whole(page + 1)} of ${whole(pages)}`), turn("Next", page + 1, "next"));
}

const heading = () => $(shown.person === null ? "list-title" : "sheet-title");

/** Draw anew without taking the focus from where it is, or names that are typed but not given yet. */
function keepingFocus(draw) {
  const id = document.activeElement && document.activeElement.id;
  const typed = [...document.querySelectorAll("form input[type=text]")].filter((one) => one.value !== one.defaultValue);
  draw();
  for (const { id: field, value } of typed) if ($(field)) $(field).value = value;
  const same = id && $(id);
  if (same && !same.disabled && !same.closest("[hidden]")) same.focus({ preventScroll: true });
  else if (id) heading().focus({ preventScroll: true });
}

// ---- people and their faces

async function list() {
  const mine = ++opening;
  const found = await get(`v1/people?page=${shown.page}&text=${encodeURIComponent($("find").value)}`);
  if (mine !== opening) return;
  version = found.version;
  shown.page = found.page;
  keepingFocus(() => {
    $("list-title").textContent = $("find").value.trim() ? `${whole(found.total)} found` : "Those with the most faces first";
    $("people").replaceChildren(...found.people.map(card));
    pager($("list-pager"), found.page, found.pages, (page) => {
      shown.page = page;
      list().then(() => $("list-title").focus(), fail);
    });
    tell();
  });
}

async function sheet() {
  const mine = ++opening;
  const order = $("order").checked ? "&order=least" : "";
  const person = await get(`v1/people/${shown.person}?page=${shown.sheet}${order}`);
  if (mine !== opening) return;
  version = person.version;
  shown.sheet = person.page;
  keepingFocus(() => {
    $("sheet-title").textContent = `${called(person)}: ${faces(person.size)}`;
    $("sheet-name").replaceChildren(naming(person, "sheet"));
    $("faces").replaceChildren(
      ...person.faces.map((face) => {
        const box = choice(picked, face.row, `face-${face.row}`);
        const caption = make("span", {}, face.photo, face.score === null ? "" : ` ${face.score.toFixed(2)}`);
        const image = picture(face);
        image.alt = ""; // its caption says it
        image.removeAttribute("title");
        return make("li", {}, make("label", { for: box.id }, image, make("span", { class: "caption" }, box, caption)));
      }),
    );
    pager($("sheet-pager"), person.page, person.pages, (page) => {
      shown.sheet = page;
      sheet().then(() => $("sheet-title").focus(), fail);
    });
    tell();
  });
}

async function show(number) {
  const from = shown.person;
  shown.person = number;
  shown.sheet = 0;
  picked.clear();
  fail(null);
  try {
    await (number === null ? list() : sheet());
  } catch (error) {
    shown.person = from;
    fail(error);
    return;
  }
  $("list").hidden = number !== null;
  $("question").hidden = number !== null || !current();
  $("sheet").hidden = number === null;
  const back = number === null && $(`open-${from}`);
  (back || heading()).focus();
}

function tell() {
  $("chosen").hidden = chosen.size === 0;
  $("chosen-text").textContent = `${whole(chosen.size)} ${chosen.size === 1 ? "person" : "people"} chosen: ${[...chosen].join(", ")}`;
  $("same").disabled = chosen.size < 2;
  $("different").disabled = chosen.size !== 2;
  $("picked").hidden = picked.size === 0;
  $("picked-text").textContent = `${faces(picked.size)} chosen`;
}

// ---- questions

const keyOf = (question) => question.people.map((person) => person.number).sort((a, b) => a - b).join("-");
const current = () => asked.find((question) => !later.has(keyOf(question)));

function pose() {
  const question = current();
  const before = $("question").dataset.pair;
  $("question").hidden = !question || shown.person !== null;
  if (!question) {
    if (before && [document.body, $("yes"), $("no"), $("later")].includes(document.activeElement)) $("list-title").focus();
    $("question").dataset.pair = "";
    return;
  }
  const pair = `${keyOf(question)} ${version}`;
  if (before === pair) return;
  $("question").dataset.pair = pair;
  for (const [place, person] of [["one", question.people[0]], ["other", question.people[1]]]) {
    const named = person.name ? `${person.name} (person ${person.number})` : `Person ${person.number}`;
    $(place).replaceChildren(make("p", {}, `${named}, ${faces(person.size)}`), strip(person));
  }
  const times = Math.max(question.ratio, 1 / question.ratio);
  const said = times >= 1e6 ? "more than a million" : whole(Number(times.toPrecision(2)));
  const [more, less] = question.ratio >= 1 ? ["one person", "two"] : ["two people", "one"];
  $("question-text").textContent = `${question.people.map(called).join(" and ")}: scores like theirs are ${said} times as frequent among photos of ${more} as of ${less}.`;
}

function answer(kind) {
  const question = current();
  if (!question || sending) return;
  if (kind === "later") {
    later.add(keyOf(question));
    pose();
    if (!current()) say("No more questions for now. Those put off are asked when the page is loaded anew.");
    return;
  }
  decide({ kind, people: question.people.map((person) => person.number) });
}

// ---- keeping up

const typing = () => {
  const place = document.activeElement;
  return place && place.matches("form input[type=text]") && place.value !== place.defaultValue;
};

async function refresh() {
  if (shown.person !== null) {
    try {
      await sheet();
    } catch (error) {
      if (error.status !== 422) throw error;
      await show(null); // nobody has this number any more
    }
  } else {
    await list();
  }
  asked = (await get("v1/questions")).questions;
  pose();
}

let watching = 0;
let waiting = false; // whether it was said that it takes long
/** Follow the sorting of the other faces until it is done. */
async function watch() {
  const mine = ++watching;
  for (;;) {
    let state;
    try {
      state = await get("v1/state");
    } catch (error) {
      fail(error);
      return;
    }
    if (mine !== watching) return;
    $("counts").textContent = `${faces(state.faces)}, ${whole(state.people)} people, ${whole(state.named)} named`;
    if (!state.undo && document.activeElement === $("undo")) heading().focus();
    $("undo").disabled = !state.undo;
    $("undo").title = state.undo || "";
    if (state.failure) fail(new Error(state.failure));
    const tens = 10 * Math.floor(state.seconds / 10);
    if (state.busy && state.seconds > 2) {
      waiting = true;
      say(`${told} The other faces are being sorted anew${tens ? `, for ${whole(tens)} s now` : ""}.`.trim());
    }
    if (!state.busy && !sending && !typing()) {
      if (waiting) say(`${told} The other faces are sorted anew.`.trim());
      waiting = false;
      try {
        if (state.version !== version || !asked.length) await refresh();
      } catch (error) {
        fail(error);
      }
      return;
    }
    await new Promise((done) => setTimeout(done, 1000));
    if (mine !== watching) return;
  }
}

const once = (id, act) => $(id).addEventListener("click", (event) => {
  if (event.detail < 2) act(); // the second click of a double one would be about the next question
});
once("yes", () => answer("same"));
once("no", () => answer("different"));
once("later", () => answer("later"));
$("question").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.repeat) {
    if (event.key !== "Tab") event.preventDefault(); // a key that is held down answers one question
    return;
  }
  const kind = { y: "same", n: "different", l: "later" }[event.key.toLowerCase()];
  if (kind) answer(kind);
});
once("undo", () => decide({ kind: "undo" }));
once("same", () => decide({ kind: "same", people: [...chosen] }));
once("different", () => decide({ kind: "different", people: [...chosen] }));
once("not-this", () => decide({ kind: "not_this_person", people: [shown.person], faces: [...picked] }));
once("new", () => decide({ kind: "new_person", people: [shown.person], faces: [...picked] }));
for (const [id, set, redraw] of [["clear", chosen, list], ["pick-none", picked, sheet]]) {
  $(id).addEventListener("click", () => {
    set.clear();
    redraw().catch(fail);
  });
}
$("back").addEventListener("click", () => show(null));
$("sheet").addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !typing()) show(null);
});
$("order").addEventListener("change", () => {
  shown.sheet = 0;
  sheet().catch(fail);
});
let finding = 0;
$("find").addEventListener("input", () => {
  clearTimeout(finding);
  finding = setTimeout(() => {
    shown.page = 0;
    list().catch(fail);
  }, 150);
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part behind # would be taken for a key
  $("list-title").focus();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) watch();
});
addEventListener("hashchange", () => location.reload());

list().then(watch, fail);
