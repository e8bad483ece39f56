// The profile tab's panels as SVG. `data` holds shapes that the kernel has placed; `chosen` is the request that was
// clicked, or reached with the keyboard: Tab to the dots, arrows from one to the next, Enter or space to choose.

const SVG = "http://www.w3.org/2000/svg";
const STYLE = `
.sw-pictures{color:var(--jp-ui-font-color1,inherit);font-size:var(--jp-ui-font-size1,13px);line-height:1.35}
.sw-pictures>div{display:flex;flex-wrap:wrap;gap:0 28px}
.sw-pictures>div>div{max-width:100%;display:flex;flex-direction:column}
.sw-pictures svg{width:100%;display:block;margin:4px 0;overflow:visible;fill:currentColor;font-size:12px}
.sw-pictures .panel{max-width:100%;margin-top:8px}
.sw-pictures .dot{cursor:pointer;stroke:currentColor;stroke-opacity:.6;stroke-width:.6}
.sw-pictures .cross{cursor:pointer;stroke:currentColor;stroke-width:1.8}
.sw-pictures .dot[aria-pressed=true],.sw-pictures .cross[aria-pressed=true]{stroke-opacity:1;stroke-width:2.6}
.sw-pictures .dot:focus-visible,.sw-pictures .cross:focus-visible{outline:2px solid currentColor;outline-offset:2px}
.sw-pictures .legend{display:flex;flex-wrap:wrap;gap:0 16px;margin:4px 0 0}
.sw-pictures .legend i{display:inline-block;width:10px;height:10px;margin-right:5px;border:1px solid currentColor}`;
// Panels of the left column, where there is room for two; the others are on the right, so that no column is much longer.
const LEFT = ["percentiles", "request"];
// Pixels around a click within which the nearest dot is meant.
const NEAR = 14;

function add(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.appendChild(element);
  return element;
}

function shapes(svg, panel, palette) {
  const colour = (number) => (number < 0 ? "currentColor" : palette[number]);
  for (const [x, y, width, height] of panel.bands) add(svg, "rect", { x, y, width, height, "fill-opacity": 0.12 });
  for (const [x, y, width, height, fill, words] of panel.bars) {
    const bar = { x, y, width, height, fill: colour(fill), stroke: "currentColor", "stroke-opacity": 0.3, "stroke-width": 0.5 };
    add(add(svg, "rect", bar), "title", {}, words);
  }
  for (const [stroke, dashes, points] of panel.lines) {
    const line = { points: points.join(" "), fill: "none", stroke: colour(stroke), "stroke-width": stroke < 0 ? 0.6 : 1.8 };
    add(svg, "polyline", { ...line, "stroke-dasharray": dashes || "none" });
  }
  for (const [x, y, text, anchor, fill] of panel.texts) {
    add(svg, "text", { x, y, "text-anchor": anchor, fill: fill || "currentColor" }, text);
  }
}

// The dots of a panel: one of them is reached with Tab, the others from there.
class Dots {
  constructor(svg, panel, palette, choose) {
    this.svg = svg;
    this.choose = choose;
    this.places = panel.dots;
    this.elements = panel.dots.map(([x, y, colour, id, words]) => {
      const who = { role: "button", tabindex: -1, "aria-label": `${id}: ${words}`, "data-request": id };
      const element =
        colour < 0
          ? add(svg, "path", { ...who, class: "cross", d: `M${x - 3.5} ${y - 3.5}l7 7m0 -7l-7 7` })
          : add(svg, "circle", { ...who, class: "dot", cx: x, cy: y, r: 3.4, fill: palette[colour] });
      add(element, "title", {}, `${id}: ${words}`);
      return element;
    });
    svg.onclick = (event) => this.clicked(event);
    svg.onkeydown = (event) => this.pressed(event);
  }

  mark(shown) {
    const at = Math.max(0, this.places.findIndex((place) => place[3] === shown));
    this.elements.forEach((element, index) => {
      element.setAttribute("aria-pressed", this.places[index][3] === shown);
      element.setAttribute("tabindex", index === at ? 0 : -1);
    });
  }

  clicked(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    const far = this.places.map(([x, y]) => Math.hypot(x - at.x, y - at.y));
    const nearest = far.indexOf(Math.min(...far));
    if (far[nearest] <= NEAR) this.choose(this.places[nearest][3]);
  }

  pressed(event) {
    const at = this.elements.indexOf(event.target);
    const last = this.elements.length - 1;
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
    if (at < 0) return;
    if (event.key === "Enter" || event.key === " ") this.choose(this.places[at][3]);
    else if (to === undefined) return;
    else this.elements[Math.min(last, Math.max(0, to))].focus();
    event.preventDefault();
    event.stopPropagation(); // else they are the notebook's
  }
}

// One panel, which stays in the page and draws anew only what has changed.
class Picture {
  constructor(parent, choose) {
    this.choose = choose;
    this.box = parent.appendChild(document.createElement("div"));
    this.box.className = "panel";
    this.title = this.box.appendChild(document.createElement("b"));
    this.svg = add(this.box, "svg", {});
    this.reading = this.box.appendChild(document.createElement("div"));
    this.box.onmouseleave = this.box.onfocusout = () => setTimeout(() => this.draw());
  }

  show(panel, palette, shown) {
    this.next = { panel, palette, shown, text: JSON.stringify(panel) };
    this.draw();
  }

  draw() {
    const { panel, palette, shown, text } = this.next;
    // Dots that are pointed at, or gone through with the keyboard, stay where they are until that ends.
    const held = this.dots !== undefined && this.svg.matches(":hover, :has(:focus-visible)");
    if (text !== this.drawn && !held) {
      this.drawn = text;
      this.box.style.width = `${panel.width}px`;
      this.title.textContent = panel.title;
      this.reading.textContent = panel.reading;
      this.svg.replaceChildren();
      this.svg.setAttribute("viewBox", `0 0 ${panel.width} ${panel.height}`);
      this.svg.setAttribute("role", panel.dots.length ? "group" : "img");
      this.svg.setAttribute("aria-label", `${panel.label}: ${panel.reading}`);
      shapes(this.svg, panel, palette);
      this.dots = panel.dots.length ? new Dots(this.svg, panel, palette, this.choose) : undefined;
    }
    if (this.dots) this.dots.mark(shown);
  }
}

function swatch(colour, kind) {
  const entry = document.createElement("span");
  entry.appendChild(document.createElement("i")).style.background = colour;
  entry.append(kind);
  return entry;
}

function render({ model, el }) {
  el.appendChild(document.createElement("style")).textContent = STYLE;
  const root = el.appendChild(document.createElement("div"));
  root.className = "sw-pictures";
  const legend = root.appendChild(document.createElement("p"));
  legend.className = "legend";
  const grid = root.appendChild(document.createElement("div"));
  const [left, right] = [0, 1].map(() => grid.appendChild(document.createElement("div")));
  const pictures = new Map();
  const choose = (id) => {
    model.set("chosen", id);
    model.save_changes();
  };
  const draw = () => {
    const { panels = [], palette = [], legend: kinds = [], shown } = model.get("data") || {};
    if (legend.childElementCount !== kinds.length) legend.replaceChildren(...kinds.map(([colour, kind]) => swatch(palette[colour], kind)));
    for (const [name, picture] of pictures) {
      if (!panels.some((panel) => panel.name === name)) {
        picture.box.remove();
        pictures.delete(name);
      }
    }
    panels.forEach((panel, place) => {
      if (!pictures.has(panel.name)) pictures.set(panel.name, new Picture(LEFT.includes(panel.name) ? left : right, choose));
      const picture = pictures.get(panel.name);
      picture.box.style.order = place; // moved in the page, it would lose the focus
      picture.show(panel, palette, shown);
    });
  };
  model.on("change:data", draw);
  draw();
  return () => model.off("change:data", draw);
}

export default { render };
