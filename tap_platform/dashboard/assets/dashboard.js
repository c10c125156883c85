"use strict";
// The table of runs: filtered, sorted and shown piece by piece. The server rendered every row, so
// nothing here makes HTML out of what runs say.
(() => {
  const PAGE = 50;
  const GROUPS = {
    on: ["running", "preparing"],
    bad: ["failed", "lost"],
    cut: ["interrupted", "stopped"],
  };
  const WHOLE = ["run", "pipeline", "sweep"];
  const table = document.getElementById("lines");
  const form = document.getElementById("filters");
  const more = document.getElementById("more");
  let shown = PAGE;
  let sorted = ""; // column and order, such as 5:descending

  function matches(row, wanted) {
    const data = row.dataset;
    const kinds = wanted.kind === "whole" ? WHOLE : [wanted.kind];
    const states = GROUPS[wanted.state] || [wanted.state];
    return (!wanted.kind || kinds.includes(data.kind))
      && (!wanted.state || states.includes(data.state))
      && (!wanted.project || data.project === wanted.project)
      && wanted.search.toLowerCase().split(/\s+/).every((word) => data.words.includes(word));
  }

  function show() {
    const wanted = Object.fromEntries(new FormData(form));
    const rows = [...table.tBodies[0].rows];
    let found = 0;
    for (const row of rows) {
      const fits = matches(row, wanted);
      found += fits;
      row.hidden = !fits || found > shown;
    }
    document.getElementById("count").textContent =
      `${found.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    more.hidden = found <= shown;
    const kept = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value));
    if (sorted) kept.set("sorted", sorted);
    if (shown > PAGE) kept.set("shown", shown);
    history.replaceState(null, "", `#${kept}`);
  }

  function value(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent.trim();
    const number = Number(text);
    return text !== "" && !Number.isNaN(number) ? number : text.toLowerCase();
  }

  function turned(column) {
    const was = table.tHead.rows[0].cells[column].ariaSort;
    if (was) return was === "ascending" ? "descending" : "ascending";
    return column < 2 ? "ascending" : "descending"; // text, and numbers
  }

  function sort(column, order) {
    const heads = [...table.tHead.rows[0].cells];
    sorted = `${column}:${order}`;
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const keyed = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
    keyed.sort(([a], [b]) => sign * (a < b ? -1 : a > b ? 1 : 0));
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  }

  if (table) {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const [name, wanted] of kept) if (form.elements[name]) form.elements[name].value = wanted;
    form.addEventListener("input", () => { shown = PAGE; show(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => { shown += 4 * PAGE; show(); });
    [...table.tHead.rows[0].cells].forEach((head, column) =>
      head.firstElementChild.addEventListener("click", () => { sort(column, turned(column)); show(); }));
    shown = Math.max(PAGE, Number(kept.get("shown")) || 0);
    const [column, order] = (kept.get("sorted") || "").split(":");
    if (order && column < table.tHead.rows[0].cells.length) sort(Number(column), order);
    show();
  }
})();

// A page that is served asks now and then whether runs have changed. The overview shows it by
// itself, where nobody is writing; other pages offer it.
(() => {
  const { version, root } = document.body.dataset;
  if (!version) return;
  const news = document.getElementById("news");
  const opened = Date.now();
  news.querySelector("a").addEventListener("click", (event) => {
    event.preventDefault();
    location.reload();
  });
  async function ask() {
    if (document.hidden) return;
    try {
      const answer = await fetch(`${root}version`, { cache: "no-store" });
      if (!answer.ok || (await answer.text()) === version) return;
      const isBusy = document.activeElement?.matches("input, select") || Date.now() - opened < 50000;
      if (document.getElementById("lines") && !isBusy) location.reload();
      else news.hidden = false;
    } catch { /* the server has ended, or will answer the next time */ }
  }
  setTimeout(ask, 3000);
  setInterval(ask, 15000);
})();
