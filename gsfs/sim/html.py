"""A report as one HTML file: tables and inline SVG, nothing loaded from anywhere. Owns its looks only."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from gsfs.sim.run import Outcome, Result

PARTS = (("storage", "#4477aa"), ("egress", "#ee6677"), ("requests", "#ccbb44"))
"""Colours of Paul Tol's scheme for colour-blind readers."""
WIDTH, LABEL, BAR, GAP = 720, 190, 22, 8

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .75rem; border-bottom: 1px solid #ddd }
td:not(:first-child), th:not(:first-child) { text-align: right } svg { max-width: 100% } text { font-size: 13px }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd } text { fill: #ddd } }
"""


def page(result: Result) -> str:
    """The whole document."""
    facts = (
        f"{result.requests:,} requests to {result.objects:,} objects over {result.days:.1f} days "
        f"(time scale {result.time_scale:g}), assignment {escape(result.assignment)}, regions "
        f"{escape(', '.join(result.regions))}. Clairvoyant optimum (transfers from home): {result.optimum_usd:.6g} USD; lower bound: {result.bound_usd:.6g} USD."
    )
    key = "".join(f'<span style="background:{colour}"></span>{part}' for part, colour in PARTS)
    sections = [
        f"<p>{facts}</p>",
        _table(result.outcomes),
        f'<h2>Cost in USD</h2><p class="key">{key}</p>{_cost_bars(result)}',
        "<h2>Cost over the clairvoyant optimum</h2>",
        _bars([(o.policy, o.over_optimum, f"{o.over_optimum:.2f}") for o in result.outcomes], mark=1.0),
        "<h2>Reads served in their own region</h2>",
        _bars([(o.policy, o.local_share, f"{o.local_share:.1%}") for o in result.outcomes]),
        "<h2>Estimated time of a read</h2>",
        _bars([(o.policy, o.mean_read_ms, f"{o.mean_read_ms:.1f} ms") for o in result.outcomes]),
    ]
    title = f"gsfs simulate: {escape(result.trace)}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(sections)
    return f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style></head><body><h1>{title}</h1>\n{body}\n</body></html>\n'


def _table(outcomes: Sequence[Outcome]) -> str:
    names = (
        "policy",
        "storage",
        "egress",
        "requests",
        "total USD",
        "÷ optimum",
        "÷ bound",
        "local",
        "hits",
        "read ms",
    )
    rows = ["<tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"]
    for o in outcomes:
        money = (o.storage_usd, o.egress_usd, o.requests_usd, o.total_usd)
        cells = [
            escape(o.policy),
            *(f"{usd:.6f}" for usd in money),
            f"{o.over_optimum:.2f}",
            f"{o.over_bound:.2f}",
        ]
        cells += [f"{o.local_share:.1%}", f"{o.hit_share:.1%}", f"{o.mean_read_ms:.1f}"]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _cost_bars(result: Result) -> str:
    """One stacked bar per policy; the dashed line is the optimum."""
    most = max([float(o.total_usd) for o in result.outcomes] + [result.optimum_usd]) or 1.0
    scale = (WIDTH - LABEL - 90) / most
    shapes = []
    for i, o in enumerate(result.outcomes):
        y, x = i * (BAR + GAP), float(LABEL)
        for (part, colour), usd in zip(PARTS, (o.storage_usd, o.egress_usd, o.requests_usd), strict=True):
            width = float(usd) * scale
            shapes.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}">'
                f"<title>{part}: {usd:.6f} USD</title></rect>"
            )
            x += width
        shapes += [_text(LABEL - 8, y, o.policy, "end"), _text(x + 6, y, f"{o.total_usd:.4g}")]
    shapes.append(_line(LABEL + result.optimum_usd * scale, len(result.outcomes)))
    return _svg(shapes, len(result.outcomes))


def _bars(rows: Sequence[tuple[str, float, str]], mark: float | None = None) -> str:
    """One bar per policy with its value; ``mark`` is a dashed line across."""
    scale = (WIDTH - LABEL - 90) / (max([value for _, value, _ in rows] + [mark or 0.0]) or 1.0)
    shapes = []
    for i, (name, value, label) in enumerate(rows):
        y = i * (BAR + GAP)
        shapes.append(
            f'<rect x="{LABEL}" y="{y}" width="{value * scale:.1f}" height="{BAR}" fill="{PARTS[0][1]}"></rect>'
        )
        shapes += [_text(LABEL - 8, y, name, "end"), _text(LABEL + value * scale + 6, y, label)]
    if mark is not None:
        shapes.append(_line(LABEL + mark * scale, len(rows)))
    return _svg(shapes, len(rows))


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y + BAR * 0.7:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(x: float, rows: int) -> str:
    return f'<path d="M{x:.1f} 0V{rows * (BAR + GAP)}" stroke="#888" stroke-dasharray="4 3" fill="none"/>'


def _svg(shapes: Sequence[str], rows: int) -> str:
    height = rows * (BAR + GAP)
    return f'<svg role="img" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">{"".join(shapes)}</svg>'
