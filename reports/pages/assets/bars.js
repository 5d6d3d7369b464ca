/* Stacked bars, and tables whose cells are coloured. */

const BAR = 18;
/** A part has one colour in all charts of the page: part -> index of the colour. */
const partColours = new Map();

function partColour(part) {
  if (!partColours.has(part)) partColours.set(part, partColours.size);
  return colourClass(partColours.get(part));
}

/** @param {HTMLElement} block @param {object} data see Bars in blocks.py */
function renderBars(block, data) {
  const hidden = new Set();
  const content = (width, tip) => [drawBars(data, hidden, width, tip)];
  const { controls, redraw } = mountChart(block, data, content, () => barRows(data));
  const entries = data.parts.map((part) => {
    const sample = makeSquare(partColour(part));
    return { key: part, name: part, sample };
  });
  if (entries.length > 1) controls.append(makeLegend(entries, hidden, redraw));
}

function barRows(data) {
  const figures = (parts) => data.parts.map((part) => parts[part] ?? null);
  const rows = Object.entries(data.bars).map(([label, parts]) => [label, ...figures(parts)]);
  return [["cell", ...data.parts.map((part) => (data.unit ? `${part} (${data.unit})` : part))], ...rows];
}

/** The visible parts of a bar as {part, from, to}. */
function barSegments(parts, data, hidden) {
  let sum = 0;
  return data.parts.flatMap((part) => {
    const value = parts[part];
    if (hidden.has(part) || !Number.isFinite(value) || value <= 0) return [];
    sum += value;
    return [{ part, from: sum - value, to: sum }];
  });
}

function drawBars(data, hidden, width, tip) {
  const bars = Object.entries(data.bars).map(([label, parts]) => {
    return { label, segments: barSegments(parts, data, hidden) };
  });
  const stacked = width < 560; // on a phone a bar's label stands above it
  const longest = bars.reduce((most, { label }) => Math.max(most, label.length), 0);
  const left = stacked ? 4 : Math.min(width * 0.4, 12 + longest * 6.6);
  const pitch = stacked ? BAR + 26 : BAR + 10;
  const box = makeBox(width, bars.length * pitch + 6, left, 60, data.unit, "");
  const axis = { label: data.unit, unit: "", log: false, better: "", zero: true, date: false, low: null, high: null };
  const totals = bars.map(({ segments }) => last(segments)?.to ?? 0);
  const x = makeScale(axis, totals, box.left, box.right, Math.max(2, width / 110));
  const svg = makeSurface(width, box.height, { role: "group", "aria-label": spokenText(data) });
  svg.append(...drawAxes(box, x, { ticks: [] }));
  for (const [index, bar] of bars.entries()) {
    const top = box.top + index * pitch + (stacked ? 18 : 4);
    svg.append(drawBar(bar, data, x, { left, top, stacked }, tip));
  }
  return svg;
}

function drawBar({ label, segments }, data, x, { left, top, stacked }, tip) {
  const unit = data.unit ? ` ${data.unit}` : "";
  const total = last(segments)?.to ?? 0;
  const texts = segments.map(({ part, from, to }) => `${part}: ${formatNumber(to - from)}${unit}`);
  const lines = [`${label}: ${formatNumber(total)}${unit}`, ...texts];
  const name = stacked
    ? { x: left, y: top - 5 }
    : { x: left - 8, y: top + BAR / 2, "text-anchor": "end", "dominant-baseline": "central" };
  const group = draw("g", { class: "bar", tabindex: 0, role: "img", "aria-label": lines.join(", ") });
  group.append(draw("text", { class: "name", ...name }, label));
  for (const { part, from, to } of segments) {
    const shape = { x: x.at(from), y: top, width: Math.max(0.5, x.at(to) - x.at(from) - 0.6), height: BAR };
    group.append(draw("g", { class: partColour(part) }, draw("rect", { class: "solid", ...shape })));
  }
  const end = { x: x.at(total) + 6, y: top + BAR / 2, "dominant-baseline": "central" };
  group.append(draw("text", { class: "total", ...end }, formatNumber(total)));
  tip.attach(group, Math.max(x.at(total) / 2, left), top + BAR / 2, lines);
  return group;
}

/** @param {HTMLElement} block @param {object} data see Matrix in blocks.py */
function renderMatrix(block, data) {
  const titles = Object.keys(data.choices);
  let choice = titles[0];
  const { controls, redraw } = mountChart(block, data, () => drawMatrix(data, choice), () => matrixRows(data));
  if (titles.length < 2) return;
  const choose = (title) => {
    choice = title;
    redraw();
  };
  controls.append(makeSelect("Show", titles.map((title) => [title, title]), choice, choose));
}

function matrixRows(data) {
  const rows = [];
  for (const [title, [values, counts]] of Object.entries(data.choices)) {
    for (const [down, row] of data.rows.entries()) {
      for (const [across, column] of data.columns.entries()) {
        rows.push([title, row, column, values[down][across], counts[down][across]]);
      }
    }
  }
  return [["cell", data.row_label, data.column_label, "value", "count"], ...rows];
}

function drawMatrix(data, choice) {
  const [values, counts] = data.choices[choice];
  const corner = make("th", { class: "corner", rowspan: 2 }, `${data.row_label} ↓`);
  const over = make("th", { colspan: data.columns.length, scope: "colgroup" }, `${data.column_label} →`);
  const columns = data.columns.map((column) => make("th", { scope: "col" }, column));
  const body = data.rows.map((row, down) => {
    const cells = data.columns.map((_, across) => matrixCell(data, values[down][across], counts[down][across]));
    return make("tr", {}, make("th", { scope: "row" }, row), ...cells);
  });
  const caption = make("caption", {}, spokenText(data));
  const head = make("thead", {}, make("tr", {}, corner, over), make("tr", {}, ...columns));
  const table = make("table", { class: "matrix" }, caption, head, make("tbody", {}, ...body));
  const scroller = make("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": data.title }, table);
  const ends = [data.low, data.high].map(formatNumber);
  const scale = make("p", { class: "scale" }, ends[0], make("span", { class: "ramp" }), ends[1]);
  return [scroller, scale];
}

/** A cell with its value and count, coloured by where the value lies between low and high. */
function matrixCell(data, value, count) {
  if (value === null) return make("td", { class: "empty" }, "–");
  const decimals = Math.max(0, 2 - Math.floor(Math.log10(data.high - data.low || 1)));
  const share = Math.max(0, Math.min(1, (value - data.low) / (data.high - data.low || 1)));
  const counted = make("small", {}, ` n ${count}`);
  const cell = make("td", { class: share > 0.5 ? "high" : null }, value.toFixed(decimals), counted);
  cell.style.setProperty("--share", `${Math.round(share * 100)}%`);
  return cell;
}
