// The campaign's questions: controls made from their kinds, answers by question id, keys, errors.
//
// Emits "change" when an answer changed.

import { element, icon } from "./element.js";

const YES_NO = [["yes", "Yes", "Y"], ["no", "No", "N"]];

export class Questions extends EventTarget {
  constructor(form, questions) {
    super();
    this.form = form;
    this.questions = questions;
    this.sections = new Map(questions.map((question) => [String(question.id), this.build(question)]));
    form.replaceChildren(...this.sections.values());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      this.clearError(event.target.closest("section"));
      this.dispatchEvent(new Event("change"));
    });
  }

  build(question) {
    const id = `q${question.id}`;
    const name = `${question.position}. ${question.text}`;
    const need = question.required ? "required" : "optional";
    const section = element("section", { "data-question": question.id });
    if (["number", "text"].includes(question.kind)) {
      section.className = "field";
      const control =
        question.kind === "text"
          ? element("textarea", { id, name: id, rows: 2, maxlength: 10000 })
          : element("input", { id, name: id, type: "text", inputmode: "decimal" });
      control.setAttribute("aria-required", String(question.required));
      section.append(element("label", { for: id }, element("b", {}, name), " ", element("span", { class: "optional" }, need)), control);
      return section;
    }
    section.append(element("div", { class: "row apart nowrap" }, element("h2", { id }, name), element("span", { class: "small quiet" }, need)));
    const group = element("div", { class: "opts", role: "radiogroup", "aria-labelledby": id, "aria-required": String(question.required) });
    if (question.kind === "yes_no") {
      group.classList.add("pair");
      for (const [value, text, key] of YES_NO) group.append(option(id, value, text, element("kbd", {}, key)));
    } else if (question.kind === "scale") {
      group.className = "scale";
      for (const value of [1, 2, 3, 4, 5]) {
        const words = question.choices.length === 5 ? question.choices[value - 1] : "";
        group.append(option(id, String(value), element("b", {}, String(value)), words));
      }
    } else {
      for (const choice of question.choices) group.append(option(id, choice, choice));
    }
    section.append(group);
    if (question.kind === "scale" && question.choices.length === 2) {
      const [low, high] = question.choices;
      section.append(element("div", { class: "hint-row" }, element("span", {}, low), element("span", {}, high)));
    }
    return section;
  }

  // {"<question id>": value}, unanswered ones left out; numbers as numbers where they are some
  get answers() {
    const answers = {};
    for (const { id, kind } of this.questions) {
      const raw = this.value(id);
      if (raw === "") continue;
      if (kind === "scale") answers[id] = Number(raw);
      else if (kind === "number") answers[id] = decimal(raw) ?? raw;
      else answers[id] = raw;
    }
    return answers;
  }

  set answers(answers) {
    for (const { id } of this.questions) {
      const value = answers[String(id)];
      const text = value === undefined || value === null ? "" : String(value);
      const control = this.form.elements[`q${id}`];
      control.value = text;
    }
  }

  value(id) {
    return String(this.form.elements[`q${id}`].value ?? "");
  }

  // Y, N and digits answer the question that has the focus, else the first open one of that kind.
  press(key) {
    const takes = ({ kind, choices }) => {
      if (kind === "yes_no") return { y: "yes", n: "no" }[key];
      if (kind === "scale") return /^[1-5]$/.test(key) ? key : undefined;
      if (kind === "choice") return /^[1-9]$/.test(key) ? choices[Number(key) - 1] : undefined;
      return undefined;
    };
    const able = this.questions.filter((question) => takes(question) !== undefined);
    const focused = document.activeElement?.closest?.("[data-question]")?.dataset.question;
    const target =
      able.find((question) => String(question.id) === focused) ??
      able.find((question) => this.value(question.id) === "" && question.kind !== "choice") ??
      (able.length === 1 ? able[0] : null);
    if (!target) return false;
    this.form.elements[`q${target.id}`].value = takes(target);
    this.clearError(this.sections.get(String(target.id)));
    this.sections.get(String(target.id)).scrollIntoView({ block: "nearest" });
    this.dispatchEvent(new Event("change"));
    return true;
  }

  showError(id, text) {
    const section = this.sections.get(String(id));
    if (!section) return false;
    this.clearError(section);
    section.classList.add("wrong");
    section.append(element("p", { class: "error", role: "alert", id: `q${id}-error` }, icon("bad"), text));
    for (const control of section.querySelectorAll("input, textarea")) {
      control.setAttribute("aria-invalid", "true");
      control.setAttribute("aria-describedby", `q${id}-error`);
    }
    return true;
  }

  clearError(section) {
    section?.classList.remove("wrong");
    section?.querySelector(".error")?.remove();
    section?.querySelectorAll("[aria-invalid]").forEach((control) => {
      control.removeAttribute("aria-invalid");
      control.removeAttribute("aria-describedby");
    });
  }

  clearErrors() {
    for (const section of this.sections.values()) this.clearError(section);
  }

  focusError() {
    const first = this.form.querySelector("[aria-invalid]");
    first?.focus();
    return Boolean(first);
  }
}

function option(name, value, ...content) {
  return element("label", { class: "opt" }, element("input", { type: "radio", name, value }), ...content);
}

// "1,5" and "1.5" are the same number.
function decimal(text) {
  const number = Number(text.trim().replace(",", "."));
  return text.trim() && Number.isFinite(number) ? number : null;
}
