// The sign-off of text in pixels: places are drawn over a frame, or given by numbers, and sent with the form.

for (const form of document.querySelectorAll("form[data-pixels]")) {
  const list = form.querySelector("[data-drawn]");
  for (const frame of form.querySelectorAll("[data-frame]")) draw(frame, (place) => add(list, place));
  form.querySelector("[data-add]").addEventListener("click", () => {
    const inputs = ["top", "left", "bottom", "right"].map((side) => form.querySelector(`[data-${side}]`));
    const place = inputs.map((input) => Number.parseInt(input.value, 10));
    const wrong = inputs.find((input, at) => !(place[at] >= 0));
    if (wrong) wrong.focus();
    else if (place[0] >= place[2]) inputs[2].focus();
    else if (place[1] >= place[3]) inputs[3].focus();
    else {
      add(list, place);
      for (const input of inputs) input.value = "";
    }
  });
}

/** A ticked box for a place [top, left, bottom, right] in pixels; the person may untick it again. */
function add(list, place) {
  const label = document.createElement("label");
  label.className = "switch";
  const input = document.createElement("input");
  Object.assign(input, { type: "checkbox", name: "drawn", value: place.join(","), checked: true });
  label.append(input, `drawn place ${place.join(", ")}`);
  list.append(label);
}

function draw(frame, done) {
  const image = frame.querySelector("img");
  let start = null;
  let mark = null;
  const at = (event) => {
    const box = image.getBoundingClientRect();
    const clip = (value, size) => Math.min(Math.max(value, 0), size);
    return { x: clip(event.clientX - box.left, box.width), y: clip(event.clientY - box.top, box.height), box };
  };
  frame.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !image.naturalWidth) return;
    event.preventDefault();
    frame.setPointerCapture(event.pointerId);
    start = at(event);
    mark = document.createElement("span");
    mark.className = "mark";
    frame.append(mark);
  });
  frame.addEventListener("pointermove", (event) => {
    if (!start) return;
    const now = at(event);
    mark.style.left = `${Math.min(start.x, now.x)}px`;
    mark.style.top = `${Math.min(start.y, now.y)}px`;
    mark.style.width = `${Math.abs(now.x - start.x)}px`;
    mark.style.height = `${Math.abs(now.y - start.y)}px`;
  });
  const end = (event) => {
    if (!start) return;
    const now = at(event);
    const scale = image.naturalWidth / now.box.width;
    const place = [Math.min(start.y, now.y), Math.min(start.x, now.x), Math.max(start.y, now.y), Math.max(start.x, now.x)]
      .map((value) => Math.round(value * scale));
    start = null;
    if (place[2] - place[0] > 2 && place[3] - place[1] > 2) done(place);
    else mark.remove();
  };
  frame.addEventListener("pointerup", end);
  frame.addEventListener("pointercancel", () => { start = null; mark?.remove(); });
}
