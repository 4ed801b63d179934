"""Words of the queries that the dashboards share: the farm that was chosen, rates, means, quantiles."""

from __future__ import annotations

#: Selects the farm; others are added behind.
FARM = 'instance="$farm"'
SPAN = "$__rate_interval"


def of(metric: str, *labels: str) -> str:
    """A metric of the farm."""
    return f"{metric}{{{','.join((FARM, *labels))}}}"


def rate(metric: str, *labels: str, by: str = "") -> str:
    """Per second, added up by labels (all of it if none are given)."""
    return f"sum{f' by ({by})' if by else ''} (rate({of(metric, *labels)}[{SPAN}]))"


def mean(metric: str, *labels: str, by: str = "") -> str:
    """Mean of what a histogram has seen."""
    return f"{rate(f'{metric}_sum', *labels, by=by)} / ({rate(f'{metric}_count', *labels, by=by)} > 0)"


def quantile(q: float, metric: str, *labels: str, by: str = "") -> str:
    """Quantile of a histogram."""
    return f"histogram_quantile({q:g}, {rate(f'{metric}_bucket', *labels, by=f'le, {by}' if by else 'le')})"


def share(part: str, whole: str, match: str = "") -> str:
    """One rate of another, absent while there is nothing to divide by."""
    return f"{part} / {match + ' ' if match else ''}({whole} > 0)"
