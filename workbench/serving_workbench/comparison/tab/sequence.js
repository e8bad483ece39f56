// The live chart of the A/B tab, as SVG: the confidence sequence of the primary metric against requests, and B's share of
// the requests over time. `data` holds arrays that are small enough to be sent twice a second; nulls are not drawn.

const COLOURS = { a: "#0072B2", b: "#E69F00", margin: "#D55E00" };
const SIZE = { width: 460, height: 220, left: 52, right: 12, top: 26, bottom: 34 };
const SVG = "http://www.w3.org/2000/svg";

function add(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.appendChild(element);
  return element;
}

function shown(value) {
  const size = Math.abs(value);
  return size >= 1e6 ? `${+(value / 1e6).toPrecision(3)}M` : size >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : `${+value.toPrecision(3)}`;
}

// One panel with axes; what is drawn into it is cut at its frame.
class Panel {
  constructor(parent, number) {
    this.svg = add(parent, "svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img", fill: "currentColor", "font-size": 11 });
    this.svg.style.cssText = `width:${SIZE.width}px;max-width:100%;font-family:sans-serif`;
    this.frame = `frame-${Math.random().toString(36).slice(2)}-${number}`;
  }

  begin(title, [left, right], [bottom, top], unit, under, alt) {
    this.svg.replaceChildren();
    this.svg.setAttribute("aria-label", alt);
    this.ranges = { left, right: right > left ? right : left + 1, bottom, top: top > bottom ? top : bottom + 1 };
    const clip = add(add(this.svg, "defs", {}), "clipPath", { id: this.frame });
    add(clip, "rect", { x: SIZE.left, y: SIZE.top, width: SIZE.width - SIZE.left - SIZE.right, height: SIZE.height - SIZE.top - SIZE.bottom });
    add(this.svg, "text", { x: 4, y: 14, "font-weight": "bold" }, title);
    for (const part of [0, 0.5, 1]) {
      const value = bottom + part * (this.ranges.top - bottom);
      add(this.svg, "line", { x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: this.y(value), y2: this.y(value), stroke: "currentColor", opacity: 0.15 });
      add(this.svg, "text", { x: SIZE.left - 5, y: this.y(value) + 4, "text-anchor": "end" }, `${shown(value)}${unit}`);
      const at = left + part * (this.ranges.right - left);
      const anchor = ["start", "middle", "end"][2 * part];
      add(this.svg, "text", { x: this.x(at), y: SIZE.height - SIZE.bottom + 14, "text-anchor": anchor }, shown(at));
    }
    add(this.svg, "text", { x: (SIZE.left + SIZE.width - SIZE.right) / 2, y: SIZE.height - 4, "text-anchor": "middle", opacity: 0.75 }, under);
    this.inner = add(this.svg, "g", { "clip-path": `url(#${this.frame})` });
  }

  x(value) {
    const { left, right } = this.ranges;
    return SIZE.left + ((value - left) / (right - left)) * (SIZE.width - SIZE.left - SIZE.right);
  }

  y(value) {
    const { bottom, top } = this.ranges;
    return SIZE.height - SIZE.bottom - ((value - bottom) / (top - bottom)) * (SIZE.height - SIZE.top - SIZE.bottom);
  }

  points(xs, ys) {
    return xs.flatMap((x, index) => (ys[index] === null || x === null ? [] : [`${this.x(x)},${this.y(ys[index])}`]));
  }

  line(xs, ys, colour) {
    add(this.inner, "polyline", { points: this.points(xs, ys).join(" "), fill: "none", stroke: colour, "stroke-width": 1.8 });
  }

  band(xs, low, high, colour) {
    const known = xs.map((_, index) => low[index] !== null && high[index] !== null);
    const keep = (values) => values.filter((_, index) => known[index]);
    const around = [...this.points(keep(xs), keep(high)), ...this.points(keep(xs), keep(low)).reverse()];
    add(this.inner, "polygon", { points: around.join(" "), fill: colour, opacity: 0.25 });
  }

  horizontal(value, colour, dash, text, left) {
    const y = this.y(value);
    add(this.inner, "line", { x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: y, y2: y, stroke: colour, "stroke-width": 1.3, "stroke-dasharray": dash });
    const place = left ? { x: SIZE.left + 4, "text-anchor": "start" } : { x: SIZE.width - SIZE.right - 4, "text-anchor": "end" };
    add(this.inner, "text", { ...place, y: y - 4 }, text);
  }

  mark(at, text) {
    const x = this.x(at);
    add(this.inner, "line", { x1: x, x2: x, y1: SIZE.top, y2: SIZE.height - SIZE.bottom, stroke: "currentColor", "stroke-dasharray": "2 3" });
    const late = x > SIZE.width / 2;
    add(this.inner, "text", { x: x + (late ? -4 : 4), y: SIZE.top + 11, "text-anchor": late ? "end" : "start" }, text);
  }

  note(text) {
    add(this.inner, "text", { x: SIZE.width / 2, y: SIZE.height / 2, "text-anchor": "middle", opacity: 0.75 }, text);
  }
}

function drawSequence(panel, data) {
  panel.begin(data.title, [0, Math.max(1, ...data.n)], data.range, data.unit, "requests", data.alt);
  panel.band(data.n, data.low, data.high, COLOURS.b);
  panel.horizontal(0, COLOURS.a, "none", "A", true);
  for (const margin of data.margins) panel.horizontal(margin, COLOURS.margin, "6 4", "margin");
  panel.line(data.n, data.value, COLOURS.b);
  if (data.crossed) panel.mark(data.crossed.n, data.crossed.text);
  if (data.n.length === 0) panel.note("no requests yet");
}

function drawShare(panel, data) {
  const seconds = [0, data.seconds.length ? data.seconds[data.seconds.length - 1] : 1];
  panel.begin("B's share of the requests so far", seconds, [0, 100], " %", "seconds", data.shareAlt);
  panel.line(data.seconds, data.share, COLOURS.b);
  panel.line(data.seconds, data.share.map((value) => (value === null ? null : 100 - value)), COLOURS.a);
}

function render({ model, el }) {
  const grid = document.createElement("div");
  grid.style.cssText = "display:flex;flex-wrap:wrap;gap:4px 12px";
  el.appendChild(grid);
  const panels = [
    [new Panel(grid, 0), drawSequence],
    [new Panel(grid, 1), drawShare],
  ];
  const draw = () => {
    const data = model.get("data");
    if (data && data.n) panels.forEach(([panel, how]) => how(panel, data));
    grid.dataset.points = data && data.n ? data.n.length : 0; // for whoever waits for the next picture
    grid.dataset.requests = data && data.n && data.n.length ? data.n[data.n.length - 1] : 0;
  };
  model.on("change:data", draw);
  draw();
  return () => model.off("change:data", draw);
}

export default { render };
