// The threshold explorer: metrics of a label at the threshold that the slider selects.
const explorer = document.getElementById("explorer");
if (explorer) {
  const labels = JSON.parse(document.getElementById("explorer-data").textContent);
  const [pick, slide] = [explorer.querySelector("select"), explorer.querySelector("input")];
  const show = (name, text) => { explorer.querySelector(`[data-value=${name}]`).textContent = text; };
  const update = () => {
    const one = labels[pick.value], k = Number(slide.value), called = one.tp[k] + one.fp[k];
    show("threshold", one.threshold[k]);
    show("recall", (one.tp[k] / one.positives).toFixed(3));
    show("precision", (one.tp[k] / called).toFixed(3));
    show("specificity", one.rows > one.positives ? (1 - one.fp[k] / (one.rows - one.positives)).toFixed(3) : "–");
    show("alarms", (100 * called / one.rows).toFixed(1));
    show("missed", `${one.positives - one.tp[k]} of ${one.positives}`);
    slide.setAttribute("aria-valuetext", `threshold ${one.threshold[k]}`);
  };
  const choose = () => {
    slide.max = labels[pick.value].threshold.length - 1;
    slide.value = labels[pick.value].at;
    update();
  };
  pick.addEventListener("change", choose);
  slide.addEventListener("input", update);
  choose();
}
// The course of a metric over the epochs: metric and label are chosen above it.
const chooser = document.getElementById("courses");
if (chooser) {
  const {colours, courses} = JSON.parse(document.getElementById("courses-data").textContent);
  const [metric, label] = ["metric", "label"].map((name) => chooser.querySelector(`[name=${name}]`));
  const svg = chooser.querySelector("svg"), [left, right, top, bottom] = [56, 630, 12, 262];
  const options = (select, names) => {
    const before = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(before)) select.value = before;
  };
  const add = (name, attributes, text) => {
    const made = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    svg.append(made);
    return made;
  };
  // The smallest round step (1, 2 or 5 times a power of ten) that makes at most `most` intervals.
  const step = (range, most) => {
    const power = 10 ** Math.floor(Math.log10(range / most));
    return [1, 2, 5, 10].map((k) => k * power).find((s) => range / s <= most);
  };
  const ticks = (low, high, by) => {
    const first = Math.ceil(low / by - 1e-9);
    return Array.from({length: Math.floor(high / by + 1e-9) - first + 1}, (_, k) => Number(((first + k) * by).toPrecision(10)));
  };
  const draw = () => {
    const lines = courses[metric.value][label.value], all = Object.values(lines).flat();
    const [values, epochs] = [all.map((p) => p[1]), all.map((p) => p[0])];
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (high - low < 1e-9) [low, high] = [low - 0.05, high + 0.05];
    const margin = 0.06 * (high - low);
    [low, high] = [low - margin, high + margin];
    const [start, end] = [Math.min(...epochs), Math.max(...epochs, Math.min(...epochs) + 1)];
    const x = (epoch) => left + 10 + (right - left - 20) * (epoch - start) / (end - start);
    const y = (value) => bottom - (bottom - top) * (value - low) / (high - low);
    svg.replaceChildren();
    for (const value of ticks(low, high, step(high - low, 6))) {
      add("line", {x1: left, x2: right, y1: y(value), y2: y(value), stroke: "#d5dae0"});
      add("text", {x: left - 8, y: y(value) + 4, "text-anchor": "end", "font-size": 13, fill: "#1d2733"}, value);
    }
    for (const epoch of ticks(start, end, Math.max(1, step(end - start, 12)))) {
      add("text", {x: x(epoch), y: bottom + 18, "text-anchor": "middle", "font-size": 13, fill: "#1d2733"}, epoch);
    }
    add("text", {x: (left + right) / 2, y: bottom + 36, "text-anchor": "middle", "font-size": 13, fill: "#1d2733"}, "Epoch");
    for (const [part, points] of Object.entries(lines)) {
      const at = points.map((p) => `${x(p[0])},${y(p[1])}`).join(" ");
      add("polyline", {points: at, fill: "none", stroke: colours[part], "stroke-width": 2, "data-part": part});
      for (const p of points) {
        const dot = add("circle", {cx: x(p[0]), cy: y(p[1]), r: points.length > 40 ? 2 : 3.5, fill: colours[part]});
        const title = document.createElementNS(svg.namespaceURI, "title");
        title.textContent = `${part}, epoch ${p[0]}: ${p[1]}`;
        dot.append(title);
      }
    }
  };
  const choose = () => { options(label, Object.keys(courses[metric.value])); draw(); };
  options(metric, Object.keys(courses));
  metric.addEventListener("input", choose);
  label.addEventListener("input", draw);
  choose();
}
