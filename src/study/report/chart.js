// Curves with bands: linear or logarithmic axes, values at the pointer or at the arrow keys.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element with attributes. */
function svg(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (parent) parent.append(element);
  return element;
}

/** A number for people: four digits, thousands and more with a letter. */
function short(value, count = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  for (const [scale, letter] of [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= scale) return Number((value / (letter === "k" ? 1e3 : scale)).toPrecision(3)) + letter;
  }
  return size !== 0 && size < 1e-5 ? value.toExponential(2) : String(Number(value.toPrecision(count)));
}

/** Round numbers within [from, to], about `count` of them; 1-2-5 for logarithmic axes. */
function ticks(from, to, count, log) {
  const found = [];
  if (log) {
    for (let decade = Math.floor(Math.log10(from)); decade <= Math.ceil(Math.log10(to)); decade++) {
      for (const step of [1, 2, 5]) found.push(step * 10 ** decade);
    }
    const inside = found.filter((tick) => tick >= from * 0.9999 && tick <= to * 1.0001);
    const decades = inside.filter((tick) => Math.abs(Math.log10(tick) % 1) < 1e-9);
    if (inside.length >= 2) return decades.length > 6 ? decades : inside;
  }
  const raw = (to - from) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= raw) ?? raw;
  const ticksFrom = Math.ceil(from / step - 1e-9);
  for (let i = ticksFrom; i * step <= to + step * 1e-9 && i < ticksFrom + 50; i++) found.push(i * step);
  return found.filter((tick) => tick >= from - step * 1e-9 && tick <= to + step * 1e-9);
}

/** From [low, high] of the data to [start, end] of the screen. */
function scale(low, high, start, end, log) {
  const place = log ? Math.log : (v) => v;
  const [a, b] = [place(low), place(high)];
  return (value) => start + ((place(Math.min(Math.max(value, low), high)) - a) / (b - a || 1)) * (end - start);
}

/** Curves that are drawn with their intervals: more of these would hide the curves. */
const MOST_BANDS = 4;

/** The bounds that show all means, and intervals as far as they do not dwarf them. */
function bounds(series, log) {
  const all = series.flatMap((s) => s.curve.map((p) => p[1])).concat(series.flatMap((s) => s.runs.flat().map((p) => p[1])));
  // A score of one seed may be below zero where the means are not: on a logarithmic axis it lies on the edge.
  const means = log ? all.filter((value) => value > 0) : all;
  const low = Math.min(...means), high = Math.max(...means);
  const room = Math.max(high - low, Math.abs(high) * 0.05, 1e-12);
  const half = (p) => (series.length <= MOST_BANDS ? p[2] ?? 0 : 0);
  const edges = series.flatMap((s) => s.curve.flatMap((p) => [p[1] - half(p), p[1] + half(p)]));
  const bottom = Math.max(Math.min(...edges, low), low - room / 2) - room * 0.02;
  const top = Math.min(Math.max(...edges, high), high + room / 2) + room * 0.02;
  return log ? [Math.max(bottom, low * 0.7), top] : [bottom, top];
}

/** The part of the line through points [[x, y, ...]] between two places: what lies outside would be drawn on the edge. */
function within(points, from, to) {
  const end = (x) => valueAt(points, x), inside = points.filter((p) => p[0] > from && p[0] < to);
  const first = end(from), last = to > from ? end(to) : null;
  return [first ? [from, ...first.slice(1)] : null, ...inside, last ? [to, ...last.slice(1)] : null].filter((p) => p !== null);
}

/**
 * Draws into `box`. `series`: [{name, color, curve: [[x, mean, half width or null]], runs: [[[x, y]]]}].
 * A series may be `dashed`, which tells it from an earlier one of its colour. `options`: {logX, logY, xLabel, yLabel, threshold, onCursor(x or null)}.
 */
function drawChart(box, series, options) {
  const width = Math.max(box.clientWidth, 260), height = Math.max(240, Math.min(440, width * 0.58));
  const margin = { left: 58, right: 12, top: 10, bottom: 46 };
  const xs = series.flatMap((s) => s.curve.map((p) => p[0]));
  box.replaceChildren();
  if (xs.length === 0) return box.append("nothing was recorded");
  const positive = (values) => Math.min(...values.filter((v) => v > 0));
  const logX = options.logX && xs.some((x) => x > 0);
  const from = logX ? positive(xs) : Math.min(...xs);
  const to = Math.max(...xs) > from ? Math.max(...xs) : from + 1;
  series = series.map((s) => ({ ...s, runs: s.runs.map((run) => within(run, from, to)) }));
  const lowest = Math.min(...series.flatMap((s) => s.curve.map((p) => p[1])));
  const logY = options.logY && lowest > 0;
  const [low, high] = bounds(series, logY);
  const x = scale(from, to, margin.left, width - margin.right, logX);
  const y = scale(low, high, height - margin.bottom, margin.top, logY);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", tabindex: 0,
    "aria-label": `${options.yLabel} against ${options.xLabel}; arrow keys read values` }, box);

  for (const tick of ticks(low, high, 5, logY)) {
    svg("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y(tick), y2: y(tick) }, root);
    svg("text", { x: margin.left - 8, y: y(tick) + 4, "text-anchor": "end" }, root).textContent = short(tick);
  }
  for (const tick of ticks(from, to, width < 480 ? 4 : 7, logX)) {
    svg("line", { class: "frame", x1: x(tick), x2: x(tick), y1: height - margin.bottom, y2: height - margin.bottom + 5 }, root);
    svg("text", { x: x(tick), y: height - margin.bottom + 19, "text-anchor": "middle" }, root).textContent = short(tick);
  }
  svg("line", { class: "frame", x1: margin.left, x2: width - margin.right, y1: height - margin.bottom, y2: height - margin.bottom }, root);
  const middle = (margin.left + width - margin.right) / 2;
  svg("text", { x: middle, y: height - 6, "text-anchor": "middle" }, root).textContent = options.xLabel;
  const turned = `translate(13 ${(margin.top + height - margin.bottom) / 2}) rotate(-90)`;
  svg("text", { transform: turned, "text-anchor": "middle" }, root).textContent = options.yLabel;
  if (options.threshold !== undefined && options.threshold >= low && options.threshold <= high) {
    const at = y(options.threshold);
    svg("line", { class: "threshold", x1: margin.left, x2: width - margin.right, y1: at, y2: at }, root);
  }
  for (const s of series) drawSeries(root, s, x, y, logX, series.length <= MOST_BANDS);
  addCursor(root, series, x, { height, margin, logX, onCursor: options.onCursor });
}

function drawSeries(root, s, x, y, logX, bands) {
  const seen = (points) => (logX ? points.filter((p) => p[0] > 0) : points);
  const at = (px, py) => `${x(px).toFixed(1)},${y(py).toFixed(1)}`;
  const curve = seen(s.curve), wide = curve.filter((p) => p[2] !== null);
  if (bands && wide.length > 1) {
    const upper = wide.map((p) => at(p[0], p[1] + p[2])), lower = wide.map((p) => at(p[0], p[1] - p[2])).reverse();
    svg("polygon", { points: upper.concat(lower).join(" "), fill: s.color, opacity: 0.15 }, root);
  }
  for (const run of s.runs) {
    const points = seen(run).map((p) => at(p[0], p[1])).join(" ");
    svg("polyline", { points, fill: "none", stroke: s.color, "stroke-width": 1, opacity: 0.55 }, root);
  }
  const points = curve.map((p) => at(p[0], p[1])).join(" ");
  svg("polyline", { points, fill: "none", stroke: s.color, "stroke-width": 2.2, "stroke-linejoin": "round", "stroke-dasharray": s.dashed ? "6 4" : "none" }, root);
  if (curve.length <= 30) for (const p of curve) svg("circle", { cx: x(p[0]), cy: y(p[1]), r: 2.8, fill: s.color }, root);
}

/** A line at the pointer, or where arrow keys have moved it; it stays at points of the curves. */
function addCursor(root, series, x, { height, margin, logX, onCursor }) {
  const all = series.flatMap((s) => s.curve.map((p) => p[0])).filter((v) => !logX || v > 0);
  const stops = [...new Set(all)].sort((a, b) => a - b);
  const line = svg("line", { class: "cursor", y1: margin.top, y2: height - margin.bottom, visibility: "hidden" }, root);
  let index = null;
  const show = (next) => {
    index = next === null ? null : Math.min(Math.max(next, 0), stops.length - 1);
    line.setAttribute("visibility", index === null ? "hidden" : "visible");
    if (index !== null) for (const end of ["x1", "x2"]) line.setAttribute(end, x(stops[index]));
    onCursor(index === null ? null : stops[index]);
  };
  const nearest = (event) => {
    const place = root.getBoundingClientRect();
    const at = ((event.clientX - place.left) / place.width) * root.viewBox.baseVal.width;
    let best = 0;
    stops.forEach((stop, i) => { if (Math.abs(x(stop) - at) < Math.abs(x(stops[best]) - at)) best = i; });
    show(best);
  };
  root.addEventListener("pointermove", nearest);
  root.addEventListener("pointerdown", nearest);
  root.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") return show(null);
    if (!(event.key in moves)) return;
    event.preventDefault();
    const move = moves[event.key];
    show(index === null ? (move > 0 ? 0 : stops.length - 1) : Math.min(Math.max(index + move, 0), stops.length - 1));
  });
}

/** The value at `x` of the line through points [[x, y, ...]] with x rising; null outside. */
function valueAt(points, x) {
  if (points.length === 0 || x < points[0][0] || x > points[points.length - 1][0]) return null;
  const after = points.findIndex((p) => p[0] >= x);
  const b = points[after], a = points[after - 1];
  if (!a || b[0] === x) return b;
  const share = (x - a[0]) / (b[0] - a[0]);
  return b.map((value, i) => (value === null || a[i] === null ? null : a[i] + (value - a[i]) * share));
}
