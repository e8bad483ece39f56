// The live chart of the tuning dashboard: four panels on canvases, drawn anew whenever the trait `data` changes.
// `data` holds arrays that are small enough to be sent twice a second; what is drawn is only here.

const COLOURS = { blue: "#0072B2", orange: "#E69F00", green: "#009E73", pink: "#CC79A7", sky: "#56B4E9", red: "#D55E00" };
const STAGES = Object.entries({ queue: COLOURS.orange, assembly: COLOURS.pink, run: COLOURS.blue, channel: COLOURS.sky, codec: COLOURS.green });
const REASONS = Object.entries({ full: COLOURS.blue, timeout: COLOURS.orange, immediate: COLOURS.green, alone: COLOURS.pink });
const SIZE = { width: 460, height: 200, left: 46, right: 8, top: 24, bottom: 22 };

function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= value);
}

function shown(value) {
  return value >= 1000 ? `${+(value / 1000).toPrecision(3)}k` : `${+value.toPrecision(3)}`;
}

// One panel: a canvas with axes in the colours of the notebook's theme, and a legend.
class Panel {
  constructor(parent, title) {
    this.title = title;
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", title);
    this.canvas.style.width = `${SIZE.width}px`;
    this.canvas.style.height = `${SIZE.height}px`;
    parent.appendChild(this.canvas);
  }

  begin(xRange, yTop, legend, note) {
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = SIZE.width * scale;
    this.canvas.height = SIZE.height * scale;
    const pen = (this.pen = this.canvas.getContext("2d"));
    pen.scale(scale, scale);
    const style = getComputedStyle(this.canvas);
    this.ink = style.getPropertyValue("--jp-ui-font-color1").trim() || style.color || "#333";
    this.range = xRange;
    this.yTop = yTop;
    pen.font = "11px sans-serif";
    pen.fillStyle = this.ink;
    pen.textBaseline = "middle";
    pen.fillText(this.title, 4, 9);
    let at = 8 + pen.measureText(this.title).width + 8;
    for (const [name, colour] of legend) {
      pen.fillStyle = colour;
      pen.fillRect(at, 5, 9, 9);
      pen.fillStyle = this.ink;
      pen.fillText(name, at + 12, 9);
      at += 18 + pen.measureText(name).width;
    }
    if (note) {
      pen.textAlign = "right";
      pen.fillText(note, SIZE.width - 4, 9);
      pen.textAlign = "left";
    }
    pen.globalAlpha = 0.35;
    pen.strokeStyle = this.ink;
    pen.lineWidth = 0.5;
    for (const part of [0, 0.5, 1]) {
      const y = this.y(part * yTop);
      this.path([[SIZE.left, y], [SIZE.width - SIZE.right, y]]);
    }
    pen.globalAlpha = 1;
    pen.textAlign = "right";
    for (const part of [0, 0.5, 1]) pen.fillText(shown(part * yTop), SIZE.left - 4, this.y(part * yTop));
    pen.textAlign = "left";
  }

  x(value) {
    const [first, last] = this.range;
    const width = SIZE.width - SIZE.left - SIZE.right;
    return SIZE.left + (last > first ? (value - first) / (last - first) : 0) * width;
  }

  y(value) {
    const height = SIZE.height - SIZE.top - SIZE.bottom;
    return SIZE.height - SIZE.bottom - Math.min(1.02, value / this.yTop) * height;
  }

  path(points) {
    this.pen.beginPath();
    points.forEach(([x, y], index) => (index ? this.pen.lineTo(x, y) : this.pen.moveTo(x, y)));
    this.pen.stroke();
  }

  label(text, x) {
    this.pen.fillStyle = this.ink;
    this.pen.textAlign = "center";
    this.pen.fillText(text, x, SIZE.height - 10);
    this.pen.textAlign = "left";
  }

  seconds() {
    const [first, last] = this.range;
    this.label(`${Math.round(first - last)} s`, SIZE.left + 14);
    this.label("now", SIZE.width - SIZE.right - 14);
  }

  line(times, values, colour, dash = []) {
    this.pen.strokeStyle = colour;
    this.pen.lineWidth = 1.6;
    this.pen.setLineDash(dash);
    let part = [];
    const flush = () => (part.length && this.path(part), (part = []));
    times.forEach((time, index) => (values[index] === null ? flush() : part.push([this.x(time), this.y(values[index])])));
    flush();
    this.pen.setLineDash([]);
  }

  vertical(time, colour) {
    this.pen.strokeStyle = colour;
    this.pen.lineWidth = 1;
    this.path([[this.x(time), SIZE.top], [this.x(time), SIZE.height - SIZE.bottom]]);
  }

  // Areas one above the other; `series` are arrays in the order of `kinds`.
  stack(times, series, kinds) {
    const below = times.map(() => 0);
    kinds.forEach(([name, colour]) => {
      const values = series[name];
      const top = times.map((_, index) => below[index] + (values[index] || 0));
      this.pen.fillStyle = colour;
      this.pen.beginPath();
      times.forEach((time, index) => this.pen.lineTo(this.x(time), this.y(top[index])));
      for (let index = times.length - 1; index >= 0; index -= 1) this.pen.lineTo(this.x(times[index]), this.y(below[index]));
      this.pen.fill();
      top.forEach((value, index) => (below[index] = value));
    });
  }
}

function total(series, kinds) {
  const sums = series[kinds[0][0]].map((_, index) => kinds.reduce((sum, [name]) => sum + (series[name][index] || 0), 0));
  return Math.max(0, ...sums);
}

function drawLatency(panel, data) {
  const values = [...data.p99, ...data.client, data.slo].filter((value) => value !== null);
  const legend = [["p50", COLOURS.sky], ["p99", COLOURS.blue], ["p99 of the client", COLOURS.green]];
  if (data.slo) legend.push(["objective", COLOURS.red]);
  panel.begin(data.range, ceiling(Math.max(0, ...values)), legend);
  data.marks.forEach((time) => panel.vertical(time, COLOURS.orange));
  panel.line(data.t, data.p50, COLOURS.sky);
  panel.line(data.t, data.p99, COLOURS.blue);
  panel.line(data.t, data.client, COLOURS.green, [4, 2]);
  if (data.slo) panel.line(data.range, [data.slo, data.slo], COLOURS.red, [6, 4]);
  panel.seconds();
}

function drawStages(panel, data) {
  panel.begin(data.range, ceiling(total(data.stages, STAGES)), STAGES);
  panel.stack(data.t, data.stages, STAGES);
  panel.seconds();
}

function drawReasons(panel, data) {
  panel.begin(data.range, 1, REASONS);
  panel.stack(data.t, data.reasons, REASONS);
  panel.seconds();
}

// Bars by rows of a batch: how many rows were real and how many padding.
function drawSizes(panel, data) {
  const most = Math.max(1, ...data.sizes.map(([, real, padding]) => real + padding));
  panel.begin([0, Math.max(1, data.sizes.length)], ceiling(most), [["rows", COLOURS.blue], ["padding", COLOURS.orange]],
    `${+data.padding.toPrecision(2)} % padding`);
  data.sizes.forEach(([size, real, padding], index) => {
    const [left, right] = [panel.x(index + 0.12), panel.x(index + 0.88)];
    panel.pen.fillStyle = COLOURS.blue;
    panel.pen.fillRect(left, panel.y(real), right - left, panel.y(0) - panel.y(real));
    panel.pen.fillStyle = COLOURS.orange;
    panel.pen.fillRect(left, panel.y(real + padding), right - left, panel.y(real) - panel.y(real + padding));
    if (data.sizes.length <= 16 || index % Math.ceil(data.sizes.length / 16) === 0) panel.label(size, (left + right) / 2);
  });
}

function render({ model, el }) {
  const grid = document.createElement("div");
  grid.style.cssText = "display:flex;flex-wrap:wrap;gap:4px 12px";
  el.appendChild(grid);
  const panels = [
    [new Panel(grid, "ms in the server"), drawLatency],
    [new Panel(grid, "mean ms of a request"), drawStages],
    [new Panel(grid, "rows/s by size that ran"), drawSizes],
    [new Panel(grid, "why batches ran"), drawReasons],
  ];
  const draw = () => {
    const data = model.get("data");
    if (data && data.t) panels.forEach(([panel, how]) => how(panel, data));
  };
  const update = () => {
    draw();
    grid.dataset.updates = Number(grid.dataset.updates || 0) + 1; // for whoever waits for the next picture
  };
  model.on("change:data", update);
  update();
  // The colours of the theme are known once this is part of the page, and change with the theme.
  const shown = new ResizeObserver(draw);
  shown.observe(grid);
  const themed = new MutationObserver(draw);
  themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-name"] });
  return () => {
    model.off("change:data", update);
    shown.disconnect();
    themed.disconnect();
  };
}

export default { render };
