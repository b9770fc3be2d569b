"""Writes vision.json and the arrays vision_*.npz beside it: what crates/jobs/src/vision must give. numpy and scipy.

    python3 vision_reference.py
"""
import json

import numpy as np
from scipy import stats

HERE = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."


def quantities(x, ddof):
    """Of one image: x is (T, D)."""
    t, d = x.shape
    norms = np.linalg.norm(x, axis=1)
    unit = x / norms[:, None]
    direction = unit.mean(0) / np.linalg.norm(unit.mean(0))
    cosines = unit @ direction
    angles = np.arccos(np.clip(cosines, -1 + 1e-6, 1 - 1e-6))
    out = {"angular_var": angles.var(ddof=1), "norm_var": norms.var(ddof=1), "mean_cosine_dev": 1 - cosines.mean()}
    out["angular_se"] = jackknife(x, angular)
    for name, y in (("pre", x), ("post", unit)):
        cov = np.cov(y, rowvar=False)
        eigs = np.sort(np.linalg.eigvalsh(cov))[::-1]
        eigs = np.maximum(eigs, 0)
        eigs[t - 1:] = 0
        shares = eigs / eigs.sum()
        shares = shares[shares > 1e-15]
        frobenius = np.linalg.norm(cov)
        diagonal = np.diag(cov)
        out[name] = {
            "trace": y.var(axis=0, ddof=ddof).mean(),
            "trace_se": jackknife(y, lambda z: z.var(axis=0, ddof=ddof).mean()),
            "eigs_top10": eigs[:min(10, t)].tolist(),
            "effective_rank": eigs.sum() ** 2 / (eigs**2).sum(),
            "spectral_entropy": -(shares * np.log(shares)).sum(),
            "top1_ratio": eigs[0] / eigs.sum(),
            "max_dim_var": diagonal.max(),
            "offdiag": np.sqrt(max(frobenius**2 - (diagonal**2).sum(), 0)) / max(frobenius, 1e-12),
            "offdiag_abs": (np.abs(cov).sum() - np.abs(diagonal).sum()) / np.abs(cov).sum(),
        }
    return out


def angular(x):
    unit = x / np.linalg.norm(x, axis=1)[:, None]
    direction = unit.mean(0) / np.linalg.norm(unit.mean(0))
    return np.arccos(np.clip(unit @ direction, -1 + 1e-6, 1 - 1e-6)).var(ddof=1)


def jackknife(x, statistic):
    left = np.array([statistic(np.delete(x, i, 0)) for i in range(len(x))])
    return np.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum())


def reliability(v):
    k, n = v.shape
    signal, noise = v.mean(0).var(ddof=1), v.var(axis=0, ddof=1).mean()
    between = k * signal
    icc = (between - noise) / (between + (k - 1) * noise)
    pairs = [stats.spearmanr(v[i], v[j]).statistic for i in range(k) for j in range(i + 1, k)]
    q25, q50, q75 = np.percentile(pairs, [25, 50, 75])
    half = stats.spearmanr(v[:k // 2].mean(0), v[k // 2:2 * (k // 2)].mean(0)).statistic
    brown = lambda r, times: times * r / (1 + (times - 1) * r)
    return {"signal": signal, "noise": noise, "snr": signal / noise, "icc": icc, "pairwise_spearman_median": q50,
            "pairwise_spearman_q25": q25, "pairwise_spearman_q75": q75, "pairwise_spearman_iqr": q75 - q25,
            "icc_of_mean": brown(icc, k), "split_half": half, "split_half_of_mean": brown(half, k / (k // 2))}


def law(v, passes):
    square = v.mean() ** 2
    within = v.var(axis=0, ddof=1).mean()
    cv2 = (v.mean(0).var(ddof=1) - within / len(v)) / square
    c = passes * within / square
    return {"cv2": cv2, "c": c, "icc_16": cv2 / (cv2 + c / 16), "passes_for_icc_75": int(np.ceil(3 * c / cv2))}


def made_up(rng, trials, passes, images, dim):
    """Heavy tails and images that differ, as real passes have them."""
    centres = rng.normal(size=(images, dim)) * 2 + 1
    spread = rng.gamma(2.0, 0.2, size=images)
    shape = np.abs(rng.standard_t(4, size=dim)) + 0.1
    noise = rng.standard_t(5, size=(trials, passes, images, dim)) * shape
    mixed = noise + 0.7 * np.roll(noise, 1, axis=-1)
    return (centres + spread[:, None] * mixed).astype(np.float32)


rng = np.random.default_rng(8)
x = made_up(rng, 4, 12, 9, 10)
paths = np.array([f"images/n{i // 3:03}/bild é {i}.png" for i in range(9)])
for k in range(4):
    trace = x[k].astype(np.float64).var(axis=0).mean(-1).astype(np.float32)
    np.savez_compressed(f"{HERE}/vision_trial{k}.npz", pass_pre=x[k], trace_pre=trace)
f = x.astype(np.float64)
golden = {"images": [quantities(f[0, :, n], 1) for n in range(9)],
          "seed_trace_pre": [quantities(f[0, :, n], 0)["pre"]["trace"] for n in range(9)],
          "seed_trace_post_se": [quantities(f[0, :, n], 0)["post"]["trace_se"] for n in range(9)]}
traces = f.var(axis=1, ddof=1).mean(-1)
golden["trace_reliability"] = reliability(traces)
weights = f.mean(axis=(0, 1)).var(axis=0, ddof=1)
weights /= weights.sum()
golden["weights"] = weights.tolist()
golden["weighted_trace_pre"] = (f.var(axis=1, ddof=1) * weights).sum(-1).mean()
golden["weighted_reliability"] = reliability((f.var(axis=1, ddof=1) * weights).sum(-1))
golden["law"] = law(traces, 12)
trials = (rng.gamma(3.0, 1.0, size=40) + rng.normal(size=(6, 40)) * 0.6).round(1).astype(np.float32)
np.savez_compressed(f"{HERE}/vision_trials_T16.npz", paths=np.array([f"{i}.jpg" for i in range(40)]),
                    trial_pre=trials, trial_post=trials[:, ::-1] ** 2)
golden["trials"] = {"pre": reliability(trials.astype(np.float64)),
                    "post": reliability((trials[:, ::-1] ** 2).astype(np.float64))}
logits = rng.normal(size=(5, 7)) * 3
probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
ordered = np.sort(logits, 1)
golden["ambiguity"] = {"logits": logits.tolist(), "margin": (ordered[:, -1] - ordered[:, -2]).tolist(),
                       "entropy": (-(probabilities * np.log(probabilities)).sum(1)).tolist(),
                       "prompt_sensitivity": probabilities.max(1).var(ddof=1)}
scores, truth = rng.normal(size=30).round(1), rng.random(30) < 0.3
u = stats.mannwhitneyu(scores[truth], scores[~truth]).statistic
golden["auroc"] = {"scores": scores.tolist(), "truth": truth.tolist(), "area": u / (truth.sum() * (~truth).sum())}
golden["wilcoxon"] = []
for n, digits in ((12, 6), (50, 6), (80, 6), (300, 6), (60, 1), (30, 1)):
    before = rng.gamma(2.0, 1.0, size=n)
    after = (before + rng.normal(0.15, 1.0, size=n)).round(digits)
    before = before.round(digits)
    p = stats.wilcoxon(after - before, alternative="greater").pvalue
    golden["wilcoxon"].append({"before": before.tolist(), "after": after.tolist(), "p": p,
                               "frac_increased": (after > before).mean(), "median_diff": np.median(after - before),
                               "mean_diff": (after - before).mean(),
                               "rel_change_pct": 100 * (after.mean() / before.mean() - 1)})
with open(f"{HERE}/vision.json", "w") as out:
    json.dump(golden, out, indent=0, default=float)
