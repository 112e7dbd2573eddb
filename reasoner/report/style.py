"""The report's style sheet: one column for reading, light and dark, and on paper."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfbf9; --card: #ffffff; --ink: #1d2126; --soft: #5c6570; --line: #e3e4df; --track: #ecece7;
  --accent: #2458c5; --accent-soft: #a9c0ee; --grey: #7d8792;
  --right: #1b7f4d; --right-back: #eaf5ee; --wrong: #bd3026; --wrong-back: #fbecea; --open-back: #f3f3ef;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1b1f23; --ink: #e4e7ea; --soft: #98a2ac; --line: #2d3339; --track: #2a3036;
    --accent: #82aaff; --accent-soft: #3d5688; --grey: #87919c;
    --right: #5fca93; --right-back: #182b22; --wrong: #f2867c; --wrong-back: #351e1d; --open-back: #22272c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1020px; margin: 0 auto; padding: 44px 28px 72px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 {
  font-size: 20px; letter-spacing: -0.01em; margin: 52px 0 4px; padding-top: 18px; border-top: 1px solid
  var(--line);
}
h3 { font-size: 15px; margin: 26px 0 8px; overflow-wrap: anywhere; }
p { margin: 4px 0 14px; max-width: 84ch; color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0 0; font-size: 14px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(144px, 1fr)); gap: 12px; margin: 14px 0
  0;
}
.tiles.lead { grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); margin-top: 26px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 13px 16px 12px; }
.tile b {
  display: block; font-size: 19px; line-height: 1.35; letter-spacing: -0.01em; font-weight: 650;
  white-space: nowrap;
}
.tile span { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.lead .tile { border-color: var(--accent-soft); }
.lead .tile b { color: var(--accent); font-size: 27px; }
.scroll { overflow-x: auto; margin: 8px 0 18px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th { font-weight: 600; text-align: right; padding: 6px 14px; vertical-align: bottom; white-space: nowrap; }
th small { display: block; font-weight: 400; color: var(--soft); font-size: 12.5px; }
td { text-align: right; padding: 8px 14px; white-space: nowrap; border-top: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 2px; }
thead tr { border-bottom: 1px solid var(--grey); }
tbody tr:last-child > * { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 500; border-top: 1px solid var(--line); vertical-align: middle; }
tr.last th, tr.last td b { color: var(--accent); }
td b { font-weight: 650; }
td i { font-style: normal; color: var(--soft); font-size: 12.5px; margin-left: 6px; }
table.dense td i { display: block; margin: 0; }
table.counters { width: 100%; }
table.counters thead th { white-space: normal; }
figure { margin: 14px 0 20px; }
.multiples {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 14px; margin: 10px 0
  20px;
}
.multiples > svg {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px;
}
svg { display: block; width: 100%; height: auto; font-family: inherit; }
svg.wide { min-width: 620px; }
svg.strip { width: 100px; height: 8px; margin: 3px 0 0 auto; }
svg.small { max-width: 340px; }
svg text { fill: var(--ink); font-size: 13px; font-variant-numeric: tabular-nums; }
svg .title { font-weight: 600; }
svg .tick { fill: var(--soft); font-size: 11.5px; }
svg .value { fill: var(--soft); font-size: 12.5px; }
svg .value.last { fill: var(--accent); font-weight: 650; }
.grid { stroke: var(--line); stroke-width: 1; }
.diagonal { stroke: var(--grey); stroke-width: 1; stroke-dasharray: 4 4; }
.whisker { stroke: var(--grey); stroke-width: 1.6; }
.whisker.last { stroke: var(--accent); }
.dot { fill: var(--grey); stroke: var(--page); stroke-width: 1.5; }
.dot.last { fill: var(--accent); }
.method { fill: none; stroke-width: 1.6; }
.front { fill: none; stroke: var(--ink); stroke-width: 1; stroke-dasharray: 5 4; }
.ring { fill: none; stroke: var(--ink); stroke-width: 1.4; }
.bar { fill: var(--accent-soft); }
.track { stroke: var(--track); stroke-width: 2; stroke-linecap: round; }
.span { stroke: var(--accent-soft); stroke-width: 6; }
.point { stroke: var(--accent); stroke-width: 2; }
.curve { fill: none; stroke: var(--accent); stroke-width: 1.8; stroke-linejoin: round; }
.curve.raw { stroke: var(--accent-soft); stroke-width: 1; }
.sample {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px 18px 16px;
  margin: 0 0 16px;
}
.sample header { display: flex; justify-content: space-between; align-items: baseline; gap: 16px; }
.sample .prompt { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 10px; font-weight: 550; }
.verdict { font-size: 13px; font-weight: 600; white-space: nowrap; }
.verdict.right { color: var(--right); }
.verdict.wrong { color: var(--wrong); }
.verdict.open { color: var(--soft); }
.sample ol { list-style: none; margin: 0; padding: 0; }
.sample li {
  display: grid; grid-template-columns: 22px minmax(0, 1fr) auto; gap: 8px; align-items: baseline;
  padding: 5px 12px 5px 10px; margin: 0 0 3px; border-left: 3px solid var(--grey); border-radius: 0 4px 4px 0;
  background: var(--open-back);
}
.sample li.right { border-color: var(--right); background: var(--right-back); }
.sample li.wrong { border-color: var(--wrong); background: var(--wrong-back); }
.sample li .mark { font-weight: 700; color: var(--soft); }
.sample li.right .mark { color: var(--right); }
.sample li.wrong .mark { color: var(--wrong); }
.sample li .text {
  white-space: pre-wrap; overflow-wrap: anywhere; overflow: hidden;
  font: 13.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
.sample li .prm {
  font-size: 12.5px; color: var(--soft); font-variant-numeric: tabular-nums; white-space: nowrap;
}
.note { font-size: 13px; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 18px; margin: 12px 0;
  font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
@media (max-width: 640px) {
  main { padding: 26px 16px 48px; }
  th, td { padding-left: 9px; padding-right: 9px; }
}
@media print {
  :root {
    --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc; --track: #e4e4e4;
    --accent: #1c489f; --accent-soft: #a9c0ee; --grey: #666;
    --right: #12663c; --right-back: #eef7f1; --wrong: #a3241b; --wrong-back: #fcefed; --open-back: #f5f5f2;
  }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  tr, figure, .tile, .sample li, .multiples > svg { break-inside: avoid; }
  svg, .sample li, .tile { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; }
  th, td { padding: 4px 7px; }
  th small, td i { font-size: 8pt; }
  svg.strip { width: 62px; }
  svg.wide { min-width: 0; }
}
"""
