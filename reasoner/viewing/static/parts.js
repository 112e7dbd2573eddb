// Parts of both pages. What comes from a run reaches the page as text alone: textContent, never markup.

export const SVG = "http://www.w3.org/2000/svg";

export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function draw(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export async function ask(what, parameters) {
  const answer = await fetch(`api/${what}?${new URLSearchParams(parameters)}`);
  const told = await answer.json();
  if (told.error) throw new Error(told.error);
  return told;
}

export function runs() {
  return JSON.parse(document.querySelector("main").dataset.runs);
}

export const MARKS = { correct: "✓", incorrect: "✗", no_answer: "?", error: "!", none: "·" };
const CLASSES = { correct: "right", incorrect: "wrong" };

export function verdictClass(verdict) {
  return CLASSES[verdict] || "open";
}

export function number(x, digits = 2) {
  return x === null || x === undefined ? "–" : x.toFixed(digits);
}

// From orange (0) over grey to blue (1), told apart by colour-blind eyes too.
export function colour(x) {
  if (x === null || x === undefined) return "var(--line)";
  const at = Math.min(Math.max(x, 0), 1);
  const ends = [[206, 92, 20], [150, 150, 150], [44, 103, 216]];
  const low = at < 0.5 ? 0 : 1;
  const part = (at - low * 0.5) * 2;
  const mixed = ends[low].map((a, i) => Math.round(a + (ends[low + 1][i] - a) * part));
  return `rgb(${mixed.join(" ")})`;
}

export function choice(label, options, value, changed) {
  const select = make("select");
  for (const [at, shown] of options) {
    const option = make("option", { value: at }, shown);
    option.selected = at === value;
    select.append(option);
  }
  select.addEventListener("change", () => changed(select.value));
  return make("label", {}, `${label} `, select);
}

export function field(label, attributes, changed) {
  const input = make("input", attributes);
  let waiting;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => changed(input.value), 150);
  });
  return make("label", {}, `${label} `, input);
}

// The run and the stage that a page is about: of the address, or the last stage of the first run that has trees.
export function place() {
  const given = new URLSearchParams(location.search);
  const known = runs();
  const run = known.find((r) => r.name === given.get("run")) || known.find((r) => r.stages.length) || known[0];
  const stage = run.stages.includes(given.get("stage")) ? given.get("stage") : run.stages[run.stages.length - 1];
  return { run: run.name, stage };
}

export function places(here) {
  const options = runs().flatMap((r) => r.stages.map((s) => [`${r.name}\n${s}`, `${r.name}, ${s}`]));
  return choice("trees of", options, `${here.run}\n${here.stage}`, (at) => {
    const [run, stage] = at.split("\n");
    location.href = `?${new URLSearchParams({ run, stage })}`;
  });
}

export function fault(room, problem) {
  room.replaceChildren(make("p", { class: "fault", role: "alert" }, problem.message));
}

// What became of the continuations from a state: counts, and the mean and 95 % interval of the Beta posterior of its value.
export function counted(counts) {
  if (!counts) return "";
  const [mean, low, high] = counts.posterior;
  const failed = counts.errors ? `, ${counts.errors} not judged` : "";
  return `${counts.c} of ${counts.n} right${failed}, posterior ${number(mean)} (${number(low)} to ${number(high)})`;
}

export function named(numbers) {
  return Object.entries(numbers).map(([name, x]) => `${name} ${number(x)}`);
}

function strip([mean, low, high]) {
  const line = (from, to, name) => draw("line", { x1: 2 + 96 * from, x2: 2 + 96 * to, y1: 4, y2: 4, class: name });
  const point = draw("line", { x1: 2 + 96 * mean, x2: 2 + 96 * mean, y1: 1, y2: 7, class: "point" });
  const svg = draw("svg", { width: 100, height: 8, viewBox: "0 0 100 8", class: "strip", "aria-hidden": "true" });
  svg.append(line(0, 1, "track"), line(low, high, "span"), point);
  return svg;
}

// A path step by step, with the scores at its steps' ends, then the last node's tokens by their entropy.
export function chain(told) {
  const steps = make("ol");
  for (const step of told.path) {
    const scores = named(step.scores);
    if (step.value !== null) scores.push(`V ${number(step.value)}`);
    const item = make("li", {}, make("span", { class: "mark" }, "·"),
      make("span", { class: "text", dir: "auto" }, step.text),
      make("span", { class: "prm" }, scores.join("  ")));
    const labels = named(step.labels).join("  ");
    if (labels || step.counts) {
      const about = make("span", { class: "counts" }, [labels, counted(step.counts)].filter(Boolean).join("  ·  "));
      if (step.counts) about.append(" ", strip(step.counts.posterior));
      item.append(about);
    }
    item.style.borderLeftColor = colour(Object.values(step.scores)[0] ?? step.value);
    steps.append(item);
  }
  const box = make("div", { class: "sample" }, make("div", { class: "prompt", dir: "auto" }, told.prompt), steps);
  if (told.verdict) {
    const { status, reason, answer, detail } = told.verdict;
    box.append(make("p", { class: `verdict ${verdictClass(status)}` },
      `${MARKS[status] || "·"} ${status} ${reason || ""}${answer ? `, answer: ${answer}` : ""}`));
    if (detail) box.append(make("p", { class: "note" }, detail));
  }
  box.append(make("p", { class: "note", dir: "auto" }, `reference: ${told.reference}`));
  if (told.tokens.some((t) => t[1] !== null)) box.append(...tokens(told));
  return box;
}

function tokens(told) {
  const line = make("p", { class: "tokens", dir: "auto" });
  for (const [text, entropy, logprob] of told.tokens) {
    const token = make("span", { title: `entropy ${number(entropy)} nats, log p ${number(logprob)}` }, text);
    token.style.opacity = String(0.45 + 0.55 * Math.min((entropy || 0) / 1.5, 1));
    line.append(token);
  }
  if (told.left_out) line.append(` … and ${told.left_out} more`);
  return [make("p", { class: "note" }, "tokens of the last node, the fainter the surer the model was:"), line];
}
