// The frame around every page: theme, search, menus, dialogs, shortcuts, and the CSRF header of htmx requests.

import { cookie, csrfHeaders, fade, lettersAllowed, toast } from "./page.js";

const root = document.documentElement;

// ---- Theme: kept in the profile, and in a cookie for the sign-in page ----
for (const button of document.querySelectorAll("[data-theme-next]")) {
  button.addEventListener("click", () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    root.dataset.theme = theme;
    button.setAttribute("aria-label", `Theme: ${theme}`);
    document.cookie = `theme=${theme}; path=/; max-age=31536000; samesite=lax`;
    document.dispatchEvent(new CustomEvent("themechange", { detail: theme }));
    fetch(button.dataset.themeNext, {
      method: "POST",
      headers: { ...csrfHeaders(), "Content-Type": "application/x-www-form-urlencoded" },
      body: new URLSearchParams({ theme }),
      keepalive: true,
    });
  });
}

// ---- htmx ----
document.addEventListener("htmx:configRequest", (event) => {
  if (event.detail.verb === "get") return;
  event.detail.headers["X-CSRFToken"] = cookie("readroom_csrf");
  if (event.detail.parameters.csrfmiddlewaretoken) event.detail.parameters.csrfmiddlewaretoken = cookie("readroom_csrf");
});
// Signing in changes the token. A form that was filled before, or in another tab, is sent with the one of now.
document.addEventListener("submit", (event) => {
  const token = event.target.elements.namedItem("csrfmiddlewaretoken");
  if (token && cookie("readroom_csrf")) token.value = cookie("readroom_csrf");
}, true);
// Whoever is signed out gets the sign-in page in place of a part of this one: say so, and leave what was filled in.
document.addEventListener("htmx:beforeSwap", (event) => {
  const answered = event.detail.xhr.responseURL;
  if (!answered || new URL(answered).pathname !== document.body.dataset.signIn) return;
  event.detail.shouldSwap = false;
  if (document.querySelector("#toasts [data-s='bad']")) return;
  toast("bad", "You are signed out. Sign in again in another tab, then go on here; what you filled in stays.");
});
// A part that could not be loaded says so where people look.
document.addEventListener("htmx:responseError", (event) => {
  const status = event.detail.xhr.status;
  toast("bad", status >= 500 ? "The server could not answer. Try again." : `The request was refused (${status}). Reload the page.`);
});
document.addEventListener("htmx:sendError", () => toast("bad", "The server does not answer. Check the connection and try again."));

// ---- Toasts ----
document.querySelectorAll(".toasts .toast").forEach(fade);

// ---- Clicks: toasts, dialogs, menus ----
document.addEventListener("click", (event) => {
  const target = event.target instanceof Element ? event.target : null;
  if (!target) return;
  target.closest("[data-close-toast]")?.closest(".toast")?.remove();
  const opener = target.closest("[data-dialog]");
  if (opener) document.getElementById(opener.dataset.dialog)?.showModal();
  const closer = target.closest("[data-close-dialog]");
  if (closer) closer.closest("dialog")?.close();
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(target)) menu.open = false;
  const found = document.getElementById("found");
  if (found && !target.closest(".top .search")) found.replaceChildren();
});

// ---- Confirmation before loss: <form data-confirm="what is lost" data-confirm-title data-confirm-action data-confirm-keep
//      data-confirm-type="name to type"> ----
const confirmed = new WeakSet();
document.addEventListener("submit", (event) => {
  const form = event.target;
  const asker = event.submitter?.dataset.confirm !== undefined ? event.submitter : form;
  if (asker.dataset.confirm === undefined || confirmed.has(form)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const dialog = document.getElementById("confirm");
  const go = document.getElementById("confirm-go");
  const name = document.getElementById("confirm-name");
  const word = asker.dataset.confirmType || "";
  document.getElementById("confirm-title").textContent = asker.dataset.confirmTitle || "Go on?";
  document.getElementById("confirm-text").textContent = asker.dataset.confirm;
  document.getElementById("confirm-typed").hidden = !word;
  document.getElementById("confirm-word").textContent = word;
  document.getElementById("confirm-keep").textContent = asker.dataset.confirmKeep || "Keep";
  go.textContent = asker.dataset.confirmAction || "Go on";
  name.value = "";
  go.disabled = Boolean(word);
  name.oninput = () => { go.disabled = Boolean(word) && name.value !== word; };
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue !== "yes") return;
    confirmed.add(form);
    form.requestSubmit(event.submitter);
    confirmed.delete(form);
  };
  dialog.showModal();
}, true);

// ---- Keyboard ----
document.addEventListener("keydown", (event) => {
  const search = document.getElementById("q");
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k" && search) {
    event.preventDefault();
    search.focus();
    search.select();
    return;
  }
  if (event.key === "Escape") {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      menu.open = false;
      menu.querySelector("summary")?.focus();
    }
    document.getElementById("found")?.replaceChildren();
    return;
  }
  const found = document.getElementById("found");
  if (found?.contains(document.activeElement) || document.activeElement === search) {
    const links = [...(found?.querySelectorAll("a") ?? [])];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && links.length) {
      event.preventDefault();
      const at = links.indexOf(document.activeElement) + step;
      (at < 0 ? search : links[Math.min(at, links.length - 1)]).focus();
    } else if (event.key === "Enter" && document.activeElement === search && links.length) {
      event.preventDefault();
      links[0].click();
    }
    return;
  }
  if (!lettersAllowed(event)) return;
  if (event.key === "/") {
    const find = document.querySelector("[data-find]") ?? search;
    if (find) { event.preventDefault(); find.focus(); }
  } else if (event.key === "?") {
    document.getElementById("shortcuts")?.showModal();
  }
});

// A page that came back with errors puts the focus on the first one.
document.querySelector("[aria-invalid='true']")?.focus();

// A choice that shows another view of the same page needs no button.
document.addEventListener("change", (event) => {
  if (event.target instanceof Element && event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});
// A value that is there to be copied is selected as a whole.
document.addEventListener("focusin", (event) => {
  if (event.target instanceof HTMLInputElement && event.target.matches("[data-select]")) event.target.select();
});
