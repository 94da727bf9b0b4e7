"""What the page of an experiment adds to the style of a report."""

from __future__ import annotations

NARROW = 820
"""Pixels of its own width below which the forest plot has its numbers above each line, not beside it."""

RULES = f"""
header + section > h2 {{ margin-top: 8px; }}
.lead {{ font-size: 1.05rem; margin: 6px 0 14px; max-width: 95ch; }}
.verdicts {{ list-style: none; margin: 0; padding: 0; display: grid; gap: 1px; background: var(--edge);
  border: 1px solid var(--edge); border-radius: 8px; overflow: hidden; }}
.verdicts li {{ background: var(--paper); padding: 12px 16px; display: grid; grid-template-columns: 7.5rem 1fr;
  gap: 4px 14px; align-items: baseline; }}
.verdicts p {{ margin: 0; overflow-wrap: anywhere; }}
.verdicts .note, .verdicts .mind {{ grid-column: 2; }}
.mind {{ border-left: 3px solid var(--warned); padding-left: 10px; font-size: .875rem; }}
@container column (max-width: 620px) {{
  .verdicts li {{ grid-template-columns: 1fr; }}
  .verdicts .note, .verdicts .mind {{ grid-column: 1; }}
}}
.badge {{ display: inline-block; padding: 1px 9px; border-radius: 9px; font-size: .8125rem; font-weight: 600;
  white-space: nowrap; justify-self: start; border: 1.5px solid var(--faint); color: var(--ink); }}
.badge.better {{ background: var(--s0); border-color: var(--s0); color: var(--paper); }}
.badge.worse {{ background: var(--warned-ink); border-color: var(--warned-ink); color: var(--paper); }}
.badge.equivalent, .badge.non-inferior {{ border-color: var(--s0); }}
.badge.undecided, .badge.withheld {{ border-style: dashed; color: var(--faint); }}
.forests {{ container-type: inline-size; }}
.forest .rows {{ table-layout: auto; }}
.forest .rows tbody > tr > * {{ border: 0; padding-top: 4px; padding-bottom: 4px; white-space: nowrap; }}
.forest .rows td, .forest .rows tbody th {{ vertical-align: middle; }}
.forest .rows tbody th {{ white-space: normal; overflow-wrap: anywhere; min-width: 110px; }}
.forest .rows .all > * {{ padding-top: 6px; padding-bottom: 6px; font-weight: 600; }}
.forest .rows tbody + tbody > .all > * {{ border-top: 1px solid var(--grid); }}
.forest .rows .each-task > th {{ padding-left: 14px; color: var(--faint); }}
.forest .rows .each-task > td {{ color: var(--faint); }}
.forest .drawn {{ position: relative; width: 46%; min-width: 200px; }}
.forest .drawn svg {{
  position: absolute; top: -1px; left: 0; width: 100%; height: calc(100% + 2px); overflow: hidden;
}}
.forest .rows tr > .drawn {{ padding: 0; }}
.forest path {{ fill: none; vector-effect: non-scaling-stroke; }}
.forest .grid {{ stroke: var(--grid); stroke-width: 1; }}
.forest .zero {{ stroke: var(--ink); stroke-width: 1.25; }}
.margin {{ fill: var(--margin); }}
.band {{ fill: var(--margin); }}
.forest .interval {{ stroke: var(--faint); stroke-width: 1.75; }}
.forest .point {{ stroke: var(--faint); stroke-width: 7; stroke-linecap: round; }}
.forest .all .interval {{ stroke: var(--ink); stroke-width: 3; }}
.forest .all .point {{ stroke: var(--ink); stroke-width: 12; stroke-linecap: square; }}
.forest .better .interval, .forest .better .point {{ stroke: var(--s0); }}
.forest .worse .interval, .forest .worse .point {{ stroke: var(--s1); }}
.forest tfoot td {{ border: 0; font-weight: 400; padding: 0; }}
.forest tfoot .drawn {{ height: 42px; border-top: 1px solid var(--faint); font-size: .75rem; color: var(--faint); }}
.forest tfoot span {{ position: absolute; white-space: nowrap; }}
.forest .x {{ top: 4px; transform: translateX(-50%); }}
.forest .worse-side {{ left: 0; top: 22px; }} .forest .better-side {{ right: 0; top: 22px; }}
@container (max-width: {NARROW}px) {{
  .forest .rows, .forest .rows tbody, .forest .rows tfoot {{ display: block; }}
  .forest .rows thead {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }}
  .forest .rows tr {{ display: flex; flex-wrap: wrap; gap: 0 12px; align-items: baseline; }}
  .forest .rows tbody > tr > *, .forest .rows .all > *, .forest .rows tbody + tbody > .all > * {{
    padding: 0; border: 0;
  }}
  .forest .rows tr > th {{ flex: 1 1 auto; order: 0; padding: 0; }}
  .forest .rows .all > th {{ flex-basis: calc(100% - 9rem); }}
  .forest .rows .each-task > th {{ flex-basis: 100%; padding: 0; }}
  .forest .rows .all {{ padding-top: 8px; }}
  .forest .rows tbody + tbody > .all {{ border-top: 1px solid var(--grid); margin-top: 10px; }}
  .forest .rows tr > td {{ order: 1; text-align: left; }}
  .forest .rows .all > td:last-child {{ order: 0; }}
  .forest .rows .each-task > td:last-child {{ display: none; }}
  .forest .rows tbody td:nth-child(5)::before {{ content: "p "; color: var(--faint); font-weight: 400; }}
  .forest .rows tr > .drawn {{ order: 2; flex: 1 1 100%; width: auto; }}
  .forest tfoot td:not(.drawn) {{ display: none; }}
  .forest .rows tbody .drawn {{ height: 26px; }}
}}
.area .seed, .legend .seed {{ stroke: var(--each); stroke-width: 5px; stroke-linecap: round; }}
.legend path {{ stroke-linecap: butt; }}
.area .metric.dot, .legend .dot {{ stroke-linecap: round; stroke-width: 8px; }}
.legend .hole, .area .hole {{ stroke: var(--paper); stroke-width: 4px; stroke-linecap: round; }}
.area .big, .legend .big {{ stroke-linecap: round; stroke-width: 11px; }}
.area .square, .legend .square {{ stroke-linecap: square; stroke-width: 9px; }}
.area .thin {{ stroke-opacity: .5; }}
.area .chosen, .legend .chosen {{ stroke: var(--live); stroke-width: 1.5; stroke-dasharray: 5 3; }}
.area .chosen-name {{ transform: translate(-50%, -100%); margin-top: -3px; color: var(--ink); font-weight: 600; }}
.area .collapsed {{ transform: translate(-50%, -100%); color: var(--warned); font-weight: 700; font-size: 1rem; }}
.cross {{ color: var(--warned); width: 26px; text-align: center; }}
.key {{ margin: 10px 0 12px; }}
.texts th, .texts td {{ text-align: left; }}
.flat {{ color: var(--warned-ink); font-weight: 600; }}
details > .pictures, details > .tables {{ margin: 0 16px 14px; }}
.numbers .place {{ max-width: 208px; text-align: left; }}
.repeat pre {{ margin: 0 0 10px; }}
.taskname {{ margin: 20px 0 8px; }}
"""
