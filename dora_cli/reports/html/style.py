"""The page's style: one column on a phone, several where there is room, light or dark as preferred, A4 on paper.

What is wide (tables, rank maps) looks at the room it has itself, not at the window: each says by a class from which
width it is shown whole (`wide_from`); with less room a table becomes a list and a map is continued below. So nothing is
scrolled sideways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dora_cli.reports import palette

LEVELS = 16
"""Colours of a rank above 0."""
WIDTHS = range(160, 1240, 20)
"""Pixels from which something may be shown whole."""
NEVER = 9999
"""Stands for what is wider than any page."""
MEDIUM, WIDE = 680, 1040
"""Pixels of the page's column from which pictures stand in pairs and in threes."""


def room_for(need: float) -> int:
    """The width from which something that needs so many pixels is shown whole."""
    return next((width for width in WIDTHS if width >= need), NEVER)


def wide_from(need: float) -> str:
    """The class of what needs so many pixels to be shown whole."""
    return f"from-{room_for(need)}"


def _theme(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def _levels(shade: Callable[[float], str]) -> str:
    """Background and ink of every rank."""
    backgrounds = {level: shade(level / LEVELS) for level in range(LEVELS + 1)}
    return " ".join(
        f".q{level} {{ background: {colour}; color: {palette.black_or_white(colour)}; }}"
        for level, colour in backgrounds.items()
    )


def _looks() -> str:
    """The colours of lines."""
    names = ["loss", "metric", "budget", "live", "mean", "each", *(f"s{index}" for index in range(len(palette.SERIES)))]
    return " ".join(f".{name} {{ stroke: var(--{name}); }}" for name in names)


def _too_narrow(width: int) -> str:
    """What is shown whole from `width`, where there is less room."""
    table, map_ = f".from-{width}", f".parts.from-{width}"
    return f"""@container (max-width: {width - 1}px) {{
  table{table}, table{table} tbody, table{table} tfoot, table{table} th {{ display: block; }}
  table{table} thead {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }}
  table{table} tr {{
    display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--item)), 1fr)); gap: 0 24px;
    border-bottom: 1px solid var(--grid); padding: 6px 0;
  }}
  table{table} tr:last-child {{ border-bottom: 0; }}
  table{table} tr > * {{ border: 0; padding: 1px 0; max-width: none; }}
  table{table} tr > th {{ font-weight: 600; white-space: normal; grid-column: 1 / -1; }}
  table{table} td {{ display: flex; justify-content: space-between; gap: 16px; }}
  table{table} td .long {{ max-width: none; min-width: 0; }}
  table{table} td::before {{
    content: attr(data-label); color: var(--faint); text-align: left; white-space: normal; overflow-wrap: anywhere;
  }}
  {map_} {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 290px), 1fr)); gap: 14px 22px; }}
  {map_} .map .head {{ width: var(--tight); }}
  {map_} .map th[scope=row] {{ display: table-cell; white-space: normal; }}
  {map_} .map .head {{ display: table-column; }}
  {map_} .map .group-name th {{ visibility: visible; }}
}}"""


def style(body: str) -> str:
    """The style of a page, with the rules for the widths that its body asks for."""
    asked = [width for width in (*WIDTHS, NEVER) if f" from-{width}" in body]
    return STYLE + "".join(map(_too_narrow, asked)) + PAPER


STYLE = f"""
:root {{ color-scheme: light; {_theme(palette.LIGHT)} }}
{_levels(palette.shade)}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ color-scheme: dark; {_theme(palette.DARK)} }}
  {_levels(palette.shade_in_the_dark)}
}}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }}
body {{
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}}
main {{ max-width: 1272px; margin: 0 auto; padding: 24px 16px 40px; }}
section, header {{ container: column / inline-size; }}
header {{ margin-bottom: 18px; }}
h1 {{ font-size: 1.6rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.3rem; line-height: 1.25; margin: 32px 0 12px; overflow-wrap: anywhere; }}
h3, summary, figcaption {{
  font-size: 1rem; line-height: 1.3; font-weight: 600; margin: 0 0 8px; overflow-wrap: anywhere;
}}
a {{ color: var(--accent); }}
nav ul {{ margin: 10px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; }}
nav a {{ overflow-wrap: anywhere; }}
.note {{ color: var(--faint); font-size: .8125rem; line-height: 1.4; margin: 8px 0 0; }}
.warning {{
  margin: 12px 0; padding: 8px 12px; background: var(--warning); border-left: 4px solid var(--warned);
  border-radius: 4px;
}}
.panel, figure, details {{
  background: var(--paper); border: 1px solid var(--edge); border-radius: 8px; padding: 14px 16px; margin: 0;
  min-width: 0;
}}
.cards {{ display: flex; flex-wrap: wrap; gap: 1px; margin: 0 0 16px;
  background: var(--edge); border: 1px solid var(--edge); border-radius: 8px; overflow: hidden; }}
.cards div {{ flex: 1 1 calc(50% - 1px); min-width: 0; padding: 10px 14px; background: var(--paper); }}
.cards dt {{ color: var(--faint); font-size: .8125rem; line-height: 1.3; }}
.cards dd {{ margin: 2px 0 0; font-weight: 600; overflow-wrap: anywhere; }}
.fit {{ container-type: inline-size; overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 5px 10px; text-align: right; vertical-align: top; }}
tr > :first-child {{ padding-left: 0; text-align: left; }}
tr > :last-child {{ padding-right: 0; }}
th {{ font-weight: 600; overflow-wrap: break-word; }}
thead th {{ vertical-align: bottom; border-bottom: 1px solid var(--faint); }}
tbody th, tbody td {{ border-bottom: 1px solid var(--grid); font-weight: 400; }}
tbody tr:last-child > * {{ border-bottom: 0; }}
tfoot th, tfoot td {{ border-top: 1px solid var(--faint); font-weight: 600; }}
.numbers td, .numbers .short {{ white-space: nowrap; }}
.numbers .long {{ display: inline-block; max-width: 190px; white-space: normal; overflow-wrap: anywhere; }}
.words th:first-child {{ white-space: nowrap; color: var(--faint); }}
.words td {{ text-align: left; overflow-wrap: anywhere; width: 100%; }}
.words thead {{ display: none; }}
.pictures {{ display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 16px; margin: 16px 0; }}
.pictures > * {{ grid-column: span 6; min-width: 0; }}
.pictures figure {{ height: 100%; }}
@container column (min-width: {MEDIUM}px) {{
  .cards div {{ flex-basis: calc(100% / var(--medium) - 1px); }}
  .m2 {{ grid-column: span 2; }} .m3 {{ grid-column: span 3; }}
}}
@container column (min-width: {WIDE}px) {{
  .cards div {{ flex-basis: calc(100% / var(--wide) - 1px); }}
  .w2 {{ grid-column: span 2; }} .w3 {{ grid-column: span 3; }} .w6 {{ grid-column: span 6; }}
}}
.tables {{ display: flex; flex-wrap: wrap; gap: 16px; margin: 16px 0; align-items: stretch; }}
.tables > * {{ flex-grow: 1; max-width: 100%; }}
section > .panel {{ margin: 16px 0; }}
.chart {{ display: flex; flex-direction: column; }}
.plot {{
  padding: 16px 14px 0 var(--left); font-size: .75rem; line-height: 1; font-variant-numeric: tabular-nums;
  flex: 1 0 auto; display: flex; flex-direction: column;
}}
.area {{ position: relative; min-height: 190px; flex: 1 0 auto; }}
.area svg {{ position: absolute; width: 100%; height: 100%; overflow: visible; }}
.area span {{ position: absolute; white-space: nowrap; }}
.area .y {{ right: 100%; margin-right: 6px; transform: translateY(-50%); }}
.area .x {{ top: 100%; margin-top: 6px; transform: translateX(-50%); }}
.area .phase {{
  bottom: 100%; height: 14px; display: flex; flex-wrap: wrap; justify-content: center; overflow: hidden;
  color: var(--faint);
}}
.area .phase::before {{ content: ""; height: 14px; width: 0; }}
.area .phase i {{ font-style: normal; }}
.plot .axis {{ margin: 24px 0 0; text-align: center; color: var(--faint); }}
.area path, .legend path {{ fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; }}
.area .grid {{ stroke: var(--grid); stroke-width: 1; }}
{_looks()}
.area .each {{ stroke-opacity: .7; }}
.area .dot, .area .ring, .area .hole {{ stroke-linecap: round; stroke-width: 5px; }}
.area .ring {{ stroke-width: 11px; }}
.area .hole {{ stroke: var(--paper); stroke-width: 6px; pointer-events: none; }}
.shade-warm-up {{ fill: var(--warm-up); }}
.shade-pruning {{ fill: var(--pruning); }}
.shade-final {{ fill: var(--final); }}
.legend {{
  display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 8px 0 0; padding: 0; list-style: none; font-size: .8125rem;
}}
.legend li {{ display: flex; align-items: center; gap: 6px; overflow-wrap: anywhere; min-width: 0; }}
.legend svg {{ flex: none; }}
.ranks {{ container-type: inline-size; display: flex; flex-direction: column; }}
.parts {{ display: flex; flex: 1 0 auto; align-items: flex-start; }}
.map {{
  table-layout: fixed; border-collapse: separate; border-spacing: 2px; font-size: .8125rem; line-height: 1.3;
  min-width: 0;
}}
.map th, .map td {{ padding: 3px 1px; border: 0; text-align: center; vertical-align: middle; font-weight: 400; }}
.map .head {{ width: var(--label); }} .map .last {{ width: var(--sum); }}
.map th[scope=row] {{ text-align: left; white-space: nowrap; }}
.map th[scope=row], .map th[scope=col], .map tfoot td, .map .sum, .map .none, .group-name th {{ color: var(--faint); }}
.map tbody th[scope=row] {{ color: var(--ink); }}
.map .group-name th {{ text-align: left; padding-top: 6px; font-size: .75rem; }}
.map + .map th[scope=row], .map + .map .head {{ display: none; }}
.map + .map .group-name th {{ visibility: hidden; }}
.map td[tabindex] {{ border-radius: 3px; cursor: default; box-shadow: inset 0 0 0 1px rgb(128 128 128 / .25); }}
.map td[tabindex]:hover, .map td[tabindex]:focus {{ outline: 2px solid var(--s1); outline-offset: 0; }}
.ramp {{ display: inline-flex; vertical-align: middle; margin: 0 2px; }}
.ramp span {{
  min-width: 20px; padding: 0 3px; text-align: center; font-size: .75rem; line-height: 18px; height: 18px;
  box-shadow: inset 0 0 0 1px rgb(128 128 128 / .25);
}}
.detail {{
  display: block; min-height: 5.8em; margin-top: 8px; padding: 6px 10px;
  background: var(--raised); border-radius: 6px; font-size: .8125rem; line-height: 1.35; white-space: pre-line;
  overflow-wrap: anywhere;
}}
.detail[hidden] {{ display: none; }}
details {{ margin: 16px 0 0; padding: 0; container-type: inline-size; }}
details.group {{
  margin: 0; background: none; border: 0; border-top: 1px solid var(--grid); border-radius: 0;
  container: column / inline-size;
}}
details.group > summary {{ padding: 14px 0; font-size: 1.15rem; }}
details.group > summary span {{ font-weight: 400; font-size: .9rem; color: var(--faint); margin-left: 10px; }}
details.group > :not(summary) {{ margin-left: 0; margin-right: 0; }}

summary {{ cursor: pointer; padding: 12px 16px; margin: 0; }}
details > :not(summary) {{ margin: 0 16px 14px; }}
pre {{
  padding: 10px; background: var(--raised); border-radius: 6px;
  font: .8125rem/1.4 ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere;
}}
footer {{ margin-top: 40px; color: var(--faint); font-size: .8125rem; }}
@container (max-width: 420px) {{
  .words th:first-child {{ white-space: normal; overflow-wrap: anywhere; min-width: 110px; }}
}}
@media (max-width: 560px) {{
  main {{ padding: 16px 12px 32px; }}
  .panel, figure {{ padding: 12px; }}
}}
"""
"""All of it but what depends on widths, and paper."""
PAPER = """
@page { size: A4; margin: 14mm; }
@media print {
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  body { font-size: 10pt; background: none; }
  main { max-width: none; padding: 0; }
  .fit { overflow: visible; }
  .detail, nav { display: none; }
  h1 { font-size: 16pt; }
  h3, summary, figcaption { font-size: 10.5pt; }
  .note, .legend, .cards dt { font-size: 8pt; }
  .panel, figure, details { border: 0; padding: 0; }
  .area { min-height: 150px; }
  pre { font-size: 7.5pt; columns: 2; }
  figure, .cards div, tr { break-inside: avoid; }
  h2, h3, summary { break-after: avoid; }
  .group + .group { break-before: page; }
  .map, .map .group-name th, .plot { font-size: 7.5pt; }
  table { font-size: 8.5pt; }
  th, td { padding: 2px 6px; }
  details::details-content { content-visibility: visible; display: block; }
  summary { list-style: none; padding: 0; }
  details > :not(summary) { margin: 0; }
}
"""
