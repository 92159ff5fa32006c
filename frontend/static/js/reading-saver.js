// Saves answers and drawing as drafts, and says "Saved" only after what was stored was read back and is the same.
//
// Until then a copy is kept in this browser (reading-backup.js).
//
// Emits "status" {status, text, version} and "conflict" with the newest draft of another window.

import { Backup } from "./reading-backup.js";

const ANSWERS_DELAY = 800; // ms after the last change
const DRAWING_DELAY = 2500;
const LONGEST_DELAY = 6000; // while somebody draws on and on
const RETRY_SECONDS = [2, 4, 8, 15, 30, 60];
const HEARTBEAT = 60000; // the time at the case

export class Saver extends EventTarget {
  constructor({ api, task, draft, questions, timer, labels }) {
    super();
    Object.assign(this, { api, questions, timer, labels });
    this.backup = new Backup(task);
    this.version = draft?.version ?? 0;
    this.saved = { answers: draft?.answers ?? {}, segmentation: draft?.segmentation ?? null, at: draft?.saved_at ?? null };
    this.savedMap = null; // label map of saved.segmentation, once it was read
    this.drawingDirty = false;
    this.answersDirty = false;
    this.stopped = false; // a conflict waits for a decision, or the page is being left
    this.failures = 0;
    this.recovered = false;
  }

  begin() {
    this.questions.answers = this.saved.answers;
    const kept = this.backup.answers();
    if (kept && kept.version === this.version && !same(kept.answers, this.saved.answers)) {
      this.questions.answers = kept.answers;
      this.recovered = true;
      this.answersChanged();
    } else {
      this.backup.forgetAnswers();
      this.tellIdle();
    }
    const { version } = this;
    this.keptDrawing = this.backup.drawing().then((kept) => kept && { map: kept.map, current: kept.version === version });
    window.addEventListener("online", () => this.dirty && this.save());
    window.addEventListener("beforeunload", (event) => {
      if (this.dirty && !this.stopped) event.preventDefault();
    });
    setInterval(() => this.heartbeat(), HEARTBEAT);
    document.addEventListener("visibilitychange", () => document.hidden && this.dirty && this.save());
  }

  get dirty() {
    return this.answersDirty || this.drawingDirty;
  }

  tell(status, text) {
    this.dispatchEvent(new CustomEvent("status", { detail: { status, text, version: this.version } }));
  }

  tellIdle() {
    if (this.version) this.tell("ok", `Saved ${clock(this.saved.at)} and read back`);
    else this.tell("none", "Nothing to save yet");
  }

  viewerReady() {
    if (!this.dirty && !this.running && !this.failures) this.tellIdle();
  }

  viewerFailed() {
    this.labels.state && (this.labels.state.textContent = "not available");
  }

  answersChanged() {
    this.answersDirty = true;
    this.backup.keepAnswers(this.version, this.questions.answers);
    this.schedule(ANSWERS_DELAY);
  }

  drawingChanged() {
    this.drawingDirty = true;
    this.backup.keepDrawing(this.version, () => this.labels.drawing.labelMap());
    this.schedule(DRAWING_DELAY);
  }

  drawingRestored(map, stored) {
    this.savedMap = map;
    this.saved.segmentation = stored;
  }

  // {map, current}: a drawing that this browser kept and the server does not have, or null. `current`: it goes on from
  // what the server has. Asked for when the stored drawing is there.
  async unsavedDrawing() {
    const kept = await this.keptDrawing;
    return kept && !this.labels.drawing.equal(kept.map, this.savedMap ?? new Map()) ? kept : null;
  }

  schedule(delay) {
    if (this.stopped || this.running || this.retrying) return;
    const now = performance.now();
    this.firstChange ??= now;
    clearTimeout(this.timeout);
    this.timeout = setTimeout(() => this.save(), Math.max(0, Math.min(delay, this.firstChange + LONGEST_DELAY - now)));
    this.tell("run", "Saving");
  }

  // Save until nothing is unsaved. force: store a draft even where nothing was answered. Throws where it cannot be saved.
  async flush({ force = true } = {}) {
    if (this.stopped) throw new Error("Decide first which version of this case to go on with.");
    for (let tries = 0; tries < 20; tries++) {
      if (this.running) await this.running.catch(() => {});
      if (!this.dirty && (this.version || !force)) return;
      await this.save({ loud: true });
    }
    throw new Error("The drawing is still changing. Submit when you have finished drawing.");
  }

  // loud: throw what went wrong. forced: send even what is saved already, for the time at the case.
  async save({ loud = false, forced = false } = {}) {
    clearTimeout(this.timeout);
    clearInterval(this.countdown);
    this.retrying = false;
    this.firstChange = null;
    if (this.stopped) return;
    if (this.running) return this.running.catch(() => {});
    this.running = this.attempt(forced);
    try {
      await this.running;
      this.failures = 0;
    } catch (error) {
      this.running = null;
      this.failed(error);
      if (loud) throw error;
      return;
    }
    this.running = null;
    if (this.dirty) this.schedule(this.answersDirty ? ANSWERS_DELAY : DRAWING_DELAY);
    else this.tellIdle();
  }

  async attempt(forced) {
    this.tell("run", "Saving");
    const answers = this.questions.answers;
    this.answersDirty = false;
    const drawn = this.drawingDirty;
    this.drawingDirty = false;
    try {
      const { segmentation, map } = drawn ? await this.storeDrawing() : { segmentation: this.saved.segmentation, map: this.savedMap };
      // A stroke that was undone, or the same answer again: what is saved is what there is.
      if (!forced && this.version && segmentation === this.saved.segmentation && same(answers, this.saved.answers)) {
        this.savedMap = map;
        this.settle();
        return;
      }
      const stored = await this.api.post("draft/", {
        base_version: this.version,
        answers,
        segmentation_sop_uid: segmentation?.sop_uid ?? null,
        active_seconds: this.timer.seconds,
      });
      const { draft } = await this.api.get("draft/");
      // What is on the server now must be what was sent, or be told.
      if (draft?.version !== stored.version) throw Object.assign(new Error("another window saved meanwhile"), { body: { draft }, status: 409 });
      if (!same(draft.answers, answers) || (draft.segmentation?.sop_uid ?? null) !== (segmentation?.sop_uid ?? null) || draft.intact === false) {
        throw Object.assign(new Error("what was stored differs from what you see"), { passing: true });
      }
      this.version = stored.version;
      this.saved = { answers, segmentation, at: draft.saved_at };
      this.savedMap = map;
      this.settle();
    } catch (error) {
      this.answersDirty = true;
      if (drawn) this.drawingDirty = true;
      if (error.name === "Changed") return; // drawn on while storing: the next round takes the new state
      throw error;
    }
  }

  // What is on the server needs no copy here; what changed meanwhile goes on from the new version.
  settle() {
    if (this.answersDirty) this.backup.keepAnswers(this.version, this.questions.answers);
    else this.backup.forgetAnswers();
    if (this.drawingDirty) this.backup.keepDrawing(this.version, () => this.labels.drawing.labelMap());
    else if (this.labels.drawing) this.backup.forgetDrawing(); // before that it was not brought back yet
  }

  async storeDrawing() {
    const { drawing } = this.labels;
    const map = drawing.labelMap();
    if (!map.size) return { segmentation: null, map };
    if (this.savedMap && this.saved.segmentation && drawing.equal(map, this.savedMap)) {
      return { segmentation: this.saved.segmentation, map };
    }
    return { segmentation: await drawing.store(map), map };
  }

  failed(error) {
    if (error.status === 409 && error.body?.draft) {
      this.stopped = true;
      this.tell("warn", "Not saved: saved in another window");
      this.dispatchEvent(new CustomEvent("conflict", { detail: error.body.draft }));
      return;
    }
    if (error.status && !error.passing) {
      // The server refuses this content: it will refuse it again, so wait for a change.
      this.tell("bad", `Not saved: ${error.message}`);
      for (const [id, text] of Object.entries(error.body?.errors ?? {})) this.questions.showError(id, text);
      return;
    }
    const wait = RETRY_SECONDS[Math.min(this.failures, RETRY_SECONDS.length - 1)];
    this.failures += 1;
    this.retrying = true;
    let left = wait;
    const tell = () => this.tell("bad", `Not saved: ${error?.message || "no reason was given"}, next try in ${left} s`);
    tell();
    this.countdown = setInterval(() => {
      left -= 1;
      if (left > 0) return tell();
      this.save();
    }, 1000);
  }

  signedOut() {
    if (!this.retrying) this.tell("bad", "You are signed out. Sign in again in another window");
  }

  // After a conflict: our state becomes the version after the other window's.
  takeOver(newest) {
    this.version = newest.version;
    this.stopped = false;
    this.answersDirty = true;
    if (this.labels.drawing) this.drawingDirty = true;
    this.save({ forced: true });
  }

  async abandon() {
    this.stopped = true;
    await this.forget();
  }

  done() {
    this.stopped = true;
    this.answersDirty = this.drawingDirty = false;
    this.forget();
  }

  forget() {
    this.backup.forgetAnswers();
    return this.backup.forgetDrawing();
  }

  async heartbeat() {
    if (this.stopped || this.running || this.dirty || !this.version || this.timer.seconds === this.beaten) return;
    this.beaten = this.timer.seconds;
    await this.save({ forced: true }); // the same content again: the server notes the time and keeps the version
  }
}

function same(a, b) {
  const sorted = (answers) => JSON.stringify(Object.entries(answers ?? {}).sort(([x], [y]) => (x < y ? -1 : 1)));
  return sorted(a) === sorted(b);
}

function clock(time) {
  return new Date(time ?? Date.now()).toLocaleTimeString("en-GB");
}
