// Keeps a page up to date by polling. An element with data-live="address" asks for JSON {parts: {name: html}}; every
// [data-part="name"] takes over its HTML. The server answers 304 while nothing has changed.

const EVERY = 1500;
const HIDDEN = 15000;
const LONGEST = 30000;

/** Replace the parts of the page that changed; what has focus keeps it. False where some wait: a dialog is open, or a
 *  select of theirs is in use. */
export function takeOver(parts) {
  if (document.querySelector("dialog[open]")) return false;
  let whole = true;
  for (const [name, html] of Object.entries(parts)) {
    for (const element of document.querySelectorAll(`[data-part="${CSS.escape(name)}"]`)) {
      if (element.dataset.html === html) continue;
      if (element.querySelector("select:focus")) { whole = false; continue; } // its list may be open
      const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
      element.innerHTML = html;
      element.dataset.html = html;
      if (focused) document.getElementById(focused)?.focus();
    }
  }
  return whole;
}

/** Poll `address()` until `apply(answer)` says it is over; `offline(true|false)` tells whether the server answers. */
export function poll(address, apply, offline = () => {}) {
  let etag = "";
  let wait = EVERY;
  let timer = 0;
  let going = false;
  const next = (delay) => { clearTimeout(timer); timer = setTimeout(look, delay); };
  async function look() {
    if (going) return;
    going = true;
    let over = false;
    try {
      const headers = { "X-Live": "1", Accept: "application/json" };
      if (etag) headers["If-None-Match"] = etag;
      const answer = await fetch(address(), { headers, cache: "no-store", redirect: "manual" });
      if (answer.type === "opaqueredirect") { location.reload(); return; } // signed out
      if (answer.ok) {
        const fresh = answer.headers.get("ETag") ?? "";
        const done = apply(await answer.json());
        etag = done === null ? "" : fresh;
        over = done === true;
      } else if (answer.status !== 304) throw new Error(String(answer.status));
      wait = EVERY;
      offline(false);
    } catch {
      wait = Math.min(wait * 2, LONGEST);
      offline(true);
    }
    going = false;
    if (!over) next(document.hidden ? Math.max(wait, HIDDEN) : wait);
    else clearTimeout(timer);
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden && timer) next(0); });
  next(EVERY);
}

for (const element of document.querySelectorAll("[data-live]")) {
  poll(() => element.dataset.live, (answer) => takeOver(answer.parts) ? false : null);
}
