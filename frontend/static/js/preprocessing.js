// The preview of preprocessing: waits for its job, then shows slices before and after, side by side.

import { poll } from "./live.js";

const running = document.getElementById("preview-running");
if (running) {
  poll(
    () => running.dataset.address,
    (answer) => {
      if (answer.ended) { location.reload(); return true; }
      const bar = running.querySelector("[role='progressbar']");
      if (bar) {
        const share = Math.round(100 * answer.progress);
        bar.setAttribute("aria-valuenow", share);
        bar.style.setProperty("--v", share);
      }
      const words = running.querySelector("[data-words]") ?? running.querySelector("p, span");
      if (words && answer.text) words.textContent = answer.text;
      return false;
    },
  );
}

const source = document.getElementById("pictures");
if (source) {
  const pictures = JSON.parse(source.textContent);
  const slider = document.getElementById("slice");
  const images = document.querySelectorAll("#slices img[data-side]");
  const show = () => {
    const picture = pictures[Number(slider.value)];
    const words = `Slice ${picture.slice}`;
    for (const image of images) {
      image.src = picture[image.dataset.side];
      image.alt = `${words}, ${image.dataset.side} preprocessing`;
    }
    document.getElementById("slice-words").textContent = words;
    slider.setAttribute("aria-valuetext", words);
    // The neighbours are fetched ahead, so that moving the slider does not flicker.
    for (const next of [Number(slider.value) - 1, Number(slider.value) + 1]) {
      if (pictures[next]) for (const image of images) new Image().src = pictures[next][image.dataset.side];
    }
  };
  const move = (by) => {
    slider.value = Number(slider.value) + by;
    show();
  };
  slider.addEventListener("input", show);
  document.getElementById("slice-back").addEventListener("click", () => move(-1));
  document.getElementById("slice-on").addEventListener("click", () => move(1));
  show();
}
