// The panel beside the images: what a model found and what people drew, kept apart, each with its provenance.
//
// It lives in a shadow tree, so that our design tokens and OHIF's style sheet do not meet.

import { element, icon } from "./elements.js";
import { CAUTION, gradient, legendEnds } from "./maps.js";
import { REPORT_STYLE, reportArticle } from "./findings.js";

const KINDS = {
  model: { title: "AI results", tag: "AI", icon: "model" },
  annotation: { title: "Drawn by people", tag: "Reader", icon: "user" },
  reference: { title: "Reference standards", tag: "Reference", icon: "lock" },
  other: { title: "Other segmentations", tag: "Imported", icon: "studies" },
};

const OWN_STYLE = `
  :host { display: block; height: 100%; }
  .results { height: 100%; overflow: auto; background: var(--surface); color: var(--text); font: 400 var(--t-body)/var(--lh) var(--sans); }
  .results h2 { margin: 0; padding: 12px 14px 4px; font-size: var(--t-small); font-weight: 600; color: var(--text-2); }
  .results article { padding: 10px 14px; border-bottom: 1px solid var(--line); display: grid; gap: 6px; }
  .results header { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 8px; align-items: start; }
  .results h3 { margin: 0; overflow-wrap: anywhere; }
  .results ul { display: grid; gap: 4px; margin: 0; padding: 0; }
  .results li { display: flex; gap: 8px; align-items: center; font-size: var(--t-table); }
  .results .swatch { width: 12px; height: 12px; border-radius: 3px; flex: none; background: var(--c, transparent); border: 1px solid var(--line-2); }
  .results .scale-bar { height: 10px; border-radius: 3px; background: var(--g), #0b0d12; border: 1px solid var(--line-2); }
  .results .ends { display: flex; justify-content: space-between; gap: 12px; }
  .results .ends span:last-child { text-align: right; }
  .results .opacity { display: grid; grid-template-columns: auto 1fr; gap: 10px; align-items: center; }
  .results .opacity input { width: 100%; accent-color: var(--accent); }
  .results .use { position: sticky; bottom: 0; padding: 10px 14px; background: var(--raised); border-top: 1px solid var(--line-2); font-size: var(--t-small); }
`;

let sheets;

async function styles() {
  sheets ??= Promise.all(
    window.readroom.styles.map(async (address) => {
      const sheet = new CSSStyleSheet();
      sheet.replaceSync((await (await fetch(address)).text()).replaceAll(":root", ":host"));
      return sheet;
    }),
  ).then((loaded) => {
    const own = new CSSStyleSheet();
    own.replaceSync(OWN_STYLE + REPORT_STYLE);
    return [...loaded, own];
  });
  return sheets;
}

export async function mountPanel(node, overlays, maps, reports) {
  if (node.shadowRoot) return;
  const root = node.attachShadow({ mode: "open" });
  root.adoptedStyleSheets = await styles();
  const box = element("div", { class: "results", "data-theme": "dark" });
  root.append(box);
  const draw = () => node.isConnected && render(box, overlays, maps, reports);
  overlays.addEventListener("change", draw);
  maps.addEventListener("change", draw);
  reports.addEventListener("change", draw);
  draw();
}

function render(box, overlays, maps, reports) {
  const focused = box.getRootNode().activeElement?.dataset.item;
  const groups = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, []]));
  const kindOf = (item) => (KINDS[item.result?.origin] ? item.result.origin : "other");
  for (const item of reports.items) groups[kindOf(item)].push(reportArticle(item, kindOf(item), reports, provenance(item.result, kindOf(item), item.description)));
  for (const item of overlays.items) groups[kindOf(item)].push(article(item, kindOf(item), overlays));
  box.replaceChildren();
  if (overlays.failure) {
    box.append(element("div", { class: "note", "data-s": "bad", role: "alert" }, icon("bad"), element("div", {}, overlays.failure)));
  }
  for (const [kind, items] of Object.entries(groups)) {
    if (!items.length) continue;
    box.append(element("h2", {}, KINDS[kind].title), ...items);
  }
  if (maps.items.length) box.append(element("h2", {}, "AI maps"), ...maps.items.map((item) => mapArticle(item, maps)));
  if (!overlays.items.length && !maps.items.length && !reports.items.length && !overlays.failure) {
    const text = overlays.results ? "No segmentation belongs to this study yet. Run a model on it, or have it read." : "Loading results";
    box.append(element("div", { class: "empty" }, element("p", { class: "muted small" }, text)));
  }
  box.append(element("p", { class: "use" }, "Research use, not a medical device"));
  if (focused) box.querySelector(`[data-item="${CSS.escape(focused)}"]`)?.focus();
}

function article(item, kind, overlays) {
  const { result } = item;
  const input = element("input", {
    type: "checkbox", role: "switch", "data-item": item.id, checked: item.shown, "aria-label": `Show ${item.description}`,
  });
  input.addEventListener("change", () => overlays.toggle(item.id));
  const title = element("div", {}, element("h3", {}, item.description), provenance(result, kind, item.description));
  const toggle = element("label", { class: "switch" }, input, element("span", { class: "vh" }, "Show"));
  const list = element("ul", {}, ...item.segments.map(segment));
  const made = element("article", { "data-kind": kind, "data-shown": String(item.shown) }, element("header", {}, title, toggle), list);
  if (item.status) made.append(element("p", { class: "small muted", role: "status" }, item.status));
  return made;
}

function mapArticle(item, maps) {
  const input = element("input", {
    type: "checkbox", role: "switch", "data-item": item.id, checked: item.shown, "aria-label": `Show ${item.title}`,
  });
  input.addEventListener("change", () => maps.toggle(item.id));
  const title = element("div", {}, element("h3", {}, item.title), provenance(item.result, "model", item.title));
  const toggle = element("label", { class: "switch" }, input, element("span", { class: "vh" }, "Show"));
  const made = element("article", { "data-kind": "map", "data-shown": String(item.shown) }, element("header", {}, title, toggle));
  if (item.shown) {
    const bar = element("div", { class: "scale-bar", style: `--g: ${gradient(item.kind.signed)}` });
    const [low, high] = legendEnds(item);
    const strength = element("input", { type: "range", min: 0.1, max: 1, step: 0.05, value: maps.opacity, "data-item": `${item.id} opacity`, "aria-label": "Opacity of the map" });
    strength.addEventListener("input", () => maps.setOpacity(Number(strength.value)));
    made.append(bar, element("p", { class: "ends small muted" }, element("span", {}, low), element("span", {}, high)));
    made.append(element("label", { class: "opacity small" }, "Opacity", strength));
    if (item.explains) made.append(element("p", { class: "small muted" }, CAUTION));
  }
  if (item.status) made.append(element("p", { class: "small muted", role: "status" }, item.status));
  return made;
}

function provenance(result, kind, title) {
  const line = element("p", { class: "prov small muted" }, element("span", { class: "tag" }, icon(KINDS[kind].icon), KINDS[kind].tag), " ");
  const parts = [];
  if (result?.provenance && result.provenance !== title) parts.push(result.provenance);
  if (result?.by) parts.push(kind === "model" ? `run by ${result.by}` : result.own ? "you" : result.by);
  if (result?.at) parts.push(new Date(result.at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }));
  line.append(parts.join(" · ") || "Origin not recorded");
  return line;
}

function segment({ label, color, number }) {
  const swatch = element("span", { class: "swatch", style: color ? `--c: rgb(${color.slice(0, 3).join(" ")})` : null });
  return element("li", {}, swatch, element("span", {}, label || `Segment ${number}`));
}
