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
    window.addEventListener("pagehide", () => this.leave());
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
    return this.transact("readwrite", (store) => store.put({ version, map }, this.key))
      .then(() => this.forgetLast())
      .catch(() => {
        // The same as for answers.
      });
  }

  // The page is going: a database would not finish any more, this storage does.
  leave() {
    if (!this.pending) return;
    const { version, take } = this.pending;
    try {
      localStorage.setItem(`${this.key}:drawing`, JSON.stringify({ version, slices: pack(take()) }));
    } catch {
      // Too large for it, or refused: what the database holds is a fraction of a second older.
    }
  }

  forgetLast() {
    try {
      localStorage.removeItem(`${this.key}:drawing`);
    } catch {
      // nothing was kept
    }
  }

  // {version, map} or null
  async drawing() {
    try {
      const last = JSON.parse(localStorage.getItem(`${this.key}:drawing`));
      if (last) return { version: last.version, map: unpack(last.slices) };
    } catch {
      // nothing was kept there
    }
    return (await this.transact("readonly", (store) => store.get(this.key)).catch(() => null)) ?? null;
  }

  async forgetDrawing() {
    clearTimeout(this.timeout);
    this.pending = null;
    this.forgetLast();
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

// A label map as [[key, voxels in all, [start, length, label, start, …]], …]: runs of what is drawn.
function pack(map) {
  return [...map].map(([key, voxels]) => {
    const runs = [];
    for (let start = 0; start < voxels.length; start++) {
      const label = voxels[start];
      if (!label) continue;
      let end = start + 1;
      while (end < voxels.length && voxels[end] === label) end++;
      runs.push(start, end - start, label);
      start = end - 1;
    }
    return [key, voxels.length, runs];
  });
}

function unpack(slices) {
  return new Map(
    slices.map(([key, length, runs]) => {
      const voxels = new Uint8Array(length);
      for (let at = 0; at < runs.length; at += 3) voxels.fill(runs[at + 2], runs[at], runs[at] + runs[at + 1]);
      return [key, voxels];
    }),
  );
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
