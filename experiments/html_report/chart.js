// What all charts have: a sharp canvas as wide as the page, a time axis, the colours of the theme.

const GUTTER = 66; // left of the plot, for names
const MARGIN = 8; // right of it
const AXIS = 22; // below it
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif";

class Chart {
  constructor(canvas, view) {
    this.canvas = canvas;
    this.view = view;
    this.context = canvas.getContext("2d");
    this.width = 0;
    this.pending = false;
    new ResizeObserver(() => this.redraw()).observe(canvas);
    view.listeners.push(() => this.redraw());
  }

  get plotWidth() {
    return Math.max(1, this.width - GUTTER - MARGIN);
  }

  x(time) {
    return GUTTER + ((time - this.view.start) / this.view.length) * this.plotWidth;
  }

  time(x) {
    return this.view.start + ((x - GUTTER) / this.plotWidth) * this.view.length;
  }

  // Draws once before the next picture on the screen, however often it is asked to.
  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.resize();
      if (this.width > 0) this.draw();
    });
  }

  resize() {
    const scale = window.devicePixelRatio || 1;
    const height = this.height();
    this.width = this.canvas.clientWidth;
    const [across, down] = [Math.round(this.width * scale), Math.round(height * scale)];
    if (this.canvas.width !== across || this.canvas.height !== down) {
      this.canvas.width = across;
      this.canvas.height = down;
      this.canvas.style.height = `${height}px`;
    }
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.context.clearRect(0, 0, this.width, height);
  }

  text(words, x, y, { colour = theme.faint, size = 11, align = "left", weight = 400 } = {}) {
    const context = this.context;
    context.font = `${weight} ${size}px ${FONT}`;
    context.fillStyle = colour;
    context.textAlign = align;
    context.textBaseline = "middle";
    context.fillText(words, x, y);
  }

  // Runs what draws inside the plot, so that nothing spills over the names at the left.
  clipped(top, height, draw) {
    const context = this.context;
    context.save();
    context.beginPath();
    context.rect(GUTTER, top, this.plotWidth, height);
    context.clip();
    draw(context);
    context.restore();
  }

  axis(top) {
    const step = niceStep((this.view.length / this.plotWidth) * 90);
    const first = Math.ceil(this.view.start / step - 1e-9);
    for (let count = first; count * step <= this.view.end + step * 1e-6; count++) {
      const time = count * step || 0; // no -0
      const x = this.x(time);
      this.context.fillStyle = theme.line;
      this.context.fillRect(x, top, 1, 4);
      const align = x > this.width - 40 ? "right" : "center";
      this.text(tick(time, step), Math.min(x, this.width - 1), top + 13, { align });
    }
  }

  hairline(bottom) {
    const x = this.view.cursor === null ? -1 : this.x(this.view.cursor);
    if (x < GUTTER || x > this.width - MARGIN) return;
    this.context.fillStyle = theme.faint;
    this.context.fillRect(Math.round(x), 0, 1, bottom);
  }
}

// The whole run in a strip, with the window on it: where the first timeline computes, and how much.
class Overview extends Chart {
  constructor(canvas, view) {
    super(canvas, view);
    this.busy = [];
    const move = (event) => {
      if (event.buttons === 0) return;
      canvas.setPointerCapture(event.pointerId);
      const time = ((event.offsetX - GUTTER) / this.plotWidth) * view.whole;
      view.show(time - view.length / 2, view.length);
    };
    canvas.addEventListener("pointerdown", move);
    canvas.addEventListener("pointermove", move);
  }

  height() {
    return 30;
  }

  show(timeline) {
    this.timeline = timeline;
    this.busy = [];
    this.redraw();
  }

  // Returns by pixel the share of the devices that compute there.
  density() {
    const { spans, numDevices } = this.timeline;
    const perPixel = this.view.whole / this.plotWidth;
    const busy = new Float64Array(Math.ceil(this.plotWidth) + 1);
    for (let index = 0; index < spans.start.length; index++) {
      if (spans.kindOf(index) !== "compute") continue;
      let from = spans.start[index] / perPixel;
      const to = Math.min(spans.end[index] / perPixel, this.plotWidth);
      while (from < to) {
        const next = Math.min(to, Math.floor(from) + 1);
        busy[Math.floor(from)] += (next - from) / numDevices;
        from = next;
      }
    }
    return busy;
  }

  draw() {
    if (!this.timeline) return;
    if (this.busy.length !== Math.ceil(this.plotWidth) + 1) this.busy = this.density();
    const [context, high] = [this.context, this.height()];
    context.fillStyle = theme.row;
    context.fillRect(GUTTER, 0, this.plotWidth, high);
    context.fillStyle = theme.faint;
    context.globalAlpha = 0.45;
    this.busy.forEach((share, pixel) => context.fillRect(GUTTER + pixel, high * (1 - share), 1, high * share));
    context.globalAlpha = 1;
    const left = GUTTER + (this.view.start / this.view.whole) * this.plotWidth;
    const wide = Math.max(3, (this.view.length / this.view.whole) * this.plotWidth);
    context.strokeStyle = theme.accent;
    context.lineWidth = 2;
    context.strokeRect(left + 1, 1, wide - 2, high - 2);
    context.globalAlpha = 0.1;
    context.fillStyle = theme.accent;
    context.fillRect(left, 0, wide, high);
    context.globalAlpha = 1;
    this.text("whole run", 0, high / 2);
  }
}

// The colours of the page as canvases can use them; read again whenever the theme changes.
const theme = {};

function readTheme() {
  const probe = document.body.appendChild(document.createElement("i"));
  for (const name of ["page", "row", "line", "ink", "faint", "accent", "first", "second", "critical"]) {
    probe.style.color = `var(--${name})`;
    theme[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  const [red, green, blue] = theme.page.match(/[\d.]+/g).map(Number);
  theme.isDark = red + green + blue < 384;
}

function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((factor) => power * factor >= least);
}

function tick(time, step) {
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return `${time.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })} s`;
}

function seconds(value) {
  const size = Math.abs(value);
  if (size > 0 && size < 0.1) return `${Number((value * 1000).toPrecision(3))} ms`;
  const digits = size < 1000 ? 3 : 0;
  return `${value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits })} s`;
}

function bytes(value) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3)).toLocaleString("en")} ${unit}`;
  }
  return `${Math.round(value)} B`;
}

function percent(fraction) {
  return `${(100 * fraction).toFixed(1)} %`;
}

// Returns how many of the sorted numbers are not above a limit.
function countUpTo(numbers, limit) {
  let [low, high] = [0, numbers.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= limit) low = middle + 1;
    else high = middle;
  }
  return low;
}
