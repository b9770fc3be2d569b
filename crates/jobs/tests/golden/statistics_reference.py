"""Writes statistics.json: what crates/jobs/src/statistics.rs must give. Python's standard library alone.

    python3 statistics_reference.py > statistics.json
"""
import json
import math
import statistics

Z = statistics.NormalDist().inv_cdf(0.975)
# Student's t, two-sided 95 %, as printed in tables.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}
MASK = (1 << 64) - 1


def wilson(hits, n):
    p = hits / n
    centre = (hits + Z * Z / 2) / (n + Z * Z)
    reach = Z * math.sqrt(n * p * (1 - p) + Z * Z / 4) / (n + Z * Z)
    return {"low": max(centre - reach, 0.0), "high": min(centre + reach, 1.0)}


def ratio(a, b):
    a, b = [math.log(x) for x in a], [math.log(x) for x in b]
    va, vb = statistics.variance(a) / len(a), statistics.variance(b) / len(b)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    delta = statistics.fmean(a) - statistics.fmean(b)
    reach = T[int(freedom)] * math.sqrt(va + vb)
    return {"ratio": math.exp(delta), "low": math.exp(delta - reach), "high": math.exp(delta + reach)}


def paired(this, other, n):
    p, q = (this + 1) / (n + 2), (other + 1) / (n + 2)
    reach = Z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return {"delta": (this - other) / n, "low": max(p - q - reach, -1.0), "high": min(p - q + reach, 1.0)}


class Random:
    """SplitMix64."""

    def __init__(self, seed):
        self.state = seed

    def below(self, end):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (z ^ (z >> 31)) % end


def quantile(values, share):
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def bootstrap(stretches, seed):
    random, means = Random(seed), []
    for _ in range(2000):
        chosen = [stretches[random.below(len(stretches))] for _ in stretches]
        means.append(sum(s for s, _ in chosen) / sum(n for _, n in chosen))
    means.sort()
    mean = sum(s for s, _ in stretches) / sum(n for _, n in stretches)
    return {"mean": mean, "low": quantile(means, 0.025), "high": quantile(means, 0.975)}


samples = [101.0, 97.5, 103.25, 99.0, 100.5]
print(json.dumps({
    "summary": {"mean": statistics.fmean(samples), "sd": statistics.stdev(samples)},
    "ratio": ratio(samples, [80.0, 82.5, 79.0, 81.0]),
    "wilson": [wilson(*case) for case in [(0, 16), (9, 16), (16, 16), (4873, 5000)]],
    "paired": [paired(*case) for case in [(0, 0, 16), (1, 6, 16), (3, 0, 200)]],
    "bootstrap": bootstrap([((no * no * 37) % 101 / 10, 3 + no % 4) for no in range(1, 13)], 42),
}, indent=1))
