// Which segmentations a study has, who or what made them, and which of them are shown.
//
// Emits "change" whenever a list made from `items` would look different.

export const DRAWING = "readroom-drawing"; // the reader's own segmentation, see drawing.js
const LABELMAP = "Labelmap";
const OUTLINE = { renderFill: false, renderFillInactive: false, outlineWidth: 3, outlineWidthInactive: 3, outlineOpacityInactive: 1 };

export class Overlays extends EventTarget {
  constructor(ohif) {
    super();
    this.ohif = ohif;
    this.facts = window.readroom;
    this.results = null; // what the server knows about derived series: a Map by SeriesInstanceUID
    this.failure = "";
    this.opened = false; // the newest model result is shown once, at opening
    this.busy = new Map(); // displaySetInstanceUID → why it is waiting or failed
    this.off = new Set(); // displaySetInstanceUIDs that somebody switched off
    this.subscriptions = [];
    this.started = false; // OHIF's mode was entered: its services answer
  }

  start() {
    this.started = true;
    const { displaySetService, cornerstoneViewportService, segmentationService } = this.ohif.services;
    const on = (service, events, react) => {
      for (const event of events) this.subscriptions.push(service.subscribe(service.EVENTS[event], react));
    };
    this.opened = false;
    on(displaySetService, ["DISPLAY_SETS_ADDED", "DISPLAY_SETS_CHANGED"], () => this.refresh());
    on(cornerstoneViewportService, ["VIEWPORT_DATA_CHANGED"], () => this.refresh());
    on(segmentationService, ["SEGMENTATION_REPRESENTATION_MODIFIED", "SEGMENTATION_REPRESENTATION_REMOVED"], () => {
      this.keepOff();
      this.changed();
    });
    // A reading task's page tells what may be shown (provideResults); elsewhere the server does.
    if (this.facts.kind !== "task") this.loadResults();
  }

  stop() {
    for (const subscription of this.subscriptions) subscription.unsubscribe();
    this.subscriptions = [];
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  async loadResults() {
    const study = new URLSearchParams(location.search).get("StudyInstanceUIDs");
    try {
      const answer = await fetch(`${this.facts.base}results/${encodeURIComponent(study)}/`);
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      this.provideResults((await answer.json()).results);
    } catch (error) {
      this.failure = `The list of results could not be loaded (${error.message}). Reload the page.`;
      this.provideResults([]);
    }
  }

  // results: [{series, origin, provenance, by, own, at}, …], newest first
  provideResults(results) {
    this.results = new Map(results.map((result) => [result.series, result]));
    this.refresh();
  }

  // The segmentations of the study, in the order of the server's results, others last.
  get items() {
    if (!this.started) return [];
    const { displaySetService, segmentationService } = this.ohif.services;
    const order = [...(this.results ?? new Map()).keys()];
    const rank = (set) => (order.includes(set.SeriesInstanceUID) ? order.indexOf(set.SeriesInstanceUID) : order.length);
    return displaySetService
      .getActiveDisplaySets()
      .filter((set) => set.Modality === "SEG" && set.isOverlayDisplaySet && set.displaySetInstanceUID !== DRAWING)
      .sort((a, b) => rank(a) - rank(b))
      .map((set) => {
        const id = set.displaySetInstanceUID;
        const viewportId = this.viewportShowing(id);
        return {
          id,
          displaySet: set,
          description: set.SeriesDescription || "Segmentation",
          result: this.results?.get(set.SeriesInstanceUID) ?? null,
          shown: viewportId !== null && this.isVisible(viewportId, id),
          status: this.busy.get(id) ?? "",
          segments: this.segmentsOf(segmentationService.getSegmentation(id), viewportId, id, set),
        };
      });
  }

  segmentsOf(segmentation, viewportId, id, set) {
    const { segmentationService } = this.ohif.services;
    const segments = Object.values(segmentation?.segments ?? {}).filter(Boolean);
    if (segments.length && viewportId) {
      return segments.map((segment) => ({
        number: segment.segmentIndex,
        label: segment.label,
        color: segmentationService.getSegmentColor(viewportId, id, segment.segmentIndex) ?? [128, 128, 128],
      }));
    }
    // Not loaded yet: the header already has the names.
    const described = [set.instance?.SegmentSequence ?? set.instances?.[0]?.SegmentSequence ?? []].flat();
    return described.map((segment) => ({ number: Number(segment.SegmentNumber), label: segment.SegmentLabel, color: null }));
  }

  viewportShowing(id) {
    const { viewportGridService, segmentationService } = this.ohif.services;
    for (const viewportId of viewportGridService.getState().viewports.keys()) {
      if (segmentationService.getSegmentationRepresentations(viewportId, { segmentationId: id }).length) return viewportId;
    }
    return null;
  }

  isVisible(viewportId, id) {
    const [representation] = this.ohif.services.segmentationService.getSegmentationRepresentations(viewportId, { segmentationId: id });
    return representation?.visible !== false;
  }

  refresh() {
    this.changed();
    if (this.opened || !this.results || !this.readyViewport()) return;
    // Newest first: one model result is shown at opening, the others wait for their switch.
    const wanted = [...this.results.values()].find((result) => result.origin === "model" && result.modality === "SEG");
    if (!wanted) {
      this.opened = true;
      return;
    }
    const item = this.items.find((candidate) => candidate.displaySet.SeriesInstanceUID === wanted.series);
    if (!item?.displaySet.referencedDisplaySetInstanceUID) return;
    this.opened = true;
    this.show(item.id);
  }

  // The active viewport, once it shows images.
  readyViewport() {
    if (!this.started) return null;
    const { viewportGridService, cornerstoneViewportService } = this.ohif.services;
    const viewportId = viewportGridService.getActiveViewportId();
    const viewport = viewportId && cornerstoneViewportService.getCornerstoneViewport(viewportId);
    return viewport?.getImageIds?.()?.length ? viewportId : null;
  }

  async toggle(id) {
    const viewportId = this.viewportShowing(id);
    if (!viewportId) return this.show(id);
    if (this.isVisible(viewportId, id)) this.off.add(id);
    else this.off.delete(id);
    this.switchVisibility(viewportId, id);
    this.changed();
  }

  switchVisibility(viewportId, id) {
    this.ohif.services.segmentationService.toggleSegmentationRepresentationVisibility(viewportId, { segmentationId: id, type: LABELMAP });
  }

  // OHIF shows every layer again when one is added or the layout changes.
  keepOff() {
    const { viewportGridService, segmentationService } = this.ohif.services;
    for (const id of this.off) {
      for (const viewportId of viewportGridService.getState().viewports.keys()) {
        const there = segmentationService.getSegmentationRepresentations(viewportId, { segmentationId: id }).length;
        if (there && this.isVisible(viewportId, id)) this.switchVisibility(viewportId, id);
      }
    }
  }

  // Lay a segmentation over its images, without a prompt, and go to the slice with most of it.
  async show(id) {
    const { displaySetService } = this.ohif.services;
    const { commandsManager } = this.ohif;
    const set = displaySetService.getDisplaySetByUID(id);
    this.busy.set(id, "Loading");
    this.changed();
    try {
      const viewportId = await this.viewportWithImages(set.referencedDisplaySetInstanceUID);
      commandsManager.runCommand("addDisplaySetAsLayer", { viewportId, displaySetInstanceUID: id });
      await until(() => this.viewportShowing(id), 60000, "The segmentation could not be drawn.");
      this.busy.delete(id);
      if (this.facts.kind === "task") this.outline(id);
      this.jumpToLargest(id, viewportId);
    } catch (error) {
      this.busy.set(id, error.message);
    }
    this.changed();
  }

  // Beside the reader's own drawing, which is filled, a model's result is an outline.
  outline(id) {
    this.ohif.services.segmentationService.setStyle({ segmentationId: id, type: LABELMAP }, OUTLINE);
  }

  async viewportWithImages(displaySetInstanceUID) {
    const { viewportGridService } = this.ohif.services;
    if (!displaySetInstanceUID) throw new Error("Its images are not in this study.");
    const showing = () => {
      const state = viewportGridService.getState();
      const ids = [state.activeViewportId, ...state.viewports.keys()];
      return ids.find((id) => viewportGridService.getDisplaySetsUIDsForViewport(id)?.includes(displaySetInstanceUID));
    };
    if (!showing()) {
      const viewportId = viewportGridService.getActiveViewportId();
      this.ohif.commandsManager.run("setDisplaySetsForViewports", {
        viewportsToUpdate: [{ viewportId, displaySetInstanceUIDs: [displaySetInstanceUID] }],
      });
    }
    return until(() => this.readyViewport() && showing(), 60000, "Its images did not load.");
  }

  jumpToLargest(id, viewportId) {
    const { cache, metaData } = window.cornerstone;
    const segmentation = window.cornerstoneTools.segmentation.state.getSegmentation(id);
    let best = null;
    for (const imageId of segmentation?.representationData?.Labelmap?.imageIds ?? []) {
      const image = cache.getImage(imageId);
      const size = image?.voxelManager.getScalarData().reduce((sum, voxel) => sum + (voxel ? 1 : 0), 0) ?? 0;
      if (size && (!best || size > best.size)) best = { size, imageId: image.referencedImageId };
    }
    if (best) jumpToImage(this.ohif, viewportId, metaData.get("instance", best.imageId)?.SOPInstanceUID ?? "", best.imageId);
  }
}

// Bring an image into a stack viewport; the stack may be sorted either way, so it is looked up.
export function jumpToImage({ services }, viewportId, sopInstanceUID, imageId) {
  const viewport = services.cornerstoneViewportService.getCornerstoneViewport(viewportId);
  const ids = viewport?.getImageIds?.() ?? [];
  let index = ids.indexOf(imageId);
  if (index < 0) index = ids.findIndex((id) => id.includes(`/${sopInstanceUID}/`));
  if (index >= 0) window.cornerstone.utilities.jumpToSlice(viewport.element, { imageIndex: index });
}

export async function until(check, milliseconds, failure) {
  const end = performance.now() + milliseconds;
  for (;;) {
    const found = check();
    if (found) return found;
    if (performance.now() > end) throw new Error(failure);
    await new Promise((resolve) => setTimeout(resolve, 60));
  }
}
