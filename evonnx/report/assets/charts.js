// Plots tell their values: to the pointer, and to the arrow keys; legends show and hide series.

/** One plot: its marks have rows and columns (data-row, data-column), and what they say in a <title>. */
function enliven(chart) {
  const drawing = chart.querySelector("svg");
  const marks = drawing ? [...drawing.querySelectorAll(".mark")] : [];
  if (!marks.length) return;
  const tip = element("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  chart.append(tip);
  // Role "img" would hide the marks from screen readers.
  drawing.setAttribute("role", "group");
  drawing.setAttribute("aria-label", `${drawing.getAttribute("aria-label")}: arrow keys move between values`);
  for (const mark of marks) {
    const title = mark.querySelector("title");
    mark.setAttribute("aria-label", title.textContent);
    mark.setAttribute("role", "img");
    mark.setAttribute("tabindex", "-1");
    title.remove();
  }
  marks[0].setAttribute("tabindex", "0");

  const shown = (mark) => !mark.closest(".series.off");
  const place = (mark) => [Number(mark.dataset.row), Number(mark.dataset.column)];

  function say(mark) {
    for (const other of drawing.querySelectorAll(".pointed")) other.classList.remove("pointed");
    tip.hidden = !mark;
    if (!mark) return;
    mark.classList.add("pointed");
    tip.textContent = mark.getAttribute("aria-label");
    const box = chart.getBoundingClientRect();
    const at = mark.getBoundingClientRect();
    const wide = tip.offsetWidth;
    const left = Math.min(Math.max(at.left + at.width / 2 - wide / 2, box.left), box.right - wide);
    const above = at.top - box.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(left - box.left, 0) + chart.scrollLeft}px`;
    tip.style.top = `${above < 0 ? at.bottom - box.top + 8 : above}px`;
  }

  function focus(mark) {
    for (const other of marks) other.setAttribute("tabindex", "-1");
    mark.setAttribute("tabindex", "0");
    mark.focus();
  }

  /** The nearest shown mark in a direction: along the row, or in the next row as close to this column as can be. */
  function neighbour(mark, down, right) {
    const [row, column] = place(mark);
    const others = marks.filter(shown).map((one) => [one, ...place(one)]);
    const found = right
      ? others.filter(([, r, c]) => r === row && Math.sign(c - column) === right)
      : others.filter(([, r]) => Math.sign(r - row) === down);
    const far = ([, r, c]) => (right ? Math.abs(c - column) : 1000 * Math.abs(r - row) + Math.abs(c - column));
    return found.length ? found.reduce((best, one) => (far(one) < far(best) ? one : best))[0] : null;
  }

  drawing.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    const mark = event.target.closest(".mark");
    if (event.key === "Escape") say(null);
    if (!mark || !(event.key in steps)) return;
    event.preventDefault();
    const next = neighbour(mark, ...steps[event.key]);
    if (next) focus(next);
  });
  drawing.addEventListener("focusin", (event) => {
    const mark = event.target.closest(".mark");
    if (mark) say(mark); // else a click beside the marks
  });
  drawing.addEventListener("focusout", () => say(null));
  // A finger that is lifted leaves the drawing too; what it has asked for stays until it asks again.
  drawing.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && say(null));
  for (const kind of ["pointermove", "pointerdown"]) {
    drawing.addEventListener(kind, (event) => say(event.target.closest(".mark") || nearest(event)));
  }

  /** Dots are small: the closest within reach counts. */
  function nearest(event) {
    const reach = 22;
    let best = null;
    let least = reach * reach;
    for (const mark of marks) {
      if (!mark.classList.contains("dot") || !shown(mark)) continue;
      const box = mark.getBoundingClientRect();
      const far = (box.left + box.width / 2 - event.clientX) ** 2 + (box.top + box.height / 2 - event.clientY) ** 2;
      if (far < least) [best, least] = [mark, far];
    }
    return best;
  }

  const legend = chart.querySelector(".legend");
  if (legend) enliveLegend(legend, drawing, marks, shown);
}

function enliveLegend(legend, drawing, marks, shown) {
  for (const item of legend.children) {
    const series = drawing.querySelector(`.series[data-series="${item.dataset.series}"]`);
    const button = element("button", { type: "button", "aria-pressed": "true" }, ...item.childNodes);
    button.addEventListener("click", () => {
      const off = series.classList.toggle("off");
      button.setAttribute("aria-pressed", String(!off));
      // Tab has to find a mark that is there.
      const first = marks.find((mark) => mark.getAttribute("tabindex") === "0" && shown(mark)) || marks.find(shown);
      for (const mark of marks) mark.setAttribute("tabindex", mark === first ? "0" : "-1");
    });
    item.append(button);
  }
}

function startCharts() {
  for (const chart of document.querySelectorAll(".chart")) enliven(chart);
}
