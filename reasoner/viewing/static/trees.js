// The list of a stage's trees, and one of them as a picture: time runs to the right, each node has a line of its own.
import { MARKS, ask, chain, choice, colour, counted, draw, fault, field, make, named, number, place, places,
  verdictClass } from "./parts.js";

const LINE = 15; // pixels between lines of the picture
const LEFT = 14;
const MOST = 10000; // trees that a list holds
const here = place();
const room = document.getElementById("room");
let open = null; // {tree, at, node, rows, by}: the tree that is shown

async function start() {
  if (!here.stage) return;
  try {
    list(await ask("trees", here));
  } catch (problem) {
    fault(room, problem);
  }
}

function list(trees) {
  const body = make("tbody");
  const shown = make("p", { class: "note", role: "status" });
  const picture = make("div", { id: "picture" });
  for (const t of trees) {
    const name = make("button", { type: "button", title: t.prompt }, t.id);
    name.addEventListener("click", () => show(t, picture, name));
    const cells = [`${t.correct} of ${t.judged}`, t.nodes, t.tokens, t.pruned || ""];
    const row = make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((c) => make("td", {}, String(c))));
    row.words = `${t.id} ${t.prompt}`.toLowerCase();
    body.append(row);
  }
  const filter = (words) => {
    let count = 0;
    for (const row of body.rows) {
      row.hidden = !row.words.includes(words.toLowerCase());
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = `${count} of ${trees.length} trees${trees.length === MOST ? ", the first of more" : ""}`;
  };
  filter("");
  const heads = ["problem", "right", "nodes", "tokens", "pruned"].map((h) => make("th", { scope: "col" }, h));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body);
  room.replaceChildren(
    make("div", { class: "controls" }, places(here), field("find", { type: "search" }, filter), shown),
    make("div", { class: "split" }, make("div", { class: "list", tabindex: "0" }, table), picture));
  const at = Math.max(trees.findIndex((t) => location.hash === `#${t.shard}.${t.row}`), 0);
  if (trees.length) show(trees[at], picture, body.rows[at].querySelector("button"));
}

async function show(t, picture, button) {
  document.querySelectorAll("button[aria-current]").forEach((b) => b.removeAttribute("aria-current"));
  button.setAttribute("aria-current", "true");
  try {
    const at = { ...here, shard: t.shard, row: t.row };
    const tree = await ask("tree", at);
    history.replaceState(null, "", `#${t.shard}.${t.row}`);
    open = { tree, at, node: 0, rows: layout(tree.nodes), by: tree.scores[0] || "value" };
    paint(picture);
  } catch (problem) {
    fault(picture, problem);
  }
}

// A node stands below its parent, one that leaves it later above one that leaves it earlier: so no two lines cross.
function layout(nodes) {
  const children = nodes.map(() => []);
  nodes.forEach((n, i) => { if (n.parent >= 0) children[n.parent].push(i); });
  const starts = nodes.map(() => 0);
  nodes.forEach((n, i) => { if (n.parent > 0) starts[i] = starts[n.parent] + n.offset; });
  const order = [];
  const waiting = [0];
  while (waiting.length) {
    const i = waiting.pop();
    order.push(i);
    children[i].sort((a, b) => nodes[a].offset - nodes[b].offset || b - a);
    waiting.push(...children[i]);
  }
  const lines = [];
  order.forEach((i, at) => { lines[i] = at; });
  return { order, lines, starts, children };
}

function paint(picture) {
  const { tree } = open;
  const options = [...tree.scores, ...tree.labels, "posterior", "value", "entropy"].map((s) => [s, s]);
  const box = make("div", { class: "tree", tabindex: "0", role: "application",
    "aria-label": "tree: arrow keys go from node to node, Enter shows the chain" });
  const tip = make("div", { id: "tip", hidden: "" });
  const notes = tree.notes.map((note) => make("p", { class: "fault", role: "status" }, note));
  const above = tree.from_prompt ? [make("p", { class: "note" }, `from the prompt: ${counted(tree.from_prompt)}`)] : [];
  picture.replaceChildren(
    make("h3", {}, tree.id), make("p", { class: "prompt", dir: "auto" }, tree.prompt), ...above, ...notes,
    make("div", { class: "controls" },
      choice("colour by", options, open.by, (by) => { open.by = by; paint(picture); }),
      make("span", { class: "scale" }, "0 ", make("i"), " 1"),
      make("span", { class: "note" }, "✓ right  ✗ wrong  ? no answer  ✂ pruned")),
    box, make("p", { id: "about", class: "note", role: "status" }), tip, make("div", { id: "detail" }));
  box.append(picture_of(tree, box.clientWidth || 600));
  box.addEventListener("pointermove", (event) => hover(event, tip));
  box.addEventListener("pointerleave", () => { tip.hidden = true; });
  box.addEventListener("click", (event) => {
    const node = node_of(event.target);
    if (node === null) return;
    go(node);
    details();
  });
  box.addEventListener("keydown", keys);
  go(open.node);
}

function picture_of(tree, width) {
  const { rows } = open;
  const longest = Math.max(1, ...tree.nodes.map((n, i) => (i ? rows.starts[i] + n.tokens : 0)));
  const wide = Math.max(width - 20, 300);
  const scale = (wide - LEFT - 40) / longest;
  const height = LINE * tree.nodes.length + 8;
  const svg = draw("svg", { width: wide, height, viewBox: `0 0 ${wide} ${height}` });
  const x = (tokens) => LEFT + tokens * scale;
  const y = (i) => LINE * rows.lines[i] + LINE / 2 + 2;
  svg.append(...tree.nodes.map((n, i) => (i ? drawn(n, i, x, y, rows.starts[i]) : origin(y(0)))));
  return svg;
}

function origin(y) {
  const g = draw("g", { "data-node": 0, class: "node" });
  g.append(draw("circle", { cx: LEFT, cy: y, r: 4, class: "start" }));
  return g;
}

function drawn(n, i, x, y, start) {
  const g = draw("g", { "data-node": i, class: n.pruned ? "node pruned" : "node" });
  const end = x(start + n.tokens);
  g.append(draw("path", { d: `M${x(start)} ${y(n.parent)}V${y(i)}`, class: "stem" }));
  g.append(draw("rect", { x: x(start), y: y(i) - 6, width: Math.max(end - x(start), 8), height: 12, class: "hit" }));
  let from = 0;
  n.steps.forEach((step, k) => {
    const width = Math.max(x(start + step.end) - x(start + from) - 1, 1);
    const bar = draw("rect", { x: x(start + from), y: y(i) - 3, height: 6, width, "data-step": k });
    bar.style.fill = colour(measure(step));
    g.append(bar);
    from = step.end;
  });
  const mark = n.pruned ? "✂" : n.verdict ? MARKS[n.verdict] : n.propensity < 1 ? "◦" : "";
  if (mark) g.append(draw("text", { x: end + 4, y: y(i) + 4, class: `mark ${verdictClass(n.verdict)}` }, mark));
  return g;
}

function measure(step) {
  if (open.by === "value") return step.value;
  if (open.by === "entropy") return step.entropy === null ? null : Math.min(step.entropy, 1);
  if (open.by === "posterior") return step.counts && step.counts.posterior[0];
  return step.scores[open.by] ?? step.labels[open.by];
}

function node_of(target) {
  const g = target.closest("g[data-node]");
  return g ? +g.dataset.node : null;
}

function words(i, k) {
  const n = open.tree.nodes[i];
  const lines = [`node ${i}: ${n.tokens} tokens${n.value === null ? "" : `, V before ${number(n.value)}`}`];
  if (n.pruned || n.propensity < 1) lines.push(`${n.pruned ? n.stop : "kept"} with probability ${number(n.propensity)}`);
  if (n.verdict) lines.push(`${n.verdict}${n.answer ? `: ${n.answer}` : ""}`);
  const step = n.steps[k];
  if (step) {
    const measured = [`V ${number(step.value)}`, ...named(step.scores), ...named(step.labels)];
    lines.push([...measured, `entropy ${number(step.entropy)}`, `log p ${number(step.logprob)}`].join("  "));
    if (step.counts) lines.push(`from here: ${counted(step.counts)}`);
    lines.push(step.text.length > 400 ? `${step.text.slice(0, 400)} …` : step.text);
  }
  return lines;
}

function hover(event, tip) {
  const i = node_of(event.target);
  tip.hidden = i === null;
  if (i === null) return;
  tip.textContent = words(i, event.target.dataset.step).join("\n");
  tip.style.left = `${Math.max(Math.min(event.clientX + 14, window.innerWidth - 340), 0)}px`;
  tip.style.top = `${event.clientY + 16}px`;
}

function go(i) {
  const box = document.querySelector(".tree");
  box.querySelectorAll(".node.here").forEach((g) => g.classList.remove("here"));
  box.querySelector(`g[data-node="${i}"]`).classList.add("here");
  open.node = i;
  document.getElementById("about").textContent = words(i, open.tree.nodes[i].steps.length - 1).join("  ·  ");
  const top = LINE * open.rows.lines[i];
  if (top < box.scrollTop || top > box.scrollTop + box.clientHeight - 2 * LINE) box.scrollTop = top - box.clientHeight / 2;
}

function keys(event) {
  const { rows, tree, node } = open;
  const at = rows.lines[node];
  const to = {
    ArrowDown: () => rows.order[at + 1],
    ArrowUp: () => rows.order[at - 1],
    ArrowLeft: () => tree.nodes[node].parent,
    ArrowRight: () => rows.children[node][rows.children[node].length - 1],
    Home: () => 0,
    End: () => rows.order[rows.order.length - 1],
  }[event.key];
  if (to) {
    const next = to();
    if (next !== undefined && next >= 0) go(next);
    event.preventDefault();
  } else if (event.key === "Enter") {
    details();
  }
}

async function details() {
  const detail = document.getElementById("detail");
  try {
    detail.replaceChildren(chain(await ask("node", { ...open.at, node: open.node })));
  } catch (problem) {
    fault(detail, problem);
  }
}

start();
