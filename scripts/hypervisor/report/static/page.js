// The page: one record of a batch, in the page itself or asked for again and again while it runs.

const POLL = 400; // milliseconds; a completion is to be seen within a second
const app = {
  data: null, rows: [], left: [], numbers: new Map(), live: false, lost: "", width: 0, needed: "", drawnAt: 0, timer: 0,
  take(update) {
    const fresh = !this.data || this.data.instance !== update.instance;
    if (fresh) { this.rows = []; this.numbers.clear(); view.drawn.clear(); }
    this.data = { ...(fresh ? {} : this.data), ...update };
    for (const cells of update.rows || []) {
      const row = { number: cells[0] };
      this.data.columns.forEach((column, n) => { row[column] = cells[n + 1]; });
      this.rows[row.number] = row;
      this.numbers.set(row.name, row.number);
    }
    if (fresh)
      this.left = this.data.left_out.map(([item, reason], n) => ({
        ...Object.fromEntries(this.data.columns.map((column) => [column, null])),
        number: -1 - n, name: item, state: "skipped", outcome: `left out: ${reason}`,
      }));
    for (const row of fresh ? this.left : []) this.numbers.set(row.name, row.number);
  },
  async logsOf(row) {
    if (!this.live) return this.data.logs[row.number] || (["failed", "blocked", "running"].includes(row.state) ? [] : null);
    if (row.number < 0) return [];
    const answer = await fetch(`log?row=${row.number}&instance=${this.data.instance}`, { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    return answer.json();
  },
  toggle(number) {
    if (!view.open.delete(number)) view.open.add(number);
    drawTable(this);
  },
  sort(key) {
    view.down = view.sort === key ? !view.down : false;
    view.sort = key;
    view.page = 0;
    drawTable(this);
    document.querySelector(`[data-sort="${key}"]`).focus();
  },
  page(to) { view.page = to; drawTable(this); },
  filter() {
    view.text = byId("text").value; view.only = byId("only").value; view.by = byId("by").value;
    view.page = 0;
    drawTable(this);
  },
  show(state) {
    byId("only").value = state;
    this.filter();
    byId("items").scrollIntoView();
    byId("items").focus({ preventScroll: true });
  },
};

function head() {
  const { data } = app, { census, pace, spent } = data;
  byId("batch").replaceChildren(name(data.batch.id));
  const working = data.at_work.length + data.idle.length > 0, left = census.running + census.waiting;
  const how = !data.closes ? "the census does not close" : data.finished ? "finished" : data.held_up ? data.held_up
    : working ? `${count(data.at_work.length)} at work` : left ? "nobody is at work" : "";
  const since = app.live ? "live" : `as of ${day(data.at)} ${clock(data.at, true)}`;
  const where = `${data.host ? `; on ${data.host}` : ""}${data.command ? `; ${data.command}` : ""}`;
  const text = app.lost || `${how}; ${since}${where}`;
  if (byId("state").textContent !== text) byId("state").textContent = text;
  byId("state").className = app.lost ? "lost" : "";
  byId("bar").replaceChildren(...STATES.filter((state) => census[state] && state !== "waiting").map((state) => {
    const part = el("div", { class: `fill-${state}` });
    part.style.width = `${(100 * census[state]) / census.queued}%`;
    return part;
  }));
  byId("sum").textContent = `${count(census.queued)} queued ${data.closes ? "=" : "IS NOT"} ${STATES.map((state) => `${count(census[state])} ${state}`).join(" + ")}`;
  const shares = STATES.map((state) => [state, census[state]]);
  tiles(shares);
  const eta = data.finished ? "done" : pace.eta === null ? none() : `about ${duration(pace.eta)}`;
  const facts = [
    ["Throughput", pace.per_minute === null ? none() : `${short(Math.round(pace.per_minute * 10) / 10)} items a minute`, pace.per_minute === null ? "nothing has ended yet" : `in the last ${duration(pace.window)}`],
    ["Left", eta, data.finished ? "" : pace.eta === null ? (working ? "nothing has ended yet" : "nobody is at work") : `${count(left)} items, judged from ${count(pace.standing_on)} completions`],
    ["Last end", pace.quiet === null ? none() : `${duration(pace.quiet)} ago`, ""],
    ["Tokens", spent.tokens === null ? none() : short(spent.tokens), known(spent.tokens_known, spent.of)],
    ["Cost", spent.cost_usd === null ? none() : money(spent.cost_usd), known(spent.cost_known, spent.of)],
    ["Machine", data.zone.word || none(), data.zone.at !== null && data.at - data.zone.at > 60 ? `as of ${clock(data.zone.at, true)}` : machine(data.zone)],
  ];
  byId("facts").replaceChildren(...facts.map(([word, value, more]) => el("div", {}, el("dt", {}, word), el("dd", {}, value, more ? el("small", {}, more) : null))));
  byId("work-section").hidden = !data.at_work.length && !data.idle.length;
  byId("work").replaceChildren(table(`${count(data.at_work.length)} at work, ${count(data.idle.length)} between two items`, ["Who", "Item", "For", "Attempt", "Last output"],
    [...data.at_work.slice(0, 50).map((one) => [one.who ? name(one.who) : none(), name(one.name), one.since === null ? none() : duration(Math.max(0, data.at - one.since)), count(one.attempt), one.output_ago === undefined ? none() : `${duration(one.output_ago)} ago`]),
      ...data.idle.slice(0, 20).map((id) => [name(id), none(), none(), none(), none()])], [3]));
  byId("made").textContent = `${data.batch.folder}${data.duplicates ? `; ${count(data.duplicates)} line(s) named an item that another line names` : ""}`;
}
const machine = (zone) => [zone.why, ...[["CPU", zone.cpu_percent], ["RAM", zone.ram_percent]]
  .filter(([word, value]) => typeof value === "number" && !zone.why.includes(word)).map(([word, value]) => `${word} ${Math.round(value)} %`)].filter(Boolean).join(", ");
// The command stands below, to be copied: it is not said twice.
function unlessTyped(need) {
  const [before, command] = need.next.split("`");
  const retries = [command, need.type].every((one) => one && one.startsWith("hypervisor retry "));
  return command && (retries || need.type.startsWith(command)) ? `${before.trim()}:` : need.next;
}
const known = (n, of) => (n && n < of ? `known of ${count(n)} of ${count(of)}` : "");

// A button that is replaced between press and release is never pressed: tiles and needs stay where they are.
function tiles(shares) {
  if (byId("tiles").children.length !== shares.length)
    byId("tiles").replaceChildren(...shares.map(([state]) => el("li", {}, el("button", { type: "button", onclick: () => app.show(state) }, el("b", {}), stateWord(state)))));
  shares.forEach(([state, n], at) => {
    const button = byId("tiles").children[at].firstChild;
    button.setAttribute("aria-label", `${count(n)} ${state}: show them`);
    button.firstChild.textContent = count(n);
  });
}

function needs() {
  const { data } = app, nodes = [];
  for (const need of data.needs_attention) {
    const items = need.items.slice(0, 200), more = need.items.length - items.length;
    nodes.push(el("div", { class: "need" },
      el("h3", {}, stateWord(need.state), ` ${count(need.items.length)} × `, name(need.reason)),
      el("p", {}, prose(unlessTyped(need))), need.type ? toCopy(need.type) : null,
      el("details", { "data-key": `${need.state} ${need.reason}` }, el("summary", {}, `${count(need.items.length)} item(s)`),
        el("ul", { class: "names" }, items.map((number) => el("li", {}, el("a", { href: `#item=${encodeURIComponent(app.rows[number].name)}` }, name(app.rows[number].name))))),
        more > 0 ? el("p", {}, `and ${count(more)} more: filter the items below`) : null)));
  }
  if (!data.finished && !data.at_work.length && !data.idle.length && data.closes)
    nodes.push(el("div", { class: "need" }, el("h3", {}, `${count(data.census.waiting)} item(s) wait, and nobody is at work`), toCopy(data.batch.go_on)));
  const same = JSON.stringify([data.needs_attention, nodes.length, data.census.waiting]);
  if (same === app.needed) return;
  app.needed = same;
  const open = new Set([...document.querySelectorAll("#needs details[open]")].map((one) => one.dataset.key));
  for (const one of nodes.flatMap((node) => [...node.querySelectorAll("details")])) one.open = open.has(one.dataset.key);
  byId("needs").replaceChildren(...(nodes.length ? nodes : [el("p", {}, "Nothing.")]));
}

function charts() {
  app.drawnAt = Date.now();
  const { data } = app, now = data.finished ? null : data.at_work.length ? data.at : null;
  const time = span(app.rows, data.readings, now), width = Math.max(320, byId("charts").clientWidth);
  app.width = width;
  if (!time) { byId("charts").replaceChildren(el("p", {}, "Nothing has ended yet.")); return; }
  const sums = data.spending.length ? data.spending : sumsOf(app.rows), { spent } = data;
  const lanes = lanesOf(app.rows, data.workers, data.tries, now, data.at_work);
  const open = [...document.querySelectorAll("#charts details")].map((one) => one.open);
  const marks = data.marks.filter((one) => one[1] !== "started" && one[1] !== "finished");
  byId("charts").replaceChildren(...[
    throughput(app.rows, time, width), timeline(lanes, time, width), resources(data.readings, time, width),
    spending("Tokens", sums, 1, spent.of - spent.tokens_known, short, time, width),
    spending("Cost", sums, 2, spent.of - spent.cost_known, money, time, width),
    marks.length ? table("What held it up", ["At", "What", "Why"], marks.map(([at, what, why]) => [moment(at), what, name(why)])) : null,
  ].filter(Boolean));
  document.querySelectorAll("#charts details").forEach((one, n) => { one.open = open[n] || false; });
}

function choices() {
  const option = (value, word) => el("option", { value }, word);
  const chosen = [byId("only").value, byId("by").value];
  byId("only").replaceChildren(option("", "all"), option("trouble", "failed or blocked"), ...STATES.map((state) => option(state, state)));
  byId("by").replaceChildren(option("", "all"), ...app.data.workers.map((worker, n) => option(String(n), worker)));
  [byId("only").value, byId("by").value] = chosen;
}

function follow() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("item");
  if (wanted === null) return;
  const number = app.numbers.get(wanted);
  if (number === undefined) return;
  for (const id of ["text", "only", "by"]) byId(id).value = "";
  Object.assign(view, { text: "", only: "", by: "" });
  view.open.add(number);
  view.page = Math.max(0, Math.floor(shown(app.rows.concat(app.left), app.data.workers).findIndex((row) => row.number === number) / PAGE));
  drawTable(app);
  byId(`r${number}`).scrollIntoView({ block: "center" });
  document.querySelector(`[data-row="${number}"]`).focus({ preventScroll: true });
}

function draw(changed) {
  head();
  if (!changed) return;
  choices(); needs(); drawTable(app);
  // Curves need not follow each item; without a change the last ones are drawn all the same.
  if (Date.now() - app.drawnAt < 2000) { clearTimeout(app.timer); app.timer = setTimeout(charts, 2000); }
  else charts();
}

const THEMES = [["", "Theme: as the system"], ["light", "Theme: light"], ["dark", "Theme: dark"]];
function theme(wanted) {
  const [word, label] = THEMES.find((one) => one[0] === wanted) || THEMES[0];
  if (word) document.documentElement.dataset.theme = word;
  else delete document.documentElement.dataset.theme;
  byId("theme").textContent = label;
  try { localStorage.setItem("theme", word); } catch { /* a page of its own keeps nothing */ }
}

async function ask() {
  try {
    const { instance = "", version = 0 } = app.data || {};
    const answer = await fetch(`state?instance=${instance}&since=${version}`, { cache: "no-store" });
    if (!answer.ok) throw new Error((await answer.text()).trim() || String(answer.status));
    const update = await answer.json();
    app.lost = "";
    app.take(update);
    draw("rows" in update);
    if (instance !== update.instance) follow();
  } catch (error) {
    app.lost = `Not connected any more (${error.message}); what you see is as of ${app.data ? clock(app.data.at, true) : "never"}.`;
    if (app.data) head();
    else byId("state").textContent = app.lost;
  }
  // A page that nobody looks at asks less often.
  setTimeout(ask, app.lost ? 3000 : document.hidden ? 5000 : POLL);
}

let last = "";
try { last = localStorage.getItem("theme") || ""; } catch { /* none */ }
theme(last);
byId("theme").addEventListener("click", () => theme(THEMES[(THEMES.findIndex((one) => one[0] === (document.documentElement.dataset.theme || "")) + 1) % 3][0]));
let typing = 0;
byId("filter").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => app.filter(), 120); });
byId("filter").addEventListener("reset", () => setTimeout(() => app.filter()));
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("open").addEventListener("click", () => {
  const found = shown(app.rows.concat(app.left), app.data.workers).slice(view.page * PAGE, (view.page + 1) * PAGE);
  const open = found.some((row) => !view.open.has(row.number));
  for (const row of found) if (open) view.open.add(row.number); else view.open.delete(row.number);
  drawTable(app);
});
addEventListener("hashchange", follow);
new ResizeObserver(() => { if (app.data && Math.abs(app.width - byId("charts").clientWidth) > 20) charts(); }).observe(byId("charts"));
const embedded = JSON.parse(byId("data").textContent);
if (embedded === null) { app.live = true; ask(); }
else { app.take(embedded); draw(true); follow(); }
