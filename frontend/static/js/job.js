// The live page of a job: parts, curves and log, until the job has ended.

import { draw, drawAll } from "./chart.js";
import { poll, takeOver } from "./live.js";

const page = document.getElementById("job");
const log = document.getElementById("log");
const follow = document.getElementById("follow");
const CLASSES = { warning: "w", error: "e", event: "k" };
const MOST_LINES = 2000;
let last = Number(page.dataset.log);

function scroll() {
  if (log && follow?.checked) log.scrollTop = log.scrollHeight;
}

function addLine([id, time, level, text]) {
  const line = document.createElement("div");
  const at = document.createElement("span");
  at.className = "t";
  at.textContent = time;
  const words = document.createElement("span");
  words.className = CLASSES[level] ?? "";
  words.textContent = text;
  line.append(at, " ", words);
  log.append(line);
  if (log.childElementCount > MOST_LINES) log.firstElementChild.remove();
  last = Math.max(last, id);
}

function newCurve(curve) {
  const section = document.getElementById("curve-template").content.firstElementChild.cloneNode(true);
  section.dataset.curve = curve.key;
  section.querySelector("figure").dataset.chart = curve.key;
  section.querySelector("script").id = `${curve.key}-data`;
  document.getElementById("curves").append(section);
  return section;
}

async function drawCurve(curve) {
  const section = document.querySelector(`[data-curve="${CSS.escape(curve.key)}"]`) ?? newCurve(curve);
  const source = section.querySelector("script[type='application/json']");
  const text = JSON.stringify(curve.spec);
  if (source.textContent === text) return;
  source.textContent = text;
  section.querySelector("h2").textContent = curve.title;
  section.querySelector("header p").textContent = curve.note;
  section.querySelector(".plot").setAttribute("aria-label", curve.label);
  await draw(section.querySelector("figure"));
}

function apply(answer) {
  if (!takeOver(answer.parts)) return null;
  if (log) {
    answer.log.forEach(addLine);
    if (answer.log.length) {
      scroll();
      const shown = log.childElementCount;
      document.getElementById("log-count").textContent =
        shown < answer.log_count ? `last ${shown} of ${answer.log_count} lines` : `${shown} line${shown === 1 ? "" : "s"}`;
    }
  }
  drawAll(document.createElement("div")).then(() => answer.curves.forEach(drawCurve));
  if (answer.ended) document.title = `${answer.title} · Readroom`;
  return answer.ended && answer.log.length < 1000;
}

scroll();
follow?.addEventListener("change", scroll);
if (page.dataset.ended === "no") {
  poll(
    () => `${page.dataset.job}?log=${last}`,
    apply,
    (gone) => { document.getElementById("job-offline").hidden = !gone; },
  );
}
