#!/usr/bin/env python3
"""Words of PDFs as haul's two readers see them, beside those of pdftotext (poppler-utils).

The score of a file is F1 over the multiset of its words, before running lines are taken out and hyphens mended.

  cargo build -p haul-corpus --example text
  bench/pdf/compare.py --text target/debug/examples/text --pdfium libpdfium.so FOLDER
"""

import argparse
import collections
import pathlib
import subprocess
import sys
import time

BARS = {"pdfium": 0.995, "fallback": 0.92}


def words(command):
    started = time.monotonic()
    run = subprocess.run(command, capture_output=True, check=False)
    if run.returncode != 0:
        print(f"{command[0]}: {run.stderr.decode(errors='replace').strip()}", file=sys.stderr)
    text = run.stdout.decode(errors="replace").replace("\u00ad", "").replace("\f", " ")
    return collections.Counter(text.split()), time.monotonic() - started


def f1(found, expected):
    common = sum((found & expected).values())
    total = sum(found.values()) + sum(expected.values())
    return 2 * common / total if total else 1.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--text", required=True, help="the example `text` of haul-corpus, built")
    parser.add_argument("--pdfium", help="libpdfium.so; without it only the fallback is measured")
    arguments = parser.parse_args()
    readers = {"fallback": []}
    if arguments.pdfium:
        readers = {"pdfium": [arguments.pdfium], **readers}
    scores = collections.defaultdict(list)
    seconds = collections.Counter()
    files = sorted(arguments.folder.glob("*.pdf"))
    print(f"{'file':40} {'words':>8} " + " ".join(f"{name:>10}" for name in readers))
    for path in files:
        expected, seconds_taken = words(["pdftotext", str(path), "-"])
        seconds["pdftotext"] += seconds_taken
        row = []
        for name, extra in readers.items():
            found, seconds_taken = words([arguments.text, str(path), *extra])
            seconds[name] += seconds_taken
            row.append(f1(found, expected))
            scores[name].append(row[-1])
        print(f"{path.name[:40]:40} {sum(expected.values()):8} " + " ".join(f"{score:10.4f}" for score in row))
    failed = False
    for name, values in scores.items():
        mean = sum(values) / len(values)
        failed |= mean < BARS[name]
        print(f"{name}: mean {mean:.4f} (bar {BARS[name]}), least {min(values):.4f}, {seconds[name]:.1f} s; "
              f"pdftotext {seconds['pdftotext']:.1f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
