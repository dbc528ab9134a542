"""How sure a measured share or difference is."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from regard.tasks.task import Outcomes

Interval = tuple[float, float]


def share_interval(correct: Outcomes, groups: Int[np.ndarray, " outcomes"], level: float = 0.95) -> Interval:
    """An interval for the mean of outcomes, some of which share a picture and so depend on each other.

    Wilson's score interval (JASA 1927), with the number of outcomes divided by the design effect (Kish 1965): how much
    larger the variance between groups is than that of as many independent outcomes. The effect is never taken to be
    below one: outcomes in between, such as VQA's, vary less than right and wrong ones of the same mean, and their
    interval, as wide as those', is rather too wide.

    Args:
        correct: how right each is, from 0 to 1.
        groups: which group each belongs to.
        level: how often such an interval holds the true share.
    """
    from scipy.stats import norm

    count, share = len(correct), float(correct.mean())
    _, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group)
    residuals = np.bincount(group, weights=correct) - share * sizes
    variance = (residuals**2).sum() / count**2 * len(sizes) / max(len(sizes) - 1, 1)
    independent = share * (1 - share) / count
    effect = max(1.0, variance / independent) if independent > 0 else 1.0
    n = count / effect
    z = float(norm.ppf(0.5 + level / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Student's interval for the mean of a few measurements; None for a single one, which says nothing of spread."""
    from scipy.stats import t

    if len(values) < 2 or _alike(values):
        return None
    mean = float(np.mean(values))
    half = float(t.ppf(0.5 + level / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return mean - float(half), mean + float(half)


def paired_p(differences: Sequence[float]) -> float | None:
    """Student's paired test, two-sided: how likely so large a mean difference is if attention changes nothing.

    None for a single difference, and where all of them are equal, since then there is no spread to compare with.
    """
    from scipy.stats import ttest_1samp

    if len(differences) < 2 or _alike(differences):
        return None
    return float(np.asarray(ttest_1samp(differences, 0.0))[1])


def paired_interval(
    differences: Float[np.ndarray, " outcomes"], groups: Int[np.ndarray, " outcomes"], level: float = 0.95
) -> Interval:
    """Return an interval for the mean difference of outcomes that are paired item by item and share pictures.

    Agresti and Min's adjusted Wald interval (Statistics in Medicine 2005): two pairs are added, of which half a one is
    of each kind, so that the interval has a width where no outcome differs. The variance is that between groups, as
    outcomes about one picture depend on each other.

    Args:
        differences: of each item's outcome under one model and another.
        groups: which group (picture) each item belongs to.
        level: how often such an interval holds the true difference.
    """
    from scipy.stats import t

    sums, sizes = _by_group(differences, groups)
    count = len(differences) + 2
    mean = float(differences.sum()) / count
    residuals = sums - mean * sizes
    variance = ((residuals**2).sum() * len(sums) / max(len(sums) - 1, 1) + 1) / count**2
    half = float(t.ppf(0.5 + level / 2, max(len(sums) - 1, 1))) * float(np.sqrt(variance))
    return mean - half, mean + half


def paired_item_p(
    differences: Float[np.ndarray, " outcomes"], groups: Int[np.ndarray, " outcomes"], draws: int = 10_000
) -> float:
    """Return the two-sided p-value of the sign-flip test for paired outcomes that share pictures.

    Under the null hypothesis each group's summed difference could as well have the other sign. Where all that differ
    are alike in size, this is McNemar's exact test, and is computed as that; otherwise signs are drawn.

    Args:
        differences, groups: as of `paired_interval`.
        draws: how often signs are drawn.
    """
    from scipy.stats import binomtest

    sums, _ = _by_group(differences, groups)
    sums = sums[np.abs(sums) > 1e-12]
    if len(sums) == 0:
        return 1.0
    if np.allclose(np.abs(sums), np.abs(sums[0])):
        return float(binomtest(int((sums > 0).sum()), len(sums)).pvalue)
    random, seen, extreme = np.random.default_rng(0), abs(sums.sum()) - 1e-9, 1
    step = max(1, 2_000_000 // len(sums))
    for start in range(0, draws, step):
        signs = random.integers(0, 2, (min(step, draws - start), len(sums))) * 2 - 1
        extreme += int((np.abs(signs @ sums) >= seen).sum())
    return extreme / (draws + 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for their number by Holm's method; None stays None and counts as no comparison.

    Paper: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 1979.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = largest
    return adjusted


def _alike(values: Sequence[float]) -> bool:
    """Return whether values differ by rounding at most."""
    return float(np.ptp(values)) < 1e-9


def _by_group(
    values: Float[np.ndarray, " outcomes"], groups: Int[np.ndarray, " outcomes"]
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the values of each group, and how many they are."""
    _, group = np.unique(groups, return_inverse=True)
    return np.bincount(group, weights=np.asarray(values, dtype=float)), np.bincount(group)
