// What is said of a span: in a few lines beside the pointer, and in full below the timeline.
// Everything is set as text and never read as HTML: names come from files.

const CAUSES = { data: "needed its data or memory", lane: "queued behind it", decision: "chosen when it ended" };

function element(name, text = "", ...children) {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
}

// Returns pairs of a term and what there is to say.
function facts(lanes, focus) {
  const { row: { spans, lane, device }, index } = focus;
  const [start, end] = [spans.start[index], spans.end[index]];
  const rows = [
    ["what", `${spans.kindOf(index)}${spans.isUnit(index) ? `, ${data.phases[spans.phaseOf(index)]}` : ` for ${spans.unitOf(index)}`}`],
    ["lane", device < 0 ? lane : `${lane} of device ${device}`],
    ["when", `${seconds(start)} to ${seconds(end)} (${seconds(end - start)})`],
  ];
  if (spans.bytes[index]) {
    const rate = end > start ? `, ${bytes(spans.bytes[index] / (end - start))}/s` : "";
    rows.push(["bytes", `${bytes(spans.bytes[index])}${rate}`]);
  }
  if (spans.peer[index] >= 0) rows.push(["to", `device ${spans.peer[index]}`]);
  const why = spans.why[index];
  rows.push(["waited for", why < 0 ? "nothing" : `${spans.nameOf(why)}, ${CAUSES[spans.causeOf(index)]}`]);
  for (const twin of lanes.twins(focus)) {
    const other = twin.row.spans;
    const shift = other.start[twin.index] - start;
    const length = other.end[twin.index] - other.start[twin.index] - (end - start);
    const sign = (value) => `${value < 0 ? "−" : "+"}${seconds(Math.abs(value))}`;
    rows.push([lanes.panels[twin.row.number].timeline.name, `starts ${sign(shift)}, takes ${sign(length)}`]);
  }
  return rows;
}

class Tooltip {
  constructor(box) {
    this.box = box;
  }

  show(title, rows, event) {
    this.box.replaceChildren(element("b", title), ...rows.map(([term, words]) => element("span", `${term}: ${words}`)));
    this.box.hidden = false;
    const { width, height } = this.box.getBoundingClientRect();
    const left = event.clientX + 14 + width > innerWidth ? event.clientX - width - 14 : event.clientX + 14;
    const top = event.clientY + 16 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 16;
    this.box.style.left = `${Math.min(Math.max(6, left), Math.max(6, innerWidth - width - 6))}px`;
    this.box.style.top = `${Math.max(6, top)}px`;
  }

  hide() {
    this.box.hidden = true;
  }
}

// Fills the box below the timeline; choose(focus) is called for a link of the chain, or with null to let go.
function showDetails(box, lanes, focus, choose) {
  box.hidden = !focus;
  if (!focus) return box.replaceChildren();
  const { row: { spans, number }, index } = focus;
  const close = element("button", "Close");
  close.type = "button";
  close.className = "close";
  close.addEventListener("click", () => choose(null));
  const list = element("dl");
  for (const [term, words] of facts(lanes, focus)) list.append(element("dt", term), element("dd", words));
  const parts = [close, element("h4", spans.nameOf(index)), list];
  const chain = spans.chain(index);
  if (chain.length) parts.push(element("p", "Why not earlier:"), element("ol", "", ...chain.map((link) => {
    const place = lanes.find(number, link.index);
    const name = element(place ? "button" : "code", spans.nameOf(link.index));
    if (place) {
      name.type = "button";
      name.addEventListener("click", () => choose(place));
    }
    const waited = link.waited > 0 ? `, after its lane stood empty for ${seconds(link.waited)}` : "";
    return element("li", "", `${spans.nameOf(link.of)}: ${CAUSES[link.cause]}${waited}: `, name);
  })));
  return box.replaceChildren(...parts);
}
