// The window on time that all charts share, and how pointers, wheel and keys move it.
"use strict";

const DEEPEST_ZOOM = 1e5; // how many windows fit into a run
const STEP = 1.5; // of a button or a key

class View {
  constructor() {
    this.listeners = [];
    this.cursor = null; // the time under the pointer, for the hairline in every chart
    this.reset(1);
  }

  reset(whole) {
    this.whole = whole || 1;
    this.fit();
  }

  get length() {
    return this.end - this.start;
  }

  get isWhole() {
    return this.length >= this.whole * (1 - 1e-9);
  }

  show(start, length) {
    const room = Math.min(this.whole, Math.max(this.whole / DEEPEST_ZOOM, length));
    this.start = Math.min(Math.max(0, start), this.whole - room);
    this.end = this.start + room;
    this.changed();
  }

  fit() {
    this.show(0, this.whole);
  }

  // Zooms by a factor above or below 1 so that the moment `at` stays where it is.
  zoom(factor, at = (this.start + this.end) / 2) {
    const length = Math.min(this.whole, this.length / factor);
    this.show(at - ((at - this.start) * length) / this.length, length);
  }

  pan(seconds) {
    this.show(this.start + seconds, this.length);
  }

  point(time) {
    this.cursor = time;
    this.changed();
  }

  changed() {
    for (const listener of this.listeners) listener();
  }
}

// Lets a chart be dragged, pinched, scrolled and pointed at. on.hover(event), on.leave(), on.choose(event).
function listen(chart, view, on) {
  const canvas = chart.canvas;
  const pointers = new Map();
  let travelled = 0;

  const place = (event) => ({ x: event.offsetX, y: event.offsetY });
  const pinch = () => {
    const [a, b] = [...pointers.values()];
    return { middle: (a.x + b.x) / 2, apart: Math.max(20, Math.abs(a.x - b.x)) };
  };

  canvas.addEventListener("wheel", (event) => {
    const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
    const amount = (sideways && event.deltaX) || event.deltaY;
    if (sideways ? view.isWhole : view.isWhole && amount > 0) return; // nothing to do here: the page scrolls
    event.preventDefault();
    const pixels = amount * (event.deltaMode === 1 ? 16 : 1);
    if (sideways) view.pan((pixels * view.length) / chart.plotWidth);
    else view.zoom(Math.exp(-pixels * 0.002), chart.time(event.offsetX));
  }, { passive: false });

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    travelled = pointers.size > 1 ? Infinity : 0;
  });

  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (before === undefined) {
      view.point(chart.time(event.offsetX));
      on.hover(event);
      return;
    }
    const now = place(event);
    const old = pointers.size === 2 ? pinch() : null;
    pointers.set(event.pointerId, now);
    travelled += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
    if (old) {
      const next = pinch();
      view.zoom(next.apart / old.apart, chart.time(old.middle));
      view.pan(((old.middle - next.middle) * view.length) / chart.plotWidth);
    } else if (travelled > 4) {
      canvas.classList.add("dragging");
      on.leave();
      view.pan(((before.x - now.x) * view.length) / chart.plotWidth);
    }
  });

  const release = (event) => {
    const was = pointers.delete(event.pointerId);
    if (pointers.size === 0) canvas.classList.remove("dragging");
    if (was && event.type === "pointerup" && travelled <= 4) on.choose(event);
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => {
    view.point(null);
    on.leave();
  });
}
