/* Pictures of samples: pages, orders, filters, cells side by side, and a larger view of one sample. */

const PICTURES_A_PAGE = 24;
const COARSE = 64; // longest side of a picture whose pixels stay squares when it is enlarged
/** What the places in `pictures` of an item are. */
const PARTS = ["input", "reconstruction", "counterfactual", "difference"];
const STATES = { valid: "valid", invalid: "not valid", failed: "failed" };

/** |r - target|; a failure is worse than any error, and so is one that is no finite number, which the figures lack. */
const errorOf = (item) => (item.state === "failed" ? Infinity : item.figures.prediction_error ?? Infinity);

/** Key, words, value of an item (undefined: last), whether the largest comes first. */
const ORDERS = [
  ["record", "as recorded", (item) => item.place, false],
  ["error", "error |r − target|", errorOf, true],
  ["oracle", "oracle error", (item) => item.figures.oracle_target_mae, true],
  ["change", "change of the image", (item) => item.figures.change_l1, true],
  ["start", "r before", (item) => item.figures.start, false],
  ["target", "target", (item) => item.figures.target, false],
  ["steps", "steps", (item) => item.figures.steps, true],
  ["seconds", "seconds", (item) => item.figures.seconds, true],
  ["id", "name", (item) => item.id, false],
];

/** Key, words, which items pass. */
const FILTERS = [
  ["all", "all samples", () => true],
  ["valid", "valid", (item) => item.state === "valid"],
  ["invalid", "not valid", (item) => item.state === "invalid"],
  ["failed", "failed", (item) => item.state === "failed"],
  ["pictured", "with pictures", (item) => item.pictures !== undefined],
];

/**
 * @param {HTMLElement} element place of the gallery
 * @param {{cells: string[], items: object[], pictures: string[], scale: string, limit: number}} data
 */
function mountGallery(element, data) {
  data.items.forEach((item, place) => (item.place = place));
  new GalleryPages(element, data).setOrder("record");
}

/** The pages of a gallery: what is chosen, and the pictures of one page at a time. */
class GalleryPages {
  constructor(element, data) {
    Object.assign(this, { data, order: "record", descending: false, page: 0 });
    Object.assign(this, { cell: "all", filter: "all", words: "", beside: false });
    const reconstructed = data.items.some((item) => item.pictures?.[1] != null);
    this.parts = PARTS.map((_, part) => part).filter((part) => part !== 1 || reconstructed);
    this.bySample = new Map();
    for (const item of data.items) {
      if (!this.bySample.has(item.sample)) this.bySample.set(item.sample, []);
      this.bySample.get(item.sample).push(item);
    }
    this.view = new SampleView(this);
    this.status = make("p", { class: "gallery-status", role: "status" });
    this.grid = make("div", { class: "gallery-grid" });
    this.pagers = [this.makePager("above"), this.makePager("below")];
    this.pagers[0].append(this.status);
    this.top = make("div", { class: "gallery-top" }, this.makeTools(), colourBar(data), this.pagers[0]);
    element.append(this.top, this.grid, this.pagers[1], this.view.dialog);
  }

  /** Controls for what is shown, and in which order. */
  makeTools() {
    const orders = ORDERS.filter(([, , value]) => this.data.items.some((item) => value(item) !== undefined));
    const order = makeSelect("Order", orders, this.order, (key) => this.setOrder(key));
    this.orderSelect = order.querySelector("select");
    this.direction = makeButton("", () => this.setOrder(this.order, !this.descending), { class: "gallery-direction" });
    const label = "Search in names and reasons";
    const search = make("input", { type: "search", placeholder: "name or reason", "aria-label": label });
    search.addEventListener("input", () => this.choose({ words: search.value.trim().toLowerCase() }));
    const worst = makeButton("Worst first", () => this.setOrder("error"));
    const filters = FILTERS.filter(([key, , passes]) => key === "all" || new Set(this.data.items.map(passes)).size > 1);
    const shown = makeSelect("Show", filters, this.filter, (filter) => this.choose({ filter }));
    const tools = [worst, order, this.direction, shown, ...this.makeCellTools(), search];
    return make("div", { class: "gallery-tools" }, ...tools);
  }

  makeCellTools() {
    const { cells } = this.data;
    if (cells.length < 2) return [];
    const labels = [["all", "all cells"], ...cells.map((label, cell) => [String(cell), label])];
    const beside = make("input", { type: "checkbox" });
    beside.addEventListener("change", () => this.choose({ beside: beside.checked }));
    const select = makeSelect("Cell", labels, this.cell, (cell) => this.choose({ cell }));
    return [select, make("label", {}, beside, " cells side by side")];
  }

  /** Buttons stay enabled for the keyboard's sake: one that is disabled loses the focus. */
  makePager(where) {
    const number = make("input", { type: "number", min: 1, "aria-label": `Page, ${where} the pictures` });
    number.addEventListener("change", () => this.turn((Number(number.value) || 1) - 1));
    const to = (text, page, end) => makeButton(text, () => this.turn(page()), { "data-end": end });
    const back = [to("« First", () => 0, "first"), to("‹ Previous", () => this.page - 1, "first")];
    const forth = [to("Next ›", () => this.page + 1, "last"), to("Last »", () => Infinity, "last")];
    const label = `Pages, ${where} the pictures`;
    return make("nav", { class: "gallery-pager", "aria-label": label }, ...back, number, ...forth);
  }

  setOrder(key, descending = ORDERS.find(([one]) => one === key)[3]) {
    this.orderSelect.value = key;
    this.direction.textContent = descending ? "↓ falling" : "↑ rising";
    this.choose({ order: key, descending });
  }

  /** Takes over choices and shows the first page of what they leave. */
  choose(choices) {
    Object.assign(this, choices, { page: 0 });
    const passes = FILTERS.find(([key]) => key === this.filter)[2];
    const kept = this.data.items.filter((item) => passes(item) && this.matches(item));
    const items = sortedItems(kept, ORDERS.find(([key]) => key === this.order)[2], this.descending);
    const samples = [...new Set(items.map((item) => item.sample))];
    // Side by side, every entry is a sample's items in all cells, else one item.
    this.entries = this.beside ? samples.map((sample) => this.bySample.get(sample)) : items.map((item) => [item]);
    this.items = this.entries.flat();
    this.show();
  }

  matches(item) {
    if (this.cell !== "all" && item.cell !== Number(this.cell)) return false;
    return `${item.id}\n${this.data.cells[item.cell]}\n${item.failure ?? ""}`.toLowerCase().includes(this.words);
  }

  /** Entries a page: side by side it has about as many pictures. */
  get size() {
    return this.beside ? Math.max(1, Math.floor(PICTURES_A_PAGE / this.data.cells.length)) : PICTURES_A_PAGE;
  }

  turn(page) {
    this.page = page;
    this.show();
    this.top.scrollIntoView({ block: "nearest" });
  }

  show() {
    const pages = Math.max(1, Math.ceil(this.entries.length / this.size));
    this.page = Math.min(Math.max(0, this.page), pages - 1);
    const first = this.page * this.size;
    const shown = this.entries.slice(first, first + this.size);
    this.grid.classList.toggle("gallery-beside", this.beside);
    this.grid.replaceChildren(...shown.map((entry) => (this.beside ? this.row(entry) : this.card(entry[0], true))));
    const what = this.beside ? "images" : "samples";
    const numbers = `${what} ${first + 1} to ${first + shown.length} of ${this.entries.length}`;
    const range = shown.length ? numbers : `no ${what}`;
    this.status.textContent = `Page ${this.page + 1} of ${pages}: ${range}`;
    for (const pager of this.pagers) {
      Object.assign(pager.querySelector("input"), { value: this.page + 1, max: pages });
      for (const button of pager.querySelectorAll("[data-end]")) {
        button.setAttribute("aria-disabled", String(this.page === (button.dataset.end === "first" ? 0 : pages - 1)));
      }
    }
  }

  /** A sample: its pictures, which open the larger view, and its figures. */
  card(item, named) {
    const cell = this.data.cells[item.cell];
    const label = `${item.id}, ${cell}: larger view`;
    const pictures = this.parts.map((part) => makePicture(this.data, item, part));
    const attributes = { class: "gallery-open", "aria-label": label, "data-place": item.place };
    const opener = makeButton("", () => this.view.open(item), attributes);
    opener.append(...pictures);
    const lines = captionLines(item, named ? item.id : "", this.data.cells.length > 1 ? cell : "");
    return make("figure", { class: "gallery-card" }, opener, make("figcaption", {}, ...lines));
  }

  /** One image in every cell. */
  row(items) {
    const cards = make("div", { class: "gallery-cells" }, ...items.map((item) => this.card(item, false)));
    return make("div", { class: "gallery-row" }, make("h4", {}, make("bdi", {}, items[0].id)), cards);
  }

  /** After the larger view: the page that has the item, and the focus on it. */
  returnTo(item) {
    const page = Math.floor(this.entries.findIndex((entry) => entry.includes(item)) / this.size);
    if (page >= 0 && page !== this.page) this.turn(page);
    this.grid.querySelector(`[data-place="${item.place}"]`)?.focus();
  }
}

/** Stable; what has no value comes last in both directions. */
function sortedItems(items, valueOf, descending) {
  const keyed = items.map((item) => ({ item, value: valueOf(item) }));
  keyed.sort(({ value: one }, { value: other }) => {
    if (one === undefined || other === undefined) return (one === undefined) - (other === undefined);
    if (one === other) return 0;
    return one < other === descending ? 1 : -1;
  });
  return keyed.map(({ item }) => item);
}

/** A picture, or in words why there is none. */
function makePicture(data, item, part) {
  const place = item.pictures?.[part];
  const lacking = { class: "gallery-picture gallery-empty", title: `no ${PARTS[part]}` };
  if (place == null) return make("span", lacking, item.pictures ? "none" : "left out");
  const image = make("img", { src: data.pictures[place], alt: PARTS[part] });
  image.addEventListener("load", () => image.classList.toggle("gallery-coarse", image.naturalWidth <= COARSE));
  return make("span", { class: "gallery-picture" }, image);
}

function captionLines(item, id, cell) {
  const { start, prediction, target, oracle, steps } = item.figures;
  const short = (value) => (value === undefined ? "–" : value.toFixed(2).replace("-", "−"));
  const course = item.state === "failed" ? short(start) : `${short(start)} → ${short(prediction)}`;
  const judged = oracle === undefined ? "" : ` · oracle ${short(oracle)}`;
  const lines = [id && make("bdi", { class: "gallery-id", title: id }, id)];
  lines.push(cell && make("bdi", { class: "gallery-cell" }, cell));
  lines.push(make("span", {}, `r ${course} · target ${short(target)}${judged}`), make("span", {}, ...stateWords(item)));
  if (steps !== undefined && item.state !== "failed") lines.at(-1).append(` · ${steps} steps`);
  if (item.problems) lines.push(make("span", { class: "gallery-problem" }, item.problems.join("; ")));
  return lines.filter(Boolean);
}

function stateWords(item) {
  const state = make("span", { class: `gallery-${item.state}` }, STATES[item.state]);
  return item.failure === undefined ? [state] : [state, ": ", make("bdi", {}, item.failure)];
}

/** The scale of all differences. */
function colourBar(data) {
  const colours = `blue darker, red brighter; the ends are ${data.limit} and more`;
  const what = `counterfactual − input, mean over channels: ${colours}`;
  const ends = [-data.limit, 0, data.limit].map((value) => make("span", {}, value.toFixed(1).replace("-", "−")));
  const bar = make("img", { src: data.scale, alt: `Colour bar from blue to red. ${what}` });
  const scale = make("div", {}, bar, make("div", {}, ...ends));
  return make("div", { class: "gallery-scale" }, make("span", {}, "difference"), scale, make("span", {}, what));
}
