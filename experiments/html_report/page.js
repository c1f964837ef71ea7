// Puts the parts together: the run that is shown, the charts, the buttons and keys, the theme.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

const THEMES = [["", "Auto", "as the system has them"], ["light", "Light", "light"], ["dark", "Dark", "dark"]];

function startTheme(changed) {
  const button = byId("theme");
  const set = (name) => {
    const [value, label, meaning] = THEMES.find((entry) => entry[0] === name) || THEMES[0];
    document.documentElement.dataset.theme = value;
    button.textContent = `◐ ${label}`;
    button.setAttribute("aria-label", `Colours: ${meaning}`);
    remember(value);
    readTheme();
    changed();
  };
  button.addEventListener("click", () => {
    const place = THEMES.findIndex((entry) => entry[0] === document.documentElement.dataset.theme);
    set(THEMES[(place + 1) % THEMES.length][0]);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => set(document.documentElement.dataset.theme));
  set(remembered());
}

// A page opened from a file may have no storage.
function remember(value) {
  try {
    localStorage.setItem("hydrasim-theme", value);
  } catch { /* the choice lasts as long as the page */ }
}

function remembered() {
  try {
    return localStorage.getItem("hydrasim-theme") || "";
  } catch {
    return "";
  }
}

// The part of the page that shows one run at a time.
class Runs {
  constructor() {
    this.view = new View();
    this.lanes = new Lanes(byId("lanes"), this.view);
    this.memory = new Counters(byId("memory"), this.view);
    this.links = new Counters(byId("links"), this.view);
    this.overview = new Overview(byId("overview"), this.view);
    this.tooltip = new Tooltip(byId("tooltip"));
    this.listenToCharts();
    this.listenToTools();
    this.view.listeners.push(() => {
      byId("range").textContent = `${seconds(Math.max(0, this.view.start))} \u2013 ${seconds(this.view.end)}`;
      byId("out").disabled = byId("fit").disabled = this.view.isWhole;
    });
  }

  show(number) {
    this.run = data.runs[number];
    const { timelines, arenaBytes } = this.run;
    for (const timeline of timelines) {
      if (!(timeline.spans instanceof Spans)) timeline.spans = new Spans(timeline.spans, this.run.jobs, data.tints);
    }
    this.lanes.show(timelines);
    this.memory.show(timelines, true, arenaBytes);
    this.links.show(timelines, false, null);
    this.overview.show(timelines[0]);
    this.choose(null);
    for (const part of document.querySelectorAll("[data-run]")) part.hidden = part.dataset.run !== String(number);
    for (const id of ["memory", "memory-title", "memory-about"]) byId(id).hidden = this.memory.isEmpty;
    for (const id of ["links", "links-title", "links-about"]) byId(id).hidden = this.links.isEmpty;
    byId("memory-about").textContent =
      `What live blocks hold of each device's arena when a unit begins; activations come on top. ${this.lineAndArea()}` +
      (arenaBytes ? "" : " How large the arenas were, timelines do not say.");
    this.legend();
    this.view.reset(1.005 * Math.max(...timelines.map((timeline) => timeline.makespan)));
  }

  lineAndArea() {
    const [first, ...others] = this.run.timelines.map((timeline) => timeline.name);
    return others.length ? `Line: ${first}; area: ${others.join(", ")}.` : "";
  }

  legend() {
    const swatch = (colour, name) => {
      const patch = element("i");
      patch.style.background = colour;
      return element("li", "", patch, name);
    };
    const phases = new Set(this.run.timelines.flatMap(({ spans }) =>
      spans.start.map((_, index) => (spans.isUnit(index) ? spans.phaseOf(index) : ""))));
    byId("legend").replaceChildren(
      ...this.run.jobs.map((job) => swatch(tinted(job.colour, 0), job.name)),
      ...Object.entries(data.phases).filter(([phase]) => phases.has(phase))
        .map(([phase, name]) => swatch(tinted("#808080", data.tints[phase]), name)),
    );
  }

  // Draws everything anew in the colours of another theme.
  recolour() {
    if (this.run) this.legend();
    this.view.changed();
  }

  // Keeps a span's details, moving the window to it if it is out of sight; null lets go.
  choose(focus) {
    this.lanes.chosen = focus;
    showDetails(byId("details"), this.lanes, focus, (other) => this.choose(other));
    if (focus) {
      const [from, to] = [focus.row.spans.start[focus.index], focus.row.spans.end[focus.index]];
      const { start, end, length } = this.view;
      if (from > end || to < start) this.view.show((from + to - length) / 2, length);
    }
    this.lanes.redraw();
  }

  hover(focus, event) {
    this.lanes.hovered = focus;
    this.lanes.redraw();
    if (focus) this.tooltip.show(focus.row.spans.nameOf(focus.index), facts(this.lanes, focus), event);
    else this.tooltip.hide();
  }

  listenToCharts() {
    const leave = () => this.hover(null);
    const under = (event) => this.lanes.at(event.offsetX, event.offsetY);
    listen(this.lanes, this.view, {
      hover: (event) => this.hover(under(event), event),
      leave,
      choose: (event) => {
        leave();
        this.choose(under(event));
      },
    });
    for (const counters of [this.memory, this.links]) {
      const read = (event) => {
        const found = event.offsetX < GUTTER ? null : counters.read(event.offsetY, counters.time(event.offsetX));
        if (found) this.tooltip.show(found.name, found.values, event);
        else this.tooltip.hide();
      };
      listen(counters, this.view, { hover: read, leave, choose: read });
    }
  }

  listenToTools() {
    const { view, lanes } = this;
    const moves = {
      left: () => view.pan(-view.length / 4),
      right: () => view.pan(view.length / 4),
      in: () => view.zoom(STEP),
      out: () => view.zoom(1 / STEP),
      fit: () => view.fit(),
    };
    const keys = {
      ArrowLeft: moves.left, ArrowRight: moves.right, "+": moves.in, "=": moves.in, "-": moves.out, 0: moves.fit,
      n: () => this.choose(lanes.next(1)),
      p: () => this.choose(lanes.next(-1)),
      ArrowUp: () => this.choose(lanes.beside(-1)),
      ArrowDown: () => this.choose(lanes.beside(1)),
      Escape: () => this.choose(null),
    };
    for (const [id, move] of Object.entries(moves)) byId(id).addEventListener("click", move);
    lanes.canvas.addEventListener("keydown", (event) => {
      const move = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      const scrolls = !lanes.chosen && ["ArrowUp", "ArrowDown"].includes(event.key);
      if (!move || scrolls || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      move();
    });
    byId("run").value = "0"; // browsers remember what was chosen before a reload
    byId("run").addEventListener("change", (event) => this.show(Number(event.target.value)));
  }
}

const runs = data.runs.length ? new Runs() : null;
startTheme(() => runs?.recolour());
runs?.show(0);
