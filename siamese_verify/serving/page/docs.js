"use strict";
// The description of the API from openapi.json, without requests to another host.

const $ = (id) => document.getElementById(id);
const METHODS = ["get", "post", "put", "patch", "delete"];
const KINDS = { "multipart/form-data": "a form", "application/json": "JSON, with photos in base64" };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// ---- text: paragraphs, lists, **bold** and `code`

function inline(text) {
  return text.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map((part) => {
    if (part.startsWith("**")) return make("strong", {}, part.slice(2, -2));
    if (part.startsWith("`")) return make("code", {}, part.slice(1, -1));
    return part;
  });
}

function prose(text) {
  return text.trim().split(/\n\s*\n/).map((block) => {
    if (!block.startsWith("- ")) return make("p", {}, ...inline(block));
    return make("ul", {}, ...block.split(/^- /m).slice(1).map((item) => make("li", {}, ...inline(item.trim()))));
  });
}

// ---- schemas

function resolve(api, schema) {
  if (!schema) return {};
  if (schema.$ref) return resolve(api, schema.$ref.slice(2).split("/").reduce((at, step) => at[step], api));
  const options = (schema.anyOf || []).filter((one) => one.type !== "null");
  return options.length ? { ...resolve(api, options[0]), ...schema, nullable: options.length < schema.anyOf.length } : schema;
}

function kind(api, given) {
  const schema = resolve(api, given);
  const none = schema.nullable ? " or null" : "";
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(", ") + none;
  if (schema.type === "array") return `list of ${kind(api, schema.items)}${schema.maxItems > 1 ? `, at most ${schema.maxItems}` : ""}${none}`;
  if (schema.format === "binary" || schema.contentEncoding) return `photo${none}`;
  if (schema.properties) return `${schema.title || "object"}${none}`;
  return (schema.type || "anything") + none;
}

function sample(api, given, depth = 0) {
  const schema = resolve(api, given);
  if (schema.examples) return schema.examples[0];
  if (schema.example !== undefined) return schema.example;
  if (schema.default !== undefined) return schema.default;
  if (schema.enum) return schema.enum[0];
  if (schema.properties && depth < 6) return Object.fromEntries(Object.entries(schema.properties).map(([name, one]) => [name, sample(api, one, depth + 1)]));
  if (schema.type === "array") return [sample(api, schema.items, depth + 1)];
  return { string: "", integer: 0, number: 0, boolean: false, object: {} }[schema.type] ?? null;
}

function members(api, schema, required = []) {
  const rows = Object.entries(schema.properties || {}).map(([name, one]) => {
    const said = one.description || resolve(api, one).description || (one.items && resolve(api, one.items).description) || "";
    return make("tr", {}, make("td", {}, make("code", {}, name), required.includes(name) ? " *" : ""), make("td", {}, kind(api, one)), make("td", {}, ...inline(said)));
  });
  const head = make("thead", {}, make("tr", {}, ...["Name", "Kind", "Meaning"].map((title) => make("th", { scope: "col" }, title))));
  return make("table", { class: "members" }, head, make("tbody", {}, ...rows));
}

// ---- routes

const address = (path) => new URL(`.${path}`, document.baseURI).href;

function curl(api, path, method, operation) {
  const parts = ["curl"];
  if (operation.security) parts.push("-H 'Authorization: Bearer KEY'");
  if (method === "delete") parts.push("-X DELETE");
  const form = operation.requestBody && operation.requestBody.content["multipart/form-data"];
  for (const name of form ? form.schema.required : []) {
    const one = form.schema.properties[name];
    const photo = one.format === "binary" || (one.items && one.items.format === "binary");
    parts.push(photo ? `-F ${name}=@${name}.jpg` : `-F ${name}='${one.example || "..."}'`);
  }
  return `${parts.join(" ")} '${address(path.replace(/:path\}/g, "}"))}'`;
}

function code(text) {
  return make("pre", { tabindex: "0" }, make("code", {}, text));
}

function route(api, path, method, operation) {
  const body = operation.requestBody && operation.requestBody.content;
  const scopes = [...new Set((operation.security || []).flatMap((one) => Object.values(one).flat()))];
  const card = make("section", { class: "card route", id: operation.operationId });
  card.append(make("h2", {}, make("span", { class: "method" }, method.toUpperCase()), make("span", { class: "path" }, path)));
  card.append(make("p", {}, operation.summary || ""));
  if (operation.description) card.append(make("p", { class: "note" }, ...inline(operation.description)));
  if (operation.security) card.append(make("p", { class: "note" }, ...inline(scopes.length ? `Where the server needs a key: one of the scope \`${scopes.join("`, `")}\`.` : "Where the server needs a key: any.")));
  card.append(code(curl(api, path, method, operation)));
  if (body) {
    const schema = body["multipart/form-data"].schema;
    const kinds = Object.keys(body).map((one) => KINDS[one] || one).join(", or ");
    card.append(make("div", {}, make("h3", {}, "Request"), make("p", { class: "note" }, `${kinds}; * is required`), members(api, schema, schema.required)));
  }
  const answer = ((operation.responses["200"] || {}).content || {})["application/json"];
  if (answer && answer.schema && Object.keys(answer.schema).length) {
    const schema = resolve(api, answer.schema);
    card.append(make("div", {}, make("h3", {}, "Answer"), members(api, schema)));
    card.append(make("details", {}, make("summary", {}, "Example"), code(JSON.stringify(sample(api, answer.schema), null, 2))));
  }
  const failures = Object.entries(operation.responses).filter(([status]) => status >= "400");
  if (failures.length && body) {
    const rows = failures.map(([status, one]) => make("tr", {}, make("td", {}, status), make("td", {}, one.description)));
    card.append(make("details", {}, make("summary", {}, "Failures"), make("table", { class: "members" }, make("tbody", {}, ...rows))));
  }
  return card;
}

async function start() {
  let api;
  try {
    const response = await fetch("openapi.json", { cache: "no-store", credentials: "omit", redirect: "error" });
    api = await response.json();
  } catch {
    $("status").textContent = "The server does not answer: check that it runs.";
    return;
  }
  $("about").replaceChildren(...prose(api.info.description || ""));
  $("version").textContent = `${api.info.title} ${api.info.version}`;
  const links = [];
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((one) => operations[one])) {
      const operation = operations[method];
      $("routes").append(route(api, path, method, operation));
      links.push(make("li", {}, make("a", { href: `#${operation.operationId}` }, make("span", { class: "method" }, method.toUpperCase()), path)));
    }
  }
  $("contents").replaceChildren(make("ul", {}, ...links));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

start();
