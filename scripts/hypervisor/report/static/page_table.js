// The table of items: filtered, sorted, a page at a time, each row with its details.

const PAGE = 100;
const HEADS = [
  ["name", "Item", ""], ["state", "State", ""], ["outcome", "Outcome", ""], ["worker", "Worker", ""],
  ["attempts", "Attempts", "number"], ["seconds", "Took", "number"], ["finished", "Ended", ""],
  ["tokens", "Tokens", "number"], ["cost_usd", "Cost", "number"],
];
const view = { text: "", only: "", by: "", sort: "", down: false, page: 0, open: new Set(), drawn: new Map() };

function shown(rows, workers) {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = rows.filter((row) => {
    if (view.only === "trouble" ? !["failed", "blocked"].includes(row.state) : view.only && row.state !== view.only) return false;
    if (view.by !== "" && row.worker !== Number(view.by)) return false;
    if (!words.length) return true;
    row.text ||= `${row.name} ${row.item || ""} ${row.title || ""} ${row.outcome} ${row.commit || ""}`.toLowerCase();
    return words.every((word) => row.text.includes(word));
  });
  if (!view.sort) return found;
  const key = view.sort === "worker" ? (row) => (row.worker === null ? null : workers[row.worker])
    : view.sort === "state" ? (row) => STATES.indexOf(row.state) : (row) => row[view.sort];
  const sign = view.down ? -1 : 1;
  return found.sort((a, b) => {
    const one = key(a), two = key(b);
    if (one === two) return a.number - b.number;
    if (one === null || one === undefined) return 1; // what is not known stands last, either way
    if (two === null || two === undefined) return -1;
    return sign * (one < two ? -1 : 1);
  });
}

function rowNodes(row, app) {
  const before = view.drawn.get(row.number), isOpen = view.open.has(row.number);
  if (before && before.row === row && before.open === isOpen) return before.nodes;
  const id = `d${row.number}`;
  const button = el("button", { type: "button", "aria-expanded": String(isOpen), "aria-controls": isOpen ? id : null,
    "data-row": row.number, onclick: () => app.toggle(row.number) }, name(row.name));
  const took = row.seconds === null ? none() : duration(row.seconds);
  const nodes = [el("tr", { id: `r${row.number}` },
    el("td", { class: "name" }, button, row.title && row.title !== row.name ? el("div", {}, name(row.title)) : null),
    el("td", {}, stateWord(row.state)),
    el("td", { class: "outcome" }, name(row.outcome.length > 160 ? `${row.outcome.slice(0, 160)}…` : row.outcome)),
    el("td", {}, row.worker === null ? none() : name(app.data.workers[row.worker])),
    el("td", { class: "number" }, row.attempts === null ? none() : count(row.attempts)),
    el("td", { class: "number" }, took),
    el("td", {}, moment(row.finished)),
    el("td", { class: "number" }, row.tokens === null ? none() : count(row.tokens)),
    el("td", { class: "number" }, row.cost_usd === null ? none() : row.cost_usd.toFixed(4)))];
  if (isOpen) nodes.push(el("tr", { class: "detail", id }, el("td", { colspan: HEADS.length }, details(row, app))));
  view.drawn.set(row.number, { row, open: isOpen, nodes });
  return nodes;
}

function details(row, app) {
  const pairs = [["Item", row.item && name(row.item)], ["Outcome", row.outcome && name(row.outcome)], ["Started", row.started && moment(row.started)],
    ["Commit", row.commit], ["Kept on branch", row.branch], ["What next", row.next && prose(row.next)]];
  const tries = app.data.tries.filter((one) => one[0] === row.number)
    .map(([, attempt, from, to, how]) => `attempt ${attempt}: ${how} after ${duration(to - from)}`);
  if (tries.length) pairs.push(["Attempts before", tries.join("; ")]);
  const logs = el("div", {}, "");
  const link = el("a", { href: `#item=${encodeURIComponent(row.name)}` }, "Link to this item");
  app.logsOf(row).then((found) => {
    logs.replaceChildren(...logNodes(found, row));
    for (const log of logs.querySelectorAll("pre")) log.scrollTop = log.scrollHeight; // its end says why
  }, () => logs.replaceChildren("The log could not be read."));
  return [
    el("dl", {}, pairs.filter((pair) => pair[1]).flatMap(([word, value]) => [el("dt", {}, word), el("dd", {}, value)])),
    row.evidence === null ? null : [el("h3", {}, "Evidence"), el("pre", { tabindex: 0 }, typeof row.evidence === "string" ? row.evidence : JSON.stringify(row.evidence, null, 1))],
    logs, el("p", {}, link),
  ].flat();
}
function logNodes(found, row) {
  if (found === null) return [el("p", {}, "Logs are in this page for what failed, is blocked, or was running.")];
  if (!found.length) return [el("p", {}, row.state === "waiting" ? "Not begun: no log." : "No log was kept.")];
  return found.flatMap((log) => [
    el("h3", {}, log.cut ? `The end of ${log.name}` : log.name),
    el("pre", { tabindex: 0, "aria-label": `Log ${log.name}` }, log.text || "(empty)")]);
}

function drawTable(app) {
  const all = app.rows.concat(app.left), found = shown(all, app.data.workers), pages = Math.max(1, Math.ceil(found.length / PAGE));
  view.page = Math.min(view.page, pages - 1);
  const from = view.page * PAGE, page = found.slice(from, from + PAGE);
  byId("heads").replaceChildren(...HEADS.map(([key, word, kind]) => {
    const here = view.sort === key, order = here ? (view.down ? "descending" : "ascending") : "none";
    return el("th", { scope: "col", class: kind || null, "aria-sort": order },
      el("button", { type: "button", "data-sort": key, onclick: () => app.sort(key) }, word,
        el("span", { "aria-hidden": "true" }, here ? (view.down ? " ▼" : " ▲") : " ↕")));
  }));
  const nodes = page.flatMap((row) => rowNodes(row, app)), body = byId("rows");
  // Nodes that stay where they are keep their focus and what is selected in them.
  if (nodes.length !== body.children.length || nodes.some((node, n) => node !== body.children[n])) {
    const focus = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.row : undefined;
    body.replaceChildren(...nodes);
    if (focus !== undefined) body.querySelector(`[data-row="${focus}"]`)?.focus({ preventScroll: true });
  }
  const keep = new Set(page.map((row) => row.number));
  for (const number of view.drawn.keys()) if (!keep.has(number)) view.drawn.delete(number);
  const caption = found.length
    ? `Items ${count(from + 1)} to ${count(from + page.length)} of ${count(found.length)}${found.length < all.length ? ` (filtered from ${count(all.length)})` : ""}`
    : "No item is like this.";
  if (byId("caption").textContent !== caption) byId("caption").textContent = caption;
  const go = (to, word) => el("button", { type: "button", "data-go": word, disabled: to < 0 || to >= pages || to === view.page, onclick: () => app.page(to) }, word);
  const active = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.go : undefined;
  byId("pager").replaceChildren(go(0, "First"), go(view.page - 1, "Previous"), el("span", {}, `Page ${count(view.page + 1)} of ${count(pages)}`), go(view.page + 1, "Next"), go(pages - 1, "Last"));
  if (active) byId("pager").querySelector(`[data-go="${active}"]:not(:disabled)`)?.focus();
}
