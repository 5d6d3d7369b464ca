/* Scales, ticks and numbers as text. An axis is {label, unit, log, better, zero, date, low, high}, see blocks.py. */

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const DATE_STEPS = [
  MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 4 * DAY, 7 * DAY, 14 * DAY,
];

/** A number with at most four significant digits, and a true minus sign. */
function formatNumber(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-4)) return value.toExponential(2).replace("e+", "e").replace(/-/g, "−");
  const text = size >= 1000 ? String(Math.round(value)) : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
}

/** A value of an axis as text: a number with its unit, or a UTC date. */
function formatOn(axis, value) {
  if (axis.date) return `${new Date(value * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC`;
  return axis.unit ? `${formatNumber(value)} ${axis.unit}` : formatNumber(value);
}

/** "1.2 s [1.1, 1.4]". */
function formatInterval(axis, value, low, high) {
  const text = formatOn(axis, value);
  return low === null || high === null ? text : `${text} [${formatNumber(low)}, ${formatNumber(high)}]`;
}

/** An axis' name with its unit. */
function axisName(axis) {
  return axis.unit ? `${axis.label} (${axis.unit})` : axis.label;
}

/** An axis' title: its name, what is better, and how it is divided. */
function axisTitle(axis) {
  const better = { low: ", lower is better", high: ", higher is better" }[axis.better] ?? "";
  return axisName(axis) + better + (axis.log ? ", logarithmic" : "");
}

/** Headings of an axis' values with their intervals, as tables have them too: each once, and without a direction. */
function intervalHeadings(axis) {
  const name = axisName(axis);
  return [name, `${name} low`, `${name} high`];
}

/** A text in lines of about so many pixels. */
function wrapWords(text, width, letter = 6.2) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = last(lines);
    const longer = line ? `${line} ${word}` : word;
    if (line && longer.length * letter > width) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

/** Whether a value can be drawn on an axis. */
function drawable(axis, value) {
  return typeof value === "number" && Number.isFinite(value) && (!axis.log || value > 0);
}

/** 1, 2 or 5 times a power of ten, about a `count`-th of `span`. */
function niceStep(span, count) {
  const raw = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const share = raw / power;
  return power * (share < 1.5 ? 1 : share < 3.5 ? 2 : share < 7.5 ? 5 : 10);
}

/** Multiples of a nice step within [low, high]. */
function linearTicks(low, high, count) {
  const step = niceStep(high - low, count);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, place) => {
    const value = (first + place) * step;
    return { value, text: formatNumber(Number(value.toPrecision(12))) };
  });
}

/** Powers of ten within [low, high], with 2 and 5 times them where there are few. */
function logTicks(low, high, count) {
  const decades = Math.log10(high / low);
  if (decades < 0.7) return linearTicks(low, high, count).filter((tick) => tick.value > 0);
  const factors = decades < count / 2 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil(decades / count));
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    if (power % every !== 0) continue;
    for (const factor of factors) {
      const value = Number(`${factor}e${power}`);
      if (value >= low * 0.999 && value <= high * 1.001) ticks.push({ value, text: formatNumber(value) });
    }
  }
  return ticks;
}

/** Round points in time within [low, high], in seconds since 1970. */
function dateTicks(low, high, count) {
  const wanted = (high - low) / Math.max(1, count);
  const step = DATE_STEPS.find((candidate) => candidate >= wanted) ?? Math.ceil(wanted / (28 * DAY)) * 28 * DAY;
  const ticks = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
    const text = new Date(value * 1000).toISOString();
    ticks.push({ value, text: step < DAY ? text.slice(5, 16).replace("T", " ") : text.slice(0, 10) });
  }
  return ticks;
}

/** The range that an axis shows: its fixed ends, else the values' with some air. */
function extent(axis, values) {
  const known = values.filter((value) => drawable(axis, value));
  let low = known.reduce((least, value) => Math.min(least, value), Infinity);
  let high = known.reduce((most, value) => Math.max(most, value), -Infinity);
  if (!known.length) [low, high] = axis.log ? [1, 10] : [0, 1];
  if (axis.log) {
    const air = Math.max((high / low) ** 0.06, 1.1);
    [low, high] = [low / air, high * air];
  } else {
    const span = high - low || (axis.date ? 0 : Math.abs(high) || 1);
    const air = span ? span * 0.05 : 12 * HOUR; // a single date
    const touches = axis.zero && low >= 0;
    [low, high] = [touches ? 0 : low - air, high + air];
    if (axis.zero) high = Math.max(high, 0);
  }
  low = drawable(axis, axis.low) ? axis.low : low;
  high = drawable(axis, axis.high) ? axis.high : high;
  return high > low ? [low, high] : [low, axis.log ? low * 10 : low + 1];
}

/**
 * A scale from values to pixels.
 * @param {object} axis
 * @param {number[]} values what must be seen
 * @param {number} from the pixel of the low end
 * @param {number} to the pixel of the high end
 * @param {number} count about how many ticks
 * @returns {{at: (value: number) => number, ticks: {value: number, text: string}[], low: number, high: number}}
 */
function makeScale(axis, values, from, to, count) {
  const [low, high] = extent(axis, values);
  const place = axis.log ? Math.log : (value) => value;
  const at = (value) => from + ((place(value) - place(low)) / (place(high) - place(low))) * (to - from);
  const makeTicks = axis.date ? dateTicks : axis.log ? logTicks : linearTicks;
  return { at, ticks: makeTicks(low, high, count), low, high };
}
