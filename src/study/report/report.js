// Fills the page: curves, tables, sample grids with their slider, settings, provenance.
"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const colors = page.arms.map((_, arm) => page.colors[arm % page.colors.length]);
const isDashed = (arm) => arm >= page.colors.length;
const state = { axis: page.axis, quantity: "", logX: false, logY: false, seeds: false };

/** An HTML element with properties and children; text stays text. */
function html(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function swatch(arm) {
  const mark = html("i");
  mark.style.background = isDashed(arm) ? `repeating-linear-gradient(90deg, ${colors[arm]} 0 4px, transparent 4px 7px)` : colors[arm];
  return mark;
}

/** A table; the first cells of the rows listed in `arms` carry their colour. */
function table({ header, rows }, { arms = [], wrap = false } = {}) {
  const head = html("tr", {}, ...header.map((text) => html("th", { scope: "col" }, text)));
  const line = (row, index) => html("tr", {}, ...row.map((text, column) => {
    if (column > 0) return html("td", { className: wrap ? "wrap" : "" }, text);
    const cell = html("th", { scope: "row", className: arms.length ? "name" : "" });
    if (arms.length) cell.append(swatch(arms[index]));
    cell.append(text);
    return cell;
  }));
  return html("table", {}, html("thead", {}, head), html("tbody", {}, ...rows.map(line)));
}

const current = () => page.comparisons.find((c) => c.comparison.axis === state.axis);
const quantity = () => page.quantities.find((q) => q.name === state.quantity);

/** A quantity's runs as one curve: the mean over seeds where all of them are, without an interval. */
function meanCurve(runs) {
  const filled = runs.filter((run) => run.length > 0);
  if (filled.length === 0) return [];
  return filled[0].map(([x]) => {
    const values = filled.map((run) => valueAt(run, x)).filter((point) => point !== null);
    return values.length < filled.length ? null : [x, values.reduce((sum, p) => sum + p[1], 0) / values.length, null];
  }).filter((point) => point !== null);
}

function series() {
  const q = quantity();
  return page.arms.map((arm, index) => {
    const curve = q ? meanCurve(q.arms[index]) : current().comparison.arms[index].curve;
    const runs = q ? q.arms[index] : current().comparison.arms[index].runs.map((run) => run.points);
    return { name: arm.name, color: colors[index], dashed: isDashed(index), curve, runs: state.seeds ? runs : [] };
  });
}

function draw() {
  const drawn = series(), q = quantity(), comparison = current().comparison;
  const axis = q ? "kimg" : state.axis;
  const readout = byId("readout");
  const onCursor = (x) => {
    if (x === null) return readout.replaceChildren("point at the chart, or use the arrow keys on it, to read values");
    const value = (s, arm) => {
      const point = valueAt(s.curve, x);
      const half = point && point[2] !== null ? ` ± ${short(point[2], 2)}` : "";
      return html("span", {}, swatch(arm), ` ${s.name} `, html("b", {}, (point ? short(point[1]) : "-") + half));
    };
    readout.replaceChildren(html("span", {}, `${axis} ${short(x)}`), ...drawn.map(value));
  };
  drawChart(byId("chart"), drawn, {
    logX: state.logX, logY: state.logY, onCursor,
    xLabel: page.labels.find((label) => label[0] === axis)[1],
    yLabel: q ? q.name : comparison.metric,
    threshold: q ? undefined : comparison.threshold,
  });
  onCursor(null);
  Object.assign(byId("chart").dataset, { axis, logX: state.logX, logY: state.logY, quantity: state.quantity });
  byId("axis").disabled = Boolean(q);
}

function tables() {
  const { summary, tests, remarks, headline } = current();
  byId("headline").textContent = headline;
  byId("summary").replaceChildren(table(summary, { arms: page.arms.map((_, arm) => arm) }));
  byId("tests").replaceChildren(table(tests));
  byId("tests").hidden = byId("tests-title").hidden = tests.rows.length === 0;
  byId("remarks").replaceChildren(...remarks.map((text) => html("li", {}, text)));
}

function curves() {
  const option = (value, text) => html("option", { value }, text);
  byId("quantity").append(option("", page.comparisons[0].comparison.metric), ...page.quantities.map((q) => option(q.name, q.name)));
  byId("axis").append(...page.comparisons.map((c) => option(c.comparison.axis, c.comparison.axis)));
  byId("axis").value = state.axis;
  const means = current().comparison.arms.flatMap((arm) => arm.curve.map((point) => point[1]));
  state.logY = byId("log-y").checked = Math.min(...means) > 0 && Math.max(...means) > 4 * Math.min(...means);
  byId("legend").append(...page.arms.map((arm, index) => html("li", {}, swatch(index), arm.name)));
  byId("quantity").addEventListener("change", (event) => { state.quantity = event.target.value; draw(); });
  byId("axis").addEventListener("change", (event) => { state.axis = event.target.value; draw(); tables(); });
  for (const [id, key] of [["log-x", "logX"], ["log-y", "logY"], ["seeds", "seeds"]]) {
    byId(id).addEventListener("change", (event) => { state[key] = event.target.checked; draw(); });
  }
  let width = 0;
  new ResizeObserver(() => {
    if (byId("chart").clientWidth !== width) { width = byId("chart").clientWidth; draw(); }
  }).observe(byId("chart"));
}

function figure(picture, arm, note) {
  const [width, height] = picture.size;
  const caption = html("figcaption", {}, swatch(arm), page.arms[arm].name, " ", html("small", {}, note));
  caption.classList.add("name");
  const alt = `${page.arms[arm].name}${note ? `, ${note}` : ""}`;
  return html("figure", {}, html("img", { src: picture.uri, width, height, alt }), caption);
}

/** The slider over all times at which some arm drew a grid; each arm shows its newest one by then. */
function samples() {
  const times = [...new Set(page.arms.flatMap((arm) => arm.grids.map((grid) => grid.kimg)))].sort((a, b) => a - b);
  if (times.length === 0) return false;
  const slider = byId("kimg");
  slider.max = times.length - 1;
  const figures = page.arms.map((arm, index) => {
    const made = arm.grids.length ? figure(arm.grids[0], index, "") : html("figure", {}, html("p", { className: "empty" }, `${arm.name}: no grids`));
    byId("grids").append(made);
    return made;
  });
  const show = (step) => {
    slider.value = Math.min(Math.max(step, 0), times.length - 1);
    const time = times[slider.value];
    byId("kimg-text").value = `${short(time)} kimg`;
    slider.setAttribute("aria-valuetext", `${short(time)} kimg`);
    page.arms.forEach((arm, index) => {
      const grid = arm.grids.filter((g) => g.kimg <= time).pop() ?? arm.grids[0];
      if (!grid) return;
      const picture = figures[index].querySelector("img");
      picture.src = grid.uri;
      picture.alt = `${arm.name} at ${short(grid.kimg)} kimg`;
      figures[index].querySelector("small").textContent = `${short(grid.kimg)} kimg, seed ${arm.runs[0].seed}`;
    });
  };
  slider.addEventListener("input", () => show(Number(slider.value)));
  byId("earlier").addEventListener("click", () => show(Number(slider.value) - 1));
  byId("later").addEventListener("click", () => show(Number(slider.value) + 1));
  show(times.length - 1);
  const real = page.arms.findIndex((arm) => arm.reals.length > 0);
  byId("reals").hidden = real < 0;
  if (real >= 0) {
    const shown = figure(page.arms[real].reals[0], real, "");
    shown.querySelector("figcaption").textContent = "the first images that the networks were trained on";
    shown.querySelector("img").alt = "real images";
    byId("reals").querySelector("div").append(shown);
  }
  return true;
}

function strips(id, pictures) {
  const found = page.arms.flatMap((arm, index) => pictures(arm).map((picture) => figure(picture, index, `seed ${arm.runs[0].seed}`)));
  byId(id).querySelector(".stacked").append(...found);
  return found.length > 0;
}

function settings() {
  const header = ["setting", ...page.arms.map((arm) => arm.name)];
  const rows = page.settings.map((difference) => [difference.key, ...difference.values.map((value) => value ?? "-")]);
  byId("settings").append(rows.length ? table({ header, rows }, { wrap: true }) : html("p", { className: "empty" }, "one arm: nothing differs but the seed"));
  byId("common").append(table({ header: ["setting", "value"], rows: page.common }, { wrap: true }));
}

function duration(secs) {
  if (secs === null) return "-";
  const [h, m, s] = [Math.floor(secs / 3600), Math.floor(secs / 60) % 60, Math.round(secs % 60)];
  return h ? `${h}h ${m}m` : m ? `${m}m ${s}s` : `${secs.toFixed(1)}s`;
}

function provenance() {
  const header = ["run", "arm", "seed", "kimg", "training", "wall", "device", "commit", "version", "data (SHA-256)"];
  const rows = [], arms = [], commands = [];
  page.arms.forEach((arm, index) => arm.runs.forEach((run) => {
    const p = run.provenance ?? {};
    arms.push(index);
    rows.push([run.name, arm.name, String(run.seed), short(run.kimg), duration(run.train_secs), duration(run.wall_secs),
      p.device || "-", (p.commit || "-").slice(0, 19), p.version || "-", (p.data_digest || "-").slice(0, 16)]);
    if (p.command) commands.push(html("li", {}, html("code", {}, p.command)));
  }));
  const scroll = html("div", { className: "scroll", tabIndex: 0 }, table({ header, rows }, { arms }));
  byId("provenance").append(scroll);
  if (commands.length) byId("provenance").append(html("details", {}, html("summary", {}, "Commands"), html("ul", {}, ...commands)));
}

document.querySelectorAll(".card.script").forEach((card) => card.classList.add("ready"));
curves();
tables();
byId("samples").classList.toggle("ready", samples());
byId("interpolations").classList.toggle("ready", strips("interpolations", (arm) => arm.interpolations));
byId("neighbours").classList.toggle("ready", strips("neighbours", (arm) => arm.neighbours));
settings();
provenance();
draw();
