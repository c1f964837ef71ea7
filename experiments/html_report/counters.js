// Memory and rates over time: one row a counter, the timelines over each other in it.

const TRACK = 40;
const TRACK_GAP = 10;

class Counters extends Chart {
  // limits: by device, what the row's full height stands for; without them, the greatest value in sight.
  show(timelines, isMemory, limits) {
    this.isMemory = isMemory;
    this.names = timelines.map((timeline) => timeline.name);
    const tracks = new Map();
    timelines.forEach((timeline, number) => {
      for (const counter of timeline.counters) {
        if (counter.isMemory !== isMemory) continue;
        const key = `${counter.device} ${counter.name}`;
        if (!tracks.has(key)) tracks.set(key, { ...counter, series: [], limit: limits ? limits[counter.device] : null });
        tracks.get(key).series.push({ number, steps: new Steps(counter, timeline.makespan) });
      }
    });
    this.tracks = [...tracks.values()];
    this.redraw();
  }

  get isEmpty() {
    return this.tracks.length === 0;
  }

  height() {
    return (this.tracks || []).length * (TRACK + TRACK_GAP) + AXIS;
  }

  draw() {
    const bottom = this.height() - AXIS;
    this.tracks.forEach((track, place) => this.track(track, place * (TRACK + TRACK_GAP)));
    this.hairline(bottom);
    this.axis(bottom);
  }

  track(track, top) {
    const context = this.context;
    context.fillStyle = theme.row;
    context.fillRect(GUTTER, top, this.plotWidth, TRACK);
    const drawn = track.series.map(({ number, steps }) => ({ number, values: this.columns(steps) }));
    const most = drawn.reduce((high, { values }) => values.reduce((a, b) => Math.max(a, b), high), 0);
    const full = 1.06 * Math.max(track.limit || 0, most) || 1;
    this.clipped(top, TRACK, () => {
      // The first timeline is a line over the areas of the others.
      for (const { number, values } of [...drawn].reverse()) this.curve(values, top, full, number);
      if (track.limit) this.level(top + TRACK * (1 - track.limit / full));
    });
    const names = track.device < 0 ? [track.name.replace(" rate", ""), ""] : [`device ${track.device}`, this.isMemory ? "" : track.name.replace(" rate", "")];
    this.text(names[0], GUTTER - 6, top + TRACK / 2 - (names[1] ? 7 : 0), { align: "right", size: 11, colour: theme.ink });
    this.text(names[1], GUTTER - 6, top + TRACK / 2 + 7, { align: "right", size: 10 });
    const what = track.limit ? `arena ${bytes(track.limit)}` : `at most ${bytes(most)}${this.isMemory ? "" : "/s"}`;
    context.globalAlpha = 0.75;
    context.fillStyle = theme.page;
    context.font = `400 10px ${FONT}`;
    context.fillRect(GUTTER + 2, top + 2, context.measureText(what).width + 6, 13);
    context.globalAlpha = 1;
    this.text(what, GUTTER + 5, top + 9, { size: 10, colour: theme.ink });
  }

  // Returns by pixel the greatest memory, or the mean rate.
  columns(steps) {
    const values = new Float64Array(Math.ceil(this.plotWidth));
    for (let pixel = 0; pixel < values.length; pixel++) {
      const [from, to] = [this.time(GUTTER + pixel), this.time(GUTTER + pixel + 1)];
      values[pixel] = this.isMemory ? steps.most(from, to) : steps.mean(from, to);
    }
    return values;
  }

  curve(values, top, full, number) {
    const context = this.context;
    const y = (value) => top + TRACK - (value / full) * (TRACK - 1);
    context.beginPath();
    values.forEach((value, pixel) => context.lineTo(GUTTER + pixel + 0.5, y(value)));
    const colour = number === 0 ? theme.first : theme.second;
    if (number === 0) {
      context.strokeStyle = colour;
      context.lineWidth = 1.7;
      context.stroke();
      return;
    }
    context.lineTo(GUTTER + values.length, top + TRACK);
    context.lineTo(GUTTER, top + TRACK);
    context.fillStyle = colour;
    context.globalAlpha = 0.5;
    context.fill();
    context.globalAlpha = 1;
  }

  level(y) {
    this.context.fillStyle = theme.critical;
    this.context.fillRect(GUTTER, y, this.plotWidth, 1);
  }

  // What every row's timelines say at a moment.
  read(y, time) {
    const track = this.tracks[Math.floor(y / (TRACK + TRACK_GAP))];
    if (!track) return null;
    const perPixel = this.view.length / this.plotWidth;
    const values = track.series.map(({ number, steps }) => {
      const value = this.isMemory ? steps.most(time, time + perPixel) : steps.mean(time, time + perPixel);
      return [this.names[number], this.isMemory ? bytes(value) : `${bytes(value)}/s`];
    });
    return { name: track.device < 0 ? track.name : `device ${track.device}: ${track.name}`, values };
  }
}

// A value that changes in steps and is 0 before the first and after the end.
class Steps {
  constructor({ at, value }, end) {
    this.at = [...at, Math.max(end, at[at.length - 1])];
    this.value = [...value, 0];
    this.sums = [0]; // the integral up to each change
    for (let place = 1; place < this.at.length; place++) {
      this.sums.push(this.sums[place - 1] + this.value[place - 1] * (this.at[place] - this.at[place - 1]));
    }
  }

  sum(time) {
    const place = countUpTo(this.at, time) - 1;
    return place < 0 ? 0 : this.sums[place] + this.value[place] * (time - this.at[place]);
  }

  mean(from, to) {
    return Math.max(0, (this.sum(to) - this.sum(from)) / (to - from));
  }

  most(from, to) {
    let found = 0;
    const last = countUpTo(this.at, to);
    for (let place = Math.max(0, countUpTo(this.at, from) - 1); place < last; place++) {
      found = Math.max(found, this.value[place]);
    }
    return found;
  }
}
