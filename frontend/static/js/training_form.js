// The training form while somebody fills it in: what the check says stands beside the fields, and in the TOML text.

const MARK = "live-error";

function unmark() {
  for (const words of document.querySelectorAll(`.${MARK}`)) words.remove();
  for (const field of document.querySelectorAll("[data-marked]")) {
    field.removeAttribute("aria-invalid");
    delete field.dataset.marked;
  }
}

function mark(problem) {
  const name = problem.dataset.problem;
  const field = document.querySelector(`#training-form [name="${CSS.escape(name)}"]`);
  if (!field || field.value === "" && field.matches("select")) return;
  if (field.getAttribute("aria-invalid") !== "true") {
    field.setAttribute("aria-invalid", "true");
    field.dataset.marked = "yes";
  }
  const box = field.closest(".field");
  if (!box || box.querySelector(".error")) return;
  const words = document.createElement("span");
  words.className = `error ${MARK}`;
  words.textContent = problem.querySelector("span").textContent;
  box.append(words);
}

document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id !== "check") return;
  unmark();
  for (const problem of document.querySelectorAll("#check [data-problem]")) mark(problem);
  const made = document.getElementById("toml-made");
  const text = document.getElementById("toml-text");
  if (made?.content.textContent.trim() && text && document.activeElement !== text) text.value = made.content.textContent;
});

// A link of the check leads to a field that may lie in a closed part of the form.
document.addEventListener("click", (event) => {
  const link = event.target.closest("#check a[href^='#']");
  const field = link && document.getElementById(decodeURIComponent(link.hash.slice(1)));
  if (!field) return;
  event.preventDefault();
  const closed = field.closest("details");
  if (closed) closed.open = true;
  field.focus();
});

// The preview shows the steps as they stand in the form.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-preview]");
  const steps = document.querySelector("#training-form [name='preprocessing']");
  if (link && steps?.value.trim()) link.search = new URLSearchParams({ steps: steps.value }).toString();
}, true);
