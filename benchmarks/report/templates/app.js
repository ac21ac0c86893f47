"use strict";
// Tables sort and filter, the plot shows what is ticked, two entries are compared. Everything else works without a script.

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", other === head ? (up ? "ascending" : "descending") : "none"));
    const rows = [...table.tBodies[0].rows].map((row) => [key(row.cells[column]), row]);
    rows.sort(([a], [b]) => (a === "") - (b === "") || (up ? 1 : -1) * (a < b ? -1 : a > b ? 1 : 0)); // empty cells last
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}

function key(cell) {
  const value = cell.dataset.value;
  if (value === undefined) return cell.textContent.trim().toLowerCase();
  return value === "" ? "" : Number(value);
}

const filter = document.getElementById("filter");
if (filter) {
  const rows = [...document.getElementById("entries").tBodies[0].rows];
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    const shown = rows.filter((row) => !row.hidden).length;
    document.getElementById("count").textContent = `${shown} of ${rows.length} entries`;
  };
  filter.addEventListener("input", apply);
  apply();
}

if (typeof PLOT !== "undefined") {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const layers = Object.fromEntries(PLOT.layer.map((layer) => [layer.name, layer.data.values]));
  const boxes = [...document.querySelectorAll("#toggles input")];
  let view;

  const shown = (name) => {
    const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.dataset.kind || `method ${box.dataset.method}`));
    if (name === "front") return off.has("front") ? [] : layers.front;
    if (name === "names" && innerWidth < 600) return []; // they would lie on each other
    return layers[name].filter((row) => !off.has(row.kind) && !off.has(`method ${row.method}`));
  };

  const focusable = () => {
    for (const mark of document.querySelectorAll("#plot g.mark-symbol path")) {
      const row = mark.__data__ && mark.__data__.datum;
      if (!row || !row.url || mark.hasAttribute("tabindex")) continue;
      mark.setAttribute("tabindex", "0");
      mark.setAttribute("role", "link");
      mark.setAttribute("aria-label", row.text);
      mark.addEventListener("keydown", (event) => { if (event.key === "Enter") location.href = row.url; });
    }
  };

  const draw = async () => {
    let text = JSON.stringify(PLOT);
    if (dark.matches) for (const [light, other] of Object.entries(DARK)) text = text.replaceAll(`"${light}"`, `"${other}"`);
    const options = { actions: false, renderer: "svg", loader: { target: "_self" } };
    view = (await vegaEmbed("#plot", JSON.parse(text), options)).view;
    await refresh();
  };

  const refresh = async () => {
    for (const name of Object.keys(layers)) view.data(name, shown(name));
    await view.runAsync();
    focusable();
  };

  boxes.forEach((box) => box.addEventListener("change", refresh));
  dark.addEventListener("change", draw);
  draw().then(() => document.documentElement.setAttribute("data-drawn", ""));
}

if (typeof ZOO !== "undefined") {
  const byId = Object.fromEntries(ZOO.entries.map((entry) => [entry.id, entry]));
  const [a, b] = ["a", "b"].map((id) => document.getElementById(id));
  const asked = new URLSearchParams(location.search);

  const fill = (select, entries, chosen) => {
    select.replaceChildren();
    for (const network of new Set(entries.map((entry) => entry.network))) {
      const group = select.appendChild(document.createElement("optgroup"));
      group.label = network;
      for (const entry of entries.filter((other) => other.network === network)) group.append(new Option(entry.id));
    }
    if (entries.some((entry) => entry.id === chosen)) select.value = chosen;
  };

  const rivals = (id) => ZOO.entries.filter((entry) => entry.id !== id && entry.set === byId[id].set);

  const show = () => {
    const [one, two] = [byId[a.value], byId[b.value]];
    if (!one || !two) {
      document.getElementById("result").textContent = "No other entry was measured on the same images.";
      document.getElementById("pictures").replaceChildren();
      return;
    }
    history.replaceState(null, "", `?a=${encodeURIComponent(one.id)}&b=${encodeURIComponent(two.id)}`);
    const [wrongA, wrongB] = [one, two].map(bits);
    let both = 0, onlyA = 0, onlyB = 0;
    const differ = [];
    for (let i = 0; i < one.examples; i++) {
      if (wrongA[i] && wrongB[i]) both++;
      else if (wrongA[i]) onlyA++;
      else if (wrongB[i]) onlyB++;
      if (wrongA[i] !== wrongB[i]) differ.push(i);
    }
    const p = mcnemar(onlyA, onlyB), n = one.examples;
    const points = 100 * (onlyB - onlyA) / n;
    const error = 100 * Math.sqrt(onlyA + onlyB - (onlyA - onlyB) ** 2 / n) / n;
    const number = (value) => value.toLocaleString("en");
    const verdict = p >= LEVEL ? "No difference in error is shown" : points < 0 ? "B is more accurate" : "A is more accurate";
    document.getElementById("result").innerHTML = `
      <p class="verdict">${verdict} (p = ${p < 0.001 ? p.toExponential(1) : p.toPrecision(3)}).</p>
      <div class="scroll" tabindex="0" role="region" aria-label="Both entries"><table><thead><tr><th></th><th class="number">bytes</th><th class="number">wrong</th><th class="number">wrong alone</th></tr></thead>
      <tbody><tr><th scope="row">A <a href="entries/${one.id}.html">${one.id}</a></th><td class="number">${number(one.bytes)}</td><td class="number">${number(both + onlyA)} of ${number(n)}</td><td class="number">${number(onlyA)}</td></tr>
      <tr><th scope="row">B <a href="entries/${two.id}.html">${two.id}</a></th><td class="number">${number(two.bytes)}</td><td class="number">${number(both + onlyB)} of ${number(n)}</td><td class="number">${number(onlyB)}</td></tr></tbody></table></div>
      <p>Images: ${one.images}. Both are wrong on ${number(both)}. Error of B minus error of A: ${points.toFixed(2)} points, standard error ${error.toFixed(2)}.</p>`;
    pictures(one, two, differ);
  };

  const pictures = (one, two, differ) => {
    const place = document.getElementById("pictures"), sheet = ZOO.pictures[one.dataset];
    place.replaceChildren();
    if (!differ.length) return;
    if (!sheet || !sheet.answers[one.id] || !sheet.answers[two.id]) {
      place.innerHTML = "<p class=\"hint\">The pictures of this data set were not at hand when this page was made.</p>";
      return;
    }
    const first = differ.slice(0, SHOWN), factor = 84 / sheet.width;
    const heading = place.appendChild(document.createElement("h2"));
    heading.textContent = `The first ${first.length} images on which they differ`;
    const list = place.appendChild(document.createElement("ul"));
    list.className = "grid";
    for (const image of first) {
      const at = sheet.numbers.indexOf(image), label = sheet.labels[at];
      const [x, y] = [at % sheet.across * sheet.width, Math.floor(at / sheet.across) * sheet.height];
      const item = list.appendChild(document.createElement("li"));
      const picture = item.appendChild(document.createElement("span"));
      picture.className = "picture";
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", `test image ${image}, ${sheet.classes[label]}`);
      picture.style.background = `url(assets/${sheet.file}) -${x * factor}px -${y * factor}px / ${sheet.sheet[0] * factor}px ${sheet.sheet[1] * factor}px`;
      const says = (letter, entry) => {
        const answer = sheet.answers[entry.id][at];
        const line = item.appendChild(document.createElement("div"));
        line.textContent = `${letter}: ${sheet.classes[answer]}`;
        if (answer !== label) line.className = "wrong";
      };
      item.appendChild(document.createElement("div")).textContent = `#${image}: ${sheet.classes[label]}`;
      says("A", one);
      says("B", two);
    }
  };

  fill(a, ZOO.entries, asked.get("a"));
  fill(b, rivals(a.value), asked.get("b"));
  a.addEventListener("change", () => { fill(b, rivals(a.value), b.value); show(); });
  b.addEventListener("change", show);
  show();
}

function bits(entry) {
  const bytes = Uint8Array.from(atob(entry.wrong), (character) => character.charCodeAt(0));
  return Array.from({ length: entry.examples }, (_, i) => (bytes[i >> 3] >> (7 - (i & 7))) & 1);
}

// Two-sided exact p of b against c: twice the smaller tail of a fair coin thrown b + c times, in logarithms.
function mcnemar(b, c) {
  const n = b + c, k = Math.min(b, c);
  let log = -n * Math.LN2, tail = Math.exp(log);
  for (let i = 1; i <= k; i++) {
    log += Math.log((n - i + 1) / i);
    tail += Math.exp(log);
  }
  return Math.min(1, 2 * tail);
}
