"use strict";
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = document.getElementById("find");
  const sort = document.getElementById("sort");
  const selects = [...document.querySelectorAll("#filters select[data-column]")];
  const columns = rows.length ? [...rows[0].cells].map((cell) => cell.dataset.label) : [];
  const numeric = columns.map((_, i) => rows[0].cells[i].classList.contains("number"));
  const text = rows.map((row) => row.textContent.toLowerCase());
  const index = new Map(rows.map((row, i) => [row, i]));
  const details = new Map(); // row -> the row under it, made when first asked for
  let sorted = { column: -1, direction: 1 };

  function element(name, content, attributes = {}) {
    const made = document.createElement(name);
    if (content !== null) made.textContent = content; // text, never markup: it comes from files
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function value(row, column) {
    const raw = row.cells[column].dataset.value;
    return numeric[column] ? Number(raw) : raw;
  }

  function compare(a, b, column) {
    const x = value(a, column), y = value(b, column);
    if (numeric[column]) return x - y;
    return x.localeCompare(y, "en", { numeric: true });
  }

  function sortBy(column, direction) {
    sorted = { column, direction };
    rows.sort((a, b) => direction * compare(a, b, column) || index.get(a) - index.get(b));
    for (const row of rows) {
      body.append(row);
      if (details.has(row)) body.append(details.get(row));
    }
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      head.setAttribute("aria-sort", i !== column ? "none" : direction > 0 ? "ascending" : "descending");
    });
    sort.value = `${column} ${direction}`;
  }

  function filter() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = selects.filter((each) => each.value).map((each) => [Number(each.dataset.column), each.value]);
    let count = 0;
    for (const row of rows) {
      const own = text[index.get(row)];
      const fits = words.every((word) => own.includes(word)) &&
        wanted.every(([column, choice]) => row.cells[column].textContent === choice);
      row.hidden = !fits;
      if (fits) count += 1;
      const detail = details.get(row);
      if (detail) detail.hidden = !fits || row.querySelector(".open").getAttribute("aria-expanded") === "false";
    }
    document.getElementById("count").textContent =
      count === rows.length ? `${count} runs` : `${count} of ${rows.length} runs`;
    document.getElementById("none").hidden = count > 0;
  }

  function makeDetail(row) {
    const { facts, config } = data[Number(row.dataset.run)];
    const line = element("tr", null, { class: "detail", id: `detail${row.dataset.run}` });
    const cell = element("td", null, { colspan: columns.length });
    const list = element("dl", null);
    for (const [key, content] of Object.entries(facts)) {
      list.append(element("dt", key.replaceAll("_", " ")), element("dd", content));
    }
    cell.append(list);
    cell.append(config === null
      ? element("p", "No config.yaml lies beside this result.")
      : element("pre", config, { tabindex: "0", role: "region", "aria-label": "config.yaml" }));
    line.append(cell);
    row.after(line);
    details.set(row, line);
    return line;
  }

  function toggle(button) {
    const row = button.closest("tr");
    const open = button.getAttribute("aria-expanded") === "false";
    const detail = details.get(row) || makeDetail(row);
    detail.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    button.setAttribute("aria-controls", detail.id);
  }

  columns.forEach((name, column) => {
    const head = element("th", null, { scope: "col", "aria-sort": "none", class: numeric[column] ? "number" : "" });
    const button = element("button", name, { type: "button" });
    button.addEventListener("click", () => {
      sortBy(column, sorted.column === column ? -sorted.direction : 1);
    });
    head.append(button);
    table.tHead.rows[0].append(head);
    sort.append(element("option", `${name}, rising`, { value: `${column} 1` }));
    sort.append(element("option", `${name}, falling`, { value: `${column} -1` }));
  });
  sort.prepend(element("option", "as found", { value: "", selected: "", disabled: "" }));
  sort.addEventListener("change", () => sortBy(...sort.value.split(" ").map(Number)));
  body.addEventListener("click", (event) => {
    const button = event.target.closest(".open");
    if (button) toggle(button);
  });
  find.addEventListener("input", filter);
  selects.forEach((each) => each.addEventListener("change", filter));
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("filters").addEventListener("reset", () => setTimeout(() => {
    if (sorted.column >= 0) sort.value = `${sorted.column} ${sorted.direction}`; // the order stays as it was
    filter();
  }));
  filter();
})();
