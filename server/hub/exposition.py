"""Adding up what several processes have counted."""

from collections.abc import Iterable


def summed(texts: Iterable[str]) -> str:
    """The sum, sample by sample, of texts in Prometheus' text format.

    Gauges are not added: those that counters and histograms have beside them tell when they were made, so the least
    holds for all.
    """
    families: dict[str, dict[str, float]] = {}
    """By the two lines before its samples: by name and labels."""
    for text in texts:
        head, samples = "", {}
        for line in text.splitlines():
            if line.startswith("# HELP "):
                head = line
            elif line.startswith("# TYPE "):
                samples = families.setdefault(f"{head}\n{line}", {})
                is_gauge = line.endswith(" gauge")
            else:
                name, _, number = line.rpartition(" ")
                value, before = float(number), samples.get(name)
                if before is not None:
                    value = min(before, value) if is_gauge else before + value
                samples[name] = value
    return "".join(
        f"{head}\n" + "".join(f"{name} {value!r}\n" for name, value in samples.items())
        for head, samples in families.items()
    )
