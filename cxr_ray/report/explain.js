"use strict";
// Overlays of maps on pictures: the method, the label and the opacity are chosen above them.
const chosen = document.getElementById("maps-controls");
if (chosen) {
  const data = JSON.parse(document.getElementById("maps-data").textContent);
  const [width, height] = data.size;
  const [method, label, opacity] = ["method", "label", "opacity"].map((name) => chosen.querySelector(`[name=${name}]`));
  const bar = document.getElementById("maps-bar"), ends = document.querySelectorAll("[data-end]");
  const number = (value) => Number(value.toPrecision(3)).toString().replace("-", "−");
  const load = (uri) => new Promise((done) => { const image = new Image(); image.onload = () => done(image); image.src = uri; });
  const bytes = async (uri) => {
    const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
    context.drawImage(await load(uri), 0, 0);
    return context.getImageData(0, 0, width, height).data;
  };
  const cache = new Map();
  const once = (uri) => { if (!cache.has(uri)) cache.set(uri, bytes(uri)); return cache.get(uri); };
  const coloursOf = (scale) => data.colours[scale.signed ? data.names.signed : data.names.unsigned];
  const draw = async (figure) => {
    const item = data.items[figure.dataset.item], map = item.maps[method.value], scale = data.scales[method.value];
    const [picture, values] = [await once(data.pictures[item.row]), await once(map.png)];
    const colours = coloursOf(scale), share = Number(opacity.value) / 100, out = new ImageData(width, height);
    for (let i = 0; i < values.length; i += 4) {
      const value = values[i], strength = Math.abs(value - 127.5) / 127.5;
      // White is 0 in a signed map, so its opacity grows with the value; that of an unsigned one is the same everywhere.
      const alpha = scale.signed ? Math.min(1, share * 1.5) * strength : share;
      for (let c = 0; c < 3; c += 1) out.data[i + c] = picture[i + c] * (1 - alpha) + colours[3 * value + c] * alpha;
      out.data[i + 3] = 255;
    }
    figure.querySelector("canvas").getContext("2d").putImageData(out, 0, 0);
    figure.classList.toggle("failed", map.failed);
    figure.querySelector("[data-sum]").textContent =
      (scale.signed ? `sum ${number(map.sum)}, logit ${number(item.logit)}` : `logit ${number(item.logit)}`)
      + (map.failed ? "; does not add up" : "");
  };
  const update = () => {
    const scale = data.scales[method.value], colours = coloursOf(scale);
    const stops = Array.from({length: 17}, (_, k) => Math.min(255, k * 16)).map((k) => `rgb(${colours.slice(3 * k, 3 * k + 3).join()})`);
    bar.style.background = `linear-gradient(to right, ${stops.join()})`;
    ends[0].textContent = scale.signed ? `${number(-scale.limit)} (against the label)` : "0";
    ends[1].textContent = scale.signed ? `${number(scale.limit)} (for the label)` : number(scale.limit);
    for (const figure of document.querySelectorAll("[data-item]")) {
      const fits = !label.value || data.items[figure.dataset.item].label === label.value;
      figure.hidden = !fits;
      if (fits) draw(figure);
    }
    chosen.querySelector("output").textContent = `${opacity.value}%`;
  };
  for (const control of [method, label, opacity]) control.addEventListener("input", update);
  update();
}
