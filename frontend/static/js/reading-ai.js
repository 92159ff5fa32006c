// The model result that a campaign shows: which model, which structures, and a switch for its overlay.

import { element, icon } from "./element.js";

export class AiResult {
  constructor(node, state, overlays) {
    this.node = node;
    this.ai = state.ai;
    this.overlays = overlays;
  }

  start() {
    const series = this.ai?.segmentation_series_uid;
    this.overlays.provideResults(
      series ? [{ series, modality: "SEG", origin: "model", provenance: this.ai.version, by: "", at: "", own: false }] : [],
    );
    if (!this.ai) return;
    this.overlays.addEventListener("change", () => this.draw());
    this.draw();
  }

  draw() {
    const { ai } = this;
    const item = this.overlays.items.find((candidate) => candidate.displaySet.SeriesInstanceUID === ai.segmentation_series_uid);
    this.node.hidden = false;
    const head = element("div", { class: "row apart nowrap" }, element("h2", {}, "AI result"));
    this.node.replaceChildren(head, element("p", { class: "prov" }, element("span", { class: "tag" }, icon("model"), "AI"), ` ${ai.version}`));
    if (item) {
      const input = element("input", { type: "checkbox", role: "switch", checked: item.shown });
      input.addEventListener("change", () => this.overlays.toggle(item.id));
      head.append(element("label", { class: "switch" }, input, "Overlay"));
      const row = ({ label, color }) =>
        element("li", {}, element("span", { class: "swatch", style: color ? `--c:rgb(${color.slice(0, 3).join(" ")})` : "--c:transparent" }), label);
      this.node.append(element("ul", { class: "legend" }, ...item.segments.map(row)));
      if (item.status) this.node.append(element("p", { class: "small muted", role: "status" }, item.status));
    }
    const scores = Object.entries(ai.scores ?? {}).filter(([, value]) => typeof value === "number");
    if (scores.length) {
      const pairs = scores.flatMap(([name, value]) => [element("dt", {}, name), element("dd", { class: "num" }, value.toFixed(2))]);
      this.node.append(element("dl", { class: "kv" }, ...pairs));
    }
    this.node.append(element("p", { class: "small quiet" }, "Research use, not a medical device"));
  }
}
