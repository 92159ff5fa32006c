// The model result that a campaign shows: which model, which structures, and a switch for its overlay.

import { element, icon } from "./element.js";

export class AiResult {
  constructor(node, state, { overlays, reports }) {
    this.node = node;
    this.ai = state.ai;
    this.overlays = overlays;
    this.reports = reports;
  }

  start() {
    const made = { origin: "model", provenance: this.ai?.version, by: "", at: "", own: false };
    const shown = [
      { series: this.ai?.segmentation_series_uid, modality: "SEG" },
      { series: this.ai?.report_series_uid, modality: "SR", least: this.ai?.least },
    ];
    this.overlays.provideResults(shown.filter(({ series }) => series).map((result) => ({ ...result, ...made })));
    if (!this.ai) return;
    this.overlays.addEventListener("change", () => this.draw());
    this.reports.addEventListener("change", () => this.draw());
    this.draw();
  }

  draw() {
    const { ai } = this;
    const item = this.overlays.items.find((candidate) => candidate.displaySet.SeriesInstanceUID === ai.segmentation_series_uid);
    const focused = document.activeElement?.dataset.finding;
    this.node.hidden = false;
    const head = element("div", { class: "row apart nowrap" }, element("h2", {}, "AI result"));
    this.node.replaceChildren(head, element("p", { class: "prov" }, element("span", { class: "tag" }, icon("model"), "AI"), ` ${ai.version}`));
    if (item) {
      const input = element("input", { type: "checkbox", role: "switch", checked: item.shown });
      input.addEventListener("change", () => this.overlays.toggle(item.id));
      head.append(element("label", { class: "switch" }, input, "Overlay"));
      this.node.append(element("ul", { class: "legend" }, ...item.segments.map((segment) => this.row(segment))));
      if (item.status) this.node.append(element("p", { class: "small muted", role: "status" }, item.status));
    }
    const report = this.reports.items.find((candidate) => candidate.series === ai.report_series_uid);
    if (report?.findings.length) this.node.append(this.findings(report));
    const named = new Set(item?.segments.map(({ label }) => label));
    const others = Object.keys(ai.scores ?? {}).filter((name) => !named.has(name));
    if (others.length) this.node.append(element("ul", { class: "legend" }, ...others.map((label) => this.row({ label, color: null }))));
    this.node.append(element("p", { class: "small quiet after" }, "Outlined in the images. Research use, not a medical device"));
    if (focused) this.node.querySelector(`[data-finding="${CSS.escape(focused)}"]`)?.focus();
  }

  // Boxes of a detector: a switch, and a button for each that leads to its slice.
  findings(report) {
    const input = element("input", { type: "checkbox", role: "switch", checked: report.shown, "data-finding": "all" });
    input.addEventListener("change", () => this.reports.toggle(report.id));
    const rows = this.reports.visible(report).map((finding) => {
      const button = element("button", { class: "btn small", type: "button", "data-finding": finding.uid }, `${finding.label} ${Math.round(100 * (finding.score ?? 1))} %`);
      button.addEventListener("click", () => this.reports.jump(report.id, finding.uid));
      return element("li", {}, button);
    });
    return element("div", {}, element("label", { class: "switch" }, input, "Findings"), element("ul", { class: "legend" }, ...rows));
  }

  row({ label, color }) {
    const score = this.ai.scores?.[label];
    const parts = [element("span", {}, label)];
    if (color) parts.unshift(element("span", { class: "swatch", style: `--c:rgb(${color.slice(0, 3).join(" ")})` }));
    if (typeof score === "number") parts.push(element("span", { class: "num push", title: "Score of the model" }, score.toFixed(2)));
    return element("li", {}, ...parts);
  }
}
