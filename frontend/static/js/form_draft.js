// What somebody typed into the training form stays in this tab until a job has come of it: after the session has ended, a
// reload or a refused request the form offers it again, and so it does when one goes back after the start.
// Pages of jobs take this module along: to arrive there from the form is to have started.

const KEY = "training-draft";
const OWN = new Set(["csrfmiddlewaretoken", "toml", "text"]);
const form = () => document.getElementById("training-form");

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY));
  } catch {
    return null;
  }
}

function keep(draft) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(draft));
  } catch {
    // no room: the form works without
  }
}

function save() {
  const entries = [...new FormData(form())].filter(([name, value]) => !OWN.has(name) && typeof value === "string");
  keep({ user: form().dataset.user, entries, started: false });
}

// The server draws the form for what was typed: which fields there are depends on it.
async function restore(draft) {
  const sent = document.createElement("form");
  for (const [name, value] of [["refresh", "yes"], ...draft.entries]) {
    const field = document.createElement("textarea");
    field.name = name;
    field.value = value;
    sent.append(field);
  }
  sent.hidden = true;
  document.body.append(sent);
  const how = { source: sent, target: "#training", select: "#training", swap: "outerHTML show:none" };
  await window.htmx.ajax("POST", location.pathname, how);
  sent.remove();
  document.getElementById("draft").hidden = true;
  form().querySelector("select, input:not([type='hidden'])")?.focus();
}

function offer() {
  const box = document.getElementById("draft");
  const draft = read();
  if (!box || !draft || draft.user !== form().dataset.user || form().dataset.bound === "yes") return;
  const back = performance.getEntriesByType("navigation")[0]?.type === "back_forward";
  if (draft.started && !back) return sessionStorage.removeItem(KEY);
  box.hidden = false;
  document.getElementById("draft-restore").addEventListener("click", () => restore(draft));
  document.getElementById("draft-drop").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    box.hidden = true;
    form().querySelector("select, input:not([type='hidden'])")?.focus();
  });
}

if (form()) {
  offer();
  for (const type of ["input", "change"]) {
    document.addEventListener(type, (event) => { if (form()?.contains(event.target)) save(); });
  }
} else if (document.referrer && new URL(document.referrer).pathname === document.body.dataset.training) {
  const draft = read();
  if (draft) keep({ ...draft, started: true });
}
