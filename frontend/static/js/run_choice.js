// The list of training runs: how many are chosen, and whether that is enough to compare them.

const form = document.getElementById("compare");
if (form) {
  const button = document.getElementById("compare-go");
  const words = document.getElementById("compare-count");
  const boxes = [...form.querySelectorAll("input[name='run']")];
  const most = Number(form.dataset.most);
  const count = () => {
    const chosen = boxes.filter((box) => box.checked).length;
    button.disabled = chosen < 2 || chosen > most;
    words.textContent = chosen < 2 ? "Choose two to six runs." : chosen > most ? `${chosen} chosen; at most ${most}.` : `${chosen} chosen.`;
  };
  form.addEventListener("change", count);
  count();
}
