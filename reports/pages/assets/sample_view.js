/* The larger view of one sample of a gallery: its pictures, all its figures, and the same image in other cells. */

/** Columns of the records in words; others are shown by their own name. */
const FIGURES = {
  start: "r before", prediction: "r after, on the saved image", search_prediction: "r after, as the search saw it",
  prediction_error: "|r − target|", oracle_target_mae: "|oracle − target|", oracle_regressor_mae: "|oracle − r|",
  oracle: "oracle after", attribute: "true value of the input", reconstruction_prediction: "r of the reconstruction",
  change_l1: "mean absolute change", changed_area: "changed area", type_preserved: "type preserved (1: yes)",
  square_mae: "error inside the square", background_mae: "error outside the square",
  noise_success: "success under fresh noise", noise_prediction: "r under fresh noise",
  seconds: "seconds, its share", latency: "seconds from start to end",
};

/** A sample's pictures as large as fits, with all its figures; the arrow keys go on, Escape closes. */
class SampleView {
  constructor(pages) {
    this.pages = pages;
    this.title = make("h3", { id: "gallery-view-title", "aria-live": "polite" });
    this.pictures = make("div", { class: "gallery-large" });
    this.state = make("p", { class: "gallery-view-state", role: "status" });
    this.others = make("div", { class: "gallery-others" });
    this.figures = make("dl", { class: "gallery-figures" });
    this.place = make("span", { class: "gallery-view-place" });
    this.back = makeButton("‹ Previous", () => this.move(-1));
    this.forth = makeButton("Next ›", () => this.move(1));
    const close = makeButton("Close", () => this.dialog.close(), { class: "gallery-close" });
    const bar = make("div", { class: "gallery-view-bar" }, this.back, this.forth, this.place, close);
    const content = [bar, this.title, this.state, this.pictures, colourBar(pages.data), this.others, this.figures];
    this.dialog = make("dialog", { class: "gallery-view", "aria-labelledby": "gallery-view-title" }, ...content);
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    this.dialog.addEventListener("keydown", ({ key }) => key in steps && this.move(steps[key]));
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("close", () => this.pages.returnTo(this.item));
  }

  open(item) {
    this.show(item);
    this.dialog.showModal();
  }

  move(step) {
    const { items } = this.pages;
    const next = items.includes(this.item) ? items[items.indexOf(this.item) + step] : undefined;
    if (next) this.show(next);
  }

  show(item) {
    this.item = item;
    const { data, parts, items, bySample } = this.pages;
    const place = items.indexOf(item);
    const cell = make("bdi", {}, data.cells[item.cell]);
    this.title.replaceChildren(make("bdi", {}, item.id), make("span", {}, " · ", cell));
    this.pictures.replaceChildren(...parts.map((part) => largePicture(data, item, part)));
    this.state.replaceChildren(...stateWords(item), item.problems ? ` · ${item.problems.join("; ")}` : "");
    this.place.textContent = place < 0 ? "" : `${place + 1} of ${items.length}`;
    this.back.setAttribute("aria-disabled", String(place <= 0));
    this.forth.setAttribute("aria-disabled", String(place < 0 || place === items.length - 1));
    this.others.replaceChildren(...this.otherCells(bySample.get(item.sample)));
    const figures = Object.entries(item.figures).map(([name, value]) => {
      const words = FIGURES[name] ?? name.replaceAll("_", " ");
      return make("div", {}, make("dt", {}, words), make("dd", {}, String(value)));
    });
    this.figures.replaceChildren(...figures);
  }

  /** The same image in other cells, to switch between. */
  otherCells(items) {
    if (items.length < 2) return [];
    const switches = items.map((item) => {
      const label = this.pages.data.cells[item.cell];
      const after = item.figures.prediction === undefined ? "failed" : `r ${item.figures.prediction.toFixed(2)}`;
      const attributes = { "aria-pressed": String(item === this.item), class: "gallery-other" };
      const button = makeButton("", () => this.switchTo(item), attributes);
      button.append(makePicture(this.pages.data, item, 2), make("bdi", {}, label), make("span", {}, after));
      return button;
    });
    return [make("h4", {}, "The same image in every cell"), make("div", {}, ...switches)];
  }

  /** Shows another cell; the button that was pressed is made anew, so the focus has to follow. */
  switchTo(item) {
    this.show(item);
    this.others.querySelector("[aria-pressed=true]").focus();
  }
}

/** A picture with what it shows beneath it. */
function largePicture(data, item, part) {
  const { start, reconstruction_prediction: reconstructed, prediction, target } = item.figures;
  const r = [start, reconstructed, prediction][part];
  const predicted = r === undefined ? "" : ` r ${r.toFixed(3)}`;
  const words = [PARTS[part], predicted, part === 2 ? `, target ${target.toFixed(3)}` : ""];
  return make("figure", {}, makePicture(data, item, part), make("figcaption", {}, ...words));
}
