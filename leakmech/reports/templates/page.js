"use strict";
// The sample browser. Every text of a model or a user enters the page through textContent, never as markup.
(function () {
  const PAGE = 20;
  const data = JSON.parse(document.getElementById("sample-data").textContent);
  const list = document.getElementById("sample-list");
  const control = (name) => document.getElementById("sample-" + name);
  const search = control("search");
  const order = control("order");
  const reset = control("reset");
  const filters = ["condition", "valence", "echo", "topic"].map(control);
  const [byCondition, byValence, byEcho, byTopic] = filters;
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
    const [scored, full, remark, p, topic] = entry;
    const mark = [remark, topic ? "about the injection" : ""].filter(Boolean).join(", ");
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

  // Which answers the filters leave: those of the chosen condition that are as is asked.
  function likeliest(p) {
    return data.labels[p.indexOf(Math.max(...p))];
  }

  function asked(choice, is) {
    return choice.value === "" || (choice.value === "yes") === is;
  }

  function keeps([, , mark, p, topic]) {
    if (byValence.value && !(p && likeliest(p) === byValence.value)) return false;
    return asked(byEcho, mark.includes("echo")) && (byTopic.value === "" || (topic !== null && asked(byTopic, topic === 1)));
  }

  function kept(sample) {
    return sample.conditions
      .filter((own) => !byCondition.value || own.name === byCondition.value)
      .map((own) => ({ ...own, generations: own.generations.filter(keeps) }))
      .filter((own) => own.generations.length > 0);
  }

  function condition(entry) {
    const section = element("section", "condition");
    const head = element("header");
    const title = element("div");
    title.append(element("h4", "", entry.name), element("span", "soft small", "mean valence " + signed(entry.valence)));
    head.append(title, element("p", "soft small", entry.injection ?? "no injection"));
    if (entry.prompt) {
      const prompt = element("details", "prompt small");
      prompt.append(element("summary", "", "full prompt"), element("div", "full", entry.prompt));
      head.append(prompt);
    }
    const rows = element("ol", "generations");
    rows.append(...entry.generations.map(generation));
    section.append(head, rows);
    return section;
  }

  function address(sample) {
    return "#sample=" + encodeURIComponent(sample.id);
  }

  function fill(sample, node) {
    if (node.children.length > 1) return;
    const body = element("div", "conditions");
    body.append(...kept(sample).map(condition));
    const link = element("a", "permalink small", "Link to this sample");
    link.href = address(sample);
    body.append(link);
    node.append(body);
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
      if (node.open) fill(sample, node);
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
    const filtered = filters.some((choice) => choice.value !== "");
    let answers = 0;
    const found = entries.filter((entry) => {
      const left = filtered ? kept(entry.sample) : null;
      if (!((!wanted || searchable(entry).includes(wanted)) && (!left || left.length))) return false;
      answers += left ? left.reduce((sum, own) => sum + own.generations.length, 0) : 0;
      return true;
    });
    found.sort(orders[order.value]);
    list.replaceChildren(...found.slice(0, shown).map((entry) => entry.node));
    const left = found.length - Math.min(shown, found.length);
    const matched = found.length + " of " + entries.length + " samples match";
    count.textContent = wanted || filtered ? matched + (filtered ? ", with " + answers + " answers" : "") : "";
    reset.hidden = !wanted && !filtered;
    more.hidden = left === 0;
    more.textContent = "Show " + Math.min(PAGE, left) + " more of " + left;
  }

  function restart() {
    shown = PAGE;
    for (const { sample, node } of entries) {
      while (node.children.length > 1) node.lastChild.remove();
      if (node.open) fill(sample, node);
    }
    update();
  }

  // The sample that the address names is shown whatever was filtered, opened and scrolled to.
  function follow() {
    if (!location.hash.startsWith("#sample=")) return false;
    let id = "";
    try {
      id = decodeURIComponent(location.hash.slice("#sample=".length));
    } catch {
      return false; // not an address of ours
    }
    const entry = entries.find((own) => own.sample.id === id);
    if (!entry) {
      count.textContent = "This page has no sample " + id;
      return false;
    }
    clear();
    const place = [...entries].sort(orders[order.value]).indexOf(entry);
    shown = Math.max(PAGE, place + 1);
    update();
    entry.node.open = true;
    fill(entry.sample, entry.node);
    entry.node.scrollIntoView();
    entry.node.querySelector("summary").focus({ preventScroll: true });
    return true;
  }

  function clear() {
    search.value = "";
    for (const choice of filters) choice.value = "";
    restart();
  }

  function options(choice, names) {
    for (const name of names) choice.append(new Option(name, name));
  }

  options(byCondition, [...new Set(data.samples.flatMap((sample) => sample.conditions.map((own) => own.name)))]);
  options(byValence, data.labels);
  const isTold = (own) => own.generations.some((entry) => entry[4] !== null);
  control("topic-label").hidden = !data.samples.some((sample) => sample.conditions.some(isTold));

  search.addEventListener("input", restart);
  for (const choice of [order, ...filters]) choice.addEventListener("change", restart);
  reset.addEventListener("click", clear);
  more.addEventListener("click", () => {
    const next = list.children.length;
    shown += PAGE;
    update();
    list.children[next].querySelector("summary").focus();
  });
  window.addEventListener("hashchange", follow);
  // On paper everything that the filters leave is there.
  let before = shown;
  window.addEventListener("beforeprint", () => {
    before = shown;
    shown = Infinity;
    update();
    for (const { sample, node } of entries) fill(sample, node);
  });
  window.addEventListener("afterprint", () => {
    shown = before;
    update();
  });
  document.getElementById("sample-browser").hidden = false;
  update();
  if (!follow() && list.firstElementChild) list.firstElementChild.open = true;
})();
