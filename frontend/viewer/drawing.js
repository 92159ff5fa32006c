// The reader's own segmentation: made with exactly the campaign's labels, stored as SEG, read back, restored.
//
// Emits "change" when voxels changed, "label" when another label became the active one.

import { DRAWING as ID, until } from "./overlays.js";
import { encode, equalMaps, fetchLabelMap, imageKey } from "./seg.js";

const LABELMAP = "Labelmap";
const TISSUE = ["85756007", "SCT", "Tissue"];

export class Drawing extends EventTarget {
  constructor(ohif) {
    super();
    this.ohif = ohif;
    this.labels = [];
    this.displaySet = null;
    this.active = null;
    this.quiet = false; // while we write voxels ourselves
  }

  // labels: [{number, name, color: "#rrggbb"}]; series: SeriesInstanceUID of the images to draw on, or "" for the
  // first one shown. Resolves when the reader can draw.
  async create({ labels, series, description }) {
    const { segmentationService, cornerstoneViewportService, viewportGridService } = this.ohif.services;
    this.labels = labels;
    this.description = description;
    this.displaySet = await until(() => this.findImages(series), 120000, "The images to draw on did not load.");
    await this.showImages();
    const segments = {};
    for (const { number, name } of labels) segments[number] = { label: name, active: number === labels[0].number };
    await segmentationService.createLabelmapForDisplaySet(this.displaySet, { segmentationId: ID, label: description, segments });
    await this.attach();
    cornerstoneViewportService.subscribe(cornerstoneViewportService.EVENTS.VIEWPORT_DATA_CHANGED, () => this.attach());
    viewportGridService.subscribe(viewportGridService.EVENTS.ACTIVE_VIEWPORT_ID_CHANGED, () => this.select(this.active));
    const { eventTarget } = window.cornerstone;
    // Making, restoring and drawing the labels anew are no changes by the reader: those begin with a hand on the device.
    let touched = false;
    for (const event of ["pointerdown", "keydown"]) window.addEventListener(event, () => (touched = true), { capture: true, once: true });
    eventTarget.addEventListener(window.cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED, (event) => {
      if (touched && !this.quiet && event.detail.segmentationId === ID) this.dispatchEvent(new Event("change"));
    });
    // OHIF measures segments a while after a stroke and writes the segmentation back as it was before: with the label
    // that was active then, so that the next stroke would be drawn with another label than the one shown as chosen.
    eventTarget.addEventListener(window.cornerstoneTools.Enums.Events.SEGMENTATION_MODIFIED, (event) => {
      if (event.detail.segmentationId === ID) this.hold();
    });
    this.select(labels[0].number);
  }

  // The label that was chosen here stays the one that is drawn with.
  hold() {
    const { segmentIndex } = window.cornerstoneTools.segmentation;
    if (this.active && segmentIndex.getActiveSegmentIndex(ID) !== this.active) segmentIndex.setActiveSegmentIndex(ID, this.active);
  }

  findImages(series) {
    const { displaySetService, cornerstoneViewportService, viewportGridService } = this.ohif.services;
    const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportGridService.getActiveViewportId());
    if (!viewport?.getImageIds?.()?.length) return null;
    const images = displaySetService.getActiveDisplaySets().filter((set) => !set.isOverlayDisplaySet && set.imageIds?.length);
    return images.find((set) => set.SeriesInstanceUID === series) ?? (series ? null : images[0]);
  }

  async showImages() {
    const id = this.displaySet.displaySetInstanceUID;
    if (this.viewports().length) return;
    const viewportId = this.ohif.services.viewportGridService.getActiveViewportId();
    this.ohif.commandsManager.run("setDisplaySetsForViewports", {
      viewportsToUpdate: [{ viewportId, displaySetInstanceUIDs: [id] }],
    });
    await until(() => this.viewports().length, 60000, "The images to draw on did not load.");
  }

  // The viewports that show the images and are ready to draw in.
  viewports() {
    const { viewportGridService, cornerstoneViewportService } = this.ohif.services;
    return [...viewportGridService.getState().viewports.keys()].filter(
      (id) =>
        viewportGridService.getDisplaySetsUIDsForViewport(id)?.includes(this.displaySet.displaySetInstanceUID) &&
        cornerstoneViewportService.getCornerstoneViewport(id)?.getImageIds?.()?.length,
    );
  }

  // A viewport that was laid out anew has lost the drawing: put it back.
  async attach() {
    const { segmentationService } = this.ohif.services;
    for (const viewportId of this.viewports()) {
      if (segmentationService.getSegmentationRepresentations(viewportId, { segmentationId: ID }).length) continue;
      await segmentationService.addSegmentationRepresentation(viewportId, { segmentationId: ID, type: LABELMAP });
      for (const { number, color } of this.labels) {
        segmentationService.setSegmentColor(viewportId, ID, number, [...rgb(color), 255]);
      }
      if (this.active) this.select(this.active);
    }
  }

  // A label chosen while a viewport is being laid out counts too: attach() selects it there.
  select(number) {
    const { segmentationService, viewportGridService } = this.ohif.services;
    const chosen = this.active !== number;
    this.active = number;
    const viewportId = viewportGridService.getActiveViewportId();
    if (segmentationService.getSegmentationRepresentations(viewportId, { segmentationId: ID }).length) {
      segmentationService.setActiveSegmentation(viewportId, ID);
    }
    segmentationService.setActiveSegment(ID, number);
    if (chosen) this.dispatchEvent(new Event("label"));
  }

  // tool: "brush", "eraser" or "window"; radius in mm
  use(tool, radius) {
    const toolName = { brush: "CircularBrush", eraser: "CircularEraser", window: "WindowLevel" }[tool];
    this.ohif.commandsManager.run("setBrushSize", { value: radius });
    this.ohif.commandsManager.run("setToolActiveToolbar", { toolName });
    if (tool !== "window") this.select(this.active);
    // The buttons in OHIF's bar follow.
    const { toolbarService, viewportGridService } = this.ohif.services;
    toolbarService.refreshToolbarState?.({ viewportId: viewportGridService.getActiveViewportId() });
  }

  undo() {
    this.ohif.commandsManager.run("undo");
  }

  redo() {
    this.ohif.commandsManager.run("redo");
  }

  images() {
    const { cache, metaData } = window.cornerstone;
    const { imageIds } = window.cornerstoneTools.segmentation.state.getSegmentation(ID).representationData.Labelmap;
    return imageIds.map((imageId) => {
      const image = cache.getImage(imageId);
      const source = metaData.get("instance", image.referencedImageId);
      const frame = /\/frames\/(\d+)/.exec(image.referencedImageId)?.[1];
      return { image, referencedImageId: image.referencedImageId, source, key: imageKey(source.SOPInstanceUID, frame) };
    });
  }

  // A copy of what is drawn now, see seg.js; its size is 0 where nothing is drawn.
  labelMap() {
    const map = new Map();
    for (const { image, key } of this.images()) {
      const voxels = image.voxelManager.getScalarData();
      if (voxels.some((voxel) => voxel)) map.set(key, Uint8Array.from(voxels));
    }
    return map;
  }

  // Voxels drawn per label number.
  counts() {
    const counts = new Map(this.labels.map(({ number }) => [number, 0]));
    for (const voxels of this.labelMap().values()) {
      for (const voxel of voxels) if (voxel) counts.set(voxel, (counts.get(voxel) ?? 0) + 1);
    }
    return counts;
  }

  equal(a, b) {
    return equalMaps(a, b);
  }

  // Voxels as a volume; their number alone where the images have no spacing.
  volumeText(voxels) {
    const { source } = this.images()[0];
    const [row, column] = source.PixelSpacing ?? [];
    const between = this.spacingBetween() ?? source.SpacingBetweenSlices ?? source.SliceThickness;
    const millilitres = (voxels * row * column * between) / 1000;
    if (!Number.isFinite(millilitres)) return `${voxels} px`;
    return millilitres < 10 ? `${millilitres.toFixed(2)} mL` : `${millilitres.toFixed(0)} mL`;
  }

  spacingBetween() {
    const [first, second] = this.images().map(({ source }) => source.ImagePositionPatient);
    if (!first || !second) return null;
    return Math.hypot(...[0, 1, 2].map((axis) => first[axis] - second[axis])) || null;
  }

  // A brush of three pixels, in mm.
  usefulRadius() {
    const spacing = Number(this.images()[0].source.PixelSpacing?.[0] ?? 1);
    return Math.min(30, Math.max(1, Math.round(spacing * 6) / 2));
  }

  write(map) {
    this.quiet = true;
    for (const { image, key } of this.images()) {
      const voxels = image.voxelManager.getScalarData();
      const stored = map.get(key);
      if (stored) voxels.set(stored);
      else voxels.fill(0);
      image.voxelManager.setScalarData?.(voxels);
    }
    window.cornerstoneTools.segmentation.triggerSegmentationEvents.triggerSegmentationDataModified(ID);
    this.quiet = false;
  }

  // Store what is drawn and read it back; resolves to {series_uid, sop_uid} of an object that holds exactly `map`.
  async store(map) {
    const [dataSource] = this.ohif.extensionManager.getActiveDataSource();
    const { imageLoader } = window.cornerstone;
    // The generator takes the geometry from the images that are drawn on, all of which must have been loaded.
    await Promise.all(this.images().map(({ referencedImageId }) => imageLoader.loadAndCacheImage(referencedImageId))).catch(() => {
      throw new Error("the server cannot be reached");
    });
    if (!equalMaps(map, this.labelMap())) throw new Changed();
    const { dataset } = await this.ohif.commandsManager.runCommand(
      "generateSegmentation",
      { segmentationId: ID, options: { SeriesDescription: this.description.slice(0, 64), SeriesNumber: 900 } },
      "SEGMENTATION",
    );
    if (!equalMaps(map, this.labelMap())) throw new Changed();
    this.correct(dataset, map);
    // Not through OHIF's store function: it would list every saved state as a result of its own.
    await dataSource.store.dicom(dataset).catch((error) => {
      throw new Error(error.status ? `the server refused the drawing (${error.status})` : "the server cannot be reached");
    });
    const stored = { series_uid: dataset.SeriesInstanceUID, sop_uid: dataset.SOPInstanceUID };
    if (!equalMaps(map, await this.fetch(dataset.StudyInstanceUID, stored))) {
      throw new Error("what was stored differs from what is drawn");
    }
    return stored;
  }

  fetch(study, { series_uid: series, sop_uid: sop }) {
    return fetchLabelMap(window.readroom.dicomwebRoot, study, series, sop, this.labels);
  }

  // Bring a stored drawing back to go on with it.
  async restore(stored) {
    const map = await this.fetch(this.displaySet.StudyInstanceUID, stored);
    this.write(map);
    for (const viewportId of this.viewports()) window.readroom.overlays.jumpToLargest(ID, viewportId);
    return map;
  }

  // What OHIF's generator leaves wrong or out: who made it, coded concepts, labels that no voxel has, the position of
  // each frame, which it takes from a re-sorted copy of the images, and the pixels, whose frames it pads to whole bytes.
  correct(dataset, map) {
    const sources = new Map(this.images().map(({ key, source }) => [key, source]));
    const first = sources.values().next().value;
    if (dataset.StudyID === "No Study ID") dataset.StudyID = first.StudyID ?? "";
    Object.assign(dataset, {
      Manufacturer: "Readroom",
      ManufacturerModelName: "OHIF",
      SoftwareVersions: "3.13.2",
      DeviceSerialNumber: "1",
      ContentLabel: "DRAWING",
      ContentDescription: this.description.slice(0, 64),
      SegmentsOverlap: "NO",
    });
    const place = new Map(this.labels.map(({ number }, index) => [number, index + 1]));
    dataset.SegmentSequence = this.labels.map(({ name, number, category, type }) => {
      const made = [dataset.SegmentSequence].flat().find((segment) => Number(segment.SegmentNumber) === number);
      return {
        SegmentNumber: place.get(number),
        SegmentLabel: name,
        SegmentAlgorithmType: "MANUAL",
        SegmentedPropertyCategoryCodeSequence: [code(category ?? TISSUE)],
        SegmentedPropertyTypeCodeSequence: [code(type ?? TISSUE)],
        ...(made?.RecommendedDisplayCIELabValue && { RecommendedDisplayCIELabValue: made.RecommendedDisplayCIELabValue }),
      };
    });
    const frames = [];
    for (const item of dataset.PerFrameFunctionalGroupsSequence) {
      const identification = [item.SegmentIdentificationSequence].flat()[0];
      const number = Number(identification.ReferencedSegmentNumber);
      identification.ReferencedSegmentNumber = place.get(number);
      const derivation = [item.DerivationImageSequence].flat()[0];
      const reference = [derivation.SourceImageSequence].flat()[0];
      const key = imageKey(reference.ReferencedSOPInstanceUID, reference.ReferencedFrameNumber);
      const source = sources.get(key);
      frames.push([map.get(key), number]);
      if (!(Number(source.NumberOfFrames) > 1)) delete reference.ReferencedFrameNumber;
      reference.ReferencedSOPClassUID = source.SOPClassUID;
      reference.PurposeOfReferenceCodeSequence = [code(["121322", "DCM", "Source image for image processing operation"])];
      derivation.DerivationCodeSequence = [code(["113076", "DCM", "Segmentation"])];
      if (source.ImagePositionPatient) item.PlanePositionSequence = [{ ImagePositionPatient: [...source.ImagePositionPatient] }];
    }
    const pixels = encode(frames, dataset.Rows * dataset.Columns).buffer;
    dataset.PixelData = Array.isArray(dataset.PixelData) ? [pixels] : pixels;
    delete dataset.ImageComments; // a list of the images' comments, which the attribute cannot hold
  }
}

// The drawing went on while it was being stored: take a new copy and store again.
export class Changed extends Error {
  constructor() {
    super("the drawing went on meanwhile");
    this.name = "Changed";
  }
}

function code([value, scheme, meaning]) {
  return { CodeValue: value, CodingSchemeDesignator: scheme, CodeMeaning: meaning };
}

function rgb(color) {
  return [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
}
