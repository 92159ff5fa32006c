// A DICOM measurement report (TID 1500), as OHIF has its header, in the terms of our panel.
//
// What `studies/dicom/structured_report.py` writes: findings with rectangles or points on images and a box in the
// patient, the certainty of classes, what was decided of them, measured values.

const IMAGING_MEASUREMENTS = "126010";
const MEASUREMENT_GROUP = "125007";
const FINDING = "121071";
const CERTAINTY = "111012";
const PRESENCE = "121052";
const PRESENT = "121053";
const TRACKING_UID = "112040";

// → {findings: [{uid, label, score, regions: [{image, frame, points}], box}], classes: [{label, score, present}],
//    values: [{name, value, unit}]}; null where the object is no such report
export function readReport(instance) {
  const title = first(instance?.ConceptNameCodeSequence);
  const template = first(instance?.ContentTemplateSequence)?.TemplateIdentifier;
  if (!title || String(template) !== "1500") return null;
  const report = { findings: [], classes: [], values: [] };
  for (const container of list(instance.ContentSequence).filter((item) => named(item, IMAGING_MEASUREMENTS))) {
    for (const group of list(container.ContentSequence).filter((item) => named(item, MEASUREMENT_GROUP))) {
      read(list(group.ContentSequence), report);
    }
  }
  report.findings.sort((a, b) => (b.score ?? 0) - (a.score ?? 0));
  report.classes.sort((a, b) => (b.score ?? 0) - (a.score ?? 0));
  return report;
}

function read(items, report) {
  const numbers = items.filter((item) => item.ValueType === "NUM" && first(item.MeasuredValueSequence));
  const places = [...items, ...numbers.flatMap((item) => list(item.ContentSequence))];
  const regions = places.filter((place) => place.ValueType === "SCOORD").map(region).filter(Boolean);
  const solid = places.find((place) => place.ValueType === "SCOORD3D");
  const label = first(items.find((item) => named(item, FINDING))?.ConceptCodeSequence)?.CodeMeaning ?? "";
  const certainty = numbers.find((item) => named(item, CERTAINTY));
  const score = certainty ? number(certainty) / 100 : null;
  const decided = first(items.find((item) => named(item, PRESENCE))?.ConceptCodeSequence)?.CodeValue;
  if (regions.length || solid) {
    const uid = items.find((item) => named(item, TRACKING_UID))?.UID ?? `${report.findings.length}`;
    report.findings.push({ uid, label, score, regions, box: solid ? chunks(solid.GraphicData, 3) : null });
  } else if (certainty || decided) {
    report.classes.push({ label, score, present: decided ? decided === PRESENT : null });
  } else {
    for (const item of numbers) {
      const unit = first(first(item.MeasuredValueSequence).MeasurementUnitsCodeSequence)?.CodeValue ?? "";
      report.values.push({ name: first(item.ConceptNameCodeSequence).CodeMeaning, value: number(item), unit });
    }
  }
}

function region(place) {
  const image = first(first(place.ContentSequence)?.ReferencedSOPSequence);
  if (!image) return null;
  return {
    image: image.ReferencedSOPInstanceUID,
    frame: Number(first(image.ReferencedFrameNumber) ?? 1),
    points: chunks(place.GraphicData, 2),
  };
}

function number(item) {
  const measured = first(item.MeasuredValueSequence);
  return Number(measured.FloatingPointValue ?? measured.NumericValue);
}

function named(item, code) {
  return first(item?.ConceptNameCodeSequence)?.CodeValue === code;
}

function chunks(numbers, size) {
  const all = [...(numbers ?? [])].map(Number);
  return Array.from({ length: Math.floor(all.length / size) }, (_, place) => all.slice(place * size, (place + 1) * size));
}

// OHIF hands a sequence of one item out as the item itself.
function list(found) {
  if (found === undefined || found === null) return [];
  return Array.isArray(found) ? found : [found];
}

function first(found) {
  return list(found)[0];
}
