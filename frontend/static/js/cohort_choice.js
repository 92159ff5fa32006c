// Forms that start work: the reference standards of the chosen cohort only, and the fields of the chosen kind of target.

function narrow() {
  const cohort = document.querySelector("select[name='cohort']");
  const reference = document.querySelector("select[name='reference']");
  if (!cohort || !reference) return;
  for (const option of reference.options) {
    const fits = !option.dataset.cohort || !cohort.value || option.dataset.cohort === cohort.value;
    option.hidden = option.disabled = !fits;
    if (!fits && option.selected) reference.value = "";
  }
}
// In the capture phase: what follows a change, such as a request of the form, already sees the narrowed choice.
document.addEventListener("change", (event) => { if (event.target.name === "cohort") narrow(); }, true);
document.addEventListener("htmx:afterSwap", narrow);
narrow();

const targets = [...document.querySelectorAll("input[name='where']")];
function show() {
  const chosen = targets.find((input) => input.checked)?.value;
  for (const part of document.querySelectorAll("[data-where]")) part.hidden = part.dataset.where !== chosen;
}
if (targets.length) {
  for (const input of targets) input.addEventListener("change", show);
  show();
}
