"""Writes vision_sample.json: what numpy's default_rng(seed).choice gives. numpy alone.

    python3 vision_sample_reference.py > vision_sample.json
"""
import json

import numpy as np

cases = [(10, 3, 42), (5, 5, 0), (1, 1, 7), (7, 0, 1), (5000, 500, 42), (500, 499, 43), (10000, 9000, 1),
         (10001, 200, 42), (10001, 201, 42), (20000, 20000, 2**32 + 5), (1281167, 40, 2**63 + 11),
         (100000, 5000, 123456789)]
out = []
for items, count, seed in cases:
    chosen = np.random.default_rng(seed).choice(items, count, replace=False)
    # The first ones, and a sum that any change moves: index times place.
    out.append({"items": items, "count": count, "seed": seed, "first": chosen[:20].tolist(),
                "sum": int(sum(int(v) * (i + 1) for i, v in enumerate(chosen)) % (1 << 53))})
print(json.dumps(out))
