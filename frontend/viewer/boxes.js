// Where a finding of a report lies in a viewport: on the image that is shown, or cut by the plane that is shown.

// Corners in CSS pixels of what is seen of the finding now; null where it is not seen. Two-dimensional views draw the
// rectangles that the report gives for the image; planes through the volume cut the finding's box.
export function outline(finding, viewport) {
  const places = viewport.type === "stack" ? onImage(finding, viewport) : cut(finding.box, viewport);
  const corners = places?.map((world) => viewport.worldToCanvas(world));
  return corners?.length && corners.every((corner) => corner.every(Number.isFinite)) ? corners : null;
}

function onImage(finding, viewport) {
  const found = /\/instances\/([0-9.]+)(?:\/frames\/(\d+))?/.exec(viewport.getCurrentImageId?.() ?? "");
  const data = viewport.getImageData?.()?.imageData; // of the shown image, also where it has no place in the patient
  if (!found || !data) return null;
  const region = finding.regions.find((place) => place.image === found[1] && place.frame === Number(found[2] ?? 1));
  if (!region) return null;
  const closed = region.points.length > 1 && same(region.points[0], region.points.at(-1));
  const points = closed ? region.points.slice(0, -1) : region.points;
  // In a report the middle of the first pixel is (0.5, 0.5), for cornerstone it is (0, 0).
  return points.map(([column, row]) => [...data.indexToWorld([column - 0.5, row - 0.5, 0])]);
}

// The polygon in which the plane of a viewport cuts a box, given by eight corners whose numbers tell their side of each axis.
function cut(box, viewport) {
  if (box?.length !== 8) return null;
  const { focalPoint, viewPlaneNormal } = viewport.getCamera();
  return cutByPlane(box, focalPoint, viewPlaneNormal);
}

export function cutByPlane(box, point, normal) {
  const heights = box.map((corner) => corner.reduce((sum, value, axis) => sum + (value - point[axis]) * normal[axis], 0));
  const found = [];
  for (let from = 0; from < 8; from++) {
    for (const to of [from | 1, from | 2, from | 4]) {
      if (to === from || heights[from] >= 0 === heights[to] >= 0) continue;
      const share = heights[from] / (heights[from] - heights[to]);
      found.push(box[from].map((value, axis) => value + share * (box[to][axis] - value)));
    }
  }
  return found.length < 3 ? null : around(found, normal);
}

// Points of a plane in their order around their middle.
function around(points, normal) {
  const middle = [0, 1, 2].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  const first = minus(points[0], middle);
  const second = cross(normal, first);
  const angle = (point) => Math.atan2(dot(minus(point, middle), second), dot(minus(point, middle), first));
  return [...points].sort((a, b) => angle(a) - angle(b));
}

function same(a, b) {
  return a.every((value, axis) => Math.abs(value - b[axis]) < 1e-4);
}

function minus(a, b) {
  return a.map((value, axis) => value - b[axis]);
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

function cross(a, b) {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}
