// Maps of numbers over the images: what moved a classifier's answer, probabilities, uncertainty.
//
// OHIF shows a parametric map as images of its own; here it is a colour layer over the image that it was made from, with
// a legend. Each frame of the map is fetched when its image is shown. Emits "change" when a list made from `items` would
// look different.

import { firstPart, imageKey, sequence, value } from "./seg.js";

const KINDS = {
  grad_cam: { title: "Grad-CAM", low: "nothing", high: "strongest in this map" },
  occlusion: { title: "Occlusion", low: "answer rises when covered", high: "answer falls when covered", signed: true },
  probability: { title: "Probability", low: "0", high: "1", numbers: true },
  uncertainty: { title: "Uncertainty", low: "certain", high: "uncertain", numbers: true },
};
export const CAUTION = "Shows which parts moved this answer, not why, and not that the answer is right.";
const EXPLAINS = new Set(["grad_cam", "occlusion"]);
const MOST_BYTES = 96e6; // of frames that are kept, and looked through for the strongest one
const FAINT = 0.06; // of the largest value: below it nothing is drawn

// Colours at even steps from nothing to the largest value; warm for, cold against.
const WARM = [[60, 20, 90], [190, 40, 90], [245, 110, 30], [255, 225, 90]];
const COLD = [[20, 60, 110], [30, 120, 190], [60, 180, 225], [190, 240, 255]];

function colour(scale, share) {
  const at = Math.min(1, Math.max(0, share)) * (scale.length - 1);
  const low = Math.min(Math.floor(at), scale.length - 2);
  return scale[low].map((from, channel) => Math.round(from + (at - low) * (scale[low + 1][channel] - from)));
}

export function gradient(signed) {
  const stops = (scale) => [0, 0.25, 0.5, 0.75, 1].map((share) => `rgba(${colour(scale, share).join(" ")} / ${Math.max(0.15, share)})`);
  const warm = stops(WARM);
  return `linear-gradient(to right, ${(signed ? [...stops(COLD).reverse(), ...warm] : warm).join(", ")})`;
}

export class HeatMaps extends EventTarget {
  constructor(ohif, overlays) {
    super();
    this.ohif = ohif;
    this.overlays = overlays;
    this.facts = window.readroom;
    this.study = new URLSearchParams(location.search).get("StudyInstanceUIDs");
    this.wanted = new URLSearchParams(location.search).get("map");
    this.opacity = 0.6;
    this.shown = null; // SeriesInstanceUID of the map that lies over the images; one at a time
    this.loaded = new Map(); // SeriesInstanceUID → what `load` found
    this.status = new Map(); // SeriesInstanceUID → why it waits or failed
    this.layers = new Map(); // viewport element → its canvas and legend
    this.onRendered = (event) => this.draw(event.currentTarget);
    this.onEnabled = (event) => this.watch(event.detail.element);
    this.onResults = () => this.openWanted();
  }

  start() {
    if (this.facts.kind === "task") return; // a reader is not told where a model looked
    const { eventTarget, EVENTS, getEnabledElements } = window.cornerstone;
    eventTarget.addEventListener(EVENTS.ELEMENT_ENABLED, this.onEnabled);
    for (const { viewport } of getEnabledElements()) this.watch(viewport.element);
    this.overlays.addEventListener("change", this.onResults);
    this.openWanted();
  }

  stop() {
    const { eventTarget, EVENTS } = window.cornerstone;
    eventTarget.removeEventListener(EVENTS.ELEMENT_ENABLED, this.onEnabled);
    this.overlays.removeEventListener("change", this.onResults);
    for (const element of this.layers.keys()) element.removeEventListener(EVENTS.IMAGE_RENDERED, this.onRendered);
    for (const layer of this.layers.values()) layer.box.remove();
    this.layers.clear();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  // The maps of the study, in the order of the server's results.
  get items() {
    return [...(this.overlays.results?.values() ?? [])]
      .filter((result) => result.map)
      .map((result) => {
        const kind = KINDS[result.map.kind];
        const found = this.loaded.get(result.series);
        return {
          id: result.series,
          result,
          title: `${kind.title}${result.map.label ? ` of ${result.map.label}` : ""}`,
          kind,
          explains: EXPLAINS.has(result.map.kind),
          shown: this.shown === result.series,
          status: this.status.get(result.series) ?? "",
          limits: found?.limits ?? null,
        };
      });
  }

  openWanted() {
    if (!this.wanted || !this.items.some((item) => item.id === this.wanted)) return;
    const series = this.wanted;
    this.wanted = null;
    this.toggle(series);
  }

  async toggle(series) {
    if (this.shown === series) {
      this.shown = null;
      this.redraw();
      return;
    }
    this.shown = series;
    try {
      const map = await this.load(series);
      this.redraw();
      await this.jumpToStrongest(map);
    } catch (error) {
      if (this.shown === series) this.shown = null;
      this.status.set(series, `The map could not be loaded (${error.message}). Reload the page.`);
    }
    this.redraw();
  }

  setOpacity(value) {
    this.opacity = value;
    for (const element of this.layers.keys()) this.draw(element);
  }

  async load(series) {
    if (this.loaded.has(series)) return this.loaded.get(series);
    this.status.set(series, "Loading");
    this.changed();
    const base = `${this.facts.dicomwebRoot}/studies/${this.study}/series/${series}`;
    const answer = await fetch(`${base}/metadata`, { headers: { Accept: "application/dicom+json" } });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const [header] = await answer.json();
    const rows = value(header, "00280010");
    const columns = value(header, "00280011");
    const mapping = sequence(sequence(header, "52009229")[0], "00409096")[0];
    const frames = new Map();
    sequence(header, "52009230").forEach((item, index) => {
      const source = sequence(sequence(item, "00089124")[0], "00082112")[0];
      frames.set(imageKey(value(source, "00081155"), value(source, "00081160")), index + 1);
    });
    const map = {
      series,
      rows,
      columns,
      frames,
      limits: [value(mapping, "00409214") ?? 0, value(mapping, "00409213") ?? 1],
      signed: KINDS[this.overlays.results.get(series).map.kind].signed ?? false,
      address: `${base}/instances/${value(header, "00080018")}/frames/`,
      pictures: new Map(), // frame → canvas, or a promise of it
      peaks: new Map(), // frame → its largest value
    };
    this.loaded.set(series, map);
    this.status.delete(series);
    this.changed();
    return map;
  }

  // The coloured picture of a frame once it is there; asks for it otherwise.
  picture(map, frame) {
    const kept = map.pictures.get(frame);
    if (kept instanceof HTMLCanvasElement) return kept;
    if (!kept) map.pictures.set(frame, this.fetchFrame(map, frame).then(() => this.redraw(), (error) => this.failed(map, frame, error)));
    return null;
  }

  failed(map, frame, error) {
    map.pictures.delete(frame);
    if (this.shown === map.series) this.shown = null;
    this.status.set(map.series, `A part of the map could not be loaded (${error.message}). Reload the page.`);
    this.redraw();
  }

  async fetchFrame(map, frame) {
    const answer = await fetch(`${map.address}${frame}`, { headers: { Accept: 'multipart/related; type="application/octet-stream"' } });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const bytes = await firstPart(answer);
    const values = new Float32Array(bytes.slice().buffer, 0, map.rows * map.columns);
    map.peaks.set(frame, values.reduce((most, number) => Math.max(most, number), -Infinity));
    this.forget(map);
    map.pictures.set(frame, paint(map, values));
  }

  // Oldest frames go when too many are kept.
  forget(map) {
    const most = Math.max(8, Math.floor(MOST_BYTES / (map.rows * map.columns * 4)));
    for (const [frame, kept] of map.pictures) {
      if (map.pictures.size < most) return;
      if (kept instanceof HTMLCanvasElement) map.pictures.delete(frame);
    }
  }

  // Of several images the one with the map's largest value, where all frames may be fetched.
  async jumpToStrongest(map) {
    if (map.frames.size < 2 || map.frames.size * map.rows * map.columns * 4 > MOST_BYTES) return;
    const waiting = [...map.frames.values()];
    const work = async () => {
      for (let frame = waiting.shift(); frame; frame = waiting.shift()) {
        if (!map.peaks.has(frame)) await this.fetchFrame(map, frame);
      }
    };
    await Promise.all([work(), work(), work()]);
    const [strongest] = [...map.peaks].reduce((best, entry) => (entry[1] > best[1] ? entry : best));
    const key = [...map.frames].find(([, frame]) => frame === strongest)[0];
    for (const element of this.layers.keys()) {
      const { viewport } = window.cornerstone.getEnabledElement(element) ?? {};
      const index = (viewport?.getImageIds?.() ?? []).findIndex((id) => keyOf(id) === key);
      if (index >= 0) window.cornerstone.utilities.jumpToSlice(element, { imageIndex: index });
    }
  }

  watch(element) {
    if (!element || this.layers.has(element)) return;
    const box = document.createElement("div");
    box.dataset.readroom = "map";
    box.style.cssText = "position:absolute;inset:0;pointer-events:none;overflow:hidden;display:none";
    const canvas = document.createElement("canvas");
    canvas.style.cssText = "position:absolute;inset:0;width:100%;height:100%";
    const legend = document.createElement("div");
    legend.style.cssText =
      "position:absolute;left:50%;bottom:10px;transform:translateX(-50%);max-width:min(340px,86%);padding:6px 10px;border-radius:6px;" +
      "background:rgba(0,0,0,.72);color:#f2f4f8;font:12px/1.35 system-ui,sans-serif;text-align:center";
    box.append(canvas, legend);
    element.append(box);
    this.layers.set(element, { box, canvas, legend });
    element.addEventListener(window.cornerstone.EVENTS.IMAGE_RENDERED, this.onRendered);
    this.draw(element);
  }

  redraw() {
    for (const element of this.layers.keys()) {
      if (element.isConnected) this.draw(element);
      else this.layers.delete(element);
    }
    this.changed();
  }

  draw(element) {
    const layer = this.layers.get(element);
    const map = this.shown && this.loaded.get(this.shown);
    const { viewport } = window.cornerstone.getEnabledElement(element) ?? {};
    const frame = map && viewport ? map.frames.get(keyOf(viewport.getCurrentImageId?.() ?? "")) : null;
    const corners = frame ? cornersOf(viewport, map) : null;
    layer.box.style.display = corners ? "" : "none";
    layer.box.dataset.frame = corners ? frame : "";
    if (!corners) return;
    this.explain(layer, map);
    const { canvas } = layer;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(element.clientWidth * ratio);
    const height = Math.round(element.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    const picture = this.picture(map, frame);
    if (!picture) return;
    const [origin, right, down] = corners;
    context.globalAlpha = this.opacity;
    context.setTransform(
      ((right[0] - origin[0]) / map.columns) * ratio, ((right[1] - origin[1]) / map.columns) * ratio,
      ((down[0] - origin[0]) / map.rows) * ratio, ((down[1] - origin[1]) / map.rows) * ratio,
      origin[0] * ratio, origin[1] * ratio,
    );
    context.drawImage(picture, 0, 0);
  }

  explain(layer, map) {
    // In a narrow window the legend would lie over OHIF's own texts in the corners.
    layer.legend.style.bottom = layer.box.clientWidth < 560 ? "64px" : "10px";
    if (layer.legend.dataset.series === map.series) return;
    layer.legend.dataset.series = map.series;
    const item = this.items.find((candidate) => candidate.id === map.series);
    const bar = document.createElement("div");
    bar.style.cssText = `height:8px;margin:4px 0;border-radius:3px;background:${gradient(map.signed)},#0b0d12`;
    const ends = document.createElement("div");
    ends.style.cssText = "display:flex;justify-content:space-between;gap:16px";
    for (const text of legendEnds(item)) ends.append(Object.assign(document.createElement("span"), { textContent: text }));
    const title = Object.assign(document.createElement("b"), { textContent: item.title });
    const use = Object.assign(document.createElement("div"), { textContent: "Research use, not a medical device" });
    use.style.cssText = "margin-top:2px;opacity:.8";
    layer.legend.replaceChildren(title, bar, ends, use);
  }
}

// What stands at the two ends of the legend.
export function legendEnds(item) {
  if (!item.limits || item.kind.low === "nothing") return [item.kind.low, item.kind.high];
  const [low, high] = item.limits.map((number) => String(Number(number.toPrecision(2))).replace("-", "−"));
  if (item.kind.signed) return [`${item.kind.low}, ${low}`, `${item.kind.high}, ${high}`];
  return [`${low}`, `${high}`];
}

function keyOf(imageId) {
  const found = /\/instances\/([0-9.]+)(?:\/frames\/(\d+))?/.exec(imageId);
  return found ? imageKey(found[1], Number(found[2] ?? 1)) : "";
}

// Three corners of the image in the viewport, CSS pixels: first pixel, end of the first row, end of the first column.
// null where the viewport shows another plane than the images'.
function cornersOf(viewport, map) {
  const at = outerCorners(viewport, map);
  if (!at) return null;
  const places = at.map((world) => viewport.worldToCanvas(world));
  return places.every((place) => place.every(Number.isFinite)) ? places : null;
}

function outerCorners(viewport, { rows, columns }) {
  const ends = [[-0.5, -0.5], [columns - 0.5, -0.5], [-0.5, rows - 0.5]];
  if (viewport.type === "stack") {
    const data = viewport.getImageData?.()?.imageData; // of the shown image, also where it has no place in the patient
    return data ? ends.map(([column, row]) => [...data.indexToWorld([column, row, 0])]) : null;
  }
  const plane = window.cornerstone.metaData.get("imagePlaneModule", viewport.getCurrentImageId());
  const { viewPlaneNormal } = viewport.getCamera();
  if (!plane?.imagePositionPatient || !plane.rowCosines) return null;
  const [a, b] = [plane.rowCosines, plane.columnCosines];
  const normal = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  if (Math.abs(normal[0] * viewPlaneNormal[0] + normal[1] * viewPlaneNormal[1] + normal[2] * viewPlaneNormal[2]) < 0.999) return null;
  return ends.map(([column, row]) =>
    plane.imagePositionPatient.map((start, axis) => start + a[axis] * column * plane.columnPixelSpacing + b[axis] * row * plane.rowPixelSpacing),
  );
}

function paint(map, values) {
  const canvas = Object.assign(document.createElement("canvas"), { width: map.columns, height: map.rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(map.columns, map.rows);
  const [low, high] = map.limits;
  for (let i = 0; i < values.length; i++) {
    const share = map.signed ? values[i] / (values[i] < 0 ? -low || 1 : high || 1) : (values[i] - low) / (high - low || 1);
    const size = Math.abs(share);
    if (!(size > FAINT)) continue;
    const [red, green, blue] = colour(map.signed && values[i] < 0 ? COLD : WARM, size);
    image.data.set([red, green, blue, Math.round(255 * Math.min(1, 0.25 + 0.75 * size))], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
