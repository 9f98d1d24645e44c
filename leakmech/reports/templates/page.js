"use strict";
// The sample browser. Every text of a model or a user enters the page through textContent, never as markup.
(function () {
  const PAGE = 20;
  const data = JSON.parse(document.getElementById("sample-data").textContent);
  const list = document.getElementById("sample-list");
  const search = document.getElementById("sample-search");
  const order = document.getElementById("sample-order");
  const count = document.getElementById("sample-count");
  const more = document.getElementById("sample-more");
  const widest = Math.max(0.01, ...data.samples.map((sample) => Math.abs(sample.shift ?? 0)));
  let shown = PAGE;

  function element(name, className, text) {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function signed(value) {
    return value === null ? "–" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
  }

  function probabilityBar(p) {
    const bar = element("span", p ? "bar" : "bar none");
    bar.setAttribute("role", "img");
    if (!p) {
      bar.setAttribute("aria-label", "not scored");
      return bar;
    }
    const label = data.labels.map((name, i) => name + " " + p[i].toFixed(2)).join(", ");
    bar.setAttribute("aria-label", label);
    bar.title = label;
    data.labels.forEach((name, i) => {
      const part = element("span", name);
      part.style.width = 100 * p[i] + "%";
      bar.append(part);
    });
    return bar;
  }

  function shiftTrack(shift) {
    const track = element("span", "track");
    track.setAttribute("aria-hidden", "true");
    if (shift !== null) {
      const fill = element("span", shift < 0 ? "against" : "with");
      const width = (50 * Math.abs(shift)) / widest;
      fill.style.left = (shift < 0 ? 50 - width : 50) + "%";
      fill.style.width = width + "%";
      track.append(fill);
    }
    return track;
  }

  function generation(entry) {
    const [scored, full, mark, p] = entry;
    const row = element("li");
    const text = element("div", "text");
    const line = full === null ? text : element("summary");
    if (mark) line.append(element("span", "mark", "(" + mark + ") "));
    line.append(scored);
    if (full !== null) {
      const details = element("details");
      details.append(line, element("div", "full", full));
      text.append(details);
    }
    row.append(probabilityBar(p), element("span", "number", signed(p && p[2] - p[0])), text);
    return row;
  }

  function condition(entry) {
    const section = element("section", "condition");
    const head = element("header");
    const title = element("div");
    title.append(element("h4", "", entry.name), element("span", "soft small", "mean valence " + signed(entry.valence)));
    head.append(title, element("p", "soft small", entry.injection ?? "no injection"));
    const rows = element("ol", "generations");
    rows.append(...entry.generations.map(generation));
    section.append(head, rows);
    return section;
  }

  function draw(sample) {
    const node = element("details", "sample");
    const head = element("summary");
    const shift = element("span", "number", signed(sample.shift));
    shift.title = "valence shift";
    head.append(element("span", "stem", sample.stem + " …"), element("span", "id", sample.id));
    head.append(shiftTrack(sample.shift), shift);
    node.append(head);
    // Thousands of generations would slow the page down: a sample is drawn when it is first opened.
    node.addEventListener("toggle", () => {
      if (node.open && node.children.length === 1) {
        const body = element("div", "conditions");
        body.append(...sample.conditions.map(condition));
        node.append(body);
      }
    });
    return node;
  }

  const entries = data.samples.map((sample, position) => ({ sample, position, node: draw(sample), text: null }));

  function searchable(entry) {
    if (entry.text === null) {
      const parts = [entry.sample.id, entry.sample.stem];
      for (const own of entry.sample.conditions) {
        parts.push(own.injection ?? "");
        for (const [scored, full] of own.generations) parts.push(full ?? scored);
      }
      entry.text = parts.join("\n").toLowerCase();
    }
    return entry.text;
  }

  const orders = {
    largest: (a, b) => (b.sample.shift ?? -9) - (a.sample.shift ?? -9) || a.position - b.position,
    smallest: (a, b) => (a.sample.shift ?? 9) - (b.sample.shift ?? 9) || a.position - b.position,
    dataset: (a, b) => a.position - b.position,
  };

  function update() {
    const wanted = search.value.trim().toLowerCase();
    const found = entries.filter((entry) => !wanted || searchable(entry).includes(wanted));
    found.sort(orders[order.value]);
    list.replaceChildren(...found.slice(0, shown).map((entry) => entry.node));
    const left = found.length - Math.min(shown, found.length);
    count.textContent = wanted ? found.length + " of " + entries.length + " samples match" : "";
    more.hidden = left === 0;
    more.textContent = "Show " + Math.min(PAGE, left) + " more of " + left;
  }

  search.addEventListener("input", () => {
    shown = PAGE;
    update();
  });
  order.addEventListener("change", () => {
    shown = PAGE;
    update();
  });
  more.addEventListener("click", () => {
    const next = list.children.length;
    shown += PAGE;
    update();
    list.children[next].querySelector("summary").focus();
  });
  document.getElementById("sample-browser").hidden = false;
  update();
  if (list.firstElementChild) list.firstElementChild.open = true;
})();
