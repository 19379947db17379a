"""Curves of latency over throughput, as an SVG file."""

import math
from collections.abc import Sequence
from html import escape

from server.bench.serve import Level
from server.bench.summary import PERCENTS

_WIDTH, _HEIGHT, _MARGIN = 460, 320, 60
_COLOURS = ("#1b7837", "#b8860b", "#b2182b")
_NUM_LINES = 4


def plot(levels: Sequence[Level], unit: str) -> str:
    """Two charts side by side: time to first token and time per output token, with a point for each level.

    `unit` says what the levels count.
    """
    xs = [level.summary.output_tokens_per_s for level in levels]
    labels = [f"{level.load:g}" for level in levels]
    charts = (
        _chart(f"TTFT, ms, by {unit}", xs, [level.summary.ttft_ms for level in levels], labels),
        _chart(f"TPOT, ms, by {unit}", xs, [level.summary.tpot_ms for level in levels], labels),
    )
    size = f'width="{len(charts) * _WIDTH}" height="{_HEIGHT}"'
    placed = "".join(f'<g transform="translate({i * _WIDTH},0)">{chart}</g>' for i, chart in enumerate(charts))
    style = "font-family:sans-serif;font-size:11px"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{style}"><rect {size} fill="#fff"/>{placed}</svg>\n'


def _chart(title: str, xs: Sequence[float], ys: Sequence[Sequence[float]], labels: Sequence[str]) -> str:
    """A curve for each percentile. `ys`: those of each point; NaN where there was nothing to measure."""
    width, height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    most_x = _round_up(max(xs, default=0))
    most_y = _round_up(max((y for point in ys for y in point if not math.isnan(y)), default=0))
    parts = [_text(_MARGIN, 24, title), _text(_WIDTH / 2, _HEIGHT - 20, "output tokens/s", "middle")]
    for number in range(_NUM_LINES + 1):
        share = number / _NUM_LINES
        y = _HEIGHT - _MARGIN - height * share
        parts.append(f'<path d="M{_MARGIN},{y:.1f}h{width}" stroke="#ddd"/>')
        parts.append(_text(_MARGIN - 6, y + 4, f"{most_y * share:g}", "end"))
        parts.append(_text(_MARGIN + width * share, _HEIGHT - _MARGIN + 16, f"{most_x * share:g}", "middle"))
    for number, curve in enumerate(zip(*ys, strict=True)):
        percent, colour = PERCENTS[number], _COLOURS[number]
        points = [
            (_MARGIN + width * x / most_x, _HEIGHT - _MARGIN - height * y / most_y, label)
            for x, y, label in zip(xs, curve, labels, strict=True)
            if not math.isnan(y)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(_WIDTH - _MARGIN - 36 * (len(PERCENTS) - 1 - number), 24, f"p{percent}", "end", colour))
        for x, y, label in points:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
            if percent == PERCENTS[-1]:
                parts.append(_text(x, y - 8, label, "middle"))
    return "".join(parts)


def _round_up(value: float) -> float:
    """The next of 1, 2, 4 and 8 times a power of ten; 1 for nothing."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 2, 4, 8, 10) if step * unit >= value)


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#000") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
