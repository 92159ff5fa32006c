// The reading page: questions and labels in our panel, OHIF in a frame beside it, everything saved as it is done.

import { element, icon } from "./element.js";
import { Api } from "./reading-api.js";
import { AiResult } from "./reading-ai.js";
import { Labels } from "./reading-labels.js";
import { Questions } from "./reading-questions.js";
import { Saver } from "./reading-saver.js";
import { Timer } from "./reading-timer.js";
import { openViewer } from "./reading-viewer.js";

const byId = (id) => document.getElementById(id);
const api = new Api(location.pathname);
const notes = byId("notes");

function note(status, title, text, ...buttons) {
  const shape = { bad: "bad", warn: "warn", ok: "ok" }[status] ?? "info";
  const box = element("div", { class: "note", "data-s": status, role: status === "bad" ? "alert" : "status" }, icon(shape));
  const words = element("div", {}, element("b", {}, title), element("p", {}, text));
  if (buttons.length) words.append(element("div", { class: "row" }, ...buttons));
  box.append(words);
  notes.append(box);
  if (status === "bad" || status === "warn") box.scrollIntoView({ block: "nearest" });
  return box;
}

// The words of an error as a sentence of its own: they also stand in the middle of one.
function sentence(words) {
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

function button(text, action, kind = "btn small") {
  const made = element("button", { class: kind, type: "button" }, text);
  made.addEventListener("click", action);
  return made;
}

function showStatus({ status, text, version }) {
  const box = byId("save");
  const shapes = { ok: "saved", run: "run", warn: "warn", bad: "bad", none: "none" };
  box.dataset.s = status;
  box.replaceChildren(icon(shapes[status]), element("span", {}, text));
  byId("version").textContent = version ? `version ${version}` : "";
}

async function main() {
  let state;
  try {
    state = await api.get("state/");
  } catch (error) {
    showStatus({ status: "bad", text: "This case could not be opened" });
    note("bad", "This case could not be opened", error.message, button("Try again", () => location.reload()));
    byId("panel").removeAttribute("aria-busy");
    return;
  }
  const questions = new Questions(byId("questions"), state.questions);
  const labels = new Labels(byId("labels"), state.segments);
  const timer = new Timer(byId("timer"), state.active_seconds ?? 0);
  const saver = new Saver({ api, task: state.task, draft: state.draft, questions, timer, labels });
  showProgress(state);
  byId("panel").removeAttribute("aria-busy");
  byId("submit").disabled = false;

  saver.addEventListener("status", ({ detail }) => {
    showStatus(detail);
    // What kept a submission back is gone once everything is saved again.
    if (detail.status === "ok") notes.querySelectorAll("[data-submit=network]").forEach((box) => box.remove());
  });
  saver.addEventListener("conflict", ({ detail }) => tellConflict(saver, detail));
  saver.begin();
  if (saver.recovered) {
    note("info", "Answers brought back", "This browser still had answers that had not reached the server. They are filled in and being saved.");
  }
  if (state.read) {
    note("ok", `Submitted as read ${state.read.version}`, "You may change it: submit again, and the new read counts. The old one is kept.");
  }
  questions.addEventListener("change", () => saver.answersChanged());
  showFlag(state.flag);
  wireButtons({ saver, questions, labels, timer, state });

  const frame = byId("viewer");
  try {
    const viewer = await openViewer(frame);
    timer.watch(frame.contentWindow);
    frame.contentWindow.addEventListener("keydown", (event) => onKey(event, { questions, labels, submit: () => byId("submit").click() }), true);
    new AiResult(byId("ai"), state, viewer).start();
    if (state.segments.length) {
      await labels.connect(viewer.drawing, state, saver);
      await bringBackDrawing({ saver, labels });
    }
    saver.viewerReady();
  } catch (error) {
    saver.viewerFailed();
    note("bad", "The images could not be opened", `${error.message} Your answers are kept.`, button("Try again", () => location.reload()));
  }
}

async function bringBackDrawing({ saver, labels }) {
  const kept = await saver.unsavedDrawing();
  if (!kept) return;
  const use = () => {
    labels.drawing.write(kept.map);
    labels.count();
    saver.drawingChanged();
  };
  if (kept.current) {
    use();
    note("info", "Drawing brought back", "This browser still had strokes that had not reached the server. They are drawn again and being saved.");
    return;
  }
  const box = note(
    "warn",
    "This browser has another drawing of this case",
    "It never reached the server, which has got a newer version since. You see the one of the server.",
    button("Use the one kept here", () => {
      box.remove();
      use();
    }),
    button("Stay with this one", () => {
      box.remove();
      saver.backup.forgetDrawing();
    }),
  );
}

function showProgress({ position, total, submitted }) {
  const bar = byId("cases");
  bar.setAttribute("aria-valuemax", total);
  bar.setAttribute("aria-valuenow", submitted ?? 0);
  bar.setAttribute("aria-label", `Case ${position} of ${total}`);
  bar.style.setProperty("--v", total ? (100 * (submitted ?? 0)) / total : 0);
  byId("cases-text").textContent = `${position} of ${total}`;
}

function showFlag(text) {
  byId("flag-text").value = text ?? "";
  byId("flag-label").textContent = text ? "Flagged" : "Flag a problem";
}

function tellConflict(saver, newest) {
  const time = new Date(newest.saved_at).toLocaleTimeString("en-GB");
  const box = note(
    "warn",
    "This case was saved in another window",
    `Version ${newest.version} of ${time} is on the server. Nothing is lost: choose which one to go on with. The other stays as an older version.`,
    button("Load the other version", () => saver.abandon().then(() => location.reload())),
    button("Go on with mine", () => {
      box.remove();
      saver.takeOver(newest);
    }),
  );
}

function wireButtons({ saver, questions, labels, timer, state }) {
  const submit = byId("submit");
  submit.addEventListener("click", async () => {
    submit.disabled = true;
    notes.querySelectorAll("[data-submit]").forEach((box) => box.remove());
    questions.clearErrors();
    labels.clearErrors();
    try {
      await saver.flush();
      const { next_url } = await api.post("submit/", { base_version: saver.version, active_seconds: timer.seconds });
      saver.done();
      location.assign(next_url);
    } catch (error) {
      submit.disabled = false;
      const errors = error.body?.errors ?? {};
      const left = [...Object.entries(errors)].filter(([key, text]) => !questions.showError(key, text) && !labels.showError(key, text));
      const text = left.map(([, words]) => words).join(" ") || error.message;
      if (left.length || !Object.keys(errors).length) {
        note("bad", "Not submitted", sentence(text)).dataset.submit = error.status ? "refused" : "network";
      }
      labels.focusError() || questions.focusError();
    }
  });
  byId("skip").addEventListener("click", async () => {
    try {
      await saver.flush({ force: false });
      const { next_url } = await api.post("skip/", {});
      saver.done();
      location.assign(next_url);
    } catch (error) {
      note("bad", "Not skipped", sentence(error.message));
    }
  });
  for (const opener of document.querySelectorAll("[data-open]")) {
    opener.addEventListener("click", () => byId(opener.dataset.open).showModal());
  }
  byId("flag").addEventListener("close", async (event) => {
    if (event.target.returnValue !== "send") return;
    try {
      showFlag((await api.post("flag/", { text: byId("flag-text").value })).flag);
    } catch (error) {
      note("bad", "The flag was not sent", sentence(error.message));
    }
  });
  document.addEventListener("keydown", (event) => onKey(event, { questions, labels, submit: () => submit.click() }));
  window.addEventListener("readroom:signedout", () => saver.signedOut());
}

function onKey(event, { questions, labels, submit }) {
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
    event.preventDefault();
    event.stopPropagation();
    if (!byId("submit").disabled && !document.querySelector("dialog[open]")) submit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || document.body.dataset.shortcuts === "off") return;
  if (document.querySelector("dialog[open]") || typing(event.target)) return;
  const key = event.key.toLowerCase();
  if (questions.press(key) || labels.press(key)) {
    event.preventDefault();
    event.stopPropagation();
  }
}

function typing(target) {
  if (target?.isContentEditable) return true;
  const tag = target?.tagName;
  return tag === "TEXTAREA" || tag === "SELECT" || (tag === "INPUT" && !["radio", "checkbox", "range"].includes(target.type));
}

main();
