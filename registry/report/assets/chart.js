"use strict";
// The scatter plot as SVG. All marks of one colour are a single path, so that ten thousand points are a dozen elements.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 10;
const MARGIN = { left: 62, right: 18, top: 14, bottom: 46 };
const MAX_POINTS_WITH_BARS = 300; // error bars of more points would cover the marks
const HIT_RADIUS = 26; // pixels within which the pointer selects a point

/** An SVG element with attributes. */
function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** The path of a point's mark; groups cycle through six shapes. */
function mark(x, y, group, r) {
  const at = (dx, dy) => `${(x + dx * r).toFixed(1)} ${(y + dy * r).toFixed(1)}`;
  const polygon = (...corners) => `M${corners.map(([dx, dy]) => at(dx, dy)).join("L")}Z`;
  switch (group % 6) {
    case 0: return `M${at(-1, 0)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
    case 1: return polygon([-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]);
    case 2: return polygon([0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]);
    case 3: return polygon([0, -1.2], [1.15, 0.85], [-1.15, 0.85]);
    case 4: return polygon([0, 1.2], [1.15, -0.85], [-1.15, -0.85]);
    default: return polygon([-1.1, -0.4], [-0.4, -0.4], [-0.4, -1.1], [0.4, -1.1], [0.4, -0.4], [1.1, -0.4], [1.1, 0.4],
      [0.4, 0.4], [0.4, 1.1], [-0.4, 1.1], [-0.4, 0.4], [-1.1, 0.4]);
  }
}

function colour(group) {
  return `var(--c${group % COLOURS})`;
}

/** About `count` round numbers between two values. */
function ticks(low, high, count, logarithmic) {
  if (logarithmic && Math.log10(high / low) > 1.2) {
    const candidates = [];
    const steps = Math.log10(high / low) > 4 ? [1] : [1, 2, 5];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const step of steps) candidates.push(step * 10 ** e);
    return candidates.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  }
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough);
  const values = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step)
    values.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return values;
}

/** A number for an axis, in up to six significant digits. */
function short(value) {
  if (value === 0) return "0";
  const magnitude = Math.abs(value);
  if (magnitude >= 1e5 || magnitude < 1e-3) return value.toExponential(2).replace(/\.?0*e\+?/, "e");
  return String(Number(value.toPrecision(6)));
}

/** A map from values to pixels: their extent with some margin, linear or logarithmic. */
function scale(values, from, to, logarithmic) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const transform = logarithmic ? Math.log : (value) => value, inverse = logarithmic ? Math.exp : (value) => value;
  let a = transform(low), b = transform(high);
  const margin = (b - a) * 0.06 || Math.abs(a) * 0.05 || 0.5;
  a -= margin;
  b += margin;
  const map = (value) => from + ((transform(value) - a) / (b - a)) * (to - from);
  map.low = inverse(a);
  map.high = inverse(b);
  return map;
}

class Chart {
  /**
   * @param element the <svg>
   * @param callbacks {hover(point or null, x, y, announce), pick(point)}
   */
  constructor(element, callbacks) {
    this.element = element;
    this.callbacks = callbacks;
    this.points = [];
    this.current = -1;
    element.addEventListener("pointermove", (event) => this.point(this.nearest(event)));
    element.addEventListener("pointerleave", () => this.point(-1));
    element.addEventListener("blur", () => this.point(-1));
    element.addEventListener("click", (event) => {
      const index = this.nearest(event);
      if (index >= 0) this.callbacks.pick(this.points[index]);
    });
    element.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.content && this.draw(this.content)).observe(element);
  }

  /**
   * @param content {points: [{x, y, ex, ey, group, …}], lines: [[point]], front: [point], paper: [{group, at: [[x, y]]}],
   *   xLabel, yLabel, logarithmic, empty}
   */
  draw(content) {
    this.content = content;
    const { width, height } = this.element.getBoundingClientRect();
    const bottom = height - MARGIN.bottom, right = width - MARGIN.right;
    this.points = [...content.points].sort((a, b) => a.x - b.x || a.y - b.y);
    this.current = -1;
    const papers = content.paper.flatMap((curve) => curve.at);
    this.element.replaceChildren();
    if (!this.points.length) {
      this.element.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, content.empty));
      return;
    }
    const barred = this.points.length <= MAX_POINTS_WITH_BARS;
    const ends = (value, spread) => (barred && spread ? [value - spread, value + spread] : [value]);
    const xs = [...this.points.flatMap((p) => ends(p.x, p.ex)), ...papers.map((p) => p[0])].filter((value) => !content.logarithmic || value > 0);
    const ys = [...this.points.flatMap((p) => ends(p.y, p.ey)), ...papers.map((p) => p[1])];
    const x = scale(xs, MARGIN.left, right, content.logarithmic), y = scale(ys, bottom, MARGIN.top, false);
    this.positions = this.points.map((p) => [x(p.x), y(p.y)]);
    this.axes(content, x, y, right, bottom);
    const path = (points) => "M" + points.map(([px, py]) => `${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("L");
    const pairs = (points) => points.map((p) => [p.x, p.y]);
    if (content.front.length > 1) this.element.append(svg("path", { class: "front", d: path(pairs(content.front)) }));
    for (const { group, at } of content.paper) {
      const style = { fill: "none", stroke: colour(group), "stroke-width": 1.5 };
      this.element.append(svg("path", { ...style, d: path(at), "stroke-dasharray": "5 4", class: "paper" }));
      this.element.append(svg("path", { ...style, d: at.map((p) => mark(x(p[0]), y(p[1]), group, 4)).join("") }));
    }
    for (const line of content.lines)
      this.element.append(svg("path", { d: path(pairs(line)), fill: "none", stroke: colour(line[0].group), "stroke-width": 1.5 }));
    const radius = this.points.length > 2000 ? 2.2 : this.points.length > 300 ? 3.5 : 5;
    const marks = new Map(), bars = new Map();
    this.points.forEach((p, i) => {
      const [px, py] = this.positions[i];
      marks.set(p.group, (marks.get(p.group) ?? "") + mark(px, py, p.group, radius));
      if (!barred) return;
      let bar = "";
      if (p.ex) bar += `M${x(Math.max(p.x - p.ex, x.low))} ${py}H${x(p.x + p.ex)}`;
      if (p.ey) bar += `M${px} ${y(p.y - p.ey)}V${y(p.y + p.ey)}`;
      if (bar) bars.set(p.group, (bars.get(p.group) ?? "") + bar);
    });
    for (const [group, d] of bars)
      this.element.append(svg("path", { d, stroke: colour(group), "stroke-width": 1.5, class: "bars" }));
    const opacity = this.points.length > 2000 ? 0.65 : 0.95;
    for (const [group, d] of marks)
      this.element.append(svg("path", { d, fill: colour(group), "fill-opacity": opacity, class: "marks" }));
    this.frames = svg("path", { class: "ring", d: "" });
    this.ring = svg("circle", { class: "ring", r: radius + 4, visibility: "hidden" });
    this.element.append(this.frames, this.ring);
    this.choose(this.isFramed);
  }

  axes(content, x, y, right, bottom) {
    const add = (name, attributes, ...children) => this.element.append(svg(name, attributes, ...children));
    for (const value of ticks(x.low, x.high, Math.max(3, (right - MARGIN.left) / 95), content.logarithmic)) {
      add("line", { class: "grid", x1: x(value), x2: x(value), y1: MARGIN.top, y2: bottom });
      add("text", { x: x(value), y: bottom + 18, "text-anchor": "middle" }, short(value));
    }
    for (const value of ticks(y.low, y.high, Math.max(3, (bottom - MARGIN.top) / 60), false)) {
      add("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) });
      add("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, short(value));
    }
    add("line", { class: "axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom });
    const middle = (MARGIN.top + bottom) / 2;
    add("text", { class: "name", x: (MARGIN.left + right) / 2, y: bottom + 39, "text-anchor": "middle" }, content.xLabel);
    add("text", { class: "name", x: 15, y: middle, "text-anchor": "middle", transform: `rotate(-90 15 ${middle})` }, content.yLabel);
  }

  /** The index of the point nearest to the pointer within `HIT_RADIUS`, or -1. */
  nearest(event) {
    const box = this.element.getBoundingClientRect();
    const px = event.clientX - box.left, py = event.clientY - box.top;
    let best = -1, least = HIT_RADIUS ** 2;
    for (let i = 0; i < this.points.length; i++) {
      const [x, y] = this.positions[i], distance = (x - px) ** 2 + (y - py) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  /** Mark the point under the pointer or keyboard cursor and report it; -1 for none. */
  point(i, announce = false) {
    this.current = i;
    if (!this.points.length) return;
    this.ring.setAttribute("visibility", i < 0 ? "hidden" : "visible");
    const [x, y] = i < 0 ? [0, 0] : this.positions[i];
    this.ring.setAttribute("cx", x);
    this.ring.setAttribute("cy", y);
    this.callbacks.hover(i < 0 ? null : this.points[i], x, y, announce);
  }

  /** Frame the points for which `test` is true, now and after every redraw. */
  choose(test) {
    this.isFramed = test;
    if (!this.points.length || !test) return;
    const framed = this.positions.filter((_, i) => test(this.points[i]));
    this.frames.setAttribute("d", framed.map(([x, y]) => `M${x - 9} ${y - 9}h18v18h-18Z`).join(""));
  }

  key(event) {
    const last = this.points.length - 1;
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
    if (last < 0) return;
    if (event.key in steps) {
      const next = this.current < 0 ? (steps[event.key] > 0 ? 0 : last) : this.current + steps[event.key];
      this.point(Math.min(Math.max(next, 0), last), true);
    } else if (event.key === "Home" || event.key === "End") this.point(event.key === "Home" ? 0 : last, true);
    else if (event.key === "Enter" && this.current >= 0) this.callbacks.pick(this.points[this.current]);
    else if (event.key === "Escape") this.point(-1);
    else return;
    event.preventDefault();
  }
}
