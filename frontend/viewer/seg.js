// A stored DICOM Segmentation (BINARY, Explicit VR Little Endian) back into label numbers. No OHIF in here.
//
// A label map is a Map from "SOPInstanceUID#frame" of the source image to a Uint8Array of label numbers, row by row;
// images without a label are left out.

const DICOM_JSON = "application/dicom+json";

export function imageKey(sopInstanceUID, frame) {
  return `${sopInstanceUID}#${frame || 1}`;
}

export function equalMaps(a, b) {
  if (a.size !== b.size) return false;
  for (const [key, voxels] of a) {
    const other = b.get(key);
    if (!other || other.length !== voxels.length) return false;
    for (let i = 0; i < voxels.length; i++) if (voxels[i] !== other[i]) return false;
  }
  return true;
}

// Read a stored segmentation from a DICOMweb root. labels: [{number, name}]
export async function fetchLabelMap(root, study, series, sop, labels) {
  const base = `${root}/studies/${study}/series/${series}`;
  const [metadata, part10] = await Promise.all([
    fetchOk(`${base}/metadata`, DICOM_JSON).then((answer) => answer.json()),
    fetchOk(`${base}/instances/${sop}`, 'multipart/related; type="application/dicom"').then(firstPart),
  ]);
  const header = metadata.find((instance) => value(instance, "00080018") === sop);
  if (!header) throw new Error("the stored drawing is not in its series");
  return decode(header, part10, labels);
}

async function fetchOk(address, accept) {
  const answer = await fetch(address, { headers: { Accept: accept }, cache: "no-store" });
  if (!answer.ok) throw new Error(`the server answered ${answer.status} to reading it back`);
  return answer;
}

export async function firstPart(answer) {
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const type = answer.headers.get("Content-Type") ?? "";
  if (!type.startsWith("multipart/")) return bytes;
  const boundary = /boundary="?([^";]+)"?/.exec(type)?.[1];
  const start = find(bytes, ascii("\r\n\r\n"), 0) + 4;
  const end = findLast(bytes, ascii(`\r\n--${boundary}`));
  if (start < 4 || end < start) throw new Error("the stored drawing came back damaged");
  return bytes.subarray(start, end);
}

export function decode(header, part10, labels) {
  const rows = value(header, "00280010");
  const columns = value(header, "00280011");
  const frames = Number(value(header, "00280008") ?? 1);
  const size = rows * columns;
  const pixels = pixelBytes(part10, Math.ceil((size * frames) / 8));
  const numberOf = segmentNumbers(header, labels);
  const map = new Map();
  sequence(header, "52009230").forEach((item, frame) => {
    const segment = value(sequence(item, "0062000A")[0], "0062000B");
    const source = sequence(sequence(item, "00089124")[0], "00082112")[0];
    const key = imageKey(value(source, "00081155"), value(source, "00081160"));
    const voxels = map.get(key) ?? new Uint8Array(size);
    let any = false;
    for (let i = 0, bit = frame * size; i < size; i++, bit++) {
      if (!((pixels[bit >> 3] >> (bit & 7)) & 1)) continue;
      voxels[i] = numberOf.get(segment);
      any = true;
    }
    if (any) map.set(key, voxels);
  });
  return map;
}

// The frames of a BINARY Segmentation one after the other, bit by bit, without a gap between frames (PS3.5, 8.1.1 and
// annex D.2), which matters where a frame does not end with a byte. frames: [[Uint8Array of label numbers, label number]]
export function encode(frames, size) {
  const length = Math.ceil((size * frames.length) / 8);
  const pixels = new Uint8Array(length + (length % 2));
  frames.forEach(([voxels, number], frame) => {
    for (let i = 0, bit = frame * size; i < size; i++, bit++) {
      if (voxels[i] === number) pixels[bit >> 3] |= 1 << (bit & 7);
    }
  });
  return pixels;
}

// DICOM numbers segments from 1 without gaps; our labels are found again by their names.
function segmentNumbers(header, labels) {
  const byName = new Map(labels.map((label) => [label.name, label.number]));
  return new Map(
    sequence(header, "00620002").map((segment) => {
      const number = Number(value(segment, "00620004"));
      return [number, byName.get(value(segment, "00620005")) ?? number];
    }),
  );
}

export function value(item, tag) {
  return item?.[tag]?.Value?.[0];
}

export function sequence(item, tag) {
  return item?.[tag]?.Value ?? [];
}

// Pixel Data is looked for from the end, by its tag and its known length.
function pixelBytes(part10, length) {
  const padded = length + (length % 2);
  const view = new DataView(part10.buffer, part10.byteOffset, part10.byteLength);
  for (let at = part10.length - padded - 12; at >= 132; at--) {
    if (view.getUint32(at, true) !== 0x00107fe0) continue;
    if (view.getUint32(at + 8, true) === padded) return part10.subarray(at + 12, at + 12 + length);
  }
  throw new Error("the stored drawing has no readable pixel data");
}

function ascii(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

function matches(bytes, wanted, at) {
  for (let i = 0; i < wanted.length; i++) if (bytes[at + i] !== wanted[i]) return false;
  return true;
}

function find(bytes, wanted, from) {
  for (let at = from; at <= bytes.length - wanted.length; at++) if (matches(bytes, wanted, at)) return at;
  return -1;
}

function findLast(bytes, wanted) {
  for (let at = bytes.length - wanted.length; at >= 0; at--) if (matches(bytes, wanted, at)) return at;
  return -1;
}
