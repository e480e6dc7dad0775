// Hovering over a trial highlights it everywhere: figures, heat maps, tables.
const marks = (name) => document.querySelectorAll(`[data-trial="${CSS.escape(name)}"]`);
for (const kind of ["mouseover", "mouseout", "focusin", "focusout"]) {
  document.addEventListener(kind, (event) => {
    const one = event.target.closest?.("[data-trial]");
    if (one) for (const mark of marks(one.dataset.trial)) mark.classList.toggle("lit", kind === "mouseover" || kind === "focusin");
  });
}
