// The upload page: files, folders and archives by drag and drop, sent in small groups, each file with its outcome.

import { csrfHeaders, toast } from "./page.js";

const page = document.getElementById("upload");
const part = (id) => document.getElementById(id);
const body = part("list").tBodies[0];
const SMALL = 4 << 20, GROUP = 16 << 20, GROUP_FILES = 24, AT_ONCE = 3, ROWS = 200;

const counts = { stored: 0, duplicate: 0, refused: 0 };
const studies = new Map();
let entries = [];   // {file, name, row, state: waiting | sending | done | failed, sent}
let batch = "", running = 0, stopped = false, opening = false;
const requests = new Set();

// ---- Choosing ----
for (const button of page.querySelectorAll("[data-choose]")) {
  button.addEventListener("click", () => part(button.dataset.choose).click());
}
for (const id of ["files", "folder"]) {
  part(id).addEventListener("change", (event) => {
    add([...event.target.files].map((file) => ({ file, name: file.webkitRelativePath || file.name })));
    event.target.value = "";
  });
}
const drop = part("drop");
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.dataset.over = ""; });
}
drop.addEventListener("dragleave", (event) => { if (!drop.contains(event.relatedTarget)) delete drop.dataset.over; });
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
drop.addEventListener("drop", async (event) => {
  delete drop.dataset.over;
  const roots = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const plain = [...event.dataTransfer.files];
  if (!roots.length) return add(plain.map((file) => ({ file, name: file.name })));
  const found = [];
  for (const root of roots) await walk(root, "", found);
  add(found);
});

async function walk(entry, folder, found) {
  try {
    if (entry.isFile) {
      found.push({ file: await new Promise((done, fail) => entry.file(done, fail)), name: folder + entry.name });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done, fail) => reader.readEntries(done, fail));
      if (!some.length) return;
      for (const one of some) await walk(one, `${folder}${entry.name}/`, found);
    }
  } catch {
    toast("bad", `${entry.name} cannot be read.`);
  }
}

// ---- The list ----
function size(bytes) {
  const units = ["B", "kB", "MB", "GB"];
  let k = 0;
  while (bytes >= 1000 && k < 3) { bytes /= 1000; k += 1; }
  return `${bytes.toFixed(k && bytes < 10 ? 1 : 0)} ${units[k]}`;
}

function row(name, bytes) {
  const line = body.insertRow(), [file, amount, outcome] = [0, 1, 2].map(() => line.insertCell());
  file.className = "f-main mono";
  file.textContent = name;
  amount.className = "num f-off nowrap";
  amount.textContent = bytes === null ? "" : size(bytes);
  outcome.className = "f-main";
  outcome.textContent = "waiting";
  part("list").hidden = false;
  return line;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "i");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `${page.dataset.icons}#i-${name}`);
  svg.append(use);
  return svg;
}

function outcome(line, state, words, code = "") {
  const cell = line.cells[2], pill = document.createElement("span");
  pill.className = "pill";
  pill.dataset.s = { stored: "ok", duplicate: "none", refused: "bad", failed: "warn", sending: "info" }[state];
  pill.append(icon({ stored: "ok", duplicate: "info", refused: "bad", failed: "warn", sending: "upload" }[state]), { stored: "Stored", duplicate: "Already there", refused: "Refused", failed: "Not sent", sending: "Sending" }[state]);
  cell.replaceChildren(pill);
  if (code) {
    const tag = document.createElement("span");
    tag.className = "tag";
    tag.textContent = code;
    cell.append(" ", tag);
  }
  if (words) cell.append(` ${words}`);
}

function add(files) {
  if (!files.length) return;
  if (!entries.some((one) => one.state === "waiting" || one.state === "sending")) stopped = false;
  part("sending").hidden = false;
  for (const { file, name } of files) {
    const one = { file, name, state: "waiting", sent: 0, row: null };
    if (entries.length < ROWS) one.row = row(name, file.size);
    entries.push(one);
  }
  part("hint").hidden = entries.length <= ROWS;
  show();
  pump();
}

// ---- Sending ----
function group() {
  const first = entries.find((one) => one.state === "waiting");
  if (!first) return [];
  if (first.file.size > SMALL) return [first];
  const some = [];
  const names = new Set(); // outcomes are told by name, so that files of the same name go one after the other
  let total = 0;
  for (const one of entries) {
    if (one.state !== "waiting" || one.file.size > SMALL || names.has(one.name)) continue;
    if (some.length >= GROUP_FILES || total + one.file.size > GROUP) break;
    some.push(one);
    names.add(one.name);
    total += one.file.size;
  }
  return some;
}

function pump() {
  while (!stopped && !opening && running < AT_ONCE) {
    const some = group();
    if (!some.length) break;
    send(some);
    if (!batch) opening = true;  // the first answer names the import that the others join
  }
  show();
}

function send(some) {
  running += 1;
  part("project").disabled = true;
  const form = new FormData();
  if (batch) form.append("batch", batch);
  else form.append("project", part("project").value);
  for (const one of some) {
    form.append("files", one.file, one.file.name);
    form.append("names", one.name);
    one.state = "sending";
    if (one.row) outcome(one.row, "sending", "");
  }
  const request = new XMLHttpRequest();
  requests.add(request);
  request.open("POST", page.dataset.url);
  for (const [name, value] of Object.entries(csrfHeaders())) request.setRequestHeader(name, value);
  request.upload.addEventListener("progress", (event) => {
    const fraction = event.lengthComputable ? event.loaded / event.total : 0;
    for (const one of some) one.sent = fraction;
    show();
  });
  request.addEventListener("loadend", () => {
    requests.delete(request);
    running -= 1;
    opening = false;
    if (request.status === 201) take(some, JSON.parse(request.responseText));
    else fail(some, request);
    pump();
  });
  request.send(form);
}

function take(some, answer) {
  batch = String(answer.batch);
  part("report").href = page.dataset.batch.replace("/0/", `/${batch}/`);
  for (const name of Object.keys(counts)) counts[name] += answer[name];
  for (const one of answer.studies) studies.set(one.id, one);
  const byName = new Map(some.map((one) => [one.name, one]));
  for (const one of some) { one.state = "done"; one.sent = 1; }
  for (const file of answer.files) {
    const one = byName.get(file.name);
    let line = one?.row;
    if (!line && file.state === "refused") line = row(file.name, one ? one.file.size : null);
    if (line) outcome(line, file.state, file.reason, file.code);
  }
  for (const one of some) {  // an archive: its entries have lines of their own where they were refused
    const inside = answer.files.filter((file) => file.name.startsWith(`${one.name}/`));
    if (inside.length && one.row) {
      const stored = inside.filter((file) => file.state !== "refused").length;
      one.row.cells[2].textContent = `${stored} of ${inside.length} files of the archive are in`;
    }
    if (one.row && entries.length > ROWS && !one.row.querySelector('[data-s="bad"]')) { one.row.remove(); one.row = null; }
  }
  drawStudies();
}

function fail(some, request) {
  let words = "The connection was lost.";
  if (request.status === 401 || request.status === 403) words = "You are signed out or may not import here. Reload the page.";
  else if (request.status === 413) words = "The server does not take a file of this size.";
  else if (request.status) words = `The server could not take it (${request.status}).`;
  if (stopped && !request.status) words = "Stopped.";
  for (const one of some) {
    one.state = "failed";
    one.sent = 0;
    if (!one.row) one.row = row(one.name, one.file.size);
    outcome(one.row, "failed", words);
  }
  if (request.status === 401 || request.status === 403) stopped = true;
}

part("stop").addEventListener("click", () => {
  stopped = true;
  for (const request of requests) request.abort();
  for (const one of entries) {
    if (one.state !== "waiting") continue;
    one.state = "failed";
    if (one.row) outcome(one.row, "failed", "Stopped.");
  }
  show();
});
part("retry").addEventListener("click", () => {
  stopped = false;
  for (const one of entries) if (one.state === "failed") one.state = "waiting";
  pump();
});
window.addEventListener("beforeunload", (event) => { if (running) event.preventDefault(); });

// ---- Totals ----
function show() {
  if (!entries.length) return;
  const total = entries.reduce((sum, one) => sum + one.file.size, 0) || 1;
  const sent = entries.reduce((sum, one) => sum + one.sent * one.file.size, 0);
  const done = entries.filter((one) => one.state === "done").length;
  const failed = entries.filter((one) => one.state === "failed").length;
  const active = entries.some((one) => one.state === "waiting" || one.state === "sending");
  const percent = active ? Math.min(99, Math.floor(100 * sent / total)) : Math.floor(100 * done / entries.length);
  const bar = part("sending").querySelector(".bar");
  bar.firstElementChild.style.setProperty("--v", percent);
  bar.setAttribute("aria-valuenow", percent);
  part("done").textContent = `${done.toLocaleString("en")} of ${entries.length.toLocaleString("en")} files`;
  part("size").textContent = `${size(sent)} of ${size(total)}`;
  part("state").textContent = active ? "Sending" : failed ? `${failed} not sent` : "Done";
  part("stop").hidden = !active;
  part("retry").hidden = active || !failed;
  for (const cell of document.querySelectorAll("[data-count]")) {
    cell.textContent = counts[cell.dataset.count].toLocaleString("en");
  }
  part("settle").hidden = !counts.refused;
  if (!active && !running && !failed) {  // the next choice starts an import of its own
    batch = "";
    part("project").disabled = false;
  }
}

function drawStudies() {
  part("arrived").hidden = false;
  const list = part("arrived").querySelector("ul");
  list.replaceChildren(...[...studies.values()].slice(0, 50).map((study) => {
    const item = document.createElement("li"), link = document.createElement("a"), words = document.createElement("span");
    link.href = page.dataset.study.replace("/0/", `/${study.id}/`);
    link.className = "title grow";
    link.textContent = `Study ${study.id}`;
    words.className = "quiet small";
    words.textContent = `${study.number_of_series} series, ${study.number_of_instances} images`;
    item.append(link, words);
    return item;
  }));
}
