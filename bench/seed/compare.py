#!/usr/bin/env python3
"""Haul and the algorithm it replaces, on the same book, model, machine and threads, one after the other.

    compare.py --haul BINARY --model DIR --book FILE.epub [--chunker tokens|semantic] [--dtype LIST]
               [--venv DIR] [--threads 2] [--rounds 3]

With --chunker semantic Haul cuts as the seed does (--alexandria-compat): every sentence through the model, then the
chunks and the chapters. Each dtype of the list is timed; with f32 among them, the others also say which share of
f32's chunk ends they have.

Makes the environment of `requirements.txt` in --venv when it is not there. Each round runs both and prints
both times; the ratio is that of the medians, because machines are noisy. Haul is timed as a whole process:
start, loading the model, parsing, embedding, writing the library. The seed's algorithm is timed without
imports and without loading its model.
"""

import argparse
import json
import sqlite3
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
    seed, hauls = rounds[-1]
    print(f"seed's algorithm: {seed_s:.1f} s, {seed['chunks']} chunks (median of {len(rounds)})")
    for dtype, haul in hauls.items():
        haul_s = statistics.median(hauls[dtype]["wall_s"] for _, hauls in rounds)
        print(f"haul ingest {dtype or ''}: {haul_s:.1f} s, {haul['chunks']} chunks, {haul['tokens']} tokens, whole process")
        print(f"  ratio: {seed_s / haul_s:.2f}x")
        for name, seconds in haul["passes"].items():
            print(f"  {name}: {seconds:.1f} s of the device")
        if dtype != "f32" and "f32" in hauls:
            print(f"  chunk ends of f32 that it has: {100 * equal_ends(hauls['f32']['ends'], haul['ends']):.1f} %")


def equal_ends(exact, ends):
    return len(exact & ends) / len(exact)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--haul", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--book", required=True, type=Path)
    parser.add_argument("--chunker", choices=["tokens", "semantic"], default="tokens")
    parser.add_argument("--dtype", default="", help="what Haul computes with, such as f32,int16,int8 [default: auto]")
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
    hauls = {dtype: run_haul(arguments, dtype) for dtype in arguments.dtype.split(",")}
    times = ", ".join(f"haul {dtype} {haul['wall_s']:.1f} s" for dtype, haul in hauls.items())
    print(f"  seed {seed['seconds']:.1f} s, {times}", file=sys.stderr)
    return seed, hauls


def run_seed(arguments, python):
    command = [python, HERE / "alexandria.py", "--model", arguments.model, "--book", arguments.book]
    command += ["--threads", str(arguments.threads), "--json"]
    if arguments.chunker == "semantic":
        command.append("--parents")
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_haul(arguments, dtype):
    with tempfile.TemporaryDirectory() as home:
        haul = [arguments.haul, "--home", home]
        add = [*haul, "model", "add", arguments.model.resolve(), "--name", "minilm", "--link"]
        subprocess.run(add, check=True, capture_output=True)
        # The roofs of a machine are measured once, not in every run.
        subprocess.run([*haul, "doctor"], check=True, capture_output=True)
        store = Path(home) / "b.haul"
        ingest = [*haul, "ingest", arguments.book, "--store", store, "--model", "minilm"]
        ingest += ["--threads", str(arguments.threads), "--json", "--quiet"]
        ingest += ["--dtype", dtype] if dtype else []
        if arguments.chunker == "semantic":
            ingest += ["--chunker", "semantic", "--alexandria-compat"]
        started = time.perf_counter()
        receipt = json.loads(subprocess.run(ingest, check=True, capture_output=True, text=True).stdout)
        wall_s = time.perf_counter() - started
        rows = sqlite3.connect(store).execute("SELECT end_byte FROM chunks").fetchall()
        passes = {found["name"]: found["busy_s"] for found in receipt.get("passes", [])}
        tokens, ends = receipt["work"]["tokens"], {end for (end,) in rows}
        return {"wall_s": wall_s, "chunks": len(rows), "tokens": tokens, "passes": passes, "ends": ends}


if __name__ == "__main__":
    main()
