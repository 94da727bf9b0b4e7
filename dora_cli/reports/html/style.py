"""The page's style: one column on a phone, several where there is room, A4 on paper."""

from dora_cli.reports import palette

STYLE = f"""
:root {{ color-scheme: light; --ink: {palette.INK}; --faint: {palette.FAINT}; --grid: {palette.GRID}; --accent: {palette.RAMP[5]}; }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }}
body {{
  margin: 0; background: #fff; color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}}
main {{ max-width: 1240px; margin: 0 auto; padding: 20px 16px 40px; }}
h1 {{ font-size: 1.5rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }}
h2 {{
  font-size: 1.25rem; line-height: 1.25; margin: 36px 0 8px; padding-top: 12px;
  border-top: 2px solid var(--ink); overflow-wrap: anywhere;
}}
h3, summary, figcaption {{ font-size: 1rem; font-weight: 600; }}
h3 {{ margin: 26px 0 6px; }}
a {{ color: var(--accent); }}
nav ul {{ margin: 10px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; }}
nav a {{ overflow-wrap: anywhere; }}
.note {{ color: var(--faint); font-size: .875rem; margin: 6px 0; }}
.warning {{ margin: 12px 0; padding: 8px 12px; background: {palette.FEWER[0]}; border-left: 4px solid {palette.FEWER[3]}; }}
.cards {{ display: flex; flex-wrap: wrap; gap: 8px; margin: 14px 0; }}
.cards div {{ padding: 8px 10px; background: #f5f6f8; border-radius: 6px; flex: 1 1 auto; min-width: 100px; max-width: min(100%, 420px); }}
.cards dt {{ color: var(--faint); font-size: .8125rem; line-height: 1.3; }}
.cards dd {{ margin: 2px 0 0; font-weight: 600; overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; max-width: 100%; }}
table {{ border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 4px 10px; text-align: right; vertical-align: top; }}
th {{ font-weight: 600; }}
thead th {{ vertical-align: bottom; border-bottom: 1px solid var(--ink); }}
tbody th, tbody td {{ border-bottom: 1px solid var(--grid); }}
tfoot th, tfoot td {{ border-top: 1px solid var(--ink); font-weight: 600; }}
th:first-child, .words td {{ text-align: left; }}
tbody th {{ font-weight: 400; }}
.numbers td {{ white-space: nowrap; }}
.numbers th:first-child {{
  padding-left: 0; position: sticky; left: 0; background: #fff; max-width: min(42vw, 420px);
  overflow-wrap: break-word;
}}
.long {{ display: inline-block; max-width: 260px; white-space: normal; overflow-wrap: anywhere; }}
.numbers th.short, .words th:first-child {{ white-space: nowrap; }}
.words th:first-child {{ padding-left: 0; }}
.words td {{ overflow-wrap: anywhere; }}
.words thead {{ display: none; }}
.tables {{ display: flex; flex-wrap: wrap; gap: 0 56px; }}
.tables > * {{ min-width: 0; max-width: 100%; }}
.tables .note {{ contain: inline-size; }}
figure {{ margin: 0; min-width: 0; }}
svg {{ display: block; }}
.pictures {{ display: flex; flex-wrap: wrap; gap: 24px 28px; align-items: flex-start; margin-top: 26px; }}
.maps {{ flex: 0 1 auto; min-width: 0; max-width: 100%; }}
.charts {{
  flex: 1 1 340px; min-width: 0; display: grid;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 24px; margin-top: 0;
}}
section > .charts, div:not(.pictures) > .charts {{ margin-top: 20px; }}
.maps h3 {{ margin-top: 0; }}
.several {{ display: flex; flex-wrap: wrap; gap: 20px 32px; }}
.pictures:has(.several) > .maps {{ flex-basis: 100%; }}
.pictures > .charts {{ margin-top: 0; }}
.chart {{ max-width: 480px; }}
.chart > svg {{ width: 100%; height: auto; margin-top: 2px; overflow: visible; }}
.chart text {{ font-size: 11px; fill: var(--ink); font-variant-numeric: tabular-nums; }}
.chart .faint {{ fill: var(--faint); }}
.chart .line, .legend path {{ fill: none; stroke-linejoin: round; }}
.chart .line {{ stroke-linecap: butt; }}
.chart .grid {{ stroke: var(--grid); stroke-width: .7; }}
.chart .axis {{ stroke: var(--faint); stroke-width: .8; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 2px 0 0; padding: 0; list-style: none; font-size: .8125rem; }}
.legend li {{ display: flex; align-items: center; gap: 6px; overflow-wrap: anywhere; min-width: 0; }}
.legend svg {{ flex: none; }}
.map {{ border-collapse: separate; border-spacing: 2px; font-size: .8125rem; margin-top: 4px; }}
.map th, .map td {{ padding: 2px 3px; border: 0; text-align: center; vertical-align: middle; font-weight: 400; }}
.map td {{ min-width: 34px; }}
.map thead th[colspan] {{ color: var(--faint); border-bottom: 1px solid var(--grid); }}
.map thead th[title] {{ height: 1px; vertical-align: bottom; padding: 4px 0; }}
.map thead th span {{ writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; }}
.map tbody th, .map tfoot th {{ color: var(--faint); text-align: right; padding-right: 6px; }}
.map td[tabindex] {{ border-radius: 3px; cursor: default; box-shadow: inset 0 0 0 1px rgb(0 0 0 / .08); }}
.map td[tabindex]:hover, .map td[tabindex]:focus {{ outline: 2px solid {palette.LIVE}; outline-offset: 0; }}
.map .sum, .map tfoot td {{ color: var(--faint); }}
.map .none {{ color: var(--faint); }}
.ramp {{ display: inline-flex; vertical-align: middle; margin: 0 2px; }}
.ramp span {{
  width: 24px; text-align: center; font-size: .75rem; line-height: 18px; height: 18px;
  box-shadow: inset 0 0 0 1px rgb(0 0 0 / .08);
}}
.detail {{
  display: block; position: sticky; bottom: 0; min-height: 5.6em; contain: inline-size; padding: 6px 10px;
  background: #f5f6f8; border-radius: 6px; font-size: .8125rem; line-height: 1.35; white-space: pre-line;
  overflow-wrap: anywhere;
}}
.detail[hidden] {{ display: none; }}
details {{ margin: 18px 0 0; border-top: 1px solid var(--grid); padding-top: 8px; }}
summary {{ cursor: pointer; padding: 4px 0; }}
pre {{
  margin: 6px 0; padding: 10px; background: #f5f6f8; border-radius: 6px;
  font: .8125rem/1.4 ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere;
}}
footer {{ margin-top: 40px; color: var(--faint); font-size: .8125rem; }}
@media (max-width: 560px) {{
  main {{ padding: 14px 12px 32px; }}
  th, td {{ padding: 4px 7px; }}
  .words th:first-child {{ white-space: normal; overflow-wrap: anywhere; }}
  .map td {{ min-width: 30px; }}
}}
@page {{ size: A4; margin: 14mm; }}
@media print {{
  * {{ -webkit-print-color-adjust: exact; print-color-adjust: exact; }}
  body {{ font-size: 10pt; }}
  main {{ max-width: none; padding: 0; }}
  .scroll {{ overflow: visible; }}
  .detail, nav {{ display: none; }}
  h1 {{ font-size: 16pt; }}
  h3, summary, figcaption {{ font-size: 10.5pt; }}
  .note, .legend, .cards dt {{ font-size: 8pt; }}
  .cards div {{ padding: 4px 8px; }}
  .chart {{ max-width: 300px; }}
  pre {{ font-size: 7.5pt; columns: 2; }}
  figure, .cards div, tr, table {{ break-inside: avoid; }}
  figure.long {{ break-inside: auto; }}
  h2, h3, summary {{ break-after: avoid; }}
  .group + .group {{ break-before: page; }}
  .charts {{ grid-template-columns: repeat(3, 1fr); gap: 16px; }}
  .pictures {{ flex-wrap: nowrap; gap: 0 24px; }}
  .pictures:has(.several) {{ flex-wrap: wrap; }}
  .pictures:not(:has(.several)) > .charts {{ grid-template-columns: 1fr; gap: 12px; }}
  .map {{ border-spacing: 1px; font-size: 7.5pt; line-height: 1.3; }}
  .map td {{ min-width: 26px; padding: 1px 2px; }}
  .numbers th:first-child {{ position: static; }}
  table {{ font-size: 8.5pt; }}
  th, td {{ padding: 2px 6px; }}
  details::details-content {{ content-visibility: visible; display: block; }}
  summary {{ list-style: none; }}
}}
"""
