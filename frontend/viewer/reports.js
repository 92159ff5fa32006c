// Reports of a study: which it has, which are shown, and the boxes of their findings over the images.
//
// OHIF would take a report's findings over as measurements, which are the reader's; here they stay what a model said.
// Emits "change" whenever a list made from `items` would look different.

import { outline } from "./boxes.js";
import { jumpToImage } from "./overlays.js";
import { readReport } from "./report.js";

const COLOURS = ["#5acce6", "#d9b726", "#c097fe", "#ea6848", "#2b84f0", "#97cf85", "#ee93a8"];
const SVG = "http://www.w3.org/2000/svg";
const LEAST = 0.5; // score from which findings are shown at first, where the server names no threshold of the model

export class Reports extends EventTarget {
  constructor(ohif, overlays) {
    super();
    this.ohif = ohif;
    this.overlays = overlays;
    this.read = new Map(); // SOPInstanceUID → what `readReport` made of it
    this.on = new Set(); // displaySetInstanceUIDs of what is shown
    this.least = new Map(); // displaySetInstanceUID → score from which somebody wants to see findings
    this.opened = false; // the newest report of a model is shown once, at opening
    this.chosen = ""; // tracking UID of the finding that somebody jumped to
    this.layers = new Map(); // viewport element → its drawing
    this.onRendered = (event) => this.draw(event.currentTarget);
    this.onEnabled = (event) => this.watch(event.detail.element);
    this.onResults = () => this.refresh();
  }

  start() {
    const { eventTarget, EVENTS, getEnabledElements } = window.cornerstone;
    eventTarget.addEventListener(EVENTS.ELEMENT_ENABLED, this.onEnabled);
    for (const { viewport } of getEnabledElements()) this.watch(viewport.element);
    this.overlays.addEventListener("change", this.onResults);
    this.opened = false;
    this.refresh();
  }

  stop() {
    const { eventTarget, EVENTS } = window.cornerstone;
    eventTarget.removeEventListener(EVENTS.ELEMENT_ENABLED, this.onEnabled);
    this.overlays.removeEventListener("change", this.onResults);
    for (const [element, layer] of this.layers) {
      element.removeEventListener(EVENTS.IMAGE_RENDERED, this.onRendered);
      layer.remove();
    }
    this.layers.clear();
  }

  // The reports of the study that say something, in the order of the server's results, others last.
  get items() {
    if (!this.overlays.started) return [];
    const order = [...(this.overlays.results ?? new Map()).keys()];
    const rank = (set) => (order.includes(set.SeriesInstanceUID) ? order.indexOf(set.SeriesInstanceUID) : order.length);
    return this.ohif.services.displaySetService
      .getActiveDisplaySets()
      .filter((set) => set.Modality === "SR" && this.reportOf(set))
      .sort((a, b) => rank(a) - rank(b))
      .map((set) => ({
        id: set.displaySetInstanceUID,
        series: set.SeriesInstanceUID,
        description: set.SeriesDescription || "Report",
        result: this.overlays.results?.get(set.SeriesInstanceUID) ?? null,
        shown: this.on.has(set.displaySetInstanceUID),
        ...this.reportOf(set),
      }));
  }

  reportOf(set) {
    if (!this.read.has(set.SOPInstanceUID)) this.read.set(set.SOPInstanceUID, readReport(set.instance));
    const report = this.read.get(set.SOPInstanceUID);
    return report && (report.findings.length || report.classes.length || report.values.length) ? report : null;
  }

  refresh() {
    this.dispatchEvent(new Event("change"));
    if (this.opened || !this.overlays.results || !this.overlays.readyViewport()) return;
    const model = [...this.overlays.results.values()].filter((result) => result.origin === "model");
    const wanted = model.find((result) => result.modality === "SR");
    const item = this.items.find((candidate) => candidate.series === wanted?.series);
    if (wanted && !item) return; // its header is on the way
    this.opened = true;
    if (!item?.findings.length) return;
    this.on.add(item.id);
    this.redraw();
    // A segmentation of a model brings its own slice into view.
    if (!model.some((result) => result.modality === "SEG")) this.jump(item.id, item.findings[0].uid);
  }

  toggle(id) {
    if (!this.on.delete(id)) this.on.add(id);
    this.redraw();
  }

  setLeast(id, value) {
    this.least.set(id, value);
    this.redraw();
  }

  // The score from which the findings of a report are shown: somebody's choice, else the model's own threshold.
  leastOf(item) {
    return this.least.get(item.id) ?? item.result?.least ?? LEAST;
  }

  visible(item) {
    const least = this.leastOf(item);
    return item.findings.filter((finding) => (finding.score ?? 1) >= least);
  }

  // The image through the middle of a finding, counted from 1 as its series is shown; null where it is not there.
  numberOf(finding) {
    const place = finding.regions[0];
    const images = place ? this.imagesWith(place.image)?.images : null;
    const found = images?.findIndex((image) => image.SOPInstanceUID === place.image) ?? -1;
    if (found < 0) return null;
    return images.length === 1 && place.frame > 1 ? place.frame : found + 1;
  }

  colour(item, label) {
    const labels = [...new Set(item.findings.map((finding) => finding.label))].sort();
    return COLOURS[labels.indexOf(label) % COLOURS.length];
  }

  // Show a finding: its report, itself whatever the least score, and the slice through its middle.
  async jump(id, uid) {
    const item = this.items.find((candidate) => candidate.id === id);
    const finding = item?.findings.find((candidate) => candidate.uid === uid);
    if (!finding) return;
    this.on.add(id);
    this.chosen = uid;
    const [place] = finding.regions;
    const images = place && this.imagesWith(place.image);
    if (images) {
      const viewportId = await this.overlays.viewportWithImages(images.displaySetInstanceUID);
      const viewport = this.ohif.services.cornerstoneViewportService.getCornerstoneViewport(viewportId);
      const imageId = (viewport?.getImageIds?.() ?? []).find((known) => isImage(known, place));
      if (viewport?.type === "stack") jumpToImage(this.ohif, viewportId, place.image, imageId);
      else if (finding.box && viewport?.jumpToWorld) viewport.jumpToWorld(middle(finding.box));
    }
    this.redraw();
  }

  imagesWith(sopInstanceUID) {
    return this.ohif.services.displaySetService
      .getActiveDisplaySets()
      .find((set) => set.images?.some((image) => image.SOPInstanceUID === sopInstanceUID));
  }

  watch(element) {
    if (!element || this.layers.has(element)) return;
    const layer = document.createElementNS(SVG, "svg");
    layer.dataset.readroom = "findings";
    layer.setAttribute("aria-hidden", "true"); // the panel lists the same
    layer.style.cssText = "position:absolute;inset:0;width:100%;height:100%;pointer-events:none;overflow:hidden";
    element.append(layer);
    this.layers.set(element, layer);
    element.addEventListener(window.cornerstone.EVENTS.IMAGE_RENDERED, this.onRendered);
    this.draw(element);
  }

  redraw() {
    for (const element of this.layers.keys()) {
      if (element.isConnected) this.draw(element);
      else this.layers.delete(element);
    }
    this.dispatchEvent(new Event("change"));
  }

  draw(element) {
    const layer = this.layers.get(element);
    const { viewport } = window.cornerstone.getEnabledElement(element) ?? {};
    layer.replaceChildren();
    if (!viewport || !this.on.size) return;
    for (const item of this.items.filter((candidate) => candidate.shown)) {
      const least = this.leastOf(item);
      for (const finding of item.findings) {
        const chosen = finding.uid === this.chosen;
        if (!chosen && (finding.score ?? 1) < least) continue;
        const corners = outline(finding, viewport);
        if (corners) layer.append(...shapes(corners, caption(finding), this.colour(item, finding.label), chosen));
      }
    }
  }
}

// Lengths of a finding's edges in mm, along x, y and z of its image; null of a point.
export function sizeOf({ box }) {
  if (box?.length !== 8) return null;
  return [1, 2, 4].map((other) => Math.hypot(...box[0].map((value, axis) => box[other][axis] - value)));
}

export function caption(finding) {
  const score = finding.score === null ? "" : ` ${Math.round(100 * finding.score)} %`;
  return `${finding.label || "Finding"}${score}`;
}

function shapes(corners, words, colour, chosen) {
  const point = corners.length < 3;
  const where = point
    ? { cx: corners[0][0], cy: corners[0][1], r: 9 }
    : { points: corners.map((corner) => corner.map((value) => value.toFixed(1)).join(",")).join(" ") };
  const shape = (stroke, width) => drawn(point ? "circle" : "polygon", { ...where, fill: "none", stroke, "stroke-width": width });
  const text = drawn("text", {
    x: Math.min(...corners.map(([x]) => x)) - (point ? 9 : 0),
    y: Math.min(...corners.map(([, y]) => y)) - (point ? 14 : 6),
    fill: colour,
    stroke: "#000",
    "stroke-width": 3,
    style: "paint-order:stroke",
    "font-family": "system-ui, sans-serif",
    "font-size": 13,
    "font-weight": chosen ? 700 : 500,
  });
  text.textContent = words;
  return [shape("rgba(0,0,0,.65)", chosen ? 6 : 4.5), shape(colour, chosen ? 3 : 2), text];
}

function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function isImage(imageId, { image, frame }) {
  const found = /\/instances\/([0-9.]+)(?:\/frames\/(\d+))?/.exec(imageId);
  return found?.[1] === image && Number(found[2] ?? 1) === frame;
}

function middle(box) {
  return [0, 1, 2].map((axis) => box.reduce((sum, corner) => sum + corner[axis], 0) / box.length);
}
