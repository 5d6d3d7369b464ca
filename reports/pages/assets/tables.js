/* Tables that the template wrote: sorting by a column, and copying in the forms that the data holds. */

const TABLE_FORMS = [
  ["csv", "CSV"],
  ["markdown", "Markdown"],
  ["latex", "LaTeX"],
];

/**
 * Makes a table sortable and gives it copy buttons.
 * @param {HTMLElement} block holds the table
 * @param {{csv: string, markdown: string, latex: string}} data
 */
function enhanceTable(block, data) {
  const table = block.querySelector("table");
  const tools = make("div", { class: "tools" }, make("span", { "aria-hidden": "true" }, "Copy"));
  for (const [form, name] of TABLE_FORMS) {
    const attributes = { "aria-label": `Copy the table as ${name}` };
    tools.append(makeButton(name, () => copyText(data[form], name, tools), attributes));
  }
  block.querySelector(".scroller").after(tools);
  if (table.tBodies[0].rows.length > 1) makeSortable(table);
}

/** Turns every heading into a button: ascending, descending, as it was. */
function makeSortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  for (const [column, heading] of [...table.tHead.rows[0].cells].entries()) {
    const button = makeButton("", () => sortBy(table, original, column), { class: "sort" });
    button.append(...heading.childNodes);
    heading.append(button);
  }
}

/** Sorts by a column; a second time the other way round, a third time back to the written order. */
function sortBy(table, original, column) {
  const headings = [...table.tHead.rows[0].cells];
  const before = headings[column].getAttribute("aria-sort");
  const order = { ascending: "descending", descending: null }[before];
  const now = before === null ? "ascending" : order;
  for (const heading of headings) heading.removeAttribute("aria-sort");
  if (now !== null) headings[column].setAttribute("aria-sort", now);
  table.tBodies[0].append(...(now === null ? original : sortedRows(original, column, now === "ascending" ? 1 : -1)));
  announce(now === null ? "In the original order" : `Sorted by ${headings[column].textContent}, ${now}`);
}

/** Rows by a column's values: stable, numbers before text, nothing always last. */
function sortedRows(rows, column, sign) {
  const keyed = rows.map((row) => ({ row, key: sortKey(row.cells[column]) }));
  keyed.sort((one, other) => {
    if (one.key === null || other.key === null) return (one.key === null) - (other.key === null);
    return sign * compareKeys(one.key, other.key);
  });
  return keyed.map(({ row }) => row);
}

/** A cell's number, else its text; null where there is nothing. */
function sortKey(cell) {
  if ("value" in cell.dataset) return Number(cell.dataset.value);
  return "missing" in cell.dataset ? null : cell.textContent.trim();
}

function compareKeys(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
  return one.localeCompare(other, "en", { numeric: true });
}

/** A copy button for preformatted text. */
function enhanceCode(block) {
  const label = block.querySelector("figcaption");
  const text = block.querySelector("pre").textContent;
  const name = label.textContent.trim();
  const tools = make("div", { class: "tools" });
  tools.append(makeButton("Copy", () => copyText(text, name, tools), { "aria-label": `Copy: ${name}` }));
  label.after(tools);
}
