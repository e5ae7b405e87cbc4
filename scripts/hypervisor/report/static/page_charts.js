// The charts: each with a sentence that says the same, and a table behind it.

const LEFT = 62, RIGHT = 8, BOTTOM = 18;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 604800];

function span(rows, readings, now) {
  let from = Infinity, to = -Infinity;
  for (const row of rows) {
    if (row.started !== null && row.started < from) from = row.started;
    if (row.finished !== null) {
      if (row.finished > to) to = row.finished;
      if (row.finished < from) from = row.finished;
    }
  }
  for (const one of readings) { from = Math.min(from, one[0]); to = Math.max(to, one[0]); }
  if (now !== null && from < Infinity) to = Math.max(to, now);
  return from < Infinity ? { from, to: Math.max(to, from + 1) } : null;
}

function plot(width, height, time, top, label) {
  const inner = width - LEFT - RIGHT;
  const x = (at) => LEFT + (inner * (at - time.from)) / (time.to - time.from);
  const y = (value) => 6 + (height - BOTTOM - 6) * (1 - value / top);
  const box = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
  const step = STEPS.find((s) => (time.to - time.from) / s <= width / 110) || 604800 * 4;
  const zone = new Date(time.from * 1000).getTimezoneOffset() * 60;
  const base = height - BOTTOM;
  for (let at = Math.ceil((time.from - zone) / step) * step + zone; at <= time.to; at += step) {
    box.append(svg("line", { class: "axis", x1: x(at), x2: x(at), y1: 6, y2: base }));
    if (x(at) < width - 40)
      box.append(svg("text", { x: x(at), y: height - 4 }, step >= 86400 ? day(at) : clock(at, step < 60)));
  }
  box.append(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: base, y2: base }));
  return { box, x, y, base, inner };
}
// Lines at round figures: two to four of them.
function scale(p, top, unit) {
  const ten = 10 ** Math.floor(Math.log10(top)), step = [0.5, 1, 2, 5].map((n) => n * ten).find((s) => top / s < 5);
  for (let n = 1; n * step <= top * 1.0001; n += 1) {
    const y = p.y(n * step);
    p.box.append(svg("line", { class: "axis", x1: LEFT, x2: LEFT + p.inner, y1: y, y2: y }));
    p.box.append(svg("text", { x: LEFT - 5, y: y + 4, "text-anchor": "end" }, unit(n * step)));
  }
}
function figure(title, sentence, drawn, behind) {
  return el("figure", {},
    el("figcaption", {}, el("b", {}, `${title}. `), sentence),
    drawn,
    behind ? el("details", {}, el("summary", {}, "As a table"), el("div", { class: "scroll" }, behind)) : null);
}

function throughput(rows, time, width) {
  const step = STEPS.find((s) => (time.to - time.from) / s <= 90) || 604800;
  const first = Math.floor(time.from / step), bins = [];
  for (const row of rows) {
    if (row.finished === null) continue;
    const bin = (bins[Math.floor(row.finished / step) - first] ||= { good: 0, bad: 0 });
    bin[row.state === "success" ? "good" : "bad"] += 1;
  }
  const rate = (n) => (n * 60) / step;
  let most = 0, at = 0;
  bins.forEach((bin, n) => { if (bin.good + bin.bad > most) { most = bin.good + bin.bad; at = n; } });
  if (!most) return null;
  const sentence = `At most ${short(Math.round(rate(most) * 10) / 10)} items a minute, at ${clock((first + at) * step, true)}; in steps of ${duration(step)}.`;
  const top = rate(most) * 1.05, p = plot(width, 150, time, top, `Throughput. ${sentence}`);
  scale(p, top, axis);
  const data = [];
  bins.forEach((bin, n) => {
    const from = Math.max(p.x((first + n) * step), LEFT), to = Math.min(p.x((first + n + 1) * step), LEFT + p.inner);
    const good = p.y(rate(bin.good)), all = p.y(rate(bin.good + bin.bad));
    const wide = Math.max(1, to - from - 1);
    p.box.append(
      svg("rect", { class: "fill-success", x: from, width: wide, y: good, height: p.base - good }),
      svg("rect", { class: "fill-failed", x: from, width: wide, y: all, height: good - all }));
    data.push([clock((first + n) * step, true), count(bin.good), count(bin.bad)]);
  });
  return figure("Throughput", sentence + " Green: success; red on top: anything else.", p.box,
    table("Items that ended", [`From, for ${duration(step)}`, "Success", "Other"], data, [1, 2]));
}

function curve(points, p, kind) {
  let path = "", pen = false;
  for (const [at, value] of points) {
    if (value === null) { pen = false; continue; }
    path += `${pen ? "L" : "M"}${p.x(at).toFixed(1)} ${p.y(value).toFixed(1)}${pen ? "" : "h.1"}`; // one alone is a dot
    pen = true;
  }
  p.box.append(svg("path", { class: `curve ${kind}`, d: path }));
}
function resources(readings, time, width) {
  if (!readings.length) return null;
  const most = (n) => readings.reduce((top, one) => (one[n] === null ? top : Math.max(top ?? 0, one[n])), null);
  const say = (what, n) => (most(n) === null ? [] : [`${what} at most ${Math.round(most(n))} %`]);
  const zones = [];
  readings.forEach((one, n) => {
    const word = one[one.length - 1], end = n + 1 < readings.length ? readings[n + 1][0] : time.to;
    const last = zones[zones.length - 1];
    if (last && last.word === word) last.to = end;
    else zones.push({ word, from: one[0], to: end });
  });
  const bad = zones.filter((zone) => !["", "safe", "ideal"].includes(zone.word));
  const held = bad.length ? `; ${bad.length} time(s) not safe` : "";
  const sentence = `${[...say("CPU", 1), ...say("RAM", 2)].join(", ")}${held}.`;
  const p = plot(width, 150, time, 100, `Machine. ${sentence}`);
  for (const zone of bad) {
    const wide = Math.max(1, p.x(zone.to) - p.x(zone.from));
    const band = svg("rect", { class: `zone-${zone.word}`, x: p.x(zone.from), width: wide, y: 6, height: p.base - 6 });
    p.box.insertBefore(band, p.box.firstChild);
    if (wide > 60) p.box.append(svg("text", { x: p.x(zone.from) + 3, y: 18 }, zone.word));
  }
  scale(p, 100, (v) => `${v} %`);
  curve(readings.map((one) => [one[0], one[1]]), p, "cpu");
  curve(readings.map((one) => [one[0], one[2]]), p, "ram");
  const percent = (v) => (v === null ? none() : `${Math.round(v)} %`);
  return figure("Machine", sentence + " Blue: CPU; violet: RAM; shaded: the zone was not safe.", p.box,
    table("Readings", ["At", "CPU", "RAM", "Zone"],
      readings.map((one) => [clock(one[0], true), percent(one[1]), percent(one[2]), one[one.length - 1] || none()]), [1, 2]));
}

// The sums over time of column n, which is null before anything is known.
function spending(title, sums, n, missing, say, time, width) {
  const all = sums.filter((one) => one[n] !== null).map((one) => [one[0], one[n]]);
  if (!all.length) return null;
  // A screen has not more columns than that.
  const step = Math.ceil(all.length / 800), points = all.filter((_, k) => k % step === 0 || k === all.length - 1);
  const sum = all[all.length - 1][1];
  const sentence = `${say(sum)} in all${missing ? `, as far as known: ${count(missing)} did not tell` : ""}.`;
  const top = sum * 1.05 || 1, p = plot(width, 110, time, top, `${title}. ${sentence}`);
  scale(p, top, axis);
  curve([[time.from, 0], ...points], p, "sum");
  const few = Math.ceil(points.length / 40);
  return figure(title, sentence, p.box,
    table(title, ["Until", "Sum"], points.filter((_, k) => k % few === 0 || k === points.length - 1)
      .map((one) => [clock(one[0], true), say(one[1])]), [1]));
}
function sumsOf(rows) {
  const sums = [0, null, null];
  const add = (n, more) => { if (more !== null) sums[n] = (sums[n] ?? 0) + more; return sums[n]; };
  return rows.filter((row) => row.finished !== null).sort((a, b) => a.finished - b.finished)
    .map((row) => [row.finished, add(1, row.tokens), add(2, row.cost_usd)]);
}

// Who worked when. What one worker did at the same time (a coordinator's agents) takes several lanes.
function lanesOf(rows, workers, tries, now, atWork) {
  const spans = [];
  for (const row of rows)
    if (row.started !== null && row.finished !== null && row.worker !== null)
      spans.push({ who: workers[row.worker], from: row.started, to: row.finished, state: row.state, row });
  for (const [number, attempt, from, to, how] of tries)
    spans.push({ who: "attempts before", from, to, state: "try", row: rows[number], how: `attempt ${attempt}: ${how}` });
  for (const one of atWork)
    if (one.since !== null && now !== null)
      spans.push({ who: one.who, from: one.since, to: now, state: "running", row: one });
  spans.sort((a, b) => a.from - b.from);
  const groups = new Map();
  for (const one of spans) {
    const lanes = groups.get(one.who) || groups.set(one.who, []).get(one.who);
    const lane = lanes.find((l) => l.end <= one.from + 0.002);
    if (lane) { lane.spans.push(one); lane.end = Math.max(lane.end, one.to); }
    else lanes.push({ spans: [one], end: one.to });
  }
  return [...groups].flatMap(([who, lanes]) =>
    lanes.map((lane, n) => ({ who: lanes.length > 1 ? `${who} ${n + 1}` : who, spans: lane.spans })));
}
const WORST = ["success", "skipped", "running", "try", "blocked", "failed"];
function timeline(lanes, time, width) {
  if (!lanes.length) return null;
  const tall = 16, height = lanes.length * tall + BOTTOM + 8;
  const busy = (lane) => lane.spans.reduce((sum, one) => sum + one.to - one.from, 0);
  const sentence = `${count(lanes.length)} lane(s), ${count(lanes.reduce((n, lane) => n + lane.spans.length, 0))} pieces of work.`;
  const p = plot(width, height, time, 1, `Workers. ${sentence}`);
  lanes.forEach((lane, n) => {
    const y = 6 + n * tall;
    p.box.append(svg("text", { x: LEFT - 5, y: y + 11, "text-anchor": "end" }, String(n + 1)));
    let last = null;
    for (const one of lane.spans) {
      const from = p.x(one.from), to = Math.max(p.x(one.to), from + 0.5);
      // What is less than two pixels from the one before is drawn with it, in the colour of the worse.
      if (last && from - last.to < 0.7 && (to - last.from < 2.5 || (to - from < 2 && last.state === one.state))) {
        last.to = Math.max(last.to, to); last.many += 1;
        if (WORST.indexOf(one.state) > WORST.indexOf(last.state)) last.state = one.state;
        continue;
      }
      if (last) drawBar(p.box, last, y, tall);
      last = { from, to, state: one.state, many: 1, one };
    }
    if (last) drawBar(p.box, last, y, tall);
  });
  const data = lanes.map((lane, n) => [String(n + 1), name(lane.who), count(lane.spans.length),
    count(lane.spans.filter((one) => one.state === "failed").length), moment(lane.spans[0].from),
    moment(Math.max(...lane.spans.slice(-50).map((one) => one.to))),
    `${Math.min(100, Math.round((100 * busy(lane)) / (time.to - time.from)))} %`]);
  return figure("Workers", `${sentence} Coloured by how each ended, taller where it did not succeed; outlined: attempts that were not the last.`,
    el("div", { class: "lanes" }, p.box),
    table("Workers", ["Lane", "Worker", "Items", "Failed", "First start", "Last end", "Busy"], data, [0, 2, 3, 6]));
}
function drawBar(box, bar, y, tall) {
  const text = bar.many > 1 ? `${bar.many} items` : `${bar.one.row ? bar.one.row.name : ""} ${bar.one.how || bar.state}, ${duration(bar.one.to - bar.one.from)}`;
  const wide = Math.max(0.8, bar.to - bar.from - (bar.to - bar.from > 3 ? 0.7 : 0));
  const edge = ["blocked", "failed"].includes(bar.state) ? 0 : 3; // trouble is taller too, not only of another colour
  box.append(svg("rect", { class: `fill-${bar.state}`, x: bar.from, y: y + edge, width: wide, height: tall - 1 - 2 * edge }, svg("title", {}, text)));
}
