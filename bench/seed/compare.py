#!/usr/bin/env python3
"""Haul and the algorithm it replaces, on the same book, model, machine and threads, one after the other.

    compare.py --haul BINARY --model DIR --book FILE.epub [--venv DIR] [--threads 2] [--rounds 3]

Makes the environment of `requirements.txt` in --venv when it is not there. Each round runs both and prints
both times; the ratio is that of the medians, because machines are noisy. Haul is timed as a whole process:
start, loading the model, parsing, embedding, writing the library. The seed's algorithm is timed without
imports and without loading its model.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def main():
    arguments = parse_arguments()
    python = environment(arguments.venv)
    rounds = [one_round(arguments, python) for _ in range(arguments.rounds)]
    seed_s = statistics.median(seed["seconds"] for seed, _ in rounds)
    haul_s = statistics.median(haul["wall_s"] for _, haul in rounds)
    seed, haul = rounds[-1]
    print(f"seed's algorithm: {seed_s:.1f} s, {seed['chunks']} chunks (median of {len(rounds)})")
    print(f"haul ingest:      {haul_s:.1f} s, {haul['chunks']} chunks, {haul['tokens']} tokens, whole process")
    print(f"ratio:            {seed_s / haul_s:.2f}x")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--haul", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--book", required=True, type=Path)
    parser.add_argument("--venv", type=Path, default=Path("venv"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def environment(venv):
    python = venv / "bin" / "python"
    if not python.exists():
        print(f"making the seed's Python environment in {venv} (several GB)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        requirements = ["-r", HERE / "requirements.txt"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
    return python


def one_round(arguments, python):
    seed = run_seed(arguments, python)
    haul = run_haul(arguments)
    print(f"  seed {seed['seconds']:.1f} s, haul {haul['wall_s']:.1f} s", file=sys.stderr)
    return seed, haul


def run_seed(arguments, python):
    command = [python, HERE / "alexandria.py", "--model", arguments.model, "--book", arguments.book]
    command += ["--threads", str(arguments.threads), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_haul(arguments):
    with tempfile.TemporaryDirectory() as home:
        haul = [arguments.haul, "--home", home]
        add = [*haul, "model", "add", arguments.model.resolve(), "--name", "minilm", "--link"]
        subprocess.run(add, check=True, capture_output=True)
        # The roofs of a machine are measured once, not in every run.
        subprocess.run([*haul, "doctor"], check=True, capture_output=True)
        ingest = [*haul, "ingest", arguments.book, "--store", Path(home) / "b.haul", "--model", "minilm"]
        ingest += ["--threads", str(arguments.threads), "--json", "--quiet"]
        started = time.perf_counter()
        receipt = json.loads(subprocess.run(ingest, check=True, capture_output=True, text=True).stdout)
        wall_s = time.perf_counter() - started
        chunks = next(stage["items"] for stage in receipt["stages"] if stage["name"] == "embed")
        return {"wall_s": wall_s, "chunks": chunks, "tokens": receipt["work"]["tokens"]}


if __name__ == "__main__":
    main()
