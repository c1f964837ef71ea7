// Timelines above each other: a panel each, a row for every lane of every device, a bar for every span.

const ROW_HEIGHT = { compute: 26, h2d: 9, d2h: 9, peer: 9, host: 9, update: 9, disk: 9 };
const LANES = ["compute", "h2d", "d2h", "peer", "host"];
const HEADING = 26;
const CHAIN_LENGTH = 6;

// The columns of a timeline's spans, and what follows from them.
class Spans {
  constructor(fields, jobs, tints) {
    Object.assign(this, fields);
    this.count = this.start.length;
    this.colours = jobs.map((job) => job.colour);
    this.tints = tints;
    this.keys = new Map();
    this.keyOf = [];
    const seen = new Map();
    for (let index = 0; index < this.count; index++) {
      const name = `${this.kindOf(index)} ${this.unitOf(index)} ${this.blockOf(index)}`;
      const times = seen.get(name) || 0;
      seen.set(name, times + 1);
      this.keyOf.push(`${name} ${times}`);
      this.keys.set(this.keyOf[index], index);
    }
  }

  kindOf(index) {
    return this.kind.names[this.kind.at[index]];
  }

  laneOf(index) {
    return this.lane.names[this.lane.at[index]];
  }

  unitOf(index) {
    return this.unit.names[this.unit.at[index]];
  }

  blockOf(index) {
    return this.block.names[this.block.at[index]];
  }

  causeOf(index) {
    return this.cause.names[this.cause.at[index]];
  }

  isUnit(index) {
    return ["compute", "update"].includes(this.kindOf(index));
  }

  nameOf(index) {
    return this.isUnit(index) ? this.unitOf(index) : `${this.kindOf(index)} ${this.blockOf(index) || this.unitOf(index)}`;
  }

  // The phase's letter in job/F0#17.
  phaseOf(index) {
    const unit = this.unitOf(index);
    return unit[unit.lastIndexOf("/") + 1];
  }

  colourOf(index) {
    const tint = this.isUnit(index) ? this.tints[this.phaseOf(index)] : 0.2;
    return tinted(this.colours[this.job[index]], tint);
  }

  // Returns the spans of every lane of every device, in the order of their starts.
  byLane() {
    const found = new Map();
    for (let index = 0; index < this.count; index++) {
      const lane = `${this.device[index]} ${this.laneOf(index)}`;
      if (!found.has(lane)) found.set(lane, []);
      found.get(lane).push(index);
    }
    return found;
  }

  // What the span waited for last, what that waited for last, and so on.
  chain(index) {
    const links = [];
    while (links.length < CHAIN_LENGTH && this.why[index] >= 0) {
      links.push({ of: index, cause: this.causeOf(index), waited: this.waited[index], index: this.why[index] });
      index = this.why[index];
    }
    return links;
  }
}

class Lanes extends Chart {
  show(timelines) {
    this.rows = [];
    this.panels = [];
    this.hovered = this.chosen = null;
    let top = 0;
    timelines.forEach((timeline, number) => {
      this.panels.push({ timeline, top });
      top += HEADING;
      const spans = timeline.spans;
      const byLane = spans.byLane();
      for (const [device, lane] of rowsOf(timeline)) {
        const indexes = byLane.get(`${device} ${lane}`) || [];
        if (lane !== "compute" && !indexes.some((index) => spans.end[index] > spans.start[index])) continue;
        if (lane === "compute") top += 4;
        const starts = indexes.map((index) => spans.start[index]);
        this.rows.push({ number, spans, device, lane, indexes, starts, top, height: ROW_HEIGHT[lane] });
        top += ROW_HEIGHT[lane] + 2;
      }
      top += 10;
      this.panels[number].bottom = top - 6;
    });
    this.bottom = top;
    this.redraw();
  }

  height() {
    return (this.bottom || 100) + AXIS;
  }

  draw() {
    for (const panel of this.panels) this.heading(panel);
    for (const row of this.rows) this.row(row);
    for (const panel of this.panels) this.makespan(panel);
    this.clipped(0, this.bottom, () => this.marks());
    this.hairline(this.bottom);
    this.axis(this.bottom);
  }

  heading({ timeline, top }) {
    const { name, label, policy, makespan, busy } = timeline;
    const title = name === label ? label : `${name} · ${label}`;
    const more = this.width > 560 ? ` · ${policy} · ${seconds(makespan)} · compute-busy ${percent(busy)}` : ` · ${seconds(makespan)}`;
    this.text(title, 0, top + HEADING / 2, { colour: theme.ink, size: 13, weight: 650 });
    this.text(more, this.context.measureText(title).width, top + HEADING / 2, { size: 12 });
  }

  row(row) {
    const { top, height, lane, device } = row;
    const context = this.context;
    context.fillStyle = theme.row;
    context.fillRect(GUTTER, top, this.plotWidth, height);
    const isCompute = lane === "compute";
    this.text(isCompute ? `device ${device}` : lane, GUTTER - 6, top + height / 2 + 0.5, {
      align: "right", size: isCompute ? 12 : 9, colour: isCompute ? theme.ink : theme.faint,
    });
    this.clipped(top, height, () => this.bars(row));
  }

  // Bars narrower than a pixel fade to the share of the pixel that they cover together.
  bars(row) {
    const { spans, indexes, starts, top, height } = row;
    const context = this.context;
    let [pixel, covered, colour] = [-1, 0, ""];
    const flush = () => {
      if (covered <= 0) return;
      context.globalAlpha = Math.min(1, Math.max(0.2, covered));
      context.fillStyle = colour;
      context.fillRect(pixel, top, 1, height);
      context.globalAlpha = 1;
      covered = 0;
    };
    const last = countUpTo(starts, this.view.end);
    for (let place = Math.max(0, countUpTo(starts, this.view.start) - 1); place < last; place++) {
      const index = indexes[place];
      const left = this.x(spans.start[index]);
      const wide = this.x(spans.end[index]) - left;
      if (wide >= 1.5) {
        flush();
        const inset = row.lane === "compute" && !spans.isUnit(index) ? 8 : 0;
        const gap = wide > 5 ? 1 : 0;
        context.fillStyle = spans.colourOf(index);
        context.fillRect(left, top + inset, wide - gap, height - 2 * inset);
        if (row.lane === "compute" && wide > 24) this.label(spans, index, left, wide - gap, top + height / 2);
        continue;
      }
      if (Math.floor(left) !== pixel) {
        flush();
        [pixel, colour] = [Math.floor(left), spans.colourOf(index)];
      }
      covered += wide;
    }
    flush();
  }

  // Writes on a bar as much of its unit's name as there is room for.
  label(spans, index, left, wide, middle) {
    const unit = spans.unitOf(index);
    const short = unit.slice(unit.lastIndexOf("/") + 1);
    this.context.font = `400 11px ${FONT}`;
    const [from, to] = [Math.max(left, GUTTER), Math.min(left + wide, this.width - MARGIN)]; // what is in sight
    const words = [unit, short, short.split("#")[0]].find((name) => this.context.measureText(name).width < to - from - 6);
    if (words) this.text(words, (from + to) / 2, middle + 0.5, { align: "center", colour: inkOn(spans.colourOf(index)) });
  }

  makespan({ timeline, top, bottom }) {
    const x = this.x(timeline.makespan);
    if (x < GUTTER || x > this.width) return;
    this.context.strokeStyle = theme.ink;
    this.context.lineWidth = 1;
    this.context.setLineDash([4, 3]);
    this.context.beginPath();
    this.context.moveTo(x, top + HEADING);
    this.context.lineTo(x, bottom);
    this.context.stroke();
    this.context.setLineDash([]);
  }

  // Outlines the span that is pointed at, its twins in the other panels, and the chain behind the chosen one.
  marks() {
    for (const [focus, colour] of [[this.hovered, theme.ink], [this.chosen, theme.critical]]) {
      if (!focus) continue;
      for (const twin of this.twins(focus)) this.outline(twin, colour, 1.5);
      this.outline(focus, colour, 2.5);
    }
    if (!this.chosen) return;
    const links = [this.chosen.index, ...this.chosen.row.spans.chain(this.chosen.index).map((link) => link.index)];
    const boxes = links.map((index) => this.box(this.find(this.chosen.row.number, index))).filter(Boolean);
    const context = this.context;
    context.strokeStyle = theme.critical;
    context.lineWidth = 1.2;
    boxes.slice(1).forEach((box, place) => {
      context.strokeRect(box.left, box.top, box.wide, box.height);
      context.beginPath();
      context.moveTo(box.left + box.wide, box.top + box.height / 2);
      context.lineTo(boxes[place].left, boxes[place].top + boxes[place].height / 2);
      context.stroke();
    });
  }

  outline(focus, colour, lineWidth) {
    const box = this.box(focus);
    this.context.strokeStyle = colour;
    this.context.lineWidth = lineWidth;
    this.context.strokeRect(box.left, box.top, box.wide, box.height);
  }

  box(focus) {
    if (!focus) return null;
    const { row, index } = focus;
    const left = this.x(row.spans.start[index]);
    return { left, top: row.top, wide: Math.max(2, this.x(row.spans.end[index]) - left), height: row.height };
  }

  // The same command in the other timelines.
  twins({ row, index }) {
    const key = row.spans.keyOf[index];
    const found = this.panels.map((panel, number) => {
      const twin = number === row.number ? undefined : panel.timeline.spans.keys.get(key);
      return twin === undefined ? null : this.find(number, twin);
    });
    return found.filter(Boolean);
  }

  find(number, index) {
    const spans = this.panels[number].timeline.spans;
    const row = this.rows.find(
      (other) => other.number === number && other.device === spans.device[index] && other.lane === spans.laneOf(index),
    );
    return row ? { row, index } : null;
  }

  // The span under a place of the canvas, or very near to it.
  at(x, y) {
    const row = this.rows.find(({ top, height }) => y >= top - 1 && y <= top + height + 1);
    if (!row || x < GUTTER) return null;
    const [time, near] = [this.time(x), (4 * this.view.length) / this.plotWidth];
    const distance = (index) => Math.max(0, row.spans.start[index] - time, time - row.spans.end[index]);
    const place = countUpTo(row.starts, time);
    const [best] = row.indexes.slice(Math.max(0, place - 2), place + 2).sort((a, b) => distance(a) - distance(b));
    return best !== undefined && distance(best) <= near ? { row, index: best } : null;
  }

  // The span `steps` later on its lane; without a chosen one, the first unit in sight.
  next(steps) {
    if (!this.chosen) {
      const row = this.rows[0];
      const place = Math.min(countUpTo(row.starts, this.view.start), row.indexes.length - 1);
      return place < 0 ? null : { row, index: row.indexes[place] };
    }
    const { row, index } = this.chosen;
    const place = row.indexes.indexOf(index) + steps;
    return row.indexes[place] === undefined ? this.chosen : { row, index: row.indexes[place] };
  }

  // The span of the lane above or below that is nearest in time to the chosen one.
  beside(steps) {
    const { row, index } = this.chosen;
    const other = this.rows[this.rows.indexOf(row) + steps];
    if (!other || other.indexes.length === 0) return this.chosen;
    const place = countUpTo(other.starts, row.spans.start[index]) - 1;
    return { row: other, index: other.indexes[Math.max(0, place)] };
  }
}

function* rowsOf(timeline) {
  for (let device = 0; device < timeline.numDevices; device++) {
    for (const lane of LANES) yield [device, lane];
  }
  yield [-1, "update"];
  yield [-1, "disk"];
}

const tintedColours = new Map();

// Mixes a colour with white where the tint is above 0, with black below; dark pages ask for lighter colours.
function tinted(hex, tint) {
  const amount = theme.isDark ? tint * 0.75 + 0.12 : tint;
  const key = `${hex} ${amount}`;
  if (!tintedColours.has(key)) {
    const towards = amount > 0 ? 255 : 0;
    const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    tintedColours.set(key, `rgb(${parts.map((part) => Math.round(part + (towards - part) * Math.abs(amount))).join(" ")})`);
  }
  return tintedColours.get(key);
}

function inkOn(colour) {
  const [red, green, blue] = colour.match(/\d+/g).map(Number);
  return 0.299 * red + 0.587 * green + 0.114 * blue < 140 ? "#ffffff" : "#10151c";
}
