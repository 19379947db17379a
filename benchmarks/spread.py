"""One figure of several rounds."""

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float | None], digits: int = 1) -> str:
    """The median, and the least and the most; nothing if no round has the figure."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return f"{statistics.median(known):.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f})"
