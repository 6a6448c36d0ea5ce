"""The style sheet of the report: one page, light and dark, in colours that the colour-blind can tell apart."""

_RULES = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1c2430;--soft:#5d6b7e;--rule:#dde2ea;
--data:#e69f00;--compute:#3b7dd8;--optimizer:#2a9d74;--checkpoint:#b565a7;--other:#a3adba;--new:#8a6d3b;
--good:#1f8a5b;--bad:#c8372d;--stop:#b26a00;--c0:#3b7dd8;--c1:#d9822b;--c2:#2a9d74;--c3:#b565a7;--c4:#8a6d3b;
--c5:#6b7a90;--gap:#e9ecf1}
@media(prefers-color-scheme:dark){:root{--page:#12161c;--card:#1b212a;--ink:#e6ebf2;--soft:#9aa8ba;--rule:#323b48;
--compute:#5b9bf0;--optimizer:#3db88a;--checkpoint:#cc86c0;--other:#657184;--good:#4cc38a;--bad:#ff7b6e;
--stop:#f0a63c;--c0:#5b9bf0;--c1:#f0a04b;--c2:#3db88a;--c3:#cc86c0;--c4:#c4a464;--c5:#9aa8ba;--gap:#2a323e}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:14px/1.45 system-ui,"Segoe UI","DejaVu Sans",sans-serif}
main{max-width:1320px;margin:0 auto;padding:18px 20px 40px}
header{display:flex;flex-wrap:wrap;align-items:center;gap:6px 14px;margin-bottom:12px}
h1{font-size:22px;margin:0;overflow-wrap:anywhere}
h2{font-size:14px;margin:0 0 8px;font-weight:600}
.status{padding:2px 11px;border-radius:12px;color:#fff;background:var(--soft);font-weight:600;font-size:13px}
.status.good{background:#1f8a5b}.status.bad{background:#c8372d}.status.stopped{background:#b26a00}
.reason{flex-basis:100%;margin:0;padding:8px 12px;border-left:4px solid var(--bad);background:var(--card);
overflow-wrap:anywhere;font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:13px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin-bottom:10px}
.tile,section{background:var(--card);border:1px solid var(--rule);border-radius:8px}
.tile{padding:8px 12px;display:flex;flex-direction:column}
.tile b{font-weight:500;color:var(--soft);font-size:12px}
.tile strong{font-size:20px;font-weight:600;line-height:1.25}
.tile span{color:var(--soft);font-size:12px;min-height:17px}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:10px}
.columns>div{display:flex;flex-direction:column;gap:10px;min-width:0}
section{padding:12px 14px;min-width:0}
section.wide{margin-top:10px}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:8px 20px}
figure{margin:0}figcaption{color:var(--soft);font-size:12px}
ul{margin:0;padding-left:18px}
.findings,.attempts{list-style:none;padding:0}
.findings li{padding:5px 0 5px 12px;border-left:4px solid var(--soft);margin-bottom:6px}
.findings .problem{border-color:var(--bad)}.findings .good{border-color:var(--good)}
.findings .note{border-color:var(--c0)}
.attempts li{margin-top:3px}
.hint{color:var(--soft);font-size:12px;margin:2px 0 8px}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:12px;color:var(--soft);margin-bottom:4px}
.legend i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}
svg{display:block;width:100%;height:auto}
svg text{font-size:11px;fill:var(--ink)}
svg .tick{fill:var(--soft);font-size:10.5px}
svg .inside{fill:#fff;font-size:10.5px}
.grid{stroke:var(--rule);stroke-width:1;fill:none}
.line{fill:none;stroke-width:1.5;stroke-linejoin:round;stroke-linecap:round}
.line.dashed{stroke-dasharray:3 3;opacity:.8}
.band{stroke:none;opacity:.2}
rect.gap{fill:var(--gap)}i.gap{background:var(--gap);border:1px solid var(--rule)}
.clipped{fill:var(--bad)}
.t-cut{stroke:var(--bad);stroke-width:2;fill:none}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:12.5px;font-variant-numeric:tabular-nums;width:100%}
th{text-align:right;color:var(--soft);font-weight:500}
td{text-align:right;border-top:1px solid var(--rule)}
th,td{padding:3px 8px;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
details{margin-top:6px}summary{cursor:pointer;color:var(--soft)}
@media print{body{background:#fff}section{break-inside:avoid}}
"""


def _fills() -> str:
    """Give each colour class its fill in drawings and its square in legends."""
    variables = {f"p-{name}": name for name in ("data", "compute", "optimizer", "checkpoint", "other", "new")}
    variables |= {"t-start": "other", "t-steps": "compute", "t-again": "data"}
    rules = [
        f"rect.{name}{{fill:var(--{colour})}}i.{name}{{background:var(--{colour})}}"
        for name, colour in variables.items()
    ]
    rules += [
        f".line.c{index}{{stroke:var(--c{index})}}.band.c{index}{{fill:var(--c{index})}}"
        f"i.c{index}{{background:var(--c{index})}}"
        for index in range(6)
    ]
    return "".join(rules)


STYLE = _RULES + _fills()
