"""Style sheet and frame of a report page."""

__all__ = ["PAGE", "STYLE"]

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1b1f24; line-height: 1.5;
  overflow-wrap: anywhere;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans",
  sans-serif; }
header, nav, main, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 2.2rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .7rem; padding-bottom: .3rem;
  border-bottom: 1px solid #d5dae0; }
p { margin: .5rem 0; max-width: 48rem; }
a { color: #0b57a4; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem;
  padding: 0; margin: 1.2rem 0 0; font-size: .92rem; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr));
  gap: .5rem 1.2rem; margin: 0 0 .6rem; }
dl.facts .wide { grid-column: 1 / -1; }
dl.facts dt { font-size: .8rem; color: #56606b; }
dl.facts dd { margin: 0; }
ul.cards { list-style: none; display: flex; flex-wrap: wrap; gap: .8rem; padding: 0;
  margin: 1.4rem 0 0; }
ul.cards li { border: 1px solid #d5dae0; border-radius: .5rem; padding: .55rem .9rem;
  min-width: 6.5rem; background: #f7f9fb; }
ul.cards strong { display: block; font-size: 1.3rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
ul.cards span { font-size: .82rem; color: #56606b; }
ul.cards li.alert { background: #fff4e5; border-color: #b45f06; }
aside { border-left: .3rem solid #b45f06; background: #fff8ee; margin: 1.4rem 0 0;
  padding: .7rem 1.1rem; border-radius: 0 .4rem .4rem 0; }
aside h2 { border: 0; margin: 0; padding: 0; font-size: 1rem; }
aside ul { margin: .3rem 0 0; padding-left: 1.2rem; }
aside.lost { border-color: #a8201a; background: #fdf0ef; }
.scroll { overflow-x: auto; margin: .7rem 0; }
table { border-collapse: collapse; font-size: .87rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #3d4650; padding-bottom: .4rem; font-size: .9rem; }
th, td { padding: .28rem .8rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e4e8ec; }
thead th { border-bottom: 2px solid #aab3bd; font-weight: 600; }
tbody th, thead th:first-child { text-align: left; font-weight: 500; }
td.text, th.text { text-align: left; }
tbody th { position: sticky; left: 0; background: #fff; }
td.long { min-width: 16rem; white-space: normal; overflow-wrap: break-word; }
tbody tr:hover > * { background: #f3f6f9; }
figure { margin: 1rem 0 1.6rem; }
figure .scroll { margin: 0; }
figure img { width: 100%; max-width: 48rem; height: auto; display: block; }
figcaption { font-size: .9rem; color: #3d4650; max-width: 48rem; margin-top: .4rem; }
details { margin: .7rem 0; }
summary { cursor: pointer; color: #0b57a4; }
.cut { color: #7a3e00; font-size: .9rem; }
pre { font-size: .8rem; line-height: 1.4; }
footer { margin-top: 3rem; padding-bottom: 2rem; font-size: .82rem; color: #56606b; }
@media (max-width: 40rem) {
  header, nav, main, footer { padding: 0 1rem; }
  header { padding-top: 1.2rem; }
  h1 { font-size: 1.4rem; }
  dl.facts { grid-template-columns: 1fr 1fr; }
  ul.cards { display: grid; grid-template-columns: repeat(3, 1fr); gap: .5rem; }
  ul.cards li { min-width: 0; padding: .4rem .6rem; }
  ul.cards strong { font-size: 1.1rem; }
  th, td { padding: .28rem .5rem; }
  /* wide enough to read the numbers on its axes: it scrolls sideways */
  figure img { width: 32rem; max-width: none; }
}
@media print { nav { display: none; } figure, tr { break-inside: avoid; } }
"""


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>
{top}</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>
{bodies}
</main>
<footer>{foot}</footer>
</body>
</html>
"""
