"use strict";
// Keeps the answers in this browser and saves them as CSV. Rows come ready-made up to the answer and after it.
(function () {
  const sheet = JSON.parse(document.getElementById("sheet").textContent);
  const form = document.getElementById("form");
  const progress = document.getElementById("progress");
  const trouble = document.getElementById("trouble");
  let answers = {};

  function complain(text) {
    trouble.textContent = text;
    trouble.hidden = false;
  }

  function restore() {
    try {
      const kept = JSON.parse(localStorage.getItem(sheet.storage) ?? "{}");
      for (const { item } of sheet.rows) {
        const input = form.querySelector(`input[name="${item}"][value="${Number(kept[item])}"]`);
        if (input) {
          input.checked = true;
          answers[item] = input.value;
        }
      }
    } catch {
      complain("This browser keeps no answers: save them before you close the page.");
    }
  }

  function keep() {
    try {
      localStorage.setItem(sheet.storage, JSON.stringify(answers));
    } catch {
      complain("This browser keeps no answers: save them before you close the page.");
    }
  }

  function show() {
    const open = sheet.rows.filter(({ item }) => !(item in answers));
    progress.textContent = `${sheet.rows.length - open.length} of ${sheet.rows.length} answered`;
    document.getElementById("next").disabled = open.length === 0;
    for (const { item } of sheet.rows) {
      const field = document.getElementById(item);
      field.classList.toggle("done", item in answers);
      field.querySelector(".clear").disabled = !(item in answers);
    }
  }

  function csv() {
    return "\ufeff" + sheet.header + sheet.rows.map((row) => row.before + (answers[row.item] ?? "") + row.after).join("");
  }

  function save() {
    const open = sheet.rows.length - Object.keys(answers).length;
    if (open > 0 && !confirm(`${open} items have no answer. Save anyway?`)) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = sheet.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  form.addEventListener("change", (event) => {
    answers[event.target.name] = event.target.value;
    keep();
    show();
  });
  form.addEventListener("click", (event) => {
    const item = event.target.dataset.item;
    if (!item) return;
    form.querySelectorAll(`input[name="${item}"]`).forEach((input) => (input.checked = false));
    delete answers[item];
    keep();
    show();
    form.querySelector(`input[name="${item}"]`).focus();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("next").addEventListener("click", () => {
    const open = sheet.rows.find(({ item }) => !(item in answers));
    if (!open) return;
    document.getElementById(open.item).scrollIntoView({ block: "start" });
    form.querySelector(`input[name="${open.item}"]`).focus({ preventScroll: true });
  });
  document.getElementById("save").addEventListener("click", save);
  document.getElementById("save-too").addEventListener("click", save);
  restore();
  show();
})();
