// The campaign designer: rows of questions and segments without a reload, and what the campaign will take.

const COLORS = ["#5acce6", "#d9b726", "#c097fe", "#ea6848", "#2b84f0", "#97cf85", "#ee93a8", "#70768e"];

for (const select of document.querySelectorAll("select[data-submit]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}

const designer = document.getElementById("designer");
if (designer) {
  const kinds = { question: "questions", segment: "segments" };
  const box = (kind) => document.getElementById(kinds[kind]);

  const renumber = (kind) => {
    const name = kinds[kind];
    const rows = [...box(kind).querySelectorAll(".design-row")];
    rows.forEach((row, i) => {
      const place = i + 1;
      row.setAttribute("aria-label", `${kind === "question" ? "Question" : "Segment"} ${place}`);
      row.querySelector(".place").textContent = place;
      for (const element of row.querySelectorAll("[name], [id], [for], [aria-label], [aria-describedby], label")) {
        for (const attribute of ["name", "id", "for", "aria-describedby", "value"]) {
          const value = element.getAttribute(attribute);
          if (value && (attribute !== "value" || element.name === "remove")) {
            element.setAttribute(attribute, value.replace(new RegExp(`${name}-\\d+`), `${name}-${place}`));
          }
        }
        const label = element.getAttribute("aria-label");
        if (label) element.setAttribute("aria-label", label.replace(/\d+$/, place));
        if (element.matches("label.vh")) element.textContent = element.textContent.replace(/\d+$/, place);
      }
    });
    document.getElementById(`no-${name}`).hidden = rows.length > 0;
  };

  designer.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.add) {
      event.preventDefault();
      const kind = button.dataset.add;
      const row = document.getElementById(`${kind}-row`).content.cloneNode(true).querySelector(".design-row");
      box(kind).append(row);
      renumber(kind);
      if (kind === "segment") {
        const numbers = [...box(kind).querySelectorAll("input.number")].slice(0, -1).map((input) => Number(input.value) || 0);
        row.querySelector("input.number").value = Math.max(0, ...numbers) + 1;
        row.querySelector("input[type=color]").value = COLORS[numbers.length % COLORS.length];
      }
      row.querySelector("input.text").focus();
    } else if (button.dataset.remove !== undefined) {
      event.preventDefault();
      const row = button.closest(".design-row");
      const kind = row.dataset.row === "questions" ? "question" : "segment";
      const neighbour = row.nextElementSibling || row.previousElementSibling;
      row.remove();
      renumber(kind);
      (neighbour?.querySelector("input.text") || document.querySelector(`[data-add="${kind}"]`)).focus();
    }
  });

  const cases = JSON.parse(document.getElementById("cohort-cases").textContent);
  const sum = () => {
    const n = cases[designer.elements.cohort.value];
    const readers = designer.querySelectorAll("[name=readers]:checked").length;
    const overlap = Number(designer.elements.overlap.value) || 0;
    const put = (id, text) => { document.getElementById(id).textContent = text; };
    put("sum-cases", n === undefined ? "choose a cohort" : `${n}`);
    put("sum-reads", n && overlap ? `${n} × ${overlap} = ${n * overlap}` : "–");
    const low = Math.floor((n * overlap) / readers);
    const high = Math.ceil((n * overlap) / readers);
    if (readers && overlap > readers) return put("sum-reader", `choose ${overlap - readers} more`);
    put("sum-reader", n && overlap && readers ? (low === high ? `${low} cases` : `${low} or ${high} cases`) : "choose readers");
  };
  designer.addEventListener("input", sum);
  sum();
  designer.querySelector("[aria-invalid=true]")?.focus();
}
