// The structures to draw: choose one, brush, eraser, size; what is drawn is told per label.

import { element, icon } from "./element.js";

const TOOLS = [["brush", "Brush", "B"], ["eraser", "Eraser", "E"], ["window", "Window", "W"]];

export class Labels {
  constructor(node, segments) {
    this.node = node;
    this.segments = segments;
    this.drawing = null;
    this.tool = "window";
    this.radius = 5;
    if (segments.length) this.build();
  }

  build() {
    this.rows = new Map();
    const list = element("div", { role: "radiogroup", "aria-label": "Structure to draw" });
    for (const { number, name, color, required } of this.segments) {
      const amount = element("span", { class: "small quiet num" }, required ? "required" : "optional");
      const row = element(
        "button",
        { class: "label-row", type: "button", role: "radio", "aria-checked": "false", disabled: true, "data-label": number },
        element("span", { class: "swatch", style: `--c:${color}` }),
        element("span", {}, name),
        amount,
      );
      row.addEventListener("click", () => this.choose(number));
      this.rows.set(number, { row, amount, required });
      list.append(row);
    }
    this.buttons = TOOLS.map(([tool, text, key]) => {
      const made = element("button", { class: "btn plain small", type: "button", "aria-pressed": "false", disabled: true, title: `${text} (${key})` }, text);
      made.addEventListener("click", () => this.use(tool));
      return [tool, made];
    });
    this.size = element("input", { type: "range", min: 1, max: 30, step: 0.5, value: this.radius, "aria-label": "Radius of brush and eraser in mm", disabled: true });
    this.sizeText = element("span", { class: "num nowrap" }, "");
    this.size.addEventListener("input", () => {
      this.radius = Number(this.size.value);
      this.use(this.tool === "window" ? "brush" : this.tool);
    });
    this.state = element("span", { class: "small quiet" }, "loading the images");
    this.node.replaceChildren(
      element("div", { class: "row apart nowrap" }, element("h2", {}, "Draw"), this.state),
      list,
      element("div", { class: "tools" }, element("div", { class: "seg" }, ...this.buttons.map(([, made]) => made)), element("label", { class: "size" }, this.size, this.sizeText)),
    );
    this.showTool();
    this.node.hidden = false;
  }

  // Make the drawing in OHIF, bring the stored one back, and let the reader go on.
  async connect(drawing, state, saver) {
    await drawing.create({ labels: this.segments, series: state.image_series_uid ?? "", description: `Drawing, ${state.campaign.name}` });
    const stored = state.draft?.segmentation;
    if (stored) {
      this.state.textContent = "bringing your drawing back";
      saver.drawingRestored(await drawing.restore(stored), stored);
    }
    this.drawing = drawing;
    drawing.addEventListener("change", () => {
      saver.drawingChanged();
      this.count();
    });
    drawing.addEventListener("label", () => this.showActive());
    for (const { row } of this.rows.values()) row.disabled = false;
    for (const [, made] of this.buttons) made.disabled = false;
    this.size.disabled = false;
    this.state.textContent = "";
    this.radius = drawing.usefulRadius?.() ?? this.radius;
    this.size.value = this.radius;
    this.showActive();
    this.showTool();
    this.count();
  }

  choose(number) {
    if (!this.drawing) return;
    this.drawing.select(number);
    if (this.tool === "window") this.use("brush");
    this.showActive();
  }

  use(tool) {
    if (!this.drawing) return;
    this.tool = tool;
    this.drawing.use(tool, this.radius);
    this.showTool();
  }

  press(key) {
    if (!this.drawing) return false;
    const tool = TOOLS.find(([, , letter]) => letter.toLowerCase() === key)?.[0];
    if (tool) this.use(tool);
    else if (key === "a") {
      const numbers = this.segments.map(({ number }) => number);
      this.choose(numbers[(numbers.indexOf(this.drawing.active) + 1) % numbers.length]);
    } else return false;
    return true;
  }

  showActive() {
    for (const [number, { row }] of this.rows) row.setAttribute("aria-checked", String(number === this.drawing?.active));
  }

  showTool() {
    for (const [tool, made] of this.buttons) made.setAttribute("aria-pressed", String(tool === this.tool));
    this.sizeText.textContent = `${this.radius} mm`;
  }

  count() {
    clearTimeout(this.counting);
    this.counting = setTimeout(() => {
      for (const [number, voxels] of this.drawing.counts()) {
        const entry = this.rows.get(number);
        if (entry) entry.amount.textContent = voxels ? this.drawing.volumeText(voxels) : entry.required ? "required" : "optional";
      }
    }, 250);
  }

  showError(key, text) {
    if (!this.segments.length || !/^segment/.test(key)) return false;
    this.node.classList.add("wrong");
    this.node.append(element("p", { class: "error", role: "alert" }, icon("bad"), text));
    return true;
  }

  clearErrors() {
    this.node.classList.remove("wrong");
    this.node.querySelectorAll(".error").forEach((error) => error.remove());
  }

  focusError() {
    if (!this.node.classList.contains("wrong")) return false;
    this.rows.values().next().value.row.focus();
    return true;
  }
}
