"""The page's style sheet: one column, light and dark, wide tables scroll by themselves."""

from __future__ import annotations

__all__ = ["CSS"]

CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --card: #f4f5f7; --ink: #1c2024; --muted: #667079;
  --grid: #dfe3e7; --blue: #2367b1; --orange: #c2500a; --green: #157f5b; --mark: #fff3dc; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --card: #1f2428; --ink: #e7eaed;
  --muted: #98a2ab; --grid: #343b41;
  --blue: #6cabf0; --orange: #ff9a57; --green: #4fc79a; --mark: #3a2f1a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.2rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .4rem 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .5rem 0; max-width: 46rem; }
strong.good { color: var(--green); } strong.state { color: var(--orange); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: .6rem; margin: 1rem 0; }
.tile { background: var(--card); border-radius: .4rem; padding: .6rem .8rem; }
.tile span, .tile em { display: block; font-size: .8rem; font-style: normal; color: var(--muted); }
.tile b { font-size: 1.45rem; line-height: 1.3; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile b small { font-size: .85rem; font-weight: normal; color: var(--muted); }
.tile b.none { font-size: 1rem; font-weight: normal; color: var(--muted); }
dl { display: grid; grid-template-columns: fit-content(9rem) minmax(0, 1fr); gap: .15rem 1rem;
  margin: .6rem 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .9em ui-monospace, monospace; background: var(--card); padding: .1rem .3rem;
  border-radius: .25rem; }
figure { margin: .8rem 0; }
figcaption { color: var(--muted); font-size: .9rem; max-width: 46rem; margin-top: .3rem; }
figure svg { display: block; width: 100%; max-width: 37rem; height: auto; }
#table figure svg { max-width: 30rem; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem 1rem .22rem 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
.n { text-align: right; }
tr.chosen td { background: var(--mark); font-weight: 600; }
.barred { display: block; min-width: 5rem; }
.bar { display: block; position: relative; height: .3rem; margin-top: .1rem; }
.bar i { position: absolute; right: 0; top: 0; height: 100%; background: var(--blue); border-radius: .15rem; }
.bar i.pale { opacity: .35; }
.was { color: var(--orange); }
.why { color: var(--muted); font-style: italic; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--blue); }
"""
