// A table whose rows are chosen: <form data-selection> with [data-select-all], [data-count] and [data-needs-selection].
for (const form of document.querySelectorAll("[data-selection]")) {
  const boxes = () => [...form.querySelectorAll("tbody input[type=checkbox]")];
  const all = form.querySelector("[data-select-all]");
  const count = () => {
    const chosen = boxes().filter((box) => box.checked).length;
    form.querySelector("[data-count]").textContent = chosen;
    form.querySelector("[data-needs-selection]").disabled = chosen === 0;
    all.checked = chosen > 0 && chosen === boxes().length;
    all.indeterminate = chosen > 0 && chosen < boxes().length;
  };
  form.addEventListener("change", (event) => {
    if (event.target === all) for (const box of boxes()) box.checked = all.checked;
    count();
  });
  count();
}
