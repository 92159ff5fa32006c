// The worklist by keyboard: J K move, Enter opens, X selects, C adds to a cohort; and the bar for selected studies.
import { lettersAllowed } from "./page.js";

const area = document.getElementById("rows");
const bulk = document.getElementById("bulk");
const rows = () => [...area.querySelectorAll("tbody tr")];
const boxes = () => [...area.querySelectorAll("tbody input[name='study']")];

function count() {
  if (!bulk) return;
  const all = boxes();
  const chosen = all.filter((box) => box.checked).length;
  bulk.hidden = chosen === 0;
  bulk.querySelector("b").textContent = chosen;
  const head = area.querySelector("[data-select-all]");
  if (head) {
    head.checked = chosen > 0 && chosen === all.length;
    head.indeterminate = chosen > 0 && chosen < all.length;
  }
}

function focusRow(row) {
  for (const other of rows()) other.tabIndex = other === row ? 0 : -1;
  row.focus();
  row.scrollIntoView({ block: "nearest" });
}

if (area) {
  area.addEventListener("change", (event) => {
    if (event.target.matches("[data-select-all]")) for (const box of boxes()) box.checked = event.target.checked;
    count();
  });
  bulk?.querySelector("[data-select-none]")?.addEventListener("click", () => {
    for (const box of boxes()) box.checked = false;
    count();
  });
  // A choice asks at once; the text asks while it is typed, so that leaving its field must not ask again.
  document.getElementById("filters").addEventListener("change", (event) => {
    if (event.target.id !== "find") window.htmx.trigger("#filters", "pick");
  });
  // Studies that are still there after an answer keep their selection, and the focus stays where it was.
  let kept = { chosen: new Set(), focused: null };
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target !== area) return;
    const row = document.activeElement?.closest?.("#rows tbody tr");
    kept = {
      chosen: new Set(boxes().filter((box) => box.checked).map((box) => box.value)),
      focused: row?.querySelector("input[name='study']").value ?? null,
    };
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target !== area) return;
    for (const box of boxes()) {
      box.checked = kept.chosen.has(box.value);
      if (box.value === kept.focused) focusRow(box.closest("tr"));
    }
    count();
  });
  document.addEventListener("keydown", (event) => {
    if (!lettersAllowed(event)) return;
    const all = rows();
    const at = all.findIndex((row) => row.contains(document.activeElement));
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
    if (step && all.length && (at >= 0 || event.key === "j" || event.key === "k")) {
      event.preventDefault();
      focusRow(all[Math.min(all.length - 1, Math.max(0, at < 0 ? 0 : at + step))]);
    } else if (event.key === "Enter" && at >= 0 && document.activeElement === all[at]) {
      event.preventDefault();
      if (all[at].dataset.open) location.assign(all[at].dataset.open);
    } else if (event.key === "x" && at >= 0) {
      const box = all[at].querySelector("input[name='study']");
      box.checked = !box.checked;
      count();
    } else if (event.key === "c" && !bulk.hidden) {
      bulk.querySelector("[data-cohort]")?.click();
    }
  });
  count();
}
