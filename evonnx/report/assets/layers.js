// The network's layers at any generation: what lives, what died now, what had died before.

/** Counts of a layer in a model and in its parents, in one measure. */
function fateOf(layer, index, measure) {
  const total = run.layers[layer].whole[measure];
  const lives = run.entries[index].live[layer][measure];
  // What any parent had was there to inherit.
  const before = run.entries[index].parents.map((parent) => run.entries[parent].live[layer][measure]);
  const inherited = index === 0 ? total : Math.max(lives, ...before);
  return { total, lives, died: inherited - lives, gone: total - inherited };
}

/** The same, summed over layers. */
function fateOfAll(index, measure) {
  const sum = { total: 0, lives: 0, died: 0, gone: 0 };
  run.layers.forEach((_, layer) => {
    const one = fateOf(layer, index, measure);
    for (const key of Object.keys(sum)) sum[key] += one[key];
  });
  return sum;
}

function startLayers() {
  const home = document.getElementById("explorer");
  if (!home) return;
  const last = run.entries.length - 1;
  const state = { index: run.line - 1, measure: run.measures[0], toScale: false, timer: null };

  const slider = element("input", { type: "range", id: "generation", min: 0, max: last, step: 1 });
  const back = element("button", { type: "button", class: "plain", "aria-label": "Previous generation" }, "◀");
  const on = element("button", { type: "button", class: "plain", "aria-label": "Next generation" }, "▶");
  const play = element("button", { type: "button", class: "plain" }, "Play");
  const measures = element("fieldset", {}, element("legend", {}, "Count"));
  for (const name of run.measures) {
    const radio = element("input", { type: "radio", name: "measure", value: name });
    radio.checked = name === state.measure;
    radio.addEventListener("change", () => show({ measure: name }));
    measures.append(element("label", {}, radio, ` ${name}`));
  }
  const scale = element("input", { type: "checkbox" });
  scale.addEventListener("change", () => show({ toScale: scale.checked }));

  const now = element("p", { class: "now" });
  const summary = element("p", { id: "fate", "aria-live": "polite" });
  const body = element("tbody");
  const rows = run.layers.map((layer) => {
    const parts = ["lives", "died", "gone"].map((name) => element("i", { class: name }));
    const figures = [element("td", { class: "figures" }), element("td", { class: "figures step" })];
    body.append(
      element(
        "tr",
        {},
        element("th", { scope: "row", class: "words" }, layer.name, " ", element("small", { class: "operator" }, layer.operator)),
        element("td", {}, element("div", { class: "stack", "aria-hidden": "true" }, ...parts)),
        ...figures,
      ),
    );
    return { parts, figures };
  });

  function show(change) {
    Object.assign(state, change);
    const { index, measure, toScale } = state;
    slider.value = String(index);
    slider.setAttribute("aria-valuetext", titleOf(index));
    back.disabled = index === 0;
    on.disabled = index === last;
    now.textContent = titleOf(index);
    const largest = Math.max(...run.layers.map((layer) => layer.whole[measure]), 1);
    rows.forEach((row, layer) => {
      const fate = fateOf(layer, index, measure);
      const full = toScale ? largest : fate.total;
      row.parts.forEach((part) => {
        const share = full ? (100 * fate[part.className]) / full : 0;
        part.style.width = `${share}%`;
        part.hidden = !share;
      });
      row.figures[0].textContent = fate.total ? `${whole(fate.lives)} of ${whole(fate.total)}` : "-";
      row.figures[1].textContent = fate.died ? `-${whole(fate.died)}` : "";
    });
    const all = fateOfAll(index, measure);
    summary.textContent =
      `${whole(all.lives)} of ${whole(all.total)} ${measure} live (${percent(all.lives, all.total)}); ` +
      `${whole(all.died)} died in this step, ${whole(all.gone)} before.`;
    for (const tick of document.querySelectorAll("#layers .tick[data-column]")) {
      tick.classList.toggle("current", Number(tick.dataset.column) === index);
    }
  }

  function stop() {
    clearInterval(state.timer);
    state.timer = null;
    play.textContent = "Play";
  }

  function start() {
    if (state.index === last) show({ index: 0 });
    play.textContent = "Stop";
    state.timer = setInterval(() => {
      show({ index: state.index + 1 });
      if (state.index === last) stop();
    }, 700);
  }

  const move = (index) => {
    stop();
    show({ index: Math.min(Math.max(index, 0), last) });
  };
  slider.addEventListener("input", () => move(Number(slider.value)));
  back.addEventListener("click", () => move(state.index - 1));
  on.addEventListener("click", () => move(state.index + 1));
  play.addEventListener("click", () => (state.timer ? stop() : start()));

  home.append(
    element("h3", {}, "What lives and what died"),
    element(
      "div",
      { class: "controls" },
      element(
        "div",
        { class: "slide" },
        element("label", { for: "generation" }, "Generation (arrow keys)"),
        element("div", { class: "row" }, back, slider, on, play),
      ),
      measures,
      element("label", {}, scale, " bars to one scale"),
    ),
    now,
    summary,
    element(
      "ul",
      { class: "key" },
      ...[["lives", "lives"], ["died", "died in this step"], ["gone", "died before"]].map(([name, words]) =>
        element("li", {}, element("i", { class: name }), words),
      ),
    ),
    element(
      "table",
      { class: "bars" },
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("th", { scope: "col", class: "words" }, "layer"),
          element("th", { scope: "col", class: "words" }, "share"),
          element("th", { scope: "col", class: "figures" }, "live"),
          element("th", { scope: "col", class: "figures step" }, "died now"),
        ),
      ),
      body,
    ),
  );
  show({});
}
