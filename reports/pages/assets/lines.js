/* Line charts: bands or whiskers, marks, a cursor that follows the pointer or the arrow keys. */

const LISTED = 12;

/** @param {HTMLElement} block @param {object} data see Lines in blocks.py */
function renderLines(block, data) {
  const titles = Object.keys(data.choices);
  const state = { choice: titles[0], hidden: new Set(), looks: lineLooks(Object.values(data.choices).flat()) };
  const content = (width, tip) => [drawLines(data, state, width, tip)];
  const { controls, redraw } = mountChart(block, data, content, () => lineRows(data));
  const update = () => {
    controls.querySelector(".legend")?.remove();
    const entries = lineLegend(data.choices[state.choice], state.looks);
    if (entries.length > 1) controls.append(makeLegend(entries, state.hidden, redraw));
    redraw();
  };
  if (titles.length > 1) {
    const choose = (title) => {
      state.choice = title;
      update();
    };
    controls.append(makeSelect("Show", titles.map((title) => [title, title]), state.choice, choose));
  }
  update();
}

/** What a series is switched by: its name, or its group where it is one of many. */
function lineKey(series) {
  return series.thin ? series.group || series.name : series.name;
}

/** Colour and dash by key: a colour a group, a dash for each further series of a group. */
function lineLooks(all) {
  const groups = distinct(all.filter((series) => !series.dashed).map((series) => series.group || series.name));
  const looks = new Map();
  const used = new Map();
  for (const series of all) {
    const key = lineKey(series);
    if (looks.has(key)) continue;
    const group = series.group || series.name;
    const colour = groups.indexOf(group);
    const count = series.thin || series.dashed ? 0 : (used.get(group) ?? 0);
    if (!series.thin && !series.dashed) used.set(group, count + 1);
    const turn = Math.max(0, Math.floor(colour / COLOURS));
    looks.set(key, {
      className: colour < 0 ? "plain" : colourClass(colour),
      dash: series.dashed ? "4 4" : DASHES[(count + turn) % DASHES.length],
      shape: count + turn,
    });
  }
  return looks;
}

function lineLegend(all, looks) {
  return distinct(all.map(lineKey)).map((key) => {
    const look = looks.get(key);
    const line = draw("path", { d: "M-11,0H11", class: "line", "stroke-dasharray": look.dash || null });
    return { key, name: key, sample: makeSample(look.className, line) };
  });
}

function lineRows(data) {
  const several = Object.keys(data.choices).length > 1;
  const headings = ["series", axisName(data.x), ...intervalHeadings(data.y)];
  const rows = Object.entries(data.choices).flatMap(([title, all]) =>
    all.flatMap((series) => series.points.map((point) => [...(several ? [title] : []), series.name, ...point])),
  );
  const marks = data.marks.map((mark) => [...(several ? [""] : []), mark.text, mark.x, null, null, null]);
  const across = several ? 2 : 1;
  const text = (row) => row.map((value, place) => (data.x.date && place === across ? formatOn(data.x, value) : value));
  return [several ? ["chart", ...headings] : headings, ...[...rows, ...marks].map(text)];
}

/** The scales of the visible series and the box that they fill. */
function lineScales(data, visible, width) {
  const points = visible.flatMap((series) => series.points);
  const xs = [...points.map((point) => point[0]), ...data.marks.map((mark) => mark.x)];
  const ys = points.flatMap((point) => point.slice(1));
  const probe = makeScale(data.y, ys, 1, 0, 5);
  const height = Math.round(Math.min(310, Math.max(190, width * 0.42)));
  const box = makeBox(width, height, tickRoom(probe.ticks), 12, axisTitle(data.x), axisTitle(data.y));
  const x = makeScale(data.x, xs, box.left, box.right, Math.max(3, width / (data.x.date ? 130 : 90)));
  return { box, x, y: makeScale(data.y, ys, box.bottom, box.top, 5) };
}

function drawLines(data, state, width, tip) {
  const visible = data.choices[state.choice].filter((series) => !state.hidden.has(lineKey(series)));
  const { box, x, y } = lineScales(data, visible, width);
  const svg = makeSurface(width, box.height, { role: "img", "aria-label": spokenText(data), tabindex: 0 });
  const clip = `clip-${data.id}`;
  const area = { x: box.left - 6, y: box.top - 6, width: box.right - box.left + 12, height: box.bottom - box.top + 12 };
  svg.append(draw("clipPath", { id: clip }, draw("rect", area)), ...drawAxes(box, x, y));
  svg.append(...drawMarks(data.marks, data.x, x, box));
  const inside = draw("g", { "clip-path": `url(#${clip})` });
  const drawOne = (series) => drawSeries(series, data, state.looks.get(lineKey(series)), x, y);
  inside.append(...visible.filter((one) => one.thin || one.dashed).map(drawOne));
  const front = visible.filter((one) => !one.thin && !one.dashed);
  for (const [index, series] of front.entries()) {
    const drawn = drawOne(series);
    // Whiskers at one place would hide each other: each series stands a little beside the one before.
    // A night has to stand on its mark, so on an axis of dates they stay.
    const aside = (index - (front.length - 1) / 2) * Math.min(4, 24 / front.length);
    if (data.markers && !data.x.date) drawn.setAttribute("transform", `translate(${aside},0)`);
    inside.append(drawn);
  }
  svg.append(inside);
  followLines(svg, data, visible, { x, y, box }, tip);
  return svg;
}

const MARK_TEXT_SPACE = 12;

/**
 * Vertical lines with their texts; a text that would run into the one before it is left out (the data table has it).
 * @param {{x: number, text: string}[]} marks by rising x
 * @param {object} axis
 * @param {object} x scale
 * @param {object} box
 */
function drawMarks(marks, axis, x, box) {
  const found = [];
  let last = -Infinity;
  for (const mark of marks.filter((one) => drawable(axis, one.x))) {
    const at = x.at(mark.x);
    found.push(draw("line", { class: "mark", x1: at, x2: at, y1: box.top, y2: box.bottom }));
    if (at - last < MARK_TEXT_SPACE) continue;
    const turned = { transform: `translate(${at - 3},${box.top}) rotate(-90)`, "text-anchor": "end" };
    found.push(draw("text", { class: "mark", ...turned }, mark.text));
    last = at;
  }
  return found;
}

function drawSeries(series, data, look, x, y) {
  const group = draw("g", { class: look.className });
  const runs = lineRuns(series.points, data);
  const place = ([across, up]) => `${x.at(across).toFixed(1)},${y.at(up).toFixed(1)}`;
  const whiskers = data.markers && !series.thin;
  for (const run of runs) {
    const banded = run.filter(([, , low, high]) => drawable(data.y, low) && drawable(data.y, high));
    if (!whiskers && !series.thin && banded.length > 1) {
      const upper = banded.map((point) => [point[0], point[3]]);
      const edge = [...upper, ...banded.map((point) => [point[0], point[2]]).reverse()];
      group.append(draw("path", { class: "band", d: `M${edge.map(place).join("L")}Z` }));
    }
    if (run.length > 1) {
      const line = { class: series.thin ? "line thin" : "line", d: `M${run.map(place).join("L")}` };
      group.append(draw("path", { ...line, "stroke-dasharray": look.dash || null }));
    }
    if (series.dashed || (!data.markers && run.length > 1)) continue;
    for (const [across, up, low, high] of run) {
      if (!series.thin) group.append(...drawWhisker(y, data.y, low, high, x.at(across), true));
      group.append(drawMarker(look.shape, x.at(across), y.at(up), { class: series.thin ? "marker thin" : "marker" }));
    }
  }
  return group;
}

/** Points in runs: what cannot be drawn breaks the line. */
function lineRuns(points, data) {
  const runs = [[]];
  for (const point of points) {
    if (drawable(data.x, point[0]) && drawable(data.y, point[1])) last(runs).push(point);
    else if (last(runs).length) runs.push([]);
  }
  return runs.filter((run) => run.length);
}

/** A cursor: the values at the place nearest to the pointer; the arrow keys move it from place to place. */
function followLines(svg, data, visible, scales, tip) {
  const drawn = visible.flatMap((series) => lineRuns(series.points, data).flat().map((point) => ({ series, point })));
  if (!drawn.length) return;
  const ends = { y1: scales.box.top, y2: scales.box.bottom };
  const cursor = draw("line", { class: "cursor target", ...ends, visibility: "hidden" });
  svg.append(cursor);
  const leading = drawn.some(({ series }) => !series.thin) ? drawn.filter(({ series }) => !series.thin) : drawn;
  const stops = distinct(leading.map(({ point }) => point[0])).sort((one, other) => one - other);
  let stop = -1;
  const show = (nearest) => {
    const at = scales.x.at(nearest.point[0]);
    fill(cursor, { x1: at, x2: at, visibility: "visible" }, []);
    tip.show(at, scales.y.at(nearest.point[1]), cursorText(data, drawn, nearest));
  };
  const hide = () => {
    cursor.setAttribute("visibility", "hidden");
    tip.hide();
  };
  svg.addEventListener("pointermove", (event) => show(nearestPoint(drawn, scales, event.offsetX, event.offsetY)));
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    stop = Math.max(0, Math.min(stops.length - 1, stop + move));
    show(leading.find(({ point }) => point[0] === stops[stop]));
  });
}

function nearestPoint(drawn, { x, y }, left, top) {
  const distance = ({ point }) => Math.hypot(x.at(point[0]) - left, (y.at(point[1]) - top) * 0.5);
  return drawn.reduce((best, one) => (distance(one) < distance(best) ? one : best));
}

function cursorText(data, drawn, nearest) {
  const place = nearest.point[0];
  const here = drawn.filter(({ series, point }) => point[0] === place && (!series.thin || series === nearest.series));
  const line = ({ series, point }) => `${series.name}: ${formatInterval(data.y, point[1], point[2], point[3])}`;
  const shown = here.slice(0, LISTED).map(line);
  const marks = data.marks.filter((mark) => mark.x === place).map((mark) => mark.text);
  const rest = here.length > LISTED ? [`and ${here.length - LISTED} more`] : [];
  return [`${data.x.label}: ${formatOn(data.x, place)}`, ...marks, ...shown, ...rest];
}
