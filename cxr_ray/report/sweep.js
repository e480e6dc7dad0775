// A trial that is pointed at lights up wherever it stands: figures, maps, tables.
const marks = (name) => document.querySelectorAll(`[data-trial="${CSS.escape(name)}"]`);
for (const kind of ["mouseover", "mouseout", "focusin", "focusout"]) {
  document.addEventListener(kind, (event) => {
    const one = event.target.closest?.("[data-trial]");
    if (one) for (const mark of marks(one.dataset.trial)) mark.classList.toggle("lit", kind === "mouseover" || kind === "focusin");
  });
}
