#!/usr/bin/env python3
"""A manuscript through `haul correct` and through the loop that it replaces: one call a paragraph, one after the other.

    correct_loop.py --haul BINARY --model M.gguf [--words 15000] [--threads 2] [--rounds 3] [--seed 1] [--tiny DIR]
                    [--out FILE.json]

The manuscript is made by make_manuscript.py, with --tiny from sentences of the tiny model's own task. The loop is the seed's: llama-cpp-python, the blocks of prose in order, a
call each, the answer taken as it comes. It gets the same model and the same turns as Haul (`Correct the text.`,
greedy) and keeps what a prompt shares with the one before, as llama-cpp-python does by itself. The items of a list are
a call each. It is given clean text: what it does to Markdown is not measured, since the seed's parser loses links,
tables and code outright.

Measured in turns, round after round, from an empty home each time: `haul correct` as a whole process, reading, loading,
checking, writing and reports included; the loop without its load. Words are those of the whole file. Haul's file is
held against the manuscript by make_manuscript.py's own check: all but words of prose must be as it was.
"""

import argparse
import json
import re
import statistics
import tempfile
import time
from pathlib import Path

from make_manuscript import blocks_of, differences, is_prose, manuscript
from tiny import log, machine, report, run_haul

CONTEXT_TOKENS = 1024
ANSWER_TOKENS = 256
LIST_ITEM = re.compile(r"(?m)^(?:- |\d+\. )")
MARK = re.compile(r"^(?:#+ |- |\d+\. |> )")


def main():
    arguments = parse_arguments()
    text = manuscript(arguments.words, arguments.seed, arguments.tiny)
    words, paragraphs = len(text.split()), calls_of(text)
    log(f"{words} words, {len(paragraphs)} calls of the loop")
    model = load(arguments)
    ours, theirs, receipts = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1, arguments.rounds + 1):
            log(f"round {number} of {arguments.rounds}")
            seconds, receipt, corrected = haul(arguments, text, Path(scratch) / str(number))
            ours.append(seconds)
            receipts.append(receipt)
            theirs.append(loop(model, paragraphs))
    wrong = differences(text, corrected)
    facts = machine(arguments.threads, ["llama-cpp-python"], arguments.haul)
    facts["work"] = f"{words} words, {len(paragraphs)} calls of the loop, {arguments.rounds} rounds"
    calls, items = receipts[-1]["calls"], receipts[-1]["items"]
    facts["haul"] = f"{calls['n']} calls, {calls['decode_tokens']} tokens written, items {items['by_verdict']}"
    facts["loop"] = f"{theirs[-1][1]} tokens written, {theirs[-1][2]} answers cut"
    facts["bytes"] = wrong[0] if wrong else "all but words of prose is as it was"
    mine, peer = statistics.median(ours), statistics.median(seconds for seconds, *_ in theirs)
    answering = statistics.median(receipt["calls"]["answering_s"] for receipt in receipts)
    rows = [("the loop", f"{peer:.2f}", f"{words / peer:,.0f}", "1.00x")]
    for name, seconds in [("haul correct, the whole process", mine), ("haul correct, with the model open", answering)]:
        rows.append((name, f"{seconds:.2f}", f"{words / seconds:,.0f}", f"{peer / seconds:.2f}x"))
    report(facts, ["engine", "median s", "words/s", "faster than the loop"], rows, arguments.out)
    if wrong:
        raise SystemExit("\n".join(wrong[:20]))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--haul", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--words", type=int, default=15_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tiny", type=Path)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def calls_of(text):
    """Texts of the loop's calls: blocks of prose and items of lists, without their marks and line ends."""
    found = []
    for _, block in blocks_of(text):
        if is_prose(block):
            items = LIST_ITEM.split(block)[1:] if LIST_ITEM.match(block) else [block]
            found += [" ".join(MARK.sub("", item).split()) for item in items]
    return found


def load(arguments):
    from llama_cpp import Llama

    threads = arguments.threads
    return Llama(str(arguments.model), n_ctx=CONTEXT_TOKENS, n_threads=threads, n_threads_batch=threads, verbose=False)


def loop(model, paragraphs):
    """Seconds, tokens written, answers that were cut."""
    start, tokens, cut = time.perf_counter(), 0, 0
    for paragraph in paragraphs:
        turns = [{"role": "system", "content": "Correct the text."}, {"role": "user", "content": paragraph}]
        answer = model.create_chat_completion(turns, temperature=0.0, max_tokens=ANSWER_TOKENS)
        tokens += answer["usage"]["completion_tokens"]
        cut += answer["choices"][0]["finish_reason"] == "length"
    return time.perf_counter() - start, tokens, cut


def haul(arguments, text, scratch):
    """Seconds of the whole process, its receipt, the corrected text."""
    scratch.mkdir()
    manuscript_file, out = scratch / "manuscript.md", scratch / "out"
    manuscript_file.write_bytes(text.encode("utf-8"))
    command = ["correct", manuscript_file, "--model", arguments.model, "--out", out, "--threads", arguments.threads]
    start = time.perf_counter()
    run_haul(arguments.haul, command, scratch)
    seconds = time.perf_counter() - start
    corrected = [path for path in out.iterdir() if path.suffix == ".md"]
    if len(corrected) != 1:
        raise SystemExit(f"{out} has {[path.name for path in corrected]}")
    receipt = json.loads((out / "receipt.json").read_text())
    return seconds, receipt, corrected[0].read_bytes().decode("utf-8")


if __name__ == "__main__":
    main()
