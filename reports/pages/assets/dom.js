/* Making elements, saying things to screen readers, handing text over. Data only ever becomes text, never markup. */

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/**
 * An HTML element.
 * @param {string} tag
 * @param {Object<string, string | number | boolean | null>} attributes null and false leave one out, true is empty
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element; see `make`. */
function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);
}

/** Sets attributes and appends children. */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children);
  return element;
}

/**
 * A push button.
 * @param {string} text
 * @param {() => void} action
 * @param {Object<string, string | boolean>} attributes
 */
function makeButton(text, action, attributes = {}) {
  const button = make("button", { type: "button", ...attributes }, text);
  button.addEventListener("click", action);
  return button;
}

/**
 * A select element with a label around it.
 * @param {string} label
 * @param {[string, string][]} options value, text
 * @param {string} chosen
 * @param {(value: string) => void} action
 */
function makeSelect(label, options, chosen, action) {
  const select = make("select", {}, ...options.map(([value, text]) => make("option", { value }, text)));
  select.value = chosen;
  select.addEventListener("change", () => action(select.value));
  return make("label", { class: "choice" }, `${label} `, select);
}

/** Shows a short message at the page's foot, which screen readers speak. */
function announce(message) {
  const status = document.getElementById("status");
  status.textContent = message;
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => (status.textContent = ""), 4000);
}

/** Whether the clipboard may be written: a frame that is not allowed to logs an error if it tries. */
function mayCopy() {
  const policy = document.permissionsPolicy ?? document.featurePolicy;
  return policy === undefined || policy.allowsFeature("clipboard-write");
}

/**
 * Copies a text, or, where the clipboard is refused (old browsers, sandboxed frames), shows it selected below `place`.
 * @param {string} text
 * @param {string} what named in the message
 * @param {HTMLElement} place
 */
async function copyText(text, what, place) {
  if (!mayCopy()) return offerText(text, what, place);
  try {
    await navigator.clipboard.writeText(text);
    announce(`${what} copied`);
  } catch {
    offerText(text, what, place);
  }
}

/** A selected, read-only copy of the text below `place`; Escape or Close removes it. */
function offerText(text, what, place) {
  place.parentElement.querySelector(":scope > .offer")?.remove();
  const opener = document.activeElement;
  const area = make("textarea", { readonly: true, rows: 8, "aria-label": what });
  area.value = text;
  const close = () => {
    offer.remove();
    opener?.focus();
  };
  const offer = make("div", { class: "offer" }, area, makeButton("Close", close));
  offer.addEventListener("keydown", (event) => event.key === "Escape" && close());
  place.after(offer);
  area.focus();
  area.select();
  announce(`${what} is selected: copy it with Ctrl+C or Cmd+C`);
}

/**
 * Saves a text as a file, or shows it where a frame forbids that.
 * @param {string} text
 * @param {string} name
 * @param {string} type
 * @param {HTMLElement} place
 */
function saveText(text, name, type, place) {
  if (window.self !== window.top) return offerText(text, name, place);
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  announce(`${name} saved`);
}

/** A CSV line's field: quoted where it must be; what a spreadsheet would take for a formula is guarded. */
function csvField(value) {
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  const text = value === null || value === undefined ? "" : String(value);
  const guarded = /^\s*[=+\-@＝＋－＠]|^[\t\r\n]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(guarded) ? `"${guarded.replace(/"/g, '""')}"` : guarded;
}

/** The last entry of a list; undefined where there is none. */
function last(list) {
  return list[list.length - 1];
}

/** Rows of strings and numbers as CSV. */
function toCsv(rows) {
  return rows.map((row) => row.map(csvField).join(",")).join("\r\n") + "\r\n";
}
