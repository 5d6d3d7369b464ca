/* What all charts share: the frame with its controls, redrawing at the width there is, legends, tooltips, saving. */

const COLOURS = 8;
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const SHAPES = [
  "M-4.2,0a4.2,4.2 0 1,0 8.4,0a4.2,4.2 0 1,0 -8.4,0Z", // circle
  "M-3.8,-3.8H3.8V3.8H-3.8Z", // square
  "M0,-5L4.6,3.4H-4.6Z", // triangle
  "M0,-5.4L5.4,0L0,5.4L-5.4,0Z", // diamond
  "M0,5L4.6,-3.4H-4.6Z", // triangle, point down
  "M-1.6,-4.8H1.6V-1.6H4.8V1.6H1.6V4.8H-1.6V1.6H-4.8V-1.6H-1.6Z", // plus
];
const SAVED_STYLES = [
  "color", "fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "stroke-linejoin",
  "opacity", "paint-order", "font-family", "font-size", "font-style", "font-weight", "text-anchor", "dominant-baseline",
];
const SHOWN_ROWS = 200;
const LINE = 14;

/** The class that sets the colour of the index-th group. */
function colourClass(index) {
  return `c${(index % COLOURS) + 1}`;
}

/** A marker of the index-th shape at a place. */
function drawMarker(index, x, y, attributes = {}) {
  return draw("path", { d: SHAPES[index % SHAPES.length], transform: `translate(${x},${y})`, ...attributes });
}

/** Distinct values in the order in which they come. */
function distinct(values) {
  return [...new Set(values)];
}

/**
 * Puts a chart into its block: it is drawn again whenever the width changes, or `redraw` is called.
 * @param {HTMLElement} block with h3, .plot and figcaption
 * @param {{title: string, alt: string}} data
 * @param {(width: number, tip: Tip) => Element[]} drawContent what is shown, for a width in pixels
 * @param {() => (string | number | null)[][]} rows the chart's figures, headings first
 * @returns {{controls: HTMLElement, redraw: () => void}}
 */
function mountChart(block, data, drawContent, rows) {
  const plot = block.querySelector(".plot");
  const controls = make("div", { class: "controls" });
  plot.before(controls);
  const tip = new Tip(plot);
  let width = 0;
  const redraw = () => {
    if (width === 0) return;
    tip.hide();
    plot.replaceChildren(...drawContent(width, tip), tip.element);
  };
  const fit = () => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    redraw();
  };
  new ResizeObserver(() => requestAnimationFrame(fit)).observe(plot);
  addTools(block, data, rows);
  return { controls, redraw };
}

/** "Data" with the figures as a table, and buttons that copy them or save the picture. */
function addTools(block, data, rows) {
  const details = make("details", { class: "figures" }, make("summary", {}, "Data"));
  details.addEventListener("toggle", () => details.open && showRows(details, rows()));
  const tools = make("div", { class: "tools" });
  const copy = () => copyText(toCsv(rows()), "CSV", tools);
  tools.append(makeButton("Copy data", copy, { "aria-label": `Copy the data of ${data.title} as CSV` }));
  if (data.kind !== "matrix") {
    const name = `${block.id}.svg`;
    const save = () => saveText(svgText(block.querySelector(".plot svg"), data), name, "image/svg+xml", tools);
    tools.append(makeButton("Save SVG", save, { "aria-label": `Save ${data.title} as SVG` }));
  }
  block.append(tools, details);
}

/** The first rows of a chart's figures as a table. */
function showRows(details, [headings, ...rows]) {
  const cell = (value) => make("td", {}, typeof value === "number" ? formatNumber(value) : (value ?? "–"));
  const head = make("tr", {}, ...headings.map((heading) => make("th", { scope: "col" }, heading)));
  const body = rows.slice(0, SHOWN_ROWS).map((row) => make("tr", {}, ...row.map(cell)));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  const more = `The first ${SHOWN_ROWS} of ${rows.length} rows; "Copy data" has all.`;
  const rest = rows.length > SHOWN_ROWS ? [make("p", { class: "note" }, more)] : [];
  const scroller = make("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": "Data" }, table);
  details.replaceChildren(details.firstElementChild, scroller, ...rest);
}

/** A chart as a file of its own: colours and fonts as they are shown now. */
function svgText(svg, data) {
  const copy = svg.cloneNode(true);
  const copies = [copy, ...copy.querySelectorAll("*")];
  for (const [place, element] of [svg, ...svg.querySelectorAll("*")].entries()) {
    const style = getComputedStyle(element);
    for (const name of SAVED_STYLES) copies[place].style.setProperty(name, style.getPropertyValue(name));
    for (const name of ["class", "tabindex", "role"]) copies[place].removeAttribute(name);
  }
  const paper = draw("rect", { width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor });
  copy.prepend(draw("title", {}, data.title), draw("desc", {}, data.alt), paper);
  for (const target of copy.querySelectorAll(".target")) target.remove();
  copy.setAttribute("xmlns", SVG_NAMESPACE);
  return new XMLSerializer().serializeToString(copy);
}

/** The chart's drawing surface; `attributes` say what it is to assistive technology. */
function makeSurface(width, height, attributes) {
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, ...attributes });
}

/** What is said of a chart where its picture cannot be seen. */
function spokenText(data) {
  return `${data.title}. ${data.alt}`;
}

/** Switches for what is drawn: a key is hidden while it is in `hidden`. */
function makeLegend(entries, hidden, redraw) {
  const legend = make("div", { class: "legend", role: "group", "aria-label": "Legend" });
  for (const { key, name, sample } of entries) {
    const button = makeButton("", () => {
      const showing = hidden.delete(key);
      if (!showing) hidden.add(key);
      button.setAttribute("aria-pressed", String(showing));
      redraw();
    }, { "aria-pressed": String(!hidden.has(key)) });
    button.append(sample, name);
    legend.append(button);
  }
  return legend;
}

/** A legend's little picture. */
function makeSample(className, ...content) {
  const size = { width: 22, height: 12, viewBox: "-11 -6 22 12" };
  return draw("svg", { ...size, class: className, "aria-hidden": "true" }, ...content);
}

/** A legend's square of a colour. */
function makeSquare(className) {
  return makeSample(className, draw("rect", { x: -5, y: -5, width: 10, height: 10, class: "solid" }));
}

/** Both axes: ticks, fine lines, titles. `box` is of `makeBox`. */
function drawAxes(box, x, y) {
  const parts = [];
  for (const { value, text } of y.ticks) {
    parts.push(draw("line", { class: "grid", x1: box.left, x2: box.right, y1: y.at(value), y2: y.at(value) }));
    const place = { x: box.left - 6, y: y.at(value), "text-anchor": "end", "dominant-baseline": "central" };
    parts.push(draw("text", { class: "tick", ...place }, text));
  }
  for (const { value, text } of x.ticks) {
    parts.push(draw("line", { class: "grid", x1: x.at(value), x2: x.at(value), y1: box.bottom, y2: box.bottom + 4 }));
    parts.push(draw("text", { class: "tick", x: x.at(value), y: box.bottom + 16, "text-anchor": "middle" }, text));
  }
  parts.push(draw("line", { class: "base", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  const under = box.lines.x.map((line, index) => {
    return draw("text", { class: "axis", x: box.right, y: box.bottom + 33 + index * LINE, "text-anchor": "end" }, line);
  });
  const above = box.lines.y.map((line, index) => draw("text", { class: "axis", x: 0, y: 11 + index * LINE }, line));
  return [...parts, ...under, ...above];
}

/**
 * Where a chart's inside lies, with room for the axes' titles in lines.
 * @param {number} width of the whole picture, @param {number} height of the inside
 * @param {number} left room for the ticks, @param {number} right room at the other side
 * @param {string} xTitle
 * @param {string} yTitle empty: none
 * @returns {object} left, right, top, bottom, height of the whole, and the titles' lines
 */
function makeBox(width, height, left, right, xTitle, yTitle) {
  const lines = { x: wrapWords(xTitle, width - right), y: yTitle ? wrapWords(yTitle, width) : [] };
  const top = 14 + lines.y.length * LINE;
  const bottom = top + height;
  return { left, right: width - right, top, bottom, height: bottom + 24 + lines.x.length * LINE, lines };
}

/** The room that the longest of some tick texts takes, in pixels. */
function tickRoom(ticks) {
  return 12 + 6.4 * ticks.reduce((most, { text }) => Math.max(most, text.length), 2);
}

/** A whisker between two values along an axis; nothing where one cannot be drawn. */
function drawWhisker(scale, axis, low, high, across, vertical, attributes = {}) {
  if (low === null || high === null || !drawable(axis, high) || (!axis.log && !drawable(axis, low))) return [];
  const [one, other] = [scale.at(drawable(axis, low) ? low : scale.low), scale.at(high)];
  const cap = 3;
  const path = vertical
    ? `M${across},${one}V${other}M${across - cap},${one}h${2 * cap}M${across - cap},${other}h${2 * cap}`
    : `M${one},${across}H${other}M${one},${across - cap}v${2 * cap}M${other},${across - cap}v${2 * cap}`;
  return [draw("path", { class: "whisker", d: path, ...attributes })];
}

/** A small box of text beside what is pointed at or has the focus. Escape closes it. */
class Tip {
  /** @param {HTMLElement} plot positioned; the box lies in it */
  constructor(plot) {
    this.element = make("div", { class: "tip", hidden: true, role: "status" });
    this.plot = plot;
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.hide());
  }

  /** @param {string[]} lines the first is the heading */
  show(x, y, lines) {
    const [heading, ...rest] = lines;
    this.element.replaceChildren(make("strong", {}, heading), ...rest.map((line) => make("div", {}, line)));
    this.element.hidden = false;
    const width = this.element.offsetWidth;
    const left = x + 14 + width > this.plot.clientWidth ? x - 14 - width : x + 14;
    this.element.style.left = `${Math.max(0, Math.min(left, this.plot.clientWidth - width))}px`;
    this.element.style.top = `${Math.max(0, y - this.element.offsetHeight / 2)}px`;
  }

  hide() {
    this.element.hidden = true;
  }

  /** Shows the lines while the pointer is on an element, or it has the focus. */
  attach(element, x, y, lines) {
    const show = () => this.show(x, y, lines);
    element.addEventListener("pointerenter", show);
    element.addEventListener("focus", show);
    element.addEventListener("pointerleave", () => this.hide());
    element.addEventListener("blur", () => this.hide());
  }
}
