/* Scatter plots: error bars both ways, the reader's choice of axes, and the Pareto front of the chosen two. */

const NOTHING = [null, null, null];

/** @param {HTMLElement} block @param {object} data see Scatter in blocks.py */
function renderScatter(block, data) {
  const state = { x: data.x, y: data.y, hidden: new Set() };
  const groups = distinct(data.points.map((point) => point.group));
  const shapes = distinct(data.points.map((point) => point.shape));
  const looks = { groups, shapes };
  const content = (width, tip) => drawScatter(data, state, looks, width, tip);
  const { controls, redraw } = mountChart(block, data, content, () => scatterRows(data));
  for (const [name, direction, keys] of [["Vertical", "y", data.y_choices], ["Horizontal", "x", data.x_choices]]) {
    const choose = (key) => {
      state[direction] = key;
      redraw();
    };
    const options = keys.map((key) => [key, data.axes[key].label]);
    controls.append(makeSelect(name, options, state[direction], choose));
  }
  controls.append(makeLegend([...groupLegend(groups), ...shapeLegend(shapes)], state.hidden, redraw));
}

function groupLegend(groups) {
  return groups.map((name, index) => {
    return { key: `group ${name}`, name, sample: makeSquare(colourClass(index)) };
  });
}

function shapeLegend(shapes) {
  if (shapes.length < 2) return [];
  return shapes.map((name, index) => {
    const sample = makeSample("plain", drawMarker(index, 0, 0, { class: "marker" }));
    return { key: `shape ${name}`, name, sample };
  });
}

function scatterRows(data) {
  const keys = Object.keys(data.axes);
  const headings = keys.flatMap((key) => intervalHeadings(data.axes[key]));
  const rows = data.points.map((point) => [
    point.name, point.group, point.shape, ...keys.flatMap((key) => point.values[key] ?? NOTHING),
  ]);
  return [["point", "group", "shape", ...headings], ...rows];
}

function isShown(point, { hidden }) {
  return !hidden.has(`group ${point.group}`) && !hidden.has(`shape ${point.shape}`);
}

/** Points that have both chosen values, as {point, x, y} with [value, low, high] each. */
function scatterPoints(data, state) {
  return data.points
    .filter((point) => isShown(point, state))
    .map((point) => ({ point, x: point.values[state.x] ?? NOTHING, y: point.values[state.y] ?? NOTHING }))
    .filter(({ x, y }) => drawable(data.axes[state.x], x[0]) && drawable(data.axes[state.y], y[0]));
}

/**
 * Those that no other is at least as good as in both axes and better in one, by rising x; [] without directions.
 * @param {{x: number[], y: number[]}[]} found
 */
function paretoFront(found, xAxis, yAxis) {
  if (!xAxis.better || !yAxis.better) return [];
  const [right, up] = [xAxis, yAxis].map((axis) => (axis.better === "high" ? 1 : -1));
  const beats = (one, other) => {
    const [dx, dy] = [right * (one.x[0] - other.x[0]), up * (one.y[0] - other.y[0])];
    return dx >= 0 && dy >= 0 && dx + dy > 0;
  };
  const front = found.filter((one) => !found.some((other) => beats(other, one)));
  return front.sort((one, other) => one.x[0] - other.x[0] || up * (other.y[0] - one.y[0]));
}

/** The edge of what the front's points beat: a line of steps. */
function frontPath(front, x, y, xAxis) {
  const [first, ...rest] = front.map((one) => [x.at(one.x[0]), y.at(one.y[0])]);
  const steps = rest.map(([across, up]) => (xAxis.better === "high" ? `V${up}H${across}` : `H${across}V${up}`));
  return `M${first.join(",")}${steps.join("")}`;
}

function drawScatter(data, state, looks, width, tip) {
  const [xAxis, yAxis] = [data.axes[state.x], data.axes[state.y]];
  const height = Math.round(Math.min(390, Math.max(230, width * 0.52)));
  const found = scatterPoints(data, state);
  const probe = makeScale(yAxis, found.flatMap(({ y }) => y), 1, 0, 6);
  const box = makeBox(width, height, tickRoom(probe.ticks), 14, axisTitle(xAxis), axisTitle(yAxis));
  const x = makeScale(xAxis, found.flatMap((one) => one.x), box.left, box.right, Math.max(3, width / 90));
  const y = makeScale(yAxis, found.flatMap((one) => one.y), box.bottom, box.top, 6);
  const spoken = `${data.title}: ${axisTitle(yAxis)} against ${axisTitle(xAxis)}. ${data.alt}`;
  const svg = makeSurface(width, box.height, { role: "group", "aria-label": spoken });
  svg.append(...drawAxes(box, x, y));
  const front = paretoFront(found, xAxis, yAxis);
  if (front.length > 1) svg.append(draw("path", { class: "front", d: frontPath(front, x, y, xAxis) }));
  for (const one of found) svg.append(drawPoint(one, { x, y, xAxis, yAxis }, looks, front.includes(one), tip));
  const places = found.map((one) => {
    return { left: x.at(one.x[0]), top: y.at(one.y[0]), name: one.point.name, front: front.includes(one) };
  });
  if (width >= 480) svg.append(...drawLabels(places, box));
  return [svg, ...missingNote(data, state, found)];
}

function drawPoint(one, { x, y, xAxis, yAxis }, looks, onFront, tip) {
  const [left, top] = [x.at(one.x[0]), y.at(one.y[0])];
  const vertical = `${yAxis.label}: ${formatInterval(yAxis, ...one.y)}`;
  const horizontal = `${xAxis.label}: ${formatInterval(xAxis, ...one.x)}`;
  const lines = [one.point.name, vertical, horizontal, ...(onFront ? ["on the Pareto front"] : [])];
  const colour = colourClass(looks.groups.indexOf(one.point.group));
  const className = `point ${colour}${onFront ? " front-point" : ""}`;
  const group = draw(
    "g",
    { class: className, tabindex: 0, role: "img", "aria-label": lines.join(", ") },
    ...drawWhisker(x, xAxis, one.x[1], one.x[2], top, false),
    ...drawWhisker(y, yAxis, one.y[1], one.y[2], left, true),
    drawMarker(looks.shapes.indexOf(one.point.shape), left, top, { class: "marker" }),
    draw("circle", { class: "target", cx: left, cy: top, r: 12 }),
  );
  tip.attach(group, left, top, lines);
  return group;
}

/** Whether two areas of {left, right, top, bottom} share a place. */
function overlap(one, other) {
  return one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
}

function isInside(area, box) {
  return area.left >= box.left && area.right <= box.right && area.top >= box.top && area.bottom <= box.bottom;
}

/** Names beside the points, front first, as far as there is room for them. */
function drawLabels(places, box) {
  const taken = places.map(({ left, top }) => ({ left: left - 5, right: left + 5, top: top - 5, bottom: top + 5 }));
  const drawn = [];
  for (const place of [...places].sort((one, other) => other.front - one.front)) {
    const size = place.name.length * 5.8;
    const spots = [
      { x: place.left + 9, y: place.top - 6 }, { x: place.left + 9, y: place.top + 13 },
      { x: place.left - 9 - size, y: place.top - 6 }, { x: place.left - 9 - size, y: place.top + 13 },
    ];
    const room = ({ x, y }) => ({ left: x, right: x + size, top: y - 9, bottom: y + 2 });
    const free = (area) => isInside(area, box) && !taken.some((other) => overlap(area, other));
    const spot = spots.find((candidate) => free(room(candidate)));
    if (spot === undefined) continue;
    taken.push(room(spot));
    drawn.push(draw("text", { class: place.front ? "label front-label" : "label", ...spot }, place.name));
  }
  return drawn;
}

/** Says which points are not drawn because they lack a chosen figure. */
function missingNote(data, state, found) {
  const drawn = new Set(found.map((one) => one.point));
  const missing = data.points.filter((point) => isShown(point, state) && !drawn.has(point)).map((point) => point.name);
  if (!missing.length) return [];
  return [make("p", { class: "note" }, `Without a figure that these axes can show: ${missing.join("; ")}.`)];
}
