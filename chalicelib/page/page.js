// The page. It asks the API beside it and draws what that says; nothing else is loaded.
// In order: elements, times and numbers, the API, polling, parts of views, charts, views, routes.

const BASE = new URL(".", import.meta.url);
const KEY = "scheduler-key";
const NOTHING = "–";
const STATES = ["scheduled", "running", "completed", "failed"];
const LIVE_MS = { overview: 5000, slowWindow: 60000, tasks: 3000, soon: 1000, task: 3000, finished: 10000 };
const AWAY_MS_MAX = 30000;
const LIMITS = { backlogS: 30, latenessMs: 5000, placesPart: 0.9, failedPart: 0.05 };
const WINDOWS = {
  "15m": { text: "15 min", ms: 900000, step: "1m" },
  "1h": { text: "1 h", ms: 3600000, step: "1m" },
  "24h": { text: "24 h", ms: 86400000, step: "1h" },
};

// ---- Elements: text goes into text nodes only ----

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...present(children));
  return element;
}

function present(children) {
  return children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false);
}

function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

function put(element, ...children) {
  element.replaceChildren(...present(children));
}

// Replaces children by key, and keeps those whose content is as it was: focus stays where it is.
function sync(parent, items, keyOf, draw) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const after = items.map((item, place) => {
    const key = String(keyOf(item, place));
    const content = JSON.stringify(item);
    const old = before.get(key);
    if (old && old.content === content) return old;
    const made = draw(item, place);
    made.dataset.key = key;
    made.content = content;
    return made;
  });
  if (after.length === parent.children.length && after.every((one, n) => one === parent.children[n])) return;
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const key = focused?.closest("[data-key]")?.dataset.key;
  parent.replaceChildren(...after);
  if (key) after.find((one) => one.dataset.key === key)?.querySelector("a, button")?.focus();
}

// Tells a screen reader.
function say(text) {
  byId("said").textContent = text;
}

function alertWith(text) {
  const element = byId("alert");
  if (element.textContent !== text) element.textContent = text;
  element.hidden = !text;
}

// ---- Times and numbers ----

let skewMs = 0; // What the API's clock is ahead of this one.

function now() {
  return Date.now() + skewMs;
}

function noteDate(text) {
  const ms = Date.parse(text || "");
  if (!ms) return;
  const off = ms + 500 - Date.now(); // A Date has whole seconds.
  if (Math.abs(off - skewMs) > 1500) skewMs = Math.abs(off) > 1500 ? off : 0;
}

function duration(ms) {
  const units = [[86400000, "d"], [3600000, "h"], [60000, "min"]];
  for (const [size, name] of units) if (ms >= 2 * size) return `${Math.round(ms / size)} ${name}`;
  if (ms >= 10000) return `${Math.round(ms / 1000)} s`;
  return ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms)} ms`;
}

function ago(ms) {
  const off = ms - now();
  const size = Math.abs(off);
  if (size < 1000) return "now";
  const text = duration(size < 120000 ? Math.floor(size / 1000) * 1000 : size).replace(".0 s", " s");
  return off > 0 ? `in ${text}` : `${text} ago`;
}

function two(number) {
  return String(number).padStart(2, "0");
}

// 2026-11-29 10:15:32 in the viewer's zone.
function local(ms) {
  const date = new Date(ms);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(ms, true)}`;
}

function clock(ms, withSeconds) {
  const date = new Date(ms);
  const text = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return withSeconds ? `${text}:${two(date.getSeconds())}` : text;
}

function utc(ms) {
  return `${new Date(ms).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

function zone() {
  return Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";
}

// Relative, and counting; the absolute time is in its title, and beside it if it is asked for.
function when(text, isLong) {
  if (!text) return NOTHING;
  const ms = Date.parse(text);
  const title = `${local(ms)} ${zone()} · ${utc(ms)}`;
  const time = h("time", { datetime: text, title, "data-ago": ms }, ago(ms));
  return isLong ? h("span", {}, `${local(ms)} (`, time, ")") : time;
}

function count(number) {
  return number.toLocaleString("en");
}

function many(number, one, others = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : others}`;
}

function perSecond(rate) {
  return rate >= 1 || rate === 0 ? `${count(Math.round(rate * 10) / 10)}/s` : `${count(Math.round(rate * 600) / 10)}/min`;
}

function ranges(numbers) {
  const parts = [];
  for (const number of numbers) {
    const last = parts.at(-1);
    if (last && last[1] === number - 1) last[1] = number;
    else parts.push([number, number]);
  }
  return parts.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ") || "none";
}

function short(id) {
  return id ? id.slice(0, 8) : NOTHING;
}

// ---- The API ----

class ApiError extends Error {
  constructor(status, body) {
    super(body?.Message || (status ? `The API answered with status ${status}.` : "The API does not answer."));
    this.status = status;
    this.type = body?.Type || "";
    this.details = body?.Details || {};
  }

  // To ask again may help: nothing came, or the service is not fit just now.
  get isPassing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

async function call(method, path, { query, body, idempotencyKey, signal } = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of query || []) if (value) url.searchParams.append(name, value);
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (idempotencyKey) headers["Idempotency-Key"] = idempotencyKey;
  let response;
  try {
    response = await fetch(url, { method, headers, body, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0);
  }
  noteDate(response.headers.get("Date"));
  const answer = await response.json().catch(() => null);
  if (response.ok && (answer || response.status === 204)) return answer;
  if (response.ok) throw new ApiError(0); // It was cut short.
  const failure = new ApiError(response.status, answer);
  if (failure.status === 401) askForKey(key ? failure.message : "");
  throw failure;
}

function askForKey(problem) {
  const dialog = byId("key-dialog");
  if (dialog.open) return;
  byId("key").value = "";
  byId("key-error").textContent = problem;
  byId("key").setAttribute("aria-invalid", String(Boolean(problem)));
  dialog.showModal();
  byId("key").focus();
}

function showForget() {
  byId("forget").hidden = !sessionStorage.getItem(KEY);
}

function watchKey() {
  const dialog = byId("key-dialog");
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = byId("key").value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) {
      byId("key-error").textContent = "A key is one word, such as schedkey_…";
      byId("key").setAttribute("aria-invalid", "true");
      return;
    }
    sessionStorage.setItem(KEY, key);
    byId("key").value = "";
    dialog.close();
  });
  dialog.addEventListener("close", () => { showForget(); route(); });
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  byId("forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    showForget();
    route();
  });
  showForget();
}

let contract = null;

// The task types, and the schema of each one's payload, as the API describes them.
async function taskTypes(signal) {
  contract = contract || (await call("GET", "openapi.json", { signal })).components.schemas;
  const branches = contract.NewTask.anyOf || [contract.NewTask];
  const payloads = new Map();
  for (const { properties } of branches)
    for (const type of properties.type.enum || contract.TaskType.enum) payloads.set(type, properties.payload);
  return new Map([...payloads].sort(([a], [b]) => (a < b ? -1 : 1)));
}

function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `page-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

// ---- Polling: bounded, still while nobody looks, slower while the API is away ----

function showLive(kind, text) {
  const element = byId("live");
  element.className = `live ${kind}`;
  if (element.textContent !== text) element.textContent = text;
}

let isAway = false;

function noteAnswer() {
  if (isAway) {
    say("The API answers again.");
    alertWith("");
  }
  isAway = false;
  showLive("is-live", "Live");
}

function noteFailure(error) {
  isAway = true;
  alertWith(`${error.message}${error.isPassing ? " What is shown may be old. Trying again." : ""}`);
  showLive("is-away", error.status ? "Not updated" : "API away");
}

// work: asks and draws; gives the pause until the next time, or null to stop.
function poll(view, work) {
  let timer = 0, failures = 0, isAsking = false, isWanted = false;
  async function turn() {
    clearTimeout(timer);
    isWanted = isAsking;
    if (isAsking || document.hidden || view.signal.aborted) return;
    isAsking = true;
    let pauseMs = null;
    try {
      pauseMs = await work();
      failures = 0;
      if (!view.signal.aborted) noteAnswer();
    } catch (error) {
      if (view.signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
      noteFailure(error);
      failures += 1;
      pauseMs = error.isPassing ? Math.min(AWAY_MS_MAX, 500 * 2 ** failures) : null;
    } finally {
      isAsking = false;
    }
    if (view.signal.aborted) return;
    if (isWanted) turn();
    else if (pauseMs !== null) timer = setTimeout(turn, pauseMs);
  }
  view.signal.addEventListener("abort", () => clearTimeout(timer));
  document.addEventListener("visibilitychange", turn, { signal: view.signal });
  turn();
  return turn;
}

// ---- Parts of views ----

function link(hash, ...children) {
  return h("a", { href: hash }, ...children);
}

function taskHash(id) {
  return `#/task/${encodeURIComponent(id)}`;
}

// A task's type, and its id as a link to it.
function taskLink(task) {
  return [`${task.type} `, h("a", { class: "mono", href: taskHash(task.id), title: task.id }, short(task.id))];
}

function tasksHash(values) {
  const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value));
  return query.size ? `#/tasks?${query}` : "#/tasks";
}

function tag(state) {
  return h("span", { class: `state ${state}` }, state.replace("_", " "));
}

// columns: [title, class]. The roles stand although it is a table: on narrow screens it is laid out as blocks.
function table(caption, columns) {
  const heads = columns.map(([title, kind]) =>
    h("th", { scope: "col", role: "columnheader", class: kind }, title));
  const body = h("tbody", { role: "rowgroup" });
  const whole = h("table", { class: "stack", role: "table" },
    h("caption", { class: "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)), body);
  whole.draw = (items, keyOf, cells) => sync(body, items, keyOf, (item) => row(columns, cells(item)));
  return whole;
}

function row(columns, cells) {
  return h("tr", { role: "row" }, cells.map((cell, n) => {
    const [title, kind] = columns[n];
    const attributes = { class: cell === NOTHING ? `${kind} nothing` : kind, "data-label": title };
    return n === 0
      ? h("th", { scope: "row", role: "rowheader", ...attributes }, h("span", {}, cell))
      : h("td", { role: "cell", ...attributes }, h("span", {}, cell));
  }));
}

function heading(text) {
  return h("h1", { tabindex: "-1" }, text);
}

function panel(title, ...children) {
  return h("section", { class: "panel" }, h("h2", {}, title), children);
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curlOf(body) {
  const lines = [
    `curl ${quoted(new URL("task", BASE).href)}`,
    "-H 'Content-Type: application/json'",
    sessionStorage.getItem(KEY) && '-H "Authorization: Bearer $SCHEDULER_KEY"',
    `-d ${quoted(JSON.stringify(body))}`,
  ];
  return present(lines).join(" \\\n    ");
}

async function copyCurl(body) {
  const text = curlOf(body);
  try {
    await navigator.clipboard.writeText(text);
    say("The command was copied.");
    return true;
  } catch { // Not over http, nor where it is forbidden.
    byId("curl-text").textContent = text;
    byId("curl-dialog").showModal();
    getSelection().selectAllChildren(byId("curl-text"));
    return false;
  }
}

function curlButton(bodyOf) {
  const button = h("button", { type: "button" }, "Copy as curl");
  button.addEventListener("click", async () => {
    const body = bodyOf();
    if (!body || !(await copyCurl(body))) return;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy as curl"; }, 2000);
  });
  return button;
}

function firstVisit() {
  const body = { type: "Foo", send_ts: new Date(now() + 10000).toISOString() };
  return panel("No tasks yet",
    h("p", {}, "A task has a type and a time. Create one here, or from a shell:"),
    h("pre", { tabindex: "0", "aria-label": "Command that creates a task" }, curlOf(body)),
    h("p", {}),
    h("div", { class: "actions" }, h("a", { class: "button primary", href: "#/new" }, "Create a task"),
      curlButton(() => body)));
}

// ---- Charts: a few marks in SVG, with the same figures as a table below ----

const PLOT = { height: 168, left: 46, right: 6, top: 8, bottom: 22 };

function ceiling(value, least) {
  const most = Math.max(value, least);
  const size = 10 ** Math.floor(Math.log10(most));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((n) => n * size).find((one) => one >= most);
}

// spec: {title, summary, max, least, format, mark(point, x, y, width), tip(point)}
function drawChart(host, series, spec) {
  const width = Math.max(240, host.clientWidth);
  const top = ceiling(spec.max, spec.least);
  const y = (value) => PLOT.top + (1 - value / top) * (PLOT.height - PLOT.top - PLOT.bottom);
  const band = (width - PLOT.left - PLOT.right) / Math.max(1, series.length);
  const x = (n) => PLOT.left + n * band;
  const rules = [0, top / 2, top].filter((value) => spec.least > 1 || Number.isInteger(value)).map((value) => [
    svg("line", { class: "rule", x1: PLOT.left, x2: width - PLOT.right, y1: y(value), y2: y(value) }),
    svg("text", { x: PLOT.left - 6, y: y(value) + 4, "text-anchor": "end" }, spec.format(value)),
  ]);
  const hits = series.map((point, n) =>
    svg("rect", { class: "hit", x: x(n), y: PLOT.top, width: band, height: PLOT.height - PLOT.top - PLOT.bottom },
      svg("title", {}, `${local(Date.parse(point.ts)).slice(0, 16)}\n${spec.tip(point)}`)));
  put(host, svg("svg", { viewBox: `0 0 ${width} ${PLOT.height}`, role: "img", "aria-label": `${spec.title}. ${spec.summary}` },
    rules, instants(series, x, band, width), spec.marks(x, y, band), hits));
}

const ROUND_MIN = [5, 15, 30, 60, 120, 240, 360, 720];

// Round times of the viewer's clock, as many as have room.
function instants(series, x, band, width) {
  const minuteOf = (ms) => new Date(ms).getHours() * 60 + new Date(ms).getMinutes();
  const times = series.map((point) => Date.parse(point.ts));
  const spanMin = (times.at(-1) - times[0]) / 60000;
  const room = Math.max(2, Math.floor((width - PLOT.left) / 70));
  const every = ROUND_MIN.find((minutes) => spanMin / minutes <= room) || 1440;
  return times.map((ms, n) => minuteOf(ms) % every === 0 && x(n) > PLOT.left && x(n) < width - 24 &&
    svg("text", { x: x(n) + band / 2, y: PLOT.height - 4, "text-anchor": "middle" }, clock(ms)));
}

const OUTCOMES = [["completed", "good"], ["retried", "warn"], ["failed", "bad"]];

function throughputSpec(series) {
  const sum = (point) => OUTCOMES.reduce((total, [name]) => total + point[name], 0);
  const totals = OUTCOMES.map(([name]) => `${count(series.reduce((all, point) => all + point[name], 0))} ${name}`);
  return {
    title: "Attempts by outcome", summary: `${totals.join(", ")}.`, least: 1, format: count,
    max: Math.max(0, ...series.map(sum)),
    tip: (point) => OUTCOMES.map(([name]) => `${count(point[name])} ${name}`).join("\n"),
    marks: (x, y, band) => series.map((point, n) => {
      let below = 0;
      return OUTCOMES.filter(([name]) => point[name]).map(([name, kind]) => {
        const from = y(below), to = y(below += point[name]);
        return svg("rect", { class: kind, x: x(n) + band * 0.12, width: Math.max(1, band * 0.76), y: to, height: from - to });
      });
    }),
  };
}

function latenessSpec(series) {
  const values = (name) => series.map((point) => point.lateness_ms[name]);
  const known = (name) => values(name).filter((value) => value !== null);
  const highest = Math.max(0, ...known("p99"));
  const text = (value) => (value === null ? NOTHING : duration(value));
  return {
    title: "Lateness of first starts", least: 10, format: duration, max: highest,
    summary: known("p99").length ? `The highest p99 of a step is ${duration(highest)}.` : "Nothing was started.",
    tip: (point) => `p50 ${text(point.lateness_ms.p50)}\np99 ${text(point.lateness_ms.p99)}`,
    marks: (x, y, band) => [["p99", "other"], ["p50", ""]].map(([name, kind]) =>
      curve(values(name).map((value, n) => value !== null && [x(n) + band / 2, y(value)]), kind)),
  };
}

// A line through neighbours; what has none is a dot.
function curve(points, kind) {
  const path = points.map((at, n) => at && `${points[n - 1] ? "L" : "M"}${at[0].toFixed(1)} ${at[1].toFixed(1)}`);
  const alone = points.filter((at, n) => at && !points[n - 1] && !points[n + 1]);
  return [
    svg("path", { class: `line ${kind}`, d: path.filter(Boolean).join("") || null }),
    alone.map(([cx, cy]) => svg("circle", { class: `dot ${kind}`, cx, cy, r: 3 })),
  ];
}

function legendMark(kind) {
  return kind.startsWith("line")
    ? svg("svg", { "aria-hidden": "true", viewBox: "0 0 16 10" }, svg("line", { class: kind, x1: 0, x2: 16, y1: 5, y2: 5 }))
    : svg("svg", { "aria-hidden": "true", viewBox: "0 0 16 10" }, svg("rect", { class: kind, x: 3, width: 10, height: 10, rx: 2 }));
}

// What draws: (series, legend). legend: [class, text] each.
function chartPanel(view, title, columns, cells, specOf) {
  const host = h("div", { class: "chart" });
  const legend = h("ul", { class: "legend" });
  const figures = table(title, columns);
  let last = null;
  const observer = new ResizeObserver(() => last && drawChart(host, last, specOf(last)));
  observer.observe(host);
  view.signal.addEventListener("abort", () => observer.disconnect());
  const scroll = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` }, figures);
  const section = panel(title, legend, host, h("details", {}, h("summary", {}, "Figures as a table"), scroll));
  return [section, (series, marks) => {
    last = series;
    put(legend, marks.map(([kind, text]) => h("li", {}, legendMark(kind), text)));
    drawChart(host, series, specOf(series));
    figures.draw([...series].reverse(), (point) => point.ts, cells);
  }];
}

// ---- View: overview ----

// What is not well: [level, sentence, what to do] each, the worst first.
function problems(ready, stats) {
  const found = [];
  const { backlog, processors, total } = stats;
  const lately = stats.series.slice(-15);
  if (ready instanceof ApiError) found.push(["bad", ready.message, "No task can run until the store takes reads and writes."]);
  else if (ready.store === "slow")
    found.push(["warn", `The store is slow: it answers in ${duration(ready.latency_ms)}.`, "Tasks start late. Add nodes, or wait."]);
  if (!processors.length && !(ready instanceof ApiError))
    found.push(["bad", "No processor is alive, so nothing runs.", "Start a worker."]);
  const heldS = Math.max(0, ...processors.map((one) => one.held_back_s));
  if (heldS) found.push(["warn", `The oldest due task has waited ${duration(heldS * 1000)} for the store.`, "Add nodes to the store."]);
  else if (backlog.oldest_s > LIMITS.backlogS)
    found.push([processors.length ? "warn" : "bad", `${waiting(backlog)}, the oldest for ${duration(backlog.oldest_s * 1000)}.`,
      processors.length ? "More is due than can run: add workers." : ""]);
  const places = sum(processors, "places"), taken = sum(processors, "taken");
  if (places && taken >= places * LIMITS.placesPart)
    found.push(["warn", `${count(taken)} of ${count(places)} places are taken.`, "Soon tasks wait: add workers."]);
  const failed = sum(lately, "failed"), ended = failed + sum(lately, "completed");
  if (failed > ended * LIMITS.failedPart)
    found.push(["bad", `${many(failed, "task")} of ${count(ended)} failed for good in the last 15 minutes.`, "Their errors are below."]);
  const latest = Math.max(0, ...lately.map((point) => point.lateness_ms.p99 || 0));
  if (latest > LIMITS.latenessMs)
    found.push(["warn", `In the last 15 minutes one task in a hundred started ${duration(latest)} late.`, ""]);
  if (sum(lately, "leases_lost"))
    found.push(["warn", `${many(sum(lately, "leases_lost"), "attempt")} ended with a process that died in the last 15 minutes.`,
      "They run again. The worker's log says why."]);
  if (!stats.is_complete) found.push(["warn", "Not every figure of the last hour could be read.", ""]);
  return found.sort(([a], [b]) => (a === b ? 0 : a === "bad" ? -1 : 1));
}

function sum(rows, name) {
  return rows.reduce((total, one) => total + (one[name] || 0), 0);
}

function waiting(backlog) {
  return `${count(backlog.due)}${backlog.is_more ? " or more" : ""} due ${backlog.due === 1 ? "task waits" : "tasks wait"}`;
}

function wellness(stats) {
  const lately = stats.series.slice(-15);
  const done = sum(lately, "completed"), failed = sum(lately, "failed");
  const latest = Math.max(...lately.map((point) => point.lateness_ms.max ?? -1));
  return `All is well. ${many(stats.processors.length, "processor is", "processors are")} alive, ` +
    `${stats.backlog.due ? waiting(stats.backlog) : "nothing waits"}, and ${many(done, "task was", "tasks were")} ` +
    `completed in the last 15 minutes${failed ? `, ${count(failed)} failed` : ""}` +
    `${latest >= 0 ? `, none started more than ${duration(latest)} late` : ""}.`;
}

function verdictBox() {
  const text = h("p", { id: "verdict" });
  const more = h("ul", {});
  const box = h("div", { class: "verdict" }, h("div", {}, text, more));
  let told = "", level = "";
  return [box, (ready, stats) => {
    const found = problems(ready, stats);
    const sentences = found.map(([, sentence, todo]) => (todo ? `${sentence} ${todo}` : sentence));
    const content = found.length ? sentences.join("\n") : wellness(stats);
    if (content === told) return;
    told = content;
    const before = level;
    level = found.length ? found[0][0] : "good";
    if (level !== before) say(content); // Not each time a figure changes.
    box.className = `verdict ${level}`;
    put(text, found.length ? [h("strong", {}, level === "bad" ? "Not well. " : "Take a look. "), sentences[0]] : content);
    put(more, sentences.slice(1).map((sentence) => h("li", {}, sentence)));
    more.hidden = sentences.length < 2;
  }];
}

function figuresList() {
  const names = [["Waiting", "due, not started"], ["Completed", "last hour"], ["Failed for good", "last hour"],
    ["Late, p99", "last hour"], ["Places", ""]];
  const values = names.map(() => h("span", {}, NOTHING));
  const notes = names.map(([, note]) => h("small", {}, note));
  const list = h("dl", { class: "figures" }, names.map(([name], n) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, values[n], notes[n]))));
  return [list, ({ backlog, total, per_second: rate, processors }) => {
    const places = sum(processors, "places");
    values[0].textContent = `${count(backlog.due)}${backlog.is_more ? "+" : ""}`;
    notes[0].textContent = backlog.due ? `oldest for ${duration(backlog.oldest_s * 1000)}` : "nothing is overdue";
    values[1].textContent = count(total.completed);
    notes[1].textContent = `last hour, ${perSecond(rate.completed)}`;
    values[2].textContent = count(total.failed);
    notes[2].textContent = `last hour, ${count(total.retried)} retried`;
    values[3].textContent = total.lateness_ms.p99 === null ? NOTHING : duration(total.lateness_ms.p99);
    notes[3].textContent = total.lateness_ms.p50 === null ? "nothing started" : `p50 ${duration(total.lateness_ms.p50)}`;
    values[4].textContent = places ? `${count(sum(processors, "taken"))} of ${count(places)}` : NOTHING;
    notes[4].textContent = `taken, ${many(processors.length, "processor")}`;
  }];
}

function windowSwitch(chosen, onChoice) {
  const buttons = Object.entries(WINDOWS).map(([name, { text }]) =>
    h("button", { type: "button", "aria-pressed": String(name === chosen), onclick: () => choose(name) }, text));
  function choose(name) {
    Object.keys(WINDOWS).forEach((one, n) => buttons[n].setAttribute("aria-pressed", String(one === name)));
    onChoice(name);
  }
  return h("div", { class: "switch end", role: "group", "aria-label": "Time shown" }, buttons);
}

function processorsPanel() {
  const rows = table("Live processors", [["Processor", "nowrap"], ["Host", ""], ["Version", ""], ["Places taken", "nowrap"],
    ["Shards", ""], ["Heartbeat", "nowrap"]]);
  const none = h("p", { class: "muted" }, "None is alive. Start one: ", h("code", {}, "python -m worker"));
  const section = panel("Processors", none, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Processors" }, rows));
  return [section, (processors) => {
    none.hidden = processors.length > 0;
    rows.hidden = !processors.length;
    rows.draw(processors, (one) => one.id, (one) => [
      [`${one.kind} `, h("span", { class: "mono", title: one.id }, short(one.id))],
      one.host ?? NOTHING, one.version ?? NOTHING, places(one), one.shards.length ? `${one.shards.length} (${ranges(one.shards)})` : "none",
      `${duration(one.seconds_since_heartbeat * 1000)} ago`,
    ]);
  }];
}

function places(one) {
  if (one.places === null || one.taken === null) return NOTHING;
  const part = h("span", {});
  part.style.width = `${one.places ? Math.min(100, (100 * one.taken) / one.places) : 0}%`;
  return [h("span", { class: "meter", "aria-hidden": "true" }, part), `${count(one.taken)} of ${count(one.places)}`];
}

function failuresPanel() {
  const rows = table("Failures of the last hour", [["Task", "nowrap"], ["Failed", "nowrap"], ["Error", "text"]]);
  const none = h("p", { class: "muted" }, "None.");
  const all = h("span", { class: "end small" }, link(tasksHash({ state: "failed" }), "All failed tasks"));
  const section = h("section", { class: "panel" }, h("div", { class: "head" }, h("h2", {}, "Failures of the last hour"), all),
    none, h("div", { class: "scroll" }, rows));
  return [section, (tasks) => {
    none.hidden = tasks.length > 0;
    rows.hidden = !tasks.length;
    rows.draw(tasks.slice(0, 5), (task) => task.id, (task) => [
      taskLink(task),
      when(task.finished_ts), h("span", { class: "clip" }, task.error || NOTHING)]);
  }];
}

async function recentFailures(signal) {
  const query = [["state", "failed"], ["order", "desc"], ["limit", "50"]];
  const { tasks } = await call("GET", "task", { query, signal });
  const since = now() - 3600000;
  return tasks.filter((task) => Date.parse(task.finished_ts) >= since)
    .sort((a, b) => Date.parse(b.finished_ts) - Date.parse(a.finished_ts));
}

function statsOf(name, signal) {
  const { ms, step } = WINDOWS[name];
  const query = name === "1h" ? [] : [["since", new Date(now() - ms).toISOString()], ["step", step]];
  return call("GET", "stats", { query, signal });
}

async function readiness(signal) {
  try {
    return await call("GET", "ready", { signal });
  } catch (error) {
    if (error instanceof ApiError && error.status === 503) return error;
    throw error;
  }
}

const FIGURE_COLUMNS = {
  throughput: [["Time", "nowrap"], ["Completed", "number"], ["Retried", "number"], ["Failed", "number"]],
  lateness: [["Time", "nowrap"], ["p50", "number"], ["p99", "number"], ["Highest", "number"]],
};

function chartsOf(view) {
  const at = (point) => local(Date.parse(point.ts)).slice(0, 16);
  const text = (value) => (value === null ? NOTHING : duration(value));
  const [throughput, drawThroughput] = chartPanel(view, "Throughput", FIGURE_COLUMNS.throughput,
    (point) => [at(point), count(point.completed), count(point.retried), count(point.failed)], throughputSpec);
  const [lateness, drawLateness] = chartPanel(view, "Lateness", FIGURE_COLUMNS.lateness,
    ({ ts, lateness_ms: one }) => [at({ ts }), text(one.p50), text(one.p99), text(one.max)], latenessSpec);
  return [h("div", { class: "columns" }, throughput, lateness), ({ total, series }) => {
    drawThroughput(series, OUTCOMES.map(([name, kind]) => [kind, `${count(total[name])} ${name}`]));
    drawLateness(series, [["line", `p50 ${text(total.lateness_ms.p50)}`], ["line other", `p99 ${text(total.lateness_ms.p99)}`]]);
  }];
}

function overview(view) {
  let chosen = sessionStorage.getItem("window") in WINDOWS ? sessionStorage.getItem("window") : "1h";
  let drawnAt = 0, isFirst = true;
  const [verdict, drawVerdict] = verdictBox();
  const [figures, drawFigures] = figuresList();
  const [charts, drawCharts] = chartsOf(view);
  const [processors, drawProcessors] = processorsPanel();
  const [failures, drawFailures] = failuresPanel();
  const hello = h("div", {});
  const choice = windowSwitch(chosen, (name) => { sessionStorage.setItem("window", chosen = name); drawnAt = 0; refresh(); });
  put(view.main, h("div", { class: "head" }, heading("Overview"), choice), verdict, hello, figures, charts, failures, processors);
  async function ask() {
    const { signal } = view;
    const wants = chosen, isDue = wants !== "24h" || now() - drawnAt > LIVE_MS.slowWindow;
    const [ready, stats, shown] = await Promise.all([readiness(signal), statsOf("1h", signal),
      wants !== "1h" && isDue ? statsOf(wants, signal) : null]);
    drawVerdict(ready, stats);
    drawFigures(stats);
    drawProcessors(stats.processors);
    if (isDue && wants === chosen) { drawCharts(shown || stats); drawnAt = now(); }
    drawFailures(await recentFailures(signal));
    if (isFirst && !stats.total.started) put(hello, await isEmpty(signal) && firstVisit());
    else if (stats.total.started) put(hello);
    isFirst = false;
    return LIVE_MS.overview;
  }
  const refresh = poll(view, ask);
}

async function isEmpty(signal) {
  const { tasks, cursor } = await call("GET", "task", { query: [["limit", "1"]], signal });
  return !tasks.length && !cursor;
}

// ---- View: tasks ----

function field(label, control, ...more) {
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, more);
}

function select(id, options, chosen) {
  return h("select", { id, name: id }, optionsOf(options, chosen));
}

function optionsOf(options, chosen) {
  return options.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
}

function timeInput(id, text) {
  const value = text && Number.isFinite(Date.parse(text)) ? local(Date.parse(text)).replace(" ", "T") : null;
  return h("input", { id, name: id, type: "datetime-local", step: "1", value, title: `In ${zone()}` });
}

function filtersForm(params, onChange) {
  const state = select("state", [["", "any"], ...STATES.map((one) => [one, one])], params.get("state") || "");
  const type = select("type", [["", "any"]], "");
  const since = timeInput("since", params.get("since")), until = timeInput("until", params.get("until"));
  const order = select("order", [["", "newest first"], ["asc", "oldest first"]], params.get("order") || "");
  const form = h("form", { class: "filters", "aria-label": "Filters" }, field("State", state), field("Type", type),
    field("Due from", since), field("Due before", until), field("Order", order));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => onChange({
    state: state.value, type: type.value, since: iso(since.value), until: iso(until.value), order: order.value }));
  return [form, (types) => {
    const chosen = params.get("type");
    const names = [...types, ...(chosen && !types.includes(chosen) ? [chosen] : [])];
    put(type, optionsOf([["", "any"], ...names.map((one) => [one, one])], chosen || ""));
  }];
}

function iso(value) {
  const ms = value ? new Date(value).getTime() : NaN;
  return Number.isFinite(ms) ? new Date(ms).toISOString() : "";
}

function idSearch() {
  const input = h("input", { id: "search", type: "search", autocomplete: "off", spellcheck: "false",
    placeholder: "its id", "aria-describedby": "search-error" });
  const error = h("p", { id: "search-error", class: "error small", role: "alert" });
  const form = h("form", { class: "filters", role: "search" },
    h("div", { class: "field grow" }, h("label", { for: "search" }, "Find a task"), input, error),
    h("div", { class: "field" }, h("button", {}, "Show")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const id = input.value.trim().toLowerCase();
    const isId = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id);
    error.textContent = isId ? "" : "A whole id is needed, such as 34560e36-5c0a-49a7-8280-62131ecc8202.";
    input.setAttribute("aria-invalid", String(!isId));
    if (isId) location.hash = taskHash(id);
  });
  return form;
}

const TASK_COLUMNS = [["Task", "nowrap"], ["State", "nowrap"], ["Due", "nowrap"], ["Late", "number"], ["Attempts", "number"],
  ["Result or error", "text"]];

function taskCells(task) {
  return [
    taskLink(task),
    tag(task.state), when(task.send_ts), task.lateness_ms === null ? NOTHING : duration(task.lateness_ms), count(task.attempt),
    task.error || task.result ? h("span", { class: task.error ? "clip error" : "clip" }, task.error || task.result) : NOTHING,
  ];
}

function tasks(view) {
  const { params } = view;
  const rows = table("Tasks", TASK_COLUMNS);
  const list = h("div", { class: "scroll" }, rows), none = h("div", {}), pages = h("p", { class: "actions pages" });
  const [filters, drawTypes] = filtersForm(params, (values) => {
    for (const [name, value] of Object.entries(values)) value ? params.set(name, value) : params.delete(name);
    params.delete("cursor");
    history.replaceState(null, "", tasksHash(Object.fromEntries(params)));
    refresh();
  });
  put(view.main, h("div", { class: "head" }, heading("Tasks"), h("span", { class: "end" },
    h("a", { class: "button primary", href: "#/new" }, "Create a task"))),
    idSearch(), filters, h("section", { class: "panel", "aria-label": "List" }, list, none, pages));
  taskTypes(view.signal).then((types) => drawTypes([...types.keys()]), () => {});
  const refresh = poll(view, async () => {
    const asked = params.toString();
    const query = new URLSearchParams(params);
    query.set("order", params.get("order") || "desc");
    query.set("limit", "25");
    const page = await call("GET", "task", { query, signal: view.signal });
    if (asked === params.toString()) drawPage(page, params, { rows, list, none, pages });
    return LIVE_MS.tasks;
  });
}

function drawPage({ tasks, cursor }, params, { rows, list, none, pages }) {
  rows.draw(tasks, (task) => task.id, taskCells);
  list.hidden = !tasks.length;
  const kept = Object.fromEntries(params), isFiltered = ["state", "type", "since", "until"].some((name) => params.get(name));
  const at = params.get("cursor") || "";
  const content = JSON.stringify([tasks.length > 0, cursor, kept]);
  if (content === none.content) return;
  none.content = content;
  if (tasks.length) put(none);
  else if (cursor) put(none, h("p", { class: "muted" }, "Nothing on this page fits. The list goes on."));
  else if (isFiltered || at) put(none, h("p", { class: "muted" }, "No task fits. ", link("#/tasks", "Take the filters away")));
  else put(none, firstVisit());
  put(pages, at && link(tasksHash({ ...kept, cursor: "" }), "First page"), cursor && link(tasksHash({ ...kept, cursor }), "Next page"));
  pages.hidden = !at && !cursor;
}

// ---- View: one task ----

function timeline(task, explained) {
  const begin = [[Date.parse(task.created_ts), "Created", task.created_ts], [Date.parse(task.send_ts), "Due", task.send_ts]]
    .sort(([a], [b]) => a - b)
    .map(([, name, text]) => h("li", {}, h("h3", {}, name), h("div", { class: "when" }, when(text, true))));
  const attempts = (explained?.attempts || []).map(attemptItem);
  return h("ol", { class: "timeline" }, begin, attempts, nextItem(task, explained));
}

function attemptItem(one) {
  const tookMs = one.ended_ts && Date.parse(one.ended_ts) - Date.parse(one.started_ts);
  return h("li", { class: one.outcome },
    h("h3", {}, `Attempt ${one.attempt} `, tag(one.outcome)),
    h("div", { class: "when" }, one.ended_ts ? [span(one.started_ts, one.ended_ts), `, took ${duration(tookMs)}`]
      : ["since ", when(one.started_ts, true)]),
    h("div", { class: "when" }, "by ", h("span", { class: "mono" }, one.processor)),
    one.error && h("pre", {}, one.error));
}

// From one time to another with milliseconds, the day once.
function span(from, to) {
  const [text, end] = [from, to].map((one) => local(Date.parse(one)) + new Date(one).toISOString().slice(19, 23));
  const title = `${utc(Date.parse(from))} to ${utc(Date.parse(to))}`;
  return h("span", { title }, `${text} to ${end.slice(0, 10) === text.slice(0, 10) ? end.slice(11) : end}`);
}

function nextItem(task, explained) {
  if (task.finished_ts) {
    const text = task.state === "failed" ? "Failed for good" : "Completed";
    return h("li", { class: task.state }, h("h3", {}, text), h("div", { class: "when" }, when(task.finished_ts, true)));
  }
  return explained?.next_retry &&
    h("li", {}, h("h3", {}, "Next attempt"), h("div", { class: "when" }, "due ", when(explained.next_retry, true)));
}

function facts(task, explained) {
  const mono = (text) => text && h("span", { class: "mono" }, text);
  const lines = [
    ["Id", mono(task.id)], ["Type", task.type], ["State", tag(task.state)], ["Due", when(task.send_ts, true)],
    ["In UTC", utc(Date.parse(task.send_ts))],
    ["Late", task.lateness_ms === null ? "not started" : duration(task.lateness_ms)], ["Attempts", count(task.attempt)],
    ["Processor", mono(task.processor) || "none yet"], ["Shard", explained && count(explained.shard)],
    ["Looked after by", !task.finished_ts && mono(explained?.owner)], ["Request id", mono(task.request_id)],
  ];
  return h("dl", { class: "facts" }, lines.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function codePanel(title, text) {
  return text !== null && text !== undefined &&
    panel(title, h("pre", { tabindex: "0", "aria-label": title }, text));
}

function taskBody(task) {
  const { type, send_ts: sendTs, payload } = task;
  return payload === undefined ? { type, send_ts: sendTs } : { type, send_ts: sendTs, payload };
}

function nextLook(task, explained) {
  if (task.finished_ts) return LIVE_MS.finished;
  return task.state === "running" || explained?.seconds_until_due < 15 ? LIVE_MS.soon : LIVE_MS.task;
}

const LEVELS = { completed: "good", failed: "bad", running: "", scheduled: "" };

function task(view) {
  const { id } = view;
  let known = null, retryKey = randomKey();
  const sentence = h("p", { id: "explained" }, "Loading …");
  const box = h("div", { class: "verdict" }, sentence);
  const title = h("span", {}, `Task ${short(id)}`), content = h("div", {});
  const retry = h("button", { type: "button", class: "primary", hidden: true, onclick: runAgain }, "Run again");
  const remove = h("button", { type: "button", class: "danger", onclick: confirmDelete }, "Delete");
  const actions = h("div", { class: "actions end", hidden: true }, retry, curlButton(() => known && taskBody(known)), remove);
  put(view.main, h("div", { class: "head" }, heading(title), actions), box, content);
  async function runAgain() {
    retry.disabled = true;
    try {
      await call("POST", `task/${id}/retry`, { idempotencyKey: retryKey, signal: view.signal });
      retryKey = randomKey();
      alertWith("");
      view.main.querySelector("h1").focus();
    } catch (error) {
      tellFailure(error, "It was not run again. ");
    }
    retry.disabled = false;
    refresh();
  }
  function confirmDelete() {
    const dialog = byId("delete-dialog");
    byId("delete-text").textContent = known.finished_ts
      ? `Its record is gone then: ${known.type} ${id}.` : `It never runs then: ${known.type} ${id}.`;
    dialog.returnValue = "";
    dialog.addEventListener("close", () => dialog.returnValue === "yes" && erase(), { once: true });
    dialog.showModal();
  }
  async function erase() {
    try {
      await call("DELETE", `task/${id}`, { signal: view.signal });
      location.hash = "#/tasks";
      say("The task was deleted.");
    } catch (error) {
      tellFailure(error, "It was not deleted. ");
    }
  }
  function draw(one, explained) {
    if (known && known.state !== one.state) say(`The task is ${one.state}.`);
    title.textContent = `${one.type} ${short(id)}`;
    actions.hidden = false;
    retry.hidden = one.state !== "failed";
    box.className = `verdict ${LEVELS[one.state]}`;
    sentence.textContent = explained ? explained.message : `It is ${one.state}.`;
    const drawn = JSON.stringify([one, explained?.attempts, explained?.owner, explained?.next_retry]);
    known = one;
    if (content.drawn === drawn) return;
    content.drawn = drawn;
    put(content, h("div", { class: "columns" }, panel("What happened", timeline(one, explained)),
      h("div", {}, panel("Facts", facts(one, explained)), codePanel("Result", one.result), codePanel("Last error", explained ? null : one.error),
        codePanel("Payload", one.payload && JSON.stringify(one.payload, null, 2)))));
  }
  const refresh = poll(view, async () => {
    const { signal } = view;
    try {
      const [one, explained] = await Promise.all([call("GET", `task/${id}`, { signal }),
        call("GET", `task/${id}/explain`, { signal }).catch((error) => { if (error.status === 503) return null; throw error; })]);
      draw(one, explained);
      return nextLook(one, explained);
    } catch (error) {
      if (error.status !== 404) throw error;
      box.className = "verdict warn";
      actions.hidden = true;
      put(content, h("p", {}, link("#/tasks", "To the list of tasks")));
      sentence.textContent = known ? "It was deleted." : `${error.message} It may have been deleted.`;
      return known ? null : LIVE_MS.finished;
    }
  });
}

function tellFailure(error, before) {
  if (error.name === "AbortError") return;
  if (!(error instanceof ApiError)) throw error;
  if (error.status === 401) return;
  const { expected } = error.details;
  alertWith(`${before}${error.message}${error.status === 403 && expected ? ` It takes ${expected}.` : ""}`);
}

// ---- View: create ----

// One control for a part of a payload's schema; its name is the path that the API's errors tell.
function control(schema, path) {
  const kind = plain(schema);
  const id = `field-${path}`, shared = { id, name: path, "aria-describedby": `${id}-hint ${id}-error` };
  if (kind.enum || kind.type === "boolean" || "const" in kind) {
    const values = kind.enum || ("const" in kind ? [kind.const] : [true, false]);
    const options = [["", NOTHING], ...values.map((value) => [JSON.stringify(value), String(value)])];
    return fill(select(id, options, ""), { ...shared, "data-kind": "json" }, []);
  }
  if (kind.type === "string") return h("input", { ...shared, type: "text", "data-kind": "text", autocomplete: "off" });
  if (kind.type === "integer" || kind.type === "number")
    return h("input", { ...shared, type: "text", inputmode: "decimal", "data-kind": "number", autocomplete: "off" });
  return h("textarea", { ...shared, "data-kind": "json", spellcheck: "false" });
}

// The schema of what is not null, where there is one such.
function plain(schema) {
  const others = (schema.anyOf || []).filter((one) => one.type !== "null");
  if (others.length === 1) return { ...schema, ...others[0], anyOf: undefined };
  if (!Array.isArray(schema.type)) return schema;
  const types = schema.type.filter((one) => one !== "null");
  return types.length === 1 ? { ...schema, type: types[0] } : { ...schema, type: undefined };
}

const BOUNDS = [["minimum", "at least"], ["exclusiveMinimum", "more than"], ["maximum", "at most"], ["exclusiveMaximum", "less than"],
  ["minLength", "characters, at least"], ["maxLength", "characters, at most"], ["minItems", "items, at least"],
  ["maxItems", "items, at most"], ["pattern", "fits"]];
const FORMATS = { "date-time": "a time, such as 2030-01-31T12:00:00Z", date: "a date, such as 2030-01-31", uuid: "a UUID" };

function hint(schema) {
  const kind = plain(schema);
  const isJson = !["string", "integer", "number", "boolean"].includes(kind.type) && !kind.enum && !("const" in kind);
  const words = [schema.description, FORMATS[kind.format], kind.type === "integer" && "a whole number", kind.type === "number" && "a number",
    isJson && (kind.type === "array" ? "JSON, such as [1, 2]" : "JSON"), ...BOUNDS.map(([name, text]) => name in kind && `${text} ${kind[name]}`),
    "default" in schema && `else ${JSON.stringify(schema.default)}`];
  return words.filter(Boolean).join("; ");
}

function payloadFields(schema, path) {
  const required = new Set(schema.required || []);
  return Object.entries(schema.properties || {}).map(([name, part]) => {
    const place = `${path}.${name}`, kind = plain(part);
    const label = [name, !required.has(name) && h("span", { class: "muted" }, " (optional)")];
    if (kind.type === "object" && kind.properties && required.has(name))
      return h("fieldset", {}, h("legend", {}, label), payloadFields(kind, place));
    return labelled(label, control(part, place), hint(part));
  });
}

function labelled(label, input, text) {
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input,
    h("p", { class: "hint", id: `${input.id}-hint` }, text || ""), h("p", { class: "error", id: `${input.id}-error` }));
}

class Misfit extends Error {
  constructor(path, message) {
    super(message);
    this.path = path;
  }
}

function valueOf(input) {
  const text = input.dataset.kind === "text" ? input.value : input.value.trim();
  if (input.dataset.kind === "text") return text;
  if (input.dataset.kind === "number") return Number.isFinite(Number(text)) ? Number(text) : text;
  try {
    return JSON.parse(text);
  } catch {
    throw new Misfit(input.name, 'This is no JSON. Text needs quotes: "red".');
  }
}

// What the fields hold; those left empty are left out. Raises Misfit.
function payloadOf(form) {
  const payload = {};
  for (const input of form.querySelectorAll("[data-kind]")) {
    const steps = input.name.split(".").slice(1), last = steps.pop();
    let place = payload;
    for (const step of steps) place = place[step] = place[step] || {};
    if (input.value !== "") place[last] = valueOf(input);
  }
  return payload;
}

const UNITS = { s: 1000, min: 60000, h: 3600000, d: 86400000 };

function whenFields() {
  const radio = (value, text, isChosen) => [
    h("input", { type: "radio", name: "when", id: `when-${value}`, value, checked: isChosen }),
    h("label", { for: `when-${value}` }, text)];
  const amount = h("input", { id: "amount", type: "text", inputmode: "decimal", value: "10", "aria-label": "How long from now",
    "aria-describedby": "field-send_ts-error" });
  const unit = h("select", { id: "unit", "aria-label": "Unit" },
    optionsOf([["s", "seconds"], ["min", "minutes"], ["h", "hours"], ["d", "days"]]));
  const at = h("input", { id: "at", type: "datetime-local", step: "1", "aria-label": `Time in ${zone()}`,
    value: local(now() + 3600000).replace(" ", "T"), "aria-describedby": "at-utc field-send_ts-error" });
  const utcText = h("span", { class: "muted small", id: "at-utc" });
  const fields = h("fieldset", { id: "field-send_ts", tabindex: "-1" }, h("legend", {}, "When"),
    h("div", { class: "choice" }, radio("now", "now")),
    h("div", { class: "choice" }, radio("in", "in", true), amount, unit),
    h("div", { class: "choice" }, radio("at", "at"), at, utcText),
    h("p", { class: "error small", id: "field-send_ts-error" }));
  const chosen = () => fields.querySelector("input[name=when]:checked").value;
  const show = () => { utcText.textContent = iso(at.value) ? `${zone() === "UTC" ? "" : `${zone()}, `}${utc(Date.parse(iso(at.value)))}` : zone(); };
  const choose = (value) => () => { byId(`when-${value}`).checked = true; };
  amount.addEventListener("input", choose("in"));
  unit.addEventListener("change", choose("in"));
  at.addEventListener("input", () => { choose("at")(); show(); });
  show();
  return [fields, () => sendTs(chosen(), amount.value, unit.value, at.value)];
}

// RFC 3339. Raises Misfit.
function sendTs(choice, amount, unit, at) {
  if (choice === "now") return new Date(now()).toISOString();
  if (choice === "at") {
    if (!iso(at)) throw new Misfit("send_ts", "Give a date and a time.");
    return iso(at);
  }
  const ms = now() + Number(amount.trim() || NaN) * UNITS[unit];
  if (!Number.isFinite(ms) || Math.abs(ms) > 8.64e15) throw new Misfit("send_ts", "Give a number, such as 10.");
  const date = new Date(ms);
  if (date.getUTCFullYear() > 9999) throw new Misfit("send_ts", "That is too far ahead.");
  return date.toISOString();
}

function clearErrors(form) {
  for (const element of form.querySelectorAll(".error")) element.textContent = "";
  for (const element of form.querySelectorAll("[aria-invalid]")) element.removeAttribute("aria-invalid");
}

// Shows an error at the control whose path begins the field that it names, else above.
function showAt(form, path, text) {
  const inputs = [...form.querySelectorAll("[name]"), byId("field-send_ts")];
  const nameOf = (input) => input.name || input.id.replace("field-", "");
  const fits = (input) => path === nameOf(input) || (path || "").startsWith(`${nameOf(input)}.`) || (path || "").startsWith(`${nameOf(input)}[`);
  const input = inputs.filter(fits).sort((a, b) => nameOf(b).length - nameOf(a).length)[0];
  if (!input) { alertWith(text); return; }
  const controls = input.matches("fieldset") ? [input.querySelector(byId("when-at").checked ? "#at" : "#amount")] : [input];
  byId(`field-${nameOf(input)}-error`).textContent = text;
  controls[0].setAttribute("aria-invalid", "true");
  controls[0].focus();
}

function create(view) {
  let pending = null; // What was sent without an answer: sent again, it is the same task.
  const type = h("select", { id: "field-type", name: "type", "aria-describedby": "field-type-error" });
  const payload = h("fieldset", { hidden: true });
  const [times, sendTsOf] = whenFields();
  const button = h("button", { class: "primary" }, "Create");
  const form = h("form", { class: "panel form", novalidate: true }, h("div", { class: "field" },
    h("label", { for: "field-type" }, "Type"), type, h("p", { class: "error", id: "field-type-error" })),
    payload, times, h("div", { class: "actions" }, button, curlButton(() => guarded(bodyOf))));
  put(view.main, heading("Create a task"), form);
  let types = new Map();
  function drawPayload() {
    const schema = types.get(type.value) || {};
    const fields = payloadFields(schema, "payload");
    const isFree = !fields.length && schema.additionalProperties !== false;
    put(payload, h("legend", {}, "Payload"), fields, isFree && labelled("JSON object", control({}, "payload"), "optional"));
    payload.hidden = !fields.length && !isFree;
  }
  function bodyOf() {
    const given = payloadOf(payload);
    const whole = payload.querySelector("[name=payload]");
    const object = whole ? (whole.value ? valueOf(whole) : undefined) : Object.keys(given).length ? given : undefined;
    return { type: type.value, send_ts: sendTsOf(), ...(object === undefined ? {} : { payload: object }) };
  }
  function guarded(work) {
    clearErrors(form);
    alertWith("");
    try {
      return work();
    } catch (error) {
      if (!(error instanceof Misfit)) throw error;
      showAt(form, error.path, error.message);
      return null;
    }
  }
  const inputs = () => JSON.stringify([...form.querySelectorAll("input, select, textarea")].map((one) =>
    (one.type === "radio" ? one.checked : one.value)));
  async function submit(event) {
    event.preventDefault();
    const filled = inputs();
    const body = pending?.filled === filled ? pending.body : guarded(bodyOf) && JSON.stringify(bodyOf());
    if (!body || button.disabled) return;
    if (pending?.body !== body) pending = { filled, body, key: randomKey() };
    button.disabled = true;
    try {
      const made = await call("POST", "task", { body, idempotencyKey: pending.key, signal: view.signal });
      say("The task was created.");
      location.hash = taskHash(made.id);
    } catch (error) {
      if (error instanceof ApiError && !error.isPassing) pending = null;
      failed(error);
    } finally {
      button.disabled = false;
    }
  }
  function failed(error) {
    const { field: path, expected } = error.details || {};
    if (error.status !== 400) { tellFailure(error, "The task was not created, as far as is known. "); return; }
    showAt(form, path, `${error.message}${expected ? ` Expected: ${expected}.` : ""}`);
  }
  form.addEventListener("submit", submit);
  type.addEventListener("change", drawPayload);
  poll(view, async () => {
    types = await taskTypes(view.signal);
    put(type, optionsOf([...types.keys()].map((name) => [name, name])));
    drawPayload();
    return null;
  });
}

// ---- Routes: the part of the address behind # ----

const VIEWS = {
  "": { name: "Overview", draw: overview, at: "#/" },
  tasks: { name: "Tasks", draw: tasks, at: "#/tasks" },
  task: { name: "Task", draw: task, at: "#/tasks" },
  new: { name: "Create", draw: create, at: "#/new" },
};

let current = null;

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [word, id] = path.split("/");
  const found = VIEWS[word] || VIEWS[""];
  const isFirst = current === null;
  current?.abort();
  current = new AbortController();
  alertWith("");
  document.title = `${found === VIEWS.task ? `Task ${short(id)}` : found.name} · Scheduler`;
  for (const one of document.querySelectorAll("nav a"))
    one.getAttribute("href") === found.at ? one.setAttribute("aria-current", "page") : one.removeAttribute("aria-current");
  found.draw({ main: byId("main"), signal: current.signal, params: new URLSearchParams(query || ""), id: decoded(id) });
  if (isFirst) return;
  scrollTo(0, 0);
  byId("main").querySelector("h1").focus({ preventScroll: true });
}

function decoded(id) {
  try {
    return encodeURIComponent(decodeURIComponent(id || ""));
  } catch {
    return "";
  }
}

function tick() {
  if (document.hidden) return;
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const text = ago(Number(time.dataset.ago));
    if (time.textContent !== text) time.textContent = text;
  }
}

function start() {
  if (location.search === "?slash") history.replaceState(null, "", location.pathname + location.hash);
  byId("skip").addEventListener("click", (event) => { event.preventDefault(); byId("main").focus(); });
  watchKey();
  addEventListener("hashchange", route);
  setInterval(tick, 1000);
  route();
}

start();
