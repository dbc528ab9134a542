// The table of mechanisms: the field above it filters, its headings sort, a second time downwards.
const table = document.getElementById("mechanisms");
if (table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  document.getElementById("filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.addEventListener("click", () => {
      const upwards = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", upwards ? "ascending" : "descending");
      const key = (row) => row.cells[column].textContent;
      rows.sort((a, b) => (upwards ? 1 : -1) * key(a).localeCompare(key(b), "en", { numeric: true }));
      body.append(...rows);
    });
  });
}
