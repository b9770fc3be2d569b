#!/usr/bin/env python3
"""Greedy text of Haul beside that of llama-cpp-python, on the same prompts and the same GGUF file.

    greedy.py --haul BINARY --model M.gguf --tiny DIR [--count 50] [--seed 7] [--threads 2] [--out FILE.json]

DIR holds `generate.py`, which writes prompts of the tiny model's five tasks; they are asked in turns. Each engine
writes out the model's own chat template. llama-cpp-python answers one prompt at a time from an empty cache; Haul
answers all of them together, as it does for users. llama.cpp is not batch-invariant: a product over sixteen rows may
differ from one over a single row in the last bits, and where two tokens are almost equally likely that decides. So a
few texts may differ; those that do are printed. `--parallel 1` makes Haul answer one at a time too.
"""

import argparse
import tempfile
from pathlib import Path

from tiny import answers_of, batch_line, load_tasks, log, machine, messages, prompts, report, run_haul

ANSWER_TOKENS = 260
CONTEXT_TOKENS = 1024


def main():
    arguments = parse_arguments()
    asked = prompts(load_tasks(arguments.tiny), arguments.count, arguments.seed)
    log("llama-cpp-python")
    theirs = peer(arguments, asked)
    log("haul")
    ours = haul(arguments, asked)
    rows = []
    for task in dict.fromkeys(task for task, _ in asked):
        numbers = [number for number, (of, _) in enumerate(asked) if of == task]
        equal = sum(ours[number] == theirs[number] for number in numbers)
        rows.append((task, len(numbers), equal, f"{100 * equal / len(numbers):.1f} %"))
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    rows.append(("all", len(asked), equal, f"{100 * equal / len(asked):.1f} %"))
    facts = machine(arguments.threads, ["llama-cpp-python"], arguments.haul)
    report(facts | {"model": arguments.model.name}, ["task", "prompts", "equal texts", "share"], rows, arguments.out)
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            print(f"\nprompt {number} ({asked[number][0]})\n  haul             {a}\n  llama-cpp-python {b}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--haul", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--tiny", required=True, type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parallel", type=int)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def peer(arguments, asked):
    from llama_cpp import Llama

    threads = arguments.threads
    model = Llama(str(arguments.model), n_ctx=CONTEXT_TOKENS, n_threads=threads, n_threads_batch=threads, verbose=False)
    texts = []
    for _, text in asked:
        model.reset()
        answer = model.create_chat_completion(messages(text), temperature=0.0, max_tokens=ANSWER_TOKENS)
        texts.append(answer["choices"][0]["message"]["content"])
    return texts


def haul(arguments, asked):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        lines = [batch_line(str(number), messages(text), ANSWER_TOKENS) for number, (_, text) in enumerate(asked)]
        requests = scratch / "requests.jsonl"
        requests.write_text("".join(lines), encoding="utf-8")
        command = ["generate", "--model", arguments.model, "--out", scratch / "responses.jsonl"]
        command += ["--threads", arguments.threads]
        if arguments.parallel:
            command += ["--parallel", arguments.parallel]
        with requests.open() as stdin:
            run_haul(arguments.haul, command, scratch, stdin)
        answers = answers_of(scratch / "responses.jsonl")
    return [answers[str(number)]["text"] for number in range(len(asked))]


if __name__ == "__main__":
    main()
