// Making nodes, and figures as people read them. No text is ever read as HTML.

const STATES = ["success", "blocked", "failed", "skipped", "running", "waiting"];
// A state is told by its sign and its word, not by its colour alone.
const SIGNS = { success: "✓", blocked: "?", failed: "✗", skipped: "–", running: "▶", waiting: "·" };

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const byId = (id) => document.getElementById(id);

const whole = new Intl.NumberFormat("en");
const count = (n) => whole.format(n);
const none = () => el("span", { title: "not known" }, "—");

function duration(seconds) {
  if (seconds < 1) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}
const money = (usd) => `${usd < 0.1 ? usd.toFixed(4) : usd < 1000 ? usd.toFixed(2) : count(Math.round(usd))} USD`;
const short = (n) => (n < 10000 ? count(n) : n < 1e6 ? `${(n / 1e3).toFixed(1)} k` : `${(n / 1e6).toFixed(n < 1e8 ? 2 : 1)} M`);
// At an axis: no figure more than it takes.
const axis = (v) => (v < 1e4 ? String(Number(v.toPrecision(4))) : v < 1e6 ? `${v / 1e3} k` : `${v / 1e6} M`);
const pad = (n) => String(n).padStart(2, "0");

function day(at) {
  const d = new Date(at * 1000);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}`;
}
function clock(at, seconds) {
  const d = new Date(at * 1000);
  return `${pad(d.getHours())}:${pad(d.getMinutes())}${seconds ? `:${pad(d.getSeconds())}` : ""}`;
}
const moment = (at) =>
  at === null || at === undefined
    ? none()
    : el("time", { datetime: new Date(at * 1000).toISOString() }, `${day(at)} ${clock(at, true)}`);
const stateWord = (state) => el("span", { class: `state ${state}` }, `${SIGNS[state] || "!"} ${state}`);
// A name may read from right to left; it does not turn what stands beside it.
const name = (text) => el("bdi", {}, text);

function table(caption, heads, rows, numbers) {
  const right = (n) => (numbers && numbers.includes(n) ? "number" : null);
  return el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, heads.map((head, n) => el("th", { scope: "col", class: right(n) }, head)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, n) => el("td", { class: right(n) }, cell))))));
}
// What stands between backquotes is to be typed.
const prose = (text) => text.split("`").map((part, n) => (n % 2 ? el("code", {}, part) : part));
function toCopy(text) {
  const button = el("button", { type: "button", "aria-label": `Copy: ${text}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "Selected";
    }
  });
  return el("p", { class: "type" }, el("code", {}, text), button);
}
