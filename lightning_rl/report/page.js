"use strict";
// A column is sorted by its cells' data-value, or by their text; cells without either come last in both directions.
function sortBy(header) {
  const headers = [...header.parentElement.children];
  const column = headers.indexOf(header);
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  headers.forEach((other) => other.setAttribute("aria-sort", "none"));
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = header.closest("table").tBodies[0];
  const valueOf = (row) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = cell.textContent.trim();
    return text === "–" ? null : text;
  };
  const rows = [...body.rows].map((row) => [valueOf(row), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return ascending ? order : -order;
  });
  body.append(...rows.map(([, row]) => row));
}
document.querySelectorAll("th button").forEach((button) => {
  button.addEventListener("click", () => sortBy(button.closest("th")));
});
const dialog = document.querySelector("dialog");
document.querySelectorAll(".plot").forEach((plot) => {
  plot.addEventListener("click", () => {
    dialog.querySelector("div").replaceChildren(plot.firstElementChild.cloneNode(true));
    dialog.showModal();
  });
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
