// What the other files share: the run's data, elements made of text only, numbers in words.

const run = JSON.parse(document.getElementById("run").textContent);

/** An element; attributes that are false or null are left out, strings among children stay text. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** A count with thousands set apart by commas, or a dash. */
function whole(value) {
  return value === null || value === undefined ? "-" : Math.round(value).toLocaleString("en-US");
}

/** Three significant digits. */
function milliseconds(value) {
  return value < 99.95 ? value.toPrecision(3) : whole(value);
}

/** `9.71x`. */
function times(value) {
  return `${value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}x`;
}

/** A share that never rounds up to all nor down to nothing. */
function percent(part, total) {
  if (!total || !part) return "0%";
  const tenths = Math.floor((1000 * part) / total);
  return tenths ? `${tenths / 10}%` : "<0.1%";
}

/** What a model is called in a sentence. */
function nameOf(index) {
  if (index === 0) return "the ancestor";
  const label = run.entries[index].label;
  return index < run.line ? `generation ${label}` : label.replace(/^best/, "best.onnx");
}

/** The same at the start of one. */
function titleOf(index) {
  const name = nameOf(index);
  return name.startsWith("best") ? name : name.replace(/^the /, "").replace(/^./, (letter) => letter.toUpperCase());
}
