// The ancestor and one other model side by side: time per batch size with its spread, size, score.

/** One bar from zero to the median, with a whisker from p10 to p90. */
function timedBar(kind, latency, longest) {
  const share = (value) => `${(100 * value) / longest}%`;
  const bar = element("i", { class: kind });
  bar.style.width = share(latency.median_ms);
  const whisker = element("span", { class: "whisker" });
  whisker.style.left = share(latency.p10_ms);
  whisker.style.width = share(latency.p90_ms - latency.p10_ms);
  return element("div", { class: "track", "aria-hidden": "true" }, bar, whisker);
}

function timedRows(name, kind, latency, longest) {
  const words = `${milliseconds(latency.median_ms)} ms, p10 ${milliseconds(latency.p10_ms)} to p90 ${milliseconds(latency.p90_ms)}`;
  return [
    element("span", { class: "who" }, name),
    element("div", {}, timedBar(kind, latency, longest), element("small", {}, words)),
  ];
}

function verdict(latency) {
  const interval = `95% interval ${latency.ratio_low.toFixed(2)} to ${latency.ratio_high.toFixed(2)}`;
  if (latency.ratio_low <= 1 && latency.ratio_high >= 1) return `No difference beyond noise: ${times(latency.ratio)} (${interval})`;
  return `${times(latency.ratio)} the speed (${interval})`;
}

function startCompare() {
  const home = document.getElementById("compare");
  const timed = run.entries.map((_, index) => index).filter((index) => index && Object.keys(run.entries[index].latency).length);
  if (!home || !timed.length) return;
  const choice = element("select", { id: "opponent" });
  for (const index of timed) choice.append(element("option", { value: index }, titleOf(index)));
  choice.value = String(timed[timed.length - 1]);
  const duel = element("div", { class: "duel" });
  const sizes = element("tbody");
  const heading = element("th", { scope: "col" });
  const columns = [element("th", { scope: "col", class: "words" }, "measure"), element("th", { scope: "col" }, "Ancestor"), heading];
  const sizeTable = element(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Sizes side by side" },
    element("table", {}, element("thead", {}, element("tr", {}, ...columns, element("td"))), sizes),
  );

  function show() {
    const index = Number(choice.value);
    const [first, second] = [run.entries[0], run.entries[index]];
    heading.textContent = titleOf(index);
    duel.replaceChildren(
      ...run.batches
        .filter((batch) => first.latency[batch] && second.latency[batch])
        .map((batch) => {
          const pair = [first.latency[batch], second.latency[batch]];
          const longest = Math.max(...pair.flatMap((one) => [one.p90_ms, one.median_ms]));
          return element(
            "div",
            {},
            element("h4", {}, `Batch ${batch}`),
            element(
              "div",
              { class: "timed" },
              ...timedRows("Ancestor", "first", pair[0], longest),
              ...timedRows(titleOf(index), "second", pair[1], longest),
            ),
            element("p", { class: "verdict" }, verdict(pair[1])),
          );
        }),
      sizeTable,
    );
    sizes.replaceChildren(
      ...[["synapses", "synapses"], ["parameters", "parameters"], ["MACs", "macs"], ["bytes", "bytes"]].map(([words, key]) =>
        row(words, whole(first[key]), whole(second[key]), first[key] && second[key] ? `${times(first[key] / second[key])} fewer` : "-"),
      ),
      row(`test ${run.metric}`, first.score, second.score, ""),
    );
  }

  function row(name, ...cells) {
    return element("tr", {}, element("th", { scope: "row", class: "words" }, name), ...cells.map((cell) => element("td", {}, cell)));
  }

  choice.addEventListener("change", show);
  home.append(
    element("h3", {}, "Side by side"),
    element("div", { class: "controls" }, element("div", {}, element("label", { for: "opponent" }, "The ancestor against "), choice)),
    duel,
  );
  show();
}
