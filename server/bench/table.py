"""Numbers as a person reads them."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """Columns under their names: the first to the left, numbers to the right."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        numbers = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *numbers]))
    return "\n".join(lines)


def _cell(value: str | float) -> str:
    """Three or more digits, which is all that a measurement is worth."""
    if isinstance(value, str):
        return value
    if value != value:
        return "-"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
