// Pictures: probabilities as bars, steerability over training, and all of it as one picture to keep. Every look stands
// in an element's own attributes, so that a picture is the same outside the page.
"use strict";

const INK = "#1c1c1c", SOFT = "#595959", NULL = "#8c8c8c";
const FONT = 'system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function text(x, y, words, attributes = {}) {
  const seen = String(words).replace(/[\p{Cs}\0-\x08\v\f\x0e-\x1f\ufffe\uffff]/gu, "\ufffd"); // what no picture may hold
  return svg("text", {x, y, fill: INK, "font-family": FONT, "font-size": 13, ...attributes}, seen);
}

function picture(width, height, told, ...children) {
  return svg("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": told}, ...children);
}

const measure = document.createElement("canvas").getContext("2d");

function widthOf(words, size = 13, weight = 400) {
  measure.font = `${weight} ${size}px ${FONT}`;
  return measure.measureText(words).width;
}

function percent(share) {
  return share >= 0.0995 ? `${Math.round(100 * share)} %` : share >= 0.001 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %";
}

// --- bars --------------------------------------------------------------------------------------------------------------

// How a series is told from the others without its colour: empty, full, hatched.
function filled(series, colour) {
  const fill = {unsteered: "#fff", pushed: colour, random: "url(#hatch)"}[series];
  return {fill, stroke: series === "pushed" ? colour : INK, "stroke-width": 1};
}

function hatch() {
  const lines = svg("path", {d: "M0,6 L6,0", stroke: INK, "stroke-width": 1});
  return svg("defs", {}, svg("pattern", {id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse"}, lines));
}

// rows: {label, values: {series: share}}
function bars(rows, names, colour, width) {
  const series = Object.keys(names), thick = 13, gap = 10, key = 24;
  const left = Math.min(width / 3, 14 + Math.max(...rows.map(({label}) => widthOf(label)))), right = 60;
  const room = width - left - right, high = series.length * (thick + 2) + gap;
  const drawn = [hatch()];
  let x = 0, top = 0;
  for (const name of series) {
    const wide = 32 + widthOf(names[name]);
    if (x && x + wide > width) [x, top] = [0, top + key];
    drawn.push(svg("rect", {x: x + 1, y: top + 3, width: 14, height: 12, ...filled(name, colour)}), text(x + 20, top + 14, names[name]));
    x += wide;
  }
  top += key + 4;
  rows.forEach(({label, values}, k) => {
    const y = top + k * high;
    drawn.push(text(left - 8, y + (high - gap) / 2 + 4, label, {"text-anchor": "end"}));
    series.forEach((name, i) => {
      const at = y + i * (thick + 2), long = Math.max(1, room * values[name]);
      drawn.push(svg("rect", {x: left, y: at, width: long, height: thick - 1, ...filled(name, colour)}));
      drawn.push(text(left + long + 5, at + 11, percent(values[name]), {"font-size": 12}));
    });
  });
  const told = rows.map(({label, values}) => `${label}: ${series.map((name) => `${names[name]} ${percent(values[name])}`).join(", ")}`);
  return picture(width, top + rows.length * high, `Probabilities. ${told.join("; ")}.`, ...drawn);
}

// --- over training -----------------------------------------------------------------------------------------------------

// curve: value with interval, null and what has to be cleared at every step, and its onsets; at: which step is shown.
function overTraining({steps, axis, concept, at, unit, width}) {
  const {curve, colour} = concept, height = 300, [left, right, top, bottom] = [46, 14, 34, 74];
  // Linear up to the first trained step, then by logarithm: as the figures of the study.
  const place = (step) => step <= axis.first ? axis.linear * step / axis.first : axis.linear + Math.log10(step / axis.first);
  const [begin, end] = [place(steps[0]), place(steps.at(-1))];
  const x = (step) => left + 8 + (place(step) - begin) / (end - begin || 1) * (width - left - right - 16);
  const all = [...curve.value, ...curve.value_lower, ...curve.value_upper, ...curve.null_lower, ...curve.null_upper, ...curve.bar, 0];
  const numbers = all.filter((value) => value !== null), [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const y = (value) => height - bottom - 6 - (value - low) / (high - low || 1) * (height - top - bottom - 12);
  const points = (values) => values.flatMap((value, k) => value === null ? [] : [`${x(steps[k])},${y(value)}`]);
  const alone = (fill) => steps.length > 1 ? {} : {stroke: fill, "stroke-width": 8, "stroke-opacity": 0.3};
  const band = (lower, upper, fill) => svg("polygon", {points: [...points(lower), ...points(upper).reverse()].join(" "), fill, "fill-opacity": 0.27, ...alone(fill)});
  const line = (x1, y1, x2, y2, look = {}) => svg("line", {x1, y1, x2, y2, stroke: INK, ...look});
  const drawn = [];
  for (const value of ticks(low, high)) {
    drawn.push(line(left, y(value), width - right, y(value), {stroke: value ? "#e4e4e0" : NULL}), text(left - 6, y(value) + 4, value, {"text-anchor": "end", "font-size": 12}));
  }
  let last = Infinity;
  for (const step of [...steps].reverse()) {
    const half = widthOf(String(step), 12) / 2;
    if (x(step) + half + 6 > last) continue;
    last = x(step) - half;
    drawn.push(line(x(step), height - bottom, x(step), height - bottom + 4), text(x(step), height - bottom + 17, step, {"text-anchor": "middle", "font-size": 12}));
  }
  drawn.push(line(left, height - bottom, width - right, height - bottom));
  drawn.push(text(left - 40, 12, `steerability of ${concept.name} (nat per ${unit})`, {"font-size": 12, fill: SOFT}));
  drawn.push(text(width - right, height - bottom + 32, "training step", {"text-anchor": "end", "font-size": 12, fill: SOFT}));
  drawn.push(band(curve.null_lower, curve.null_upper, NULL), band(curve.value_lower, curve.value_upper, colour));
  drawn.push(svg("polyline", {points: points(curve.bar).join(" "), fill: "none", stroke: INK, "stroke-dasharray": "2 3"}));
  drawn.push(svg("polyline", {points: points(curve.value).join(" "), fill: "none", stroke: colour, "stroke-width": 2.5}));
  drawn.push(...points(curve.value).map((point) => svg("circle", {cx: point.split(",")[0], cy: point.split(",")[1], r: 2.5, fill: colour})));
  for (const [question, shape] of [["first_detectable", triangle], ["half_way", diamond]]) {
    const {onset, onset_lower: from, onset_upper: to} = curve.onsets[question];
    if (onset === null) continue;
    const level = question === "half_way" ? y(between(steps.map(place), curve.value, place(onset))) : height - bottom - 7;
    drawn.push(line(x(from ?? steps[0]), level, x(Math.min(to ?? steps.at(-1), steps.at(-1))), level, {"stroke-width": 2}), shape(x(onset), level, colour));
  }
  const here = x(steps[at]), value = curve.value[at];
  drawn.push(line(here, top - 8, here, height - bottom, {"stroke-width": 1.5, "stroke-dasharray": "6 3"}));
  if (value !== null) drawn.push(svg("circle", {cx: here, cy: y(value), r: 6, fill: "#fff", stroke: INK, "stroke-width": 2.5}));
  const side = here > width / 2 ? "end" : "start";
  drawn.push(text(here + (side === "end" ? -6 : 6), top, `you are here: step ${steps[at]}`, {"text-anchor": side, "font-weight": 600}));
  drawn.push(...legend(colour, width, height - 24, left));
  return picture(width, height, `Steerability of ${concept.name} over training; at step ${steps[at]} ${value === null ? "no value" : value.toFixed(2)}.`, ...drawn);
}

const triangle = (x, y, fill) => svg("path", {d: `M${x},${y - 7} l6,11 h-12 z`, fill, stroke: INK});
const diamond = (x, y, fill) => svg("path", {d: `M${x},${y - 7} l6,7 l-6,7 l-6,-7 z`, fill, stroke: INK});

function legend(colour, width, top, left) {
  const box = (look) => (x, y) => svg("rect", {x, y: y - 9, width: 16, height: 10, ...look});
  const entries = [
    ["interval", box({fill: colour, "fill-opacity": 0.27})],
    ["null: shuffled labels", box({fill: NULL, "fill-opacity": 0.27})],
    ["to be cleared", (x, y) => svg("line", {x1: x, x2: x + 16, y1: y - 4, y2: y - 4, stroke: INK, "stroke-dasharray": "2 3"})],
    ["first detectable", (x, y) => triangle(x + 8, y - 3, colour)],
    ["half-way up", (x, y) => diamond(x + 8, y - 4, colour)],
  ];
  let x = Math.min(left, 8), y = top;
  return entries.flatMap(([words, mark]) => {
    const wide = 34 + widthOf(words, 12);
    if (x + wide > width) [x, y] = [Math.min(left, 8), y + 18];
    const drawn = [mark(x, y), text(x + 20, y, words, {"font-size": 12})];
    x += wide;
    return drawn;
  });
}

function ticks(low, high) {
  const rough = (high - low || 1) / 4, ten = 10 ** Math.floor(Math.log10(rough));
  const apart = [1, 2, 5, 10].map((factor) => factor * ten).find((size) => size >= rough);
  const count = Math.floor(high / apart) - Math.ceil(low / apart) + 1;
  return Array.from({length: count}, (_, k) => Number(((Math.ceil(low / apart) + k) * apart).toFixed(6)));
}

function between(places, values, place) {
  if (places.length === 1) return values[0];
  const k = Math.max(1, places.findIndex((at) => at >= place));
  return values[k - 1] + (values[k] - values[k - 1]) * (place - places[k - 1]) / (places[k] - places[k - 1]);
}

// --- all of it, to keep ------------------------------------------------------------------------------------------------

function lines(words, width, size, weight = 400) {
  const rows = [""];
  for (const word of words.split(" ")) {
    const longer = rows.at(-1) ? `${rows.at(-1)} ${word}` : word;
    if (rows.at(-1) && widthOf(longer, size, weight) > width) rows.push(word);
    else rows[rows.length - 1] = longer;
  }
  return rows;
}

// title, then blocks of {head, words}, then pictures, one below the other.
function poster(title, blocks, pictures, width = 900) {
  const inner = width - 48, drawn = [];
  let y = 40;
  const say = (words, size, weight, fill) => {
    for (const row of lines(words, inner, size, weight)) {
      drawn.push(text(24, y, row, {"font-size": size, "font-weight": weight, fill}));
      y += size * 1.4;
    }
  };
  say(title, 20, 600, INK);
  for (const {head, words} of blocks) {
    y += 8;
    say(head, 13, 600, SOFT);
    say(words, 15, 400, INK);
  }
  for (const draw of pictures) {
    const inside = draw(inner);
    inside.setAttribute("x", 24);
    inside.setAttribute("y", y + 4);
    drawn.push(inside);
    y += Number(inside.getAttribute("height")) + 20;
  }
  return picture(width, Math.ceil(y + 12), title, svg("rect", {width, height: Math.ceil(y + 12), fill: "#fff"}), ...drawn);
}

async function png(drawing, scale = 2) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(drawing))}`;
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), {width: image.width * scale, height: image.height * scale});
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.drawImage(image, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
