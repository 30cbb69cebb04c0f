// Score against cost: of the plots that are there, the one that is asked for.

function startChoices() {
  const home = document.getElementById("trades");
  const plots = home ? [...home.querySelectorAll(".trade")] : [];
  if (plots.length < 2) return;
  const choice = element("select", { id: "cost" });
  plots.forEach((plot, index) => choice.append(element("option", { value: index }, plot.dataset.name)));
  const show = () => plots.forEach((plot, index) => (plot.hidden = index !== Number(choice.value)));
  // Speed where it was measured, else what the file weighs.
  const first = plots.findIndex((plot) => plot.dataset.name.startsWith("ms"));
  choice.value = String(first >= 0 ? first : plots.length - 1);
  choice.addEventListener("change", show);
  home.classList.add("one");
  home.parentElement.before(element("div", { class: "controls" }, element("div", {}, element("label", { for: "cost" }, "Score against "), choice)));
  show();
}
