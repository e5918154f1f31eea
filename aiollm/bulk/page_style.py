"""How the page of a report looks; its colours can be told apart by colour-blind readers, too."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --back: #fff; --panel: #f6f7f9; --ink: #17202a; --soft: #566270; --line: #d9dfe5;
  --good: #0072b2; --bad: #d55e00; --kept: #7fb8d8; --mark: #17202a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #101418; --panel: #181e24; --ink: #e7ebef; --soft: #9ba7b3; --line: #2e3740;
    --good: #56b4e9; --bad: #ff8f3f; --kept: #2f6f99; --mark: #e7ebef;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main, header, footer { max-width: 1160px; margin: 0 auto; padding: 0 clamp(16px, 4vw, 40px); }
header { padding-top: clamp(24px, 5vw, 56px); }
h1 {
  margin: 0 0 8px; display: flex; flex-wrap: wrap; gap: 0 12px; font-size: 15px;
  font-weight: 600; color: var(--soft);
  overflow-wrap: anywhere;
}
h1 time { font-weight: 400; }
.summary {
  margin: 0 0 20px; font-size: clamp(24px, 3.6vw, 34px); font-weight: 650; line-height: 1.2;
  letter-spacing: -0.015em; text-wrap: balance;
}
h2 { margin: 52px 0 12px; font-size: 20px; line-height: 1.3; letter-spacing: -0.005em; }
h2 + p { margin: -8px 0 16px; color: var(--soft); max-width: 70ch; }
p { margin: 0 0 12px; }
.tiles {
  display: grid; grid-template-columns: repeat(4, 1fr); gap: 1px; margin: 24px 0 0; padding: 1px;
}
.tiles div {
  background: var(--panel); padding: 12px 16px 14px; box-shadow: 0 0 0 1px var(--line);
  min-width: 0;
}
.tiles dt { font-size: 13px; color: var(--soft); }
.tiles dd { margin: 0; font-size: 22px; font-weight: 600; line-height: 1.3; }
.tiles dd + dd { font-size: 13px; font-weight: 400; color: var(--soft); }
.figures {
  display: grid; gap: 28px 40px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr));
}
figure { margin: 8px 0 0; min-width: 0; }
figcaption { margin-bottom: 6px; font-size: 14px; }
figcaption strong { overflow-wrap: anywhere; }
figcaption span { color: var(--soft); }
svg { display: block; }
svg text { fill: var(--soft); font-size: 12px; }
.plot { width: calc(100% - 56px); margin-left: 44px; overflow: visible; }
.plot line { stroke: var(--line); }
.plot .base { stroke: var(--soft); }
.plot .mark { stroke: var(--mark); stroke-dasharray: 3 3; }
.plot .marked {
  fill: var(--ink); paint-order: stroke; stroke: var(--back); stroke-width: 5px;
  stroke-linejoin: round;
}
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.good { fill: var(--good); }
.bad { fill: var(--bad); }
.kept { fill: var(--kept); }
.shares { width: 100%; border-radius: 6px; background: var(--line); }
.legend {
  display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 8px 0 0; padding: 0; list-style: none;
  font-size: 14px; color: var(--soft);
}
.legend b { color: var(--ink); }
.legend svg {
  display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 7px;
  vertical-align: -1px;
}
.bars { margin: 0; padding: 0; list-style: none; font-size: 14px; }
.bars li { display: grid; grid-template-columns: 1fr auto; gap: 1px 16px; margin-bottom: 9px; }
.bars bdi { overflow-wrap: anywhere; min-width: 0; }
.bars .bar { grid-column: 1 / -1; width: 100%; background: var(--panel); border-radius: 2px; }
* + .figures { margin-top: 16px; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
.scroll:focus-visible, summary:focus-visible {
  outline: 2px solid var(--good); outline-offset: 2px;
}
table { border-collapse: collapse; width: 100%; font-size: 14px; line-height: 1.4; }
th, td { padding: 8px 14px; text-align: right; vertical-align: top; white-space: nowrap; }
th { font-weight: 600; color: var(--soft); background: var(--panel); }
tr + tr > *, tbody tr > * { border-top: 1px solid var(--line); }
th.words, td.words { text-align: left; }
td.name bdi {
  display: block; width: max-content; max-width: 20em; white-space: normal;
  overflow-wrap: anywhere;
}
td.long {
  white-space: normal; overflow-wrap: anywhere; min-width: 18em; max-width: 36em; width: 40%;
}
td.key { font-weight: 600; }
details summary { cursor: pointer; overflow: hidden; }
summary bdi, .bars bdi {
  display: -webkit-inline-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2;
  overflow: hidden; vertical-align: top; max-width: calc(100% - 1.4em);
}
details[open] summary { color: var(--soft); }
pre {
  margin: 8px 0 4px; padding: 10px 12px; max-height: 22em; overflow: auto; background: var(--panel);
  border-radius: 6px; font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
footer {
  margin-top: 56px; padding-top: 16px; padding-bottom: 40px; font-size: 13px;
  color: var(--soft);
}
footer p { max-width: 80ch; }
@media (max-width: 860px) {
  .tiles { grid-template-columns: repeat(2, 1fr); }
}
@media (max-width: 560px) {
  .minor { display: none; }
  h2 { margin-top: 40px; }
  .tiles div { padding: 10px 12px 12px; }
  .tiles dd { font-size: 19px; }
  th, td { padding: 7px 10px; }
}
@media print {
  .scroll { overflow: visible; border: 0; }
  figure, tr { break-inside: avoid; }
}
"""
