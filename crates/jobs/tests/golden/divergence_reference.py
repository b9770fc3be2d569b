"""Writes divergence.json: what crates/jobs/src/compare/divergence.rs must give for these logits.

    python3 divergence_reference.py > divergence.json

Over all of the vocabulary nothing is needed but the definitions; here it is cut to the base's 64 most likely tokens and
one bucket, as the product does.
"""
import json
import math

VOCABULARY, K = 300, 64


def logits(no, shift):
    return [(((at * 37 + no * 11) * (at + shift)) % 97) / 12 for at in range(VOCABULARY)]


def softmax(values):
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


klds, same, changes, next_base, next_other = [], 0, [], [], []
for no in range(12):
    p, q = softmax(logits(no, 5)), softmax(logits(no, 5 + no % 3))
    order = sorted(range(VOCABULARY), key=lambda at: (-p[at], at))[:K]
    buckets = [(p[at], q[at]) for at in order]
    buckets.append((1 - sum(a for a, _ in buckets), 1 - sum(b for _, b in buckets)))
    klds.append(sum(a * math.log(a / b) for a, b in buckets))
    same += order[0] == min(range(VOCABULARY), key=lambda at: (-q[at], at))
    changes.append(q[order[0]] - p[order[0]])
    window, place = divmod(no, 4)
    if place < 3:
        follows = (window * 53 + (place + 1) * 29) % VOCABULARY
        next_base.append(math.log(p[follows]))
        next_other.append(math.log(q[follows]))
klds.sort()


def quantile(share):
    place = share * (len(klds) - 1)
    low = int(place)
    high = min(low + 1, len(klds) - 1)
    return klds[low] + (klds[high] - klds[low]) * (place - low)


print(json.dumps({
    "/positions": len(klds),
    "/kld/mean": sum(klds) / len(klds),
    "/kld/median": quantile(0.5),
    "/kld/p90": quantile(0.9),
    "/kld/max": klds[-1],
    "/same_top/hits": same,
    "/delta_p_rms": math.sqrt(sum(c * c for c in changes) / len(changes)),
    "/delta_p_worst": min(changes),
    "/perplexity": math.exp(-sum(next_other) / len(next_other)),
    "/base_perplexity": math.exp(-sum(next_base) / len(next_base)),
    "/perplexity_ratio": math.exp((sum(next_base) - sum(next_other)) / len(next_base)),
}, indent=1))
