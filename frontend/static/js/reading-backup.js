// What was answered or drawn and is not on the server yet, kept in this browser: it outlives a reload and a crash.
//
// Each is kept with the version of the draft that it goes on from. Drawings are label maps, see viewer/seg.js.

const DATABASE = "readroom-reading";
const STORE = "drawings";
const DELAY = 150; // ms after the last change
const LONGEST_DELAY = 600; // while somebody draws on and on

export class Backup {
  constructor(task) {
    this.key = `readroom:reading:${task}`;
    this.pending = null;
    window.addEventListener("pagehide", () => this.pending && this.write());
  }

  // ---- Answers ----
  keepAnswers(version, answers) {
    try {
      localStorage.setItem(this.key, JSON.stringify({ version, answers }));
    } catch {
      // Private windows may refuse; the answers are still in memory and on their way to the server.
    }
  }

  answers() {
    try {
      return JSON.parse(localStorage.getItem(this.key));
    } catch {
      return null;
    }
  }

  forgetAnswers() {
    try {
      localStorage.removeItem(this.key);
    } catch {
      // nothing was kept
    }
  }

  // ---- The drawing. `take` answers its label map: it is asked for when the hand rests, not at every movement. ----
  keepDrawing(version, take) {
    const now = performance.now();
    this.pending = { version, take, since: this.pending?.since ?? now };
    clearTimeout(this.timeout);
    this.timeout = setTimeout(() => this.write(), Math.max(0, Math.min(DELAY, this.pending.since + LONGEST_DELAY - now)));
  }

  write() {
    clearTimeout(this.timeout);
    const { version, take } = this.pending;
    this.pending = null;
    const map = take();
    return this.transact("readwrite", (store) => store.put({ version, map }, this.key)).catch(() => {
      // The same as for answers.
    });
  }

  // {version, map} or null
  async drawing() {
    return (await this.transact("readonly", (store) => store.get(this.key)).catch(() => null)) ?? null;
  }

  async forgetDrawing() {
    clearTimeout(this.timeout);
    this.pending = null;
    await this.transact("readwrite", (store) => store.delete(this.key)).catch(() => {
      // nothing was kept
    });
  }

  async transact(mode, work) {
    this.database ??= open();
    const database = await this.database;
    return finished(work(database.transaction(STORE, mode).objectStore(STORE)));
  }
}

function open() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  return finished(request);
}

function finished(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
