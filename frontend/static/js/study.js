// O opens the study in the viewer.
import { lettersAllowed } from "./page.js";

document.addEventListener("keydown", (event) => {
  if (event.key === "o" && lettersAllowed(event)) document.querySelector("[data-open]")?.click();
});
