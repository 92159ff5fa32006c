// A report in the panel: findings to jump to, classes with their certainty, measured values.

import { element } from "./elements.js";
import { caption, sizeOf } from "./reports.js";

export const REPORT_STYLE = `
  .results .findings button { display: grid; grid-template-columns: 12px minmax(0, 1fr) auto; gap: 8px; align-items: center; width: 100%;
    min-height: 28px; padding: 3px 6px; border: 1px solid transparent; border-radius: var(--r, 6px); background: none; color: inherit; font: inherit; text-align: left; cursor: pointer; }
  .results .findings button:hover { background: var(--raised); }
  .results .findings button:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
  .results .findings button[aria-current] { border-color: var(--line-2); background: var(--raised); font-weight: 600; }
  .results .findings .num, .results .classes .num { font-variant-numeric: tabular-nums; }
  .results .classes li { display: grid; grid-template-columns: minmax(0, 1fr) auto auto; gap: 8px; align-items: center; overflow-wrap: anywhere; }
  .results .classes .share { grid-column: 1 / -1; height: 4px; border-radius: 2px; background: var(--line); overflow: hidden; }
  .results .classes .share i { display: block; height: 100%; width: var(--v); background: var(--accent); }
  .results .findings small { display: block; font-weight: 400; color: var(--text-2); font-variant-numeric: tabular-nums; }
  .results .least { display: grid; grid-template-columns: auto 1fr auto; gap: 10px; align-items: center; }
  .results .least input { width: 100%; accent-color: var(--accent); }
`;

export function reportArticle(item, kind, reports, provenance) {
  const title = element("div", {}, element("h3", {}, item.description), provenance);
  const header = element("header", {}, title);
  const made = element("article", { "data-kind": kind, "data-report": item.id, "data-shown": String(item.shown) }, header);
  if (item.findings.length) {
    header.append(toggle(item, reports));
    made.append(...findings(item, reports));
  }
  if (item.classes.length) made.append(element("ul", { class: "classes" }, ...item.classes.map(classRow)));
  if (item.values.length) {
    made.append(element("ul", {}, ...item.values.map(({ name, value, unit }) =>
      element("li", {}, element("span", {}, name), element("b", { class: "num" }, `${Number(value.toPrecision(4))}${unit && unit !== "1" ? ` ${unit}` : ""}`)),
    )));
  }
  return made;
}

function toggle(item, reports) {
  const input = element("input", {
    type: "checkbox", role: "switch", "data-item": item.id, checked: item.shown, "aria-label": `Show ${item.description}`,
  });
  input.addEventListener("change", () => reports.toggle(item.id));
  return element("label", { class: "switch" }, input, element("span", { class: "vh" }, "Show"));
}

function findings(item, reports) {
  const shown = reports.visible(item);
  const percent = Math.round(100 * reports.leastOf(item));
  const most = item.findings[0].score;
  const slider = element("input", {
    type: "range", min: 0, max: 100, step: 1, value: percent, "data-item": `${item.id} least`, "aria-label": "Least certainty of the findings shown",
  });
  slider.addEventListener("change", () => reports.setLeast(item.id, Number(slider.value) / 100));
  const said = shown.length
    ? `${shown.length} of ${item.findings.length} findings`
    : `No finding reaches ${percent} %; the most certain of ${item.findings.length} has ${Math.round(100 * most)} %`;
  const list = element("ul", { class: "findings" }, ...shown.map((finding) => element("li", {}, findingButton(item, finding, reports))));
  const scored = item.findings.some((finding) => finding.score !== null);
  return [
    ...(scored ? [element("label", { class: "least small" }, "From", slider, element("span", { class: "num" }, `${percent} %`))] : []),
    element("p", { class: "small muted" }, said),
    list,
  ];
}

function findingButton(item, finding, reports) {
  const details = place(finding, reports);
  const button = element(
    "button",
    {
      type: "button", "data-item": finding.uid, "aria-current": finding.uid === reports.chosen ? "true" : null,
      "aria-label": ["Go to " + caption(finding), details].filter(Boolean).join(", "),
    },
    element("span", { class: "swatch", style: `--c: ${reports.colour(item, finding.label)}` }),
    element("span", {}, finding.label || "Finding", details ? element("small", {}, details) : ""),
    element("span", { class: "num" }, finding.score === null ? "" : `${Math.round(100 * finding.score)} %`),
  );
  button.addEventListener("click", () => reports.jump(item.id, finding.uid));
  return button;
}

// "23 × 21 × 24 mm, image 12"
function place(finding, reports) {
  const size = sizeOf(finding)?.map((length) => Math.round(length)).join(" × ");
  const number = reports.numberOf(finding);
  return [size && `${size} mm`, number && `image ${number}`].filter(Boolean).join(", ");
}

function classRow({ label, score, present }) {
  const decided = present === null ? "" : present ? "present" : "absent";
  const row = element(
    "li",
    {},
    element("span", {}, label),
    element("span", { class: "small muted" }, decided),
    element("b", { class: "num" }, score === null ? "" : `${(100 * score).toFixed(1)} %`),
  );
  if (score !== null) row.append(element("span", { class: "share" }, element("i", { style: `--v: ${100 * score}%` })));
  return row;
}
