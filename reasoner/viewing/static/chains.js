// Chains by problem, verdict and score; first those that the score takes for right and the verdict does not.
import { MARKS, ask, chain, choice, fault, field, make, number, place, places, verdictClass } from "./parts.js";

const PAGE = 50;
const here = place();
const room = document.getElementById("room");
const asked = { problem: "", verdict: "", score: "", low: 0, high: 1, start: 0 };
const table = make("div");
const scores = make("span");
let turn = 0;

function change(name) {
  return (value) => {
    asked[name] = value;
    if (name !== "start") asked.start = 0;
    fill();
  };
}

async function fill() {
  const mine = ++turn;
  try {
    const told = await ask("chains", { ...here, ...asked });
    if (mine === turn) show(told);
  } catch (problem) {
    if (mine === turn) fault(table, problem);
  }
}

function show(told) {
  if (!scores.childNodes.length) {
    scores.append(choice("score", told.scores.map((s) => [s, s]), told.score, change("score")));
  }
  const body = make("tbody");
  for (const c of told.chains) body.append(...line(c, told.score));
  const heads = ["verdict", "problem", told.score, "answer", "tokens"].map((h) => make("th", { scope: "col" }, h));
  const last = told.start + told.chains.length;
  const status = `${told.found ? told.start + 1 : 0} to ${last} of ${told.found} chains that match, of ${told.all}; ` +
    "wrong ones with a high score first";
  table.replaceChildren(
    make("p", { class: "note", role: "status" }, status),
    make("div", { class: "scroll" }, make("table", { class: "chains" }, make("thead", {}, make("tr", {}, ...heads)), body)),
    make("p", { class: "controls" }, turned("before", told.start - PAGE, told.start > 0),
      turned("next", told.start + PAGE, last < told.found)));
}

function turned(name, start, possible) {
  const button = make("button", { type: "button" }, name);
  button.disabled = !possible;
  button.addEventListener("click", () => change("start")(Math.max(start, 0)));
  return button;
}

function line(c, score) {
  const name = make("button", { type: "button", "aria-expanded": "false" }, c.id);
  const whole = make("td", { colspan: "5" });
  const below = make("tr", { hidden: "" }, whole);
  name.addEventListener("click", async () => {
    below.hidden = !below.hidden;
    name.setAttribute("aria-expanded", String(!below.hidden));
    if (below.hidden || whole.childNodes.length) return;
    try {
      whole.replaceChildren(chain(await ask("node", { ...here, shard: c.shard, row: c.row, node: c.node })));
    } catch (problem) {
      fault(whole, problem);
    }
  });
  const row = make("tr", {},
    make("td", { class: `verdict ${verdictClass(c.verdict)}` }, `${MARKS[c.verdict] || "·"} ${c.verdict}`),
    make("th", { scope: "row" }, name, make("small", { dir: "auto" }, c.prompt)),
    make("td", {}, number(c.scores[score])), make("td", { dir: "auto" }, c.answer), make("td", {}, String(c.tokens)));
  return [row, below];
}

if (here.stage) {
  const verdicts = [["", "any"], ...Object.keys(MARKS).map((v) => [v, v])];
  const bound = { type: "number", min: "0", max: "1", step: "0.05" };
  room.replaceChildren(
    make("div", { class: "controls" }, places(here),
      field("problem", { type: "search" }, change("problem")), choice("verdict", verdicts, "", change("verdict")), scores,
      field("from", { ...bound, value: "0" }, (v) => change("low")(v || 0)),
      field("to", { ...bound, value: "1" }, (v) => change("high")(v || 1))),
    table);
  fill();
}
