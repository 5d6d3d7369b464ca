/* The page: theme, contents, printing, and every block brought to life by its kind. */

const THEME = "theme";

const RENDERERS = {
  table: enhanceTable,
  code: enhanceCode,
  lines: renderLines,
  scatter: renderScatter,
  bars: renderBars,
  matrix: renderMatrix,
  gallery: mountGallery,
};

/** Reads what a reader chose before; sandboxed frames refuse, then nothing is remembered. */
function remembered(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
}

/** A switch between light and dark; until it is used the system's setting counts. */
function addThemeSwitch() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const current = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");
  const stored = remembered(THEME);
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  const label = () => (button.textContent = current() === "dark" ? "Light" : "Dark");
  const button = makeButton("", () => {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    remember(THEME, root.dataset.theme);
    label();
  }, { class: "theme", title: "Switch between a light and a dark page" });
  label();
  dark.addEventListener("change", label);
  document.querySelector("header").prepend(button);
}

/** Contents: open where there is room beside the text; the section being read is marked. */
function followContents() {
  const contents = document.querySelector(".contents");
  const wide = matchMedia("(min-width: 68rem)");
  const fit = () => (contents.open = wide.matches);
  wide.addEventListener("change", fit);
  fit();
  markCurrent([...contents.querySelectorAll("a")]);
  contents.addEventListener("click", (event) => {
    if (event.target.closest("a") && !wide.matches) contents.open = false;
  });
}

/** Marks the link of the section that is being read: the last one that began above the middle, or the page's last. */
function markCurrent(links) {
  const sections = links.map((link) => document.getElementById(link.hash.slice(1)));
  const mark = () => {
    const begun = sections.filter((section) => section.getBoundingClientRect().top < innerHeight * 0.4).length;
    const atEnd = scrollY > 0 && scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
    const current = atEnd ? links.length - 1 : Math.max(0, begun - 1);
    for (const [place, link] of links.entries()) {
      if (place === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("scroll", () => requestAnimationFrame(mark), { passive: true });
  mark();
}

/** On paper folded sections are open. */
function openForPrint() {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.folded:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
}

/** A link to a folded section opens it. */
function openLinked() {
  const section = document.getElementById(location.hash.slice(1));
  section?.querySelector(":scope > details.folded")?.setAttribute("open", "");
}

function start() {
  addThemeSwitch();
  followContents();
  openForPrint();
  addEventListener("hashchange", openLinked);
  openLinked();
  const data = JSON.parse(document.getElementById("data").textContent);
  for (const block of document.querySelectorAll("[data-kind]")) RENDERERS[block.dataset.kind](block, data[block.id]);
}

start();
