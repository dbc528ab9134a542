"""How sure a measured share or difference is."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

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

    if len(values) < 2:
        return None
    mean = float(np.mean(values))
    half = float(t.ppf(0.5 + level / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return mean - float(half), mean + float(half)


def paired_p(differences: Sequence[float]) -> float | None:
    """Student's paired test, two-sided: how likely so large a mean difference is if attention changes nothing.

    None for a single difference, and where all of them are equal, since then there is no spread to compare with.
    """
    from scipy.stats import ttest_1samp

    if len(differences) < 2 or np.ptp(differences) == 0:
        return None
    return float(np.asarray(ttest_1samp(differences, 0.0))[1])
