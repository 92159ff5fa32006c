// What scripts of pages share; nothing happens on import.

export function cookie(name) {
  const found = document.cookie.split("; ").find((pair) => pair.startsWith(`${name}=`));
  return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
}

export function csrfHeaders() {
  return { "X-CSRFToken": cookie("readroom_csrf") };
}

export function toast(status, text) {
  const box = document.getElementById("toasts");
  if (!box) return;
  const item = document.createElement("div");
  item.className = "toast";
  item.dataset.s = status;
  item.setAttribute("role", status === "bad" ? "alert" : "status");
  const words = document.createElement("div");
  words.textContent = text;
  const close = document.createElement("button");
  close.className = "btn plain small";
  close.type = "button";
  close.dataset.closeToast = "";
  close.textContent = "Close";
  item.append(words, close);
  box.append(item);
  fade(item);
}
export function fade(item) {
  if (item.dataset.s === "bad") return;
  setTimeout(() => item.matches(":hover, :focus-within") ? fade(item) : item.remove(), 6000);
}

const typing = (element) => element instanceof HTMLElement
  && (element.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(element.tagName) && !["checkbox", "radio"].includes(element.type));

/** True where a single letter may be a shortcut: no field has focus, no dialog is open, not switched off in the profile. */
export function lettersAllowed(event) {
  return !event.ctrlKey && !event.metaKey && !event.altKey && !typing(document.activeElement)
    && !document.querySelector("dialog[open]") && document.body.dataset.shortcuts !== "off";
}
