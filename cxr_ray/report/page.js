"use strict";
// A table or figure that is wider than the page has a hint above it, and fades out to the right until its end is reached.
for (const box of document.querySelectorAll(".scroll")) {
  const update = () => {
    const hidden = box.scrollWidth - box.clientWidth;
    box.classList.toggle("overflows", hidden > 2);
    box.classList.toggle("more", hidden - box.scrollLeft > 2);
  };
  new ResizeObserver(update).observe(box);
  box.addEventListener("scroll", update);
  update();
}
// Click a column header to sort: the first click sorts descending; averages stay at the bottom.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, at) => parseFloat(row.cells[at].textContent.replace(/,/g, "").replace("−", "-"));
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    head.classList.add("sorts");
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].filter((row) => !row.classList.contains("mean"));
      const words = at === 0 || rows.every((row) => isNaN(value(row, at)));
      rows.sort((a, b) => {
        if (words) return (down ? 1 : -1) * a.cells[at].textContent.localeCompare(b.cells[at].textContent);
        const x = value(a, at), y = value(b, at);
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
        return down ? y - x : x - y;
      });
      body.prepend(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
