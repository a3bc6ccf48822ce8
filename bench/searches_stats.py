"""Statistics of the comparisons: differences paired by image and seed, Kendall's tau with a bootstrap
interval. Needs numpy only."""

import numpy as np


def paired(a, b):
    """a, b: {seed: correct per image}. Mean difference a − b in points over the seeds both have, and
    its standard error: the larger of the one over images and the one over seeds."""
    seeds = sorted(set(a) & set(b))
    if not seeds:
        return None
    d = np.array([a[s].astype(float) - b[s].astype(float) for s in seeds]) * 100
    by_image, by_seed = d.mean(0), d.mean(1)
    error = by_image.std(ddof=1) / np.sqrt(d.shape[1])
    if len(seeds) > 1:
        error = max(error, by_seed.std(ddof=1) / np.sqrt(len(seeds)))
    return float(by_seed.mean()), float(error), len(seeds)


def spread(values):
    """Mean and standard error."""
    v = np.asarray(values, float)
    return float(v.mean()), float(v.std(ddof=1) / np.sqrt(len(v))) if len(v) > 1 else float("nan")


def kendall(x, y):
    """tau-b; NaN without an order on either side."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    i, j = np.triu_indices(len(x), 1)
    a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
    scale = np.sqrt(float((a != 0).sum()) * float((b != 0).sum()))
    return float((a * b).sum() / scale) if scale else float("nan")


def kendall_interval(x, y, draws=2000, seed=0):
    """tau, and its 95 % percentile interval by drawing policies with replacement."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    rng = np.random.default_rng(seed)
    taus = [kendall(x[k], y[k]) for k in (rng.integers(0, len(x), len(x)) for _ in range(draws))]
    low, high = np.nanpercentile(taus, (2.5, 97.5)) if np.isfinite(taus).any() else (np.nan, np.nan)
    return kendall(x, y), float(low), float(high)
