#!/usr/bin/env python3
"""Many short answers over one document: Haul beside llama-cpp-python, alone and as a server.

    fanout.py --haul BINARY --model M.gguf --tiny DIR [--calls 64] [--prefix-tokens 700] [--answer-tokens 40]
              [--threads 2] [--rounds 5] [--seed 7] [--out FILE.json]

DIR holds `generate.py`, which writes documents of the tiny model's world. One document of about --prefix-tokens tokens
is the beginning of all calls; each asks for other fields of it. Answers are cut at --answer-tokens by `max_tokens`,
which all engines have; nobody is told to ignore the end of an answer. So that all answers reach the cut, the questions
are chosen before anything is timed: those whose greedy answer by llama-cpp-python is that long. The tokens that each
engine really wrote are printed.

Measured in turns, round after round, from an empty cache each time, the model loaded:

- haul: `haul generate` with all calls in one file. Its receipt says how long the calls took with an open model; the
  whole process, its start, the model's load and its end included, is a row of its own.
- one at a time, no reuse: llama-cpp-python in this process, its cache emptied before each call.
- one at a time, its own reuse: the same, but it keeps the beginning that a prompt shares with the one before.
- server, --cache true: llama-cpp-python's server on loopback, one request after the other on one connection; it
  answers one at a time however many wait.
"""

import argparse
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tiny import answers_of, batch_line, load_tasks, log, machine, report, run_haul

CONTEXT_TOKENS = 1024
SERVER_START_S_MAX = 60
QUESTION_FIELDS = 5
QUESTIONS_TRIED_MAX = 4000
# A document may miss the asked length by so many tokens.
PREFIX_SLACK_TOKENS = 12


def main():
    arguments = parse_arguments()
    model, load_s = load(arguments)
    calls, prefix_tokens = questions(arguments, model)
    log(f"{len(calls)} calls over {prefix_tokens} tokens; llama-cpp-python loads the model in {load_s:.2f} s")
    runs = {}
    with tempfile.TemporaryDirectory() as scratch, Server(arguments, Path(scratch)) as server:
        for number in range(1, arguments.rounds + 1):
            log(f"round {number} of {arguments.rounds}")
            whole_s, calls_s, tokens = haul(arguments, calls, Path(scratch) / str(number))
            runs.setdefault("haul, the calls", []).append((calls_s, tokens))
            runs.setdefault("haul, the whole process", []).append((whole_s, tokens))
            runs.setdefault("one at a time, no reuse", []).append(peer(arguments, model, calls, model.reset))
            model.reset()
            runs.setdefault("one at a time, its own reuse", []).append(peer(arguments, model, calls, lambda: None))
            runs.setdefault("server, --cache true", []).append(server.run(calls))
            server.restart()
    facts = machine(arguments.threads, ["llama-cpp-python"], arguments.haul)
    work = f"{len(calls)} of {arguments.answer_tokens} tokens over {prefix_tokens} tokens"
    facts["calls"] = f"{work}, {arguments.rounds} rounds, load of the peer {load_s:.2f} s"
    print_runs(arguments, facts, runs)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--haul", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--tiny", required=True, type=Path)
    parser.add_argument("--calls", type=int, default=64)
    parser.add_argument("--prefix-tokens", type=int, default=700)
    parser.add_argument("--answer-tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def load(arguments):
    from llama_cpp import Llama

    start = time.perf_counter()
    threads = arguments.threads
    model = Llama(str(arguments.model), n_ctx=CONTEXT_TOKENS, n_threads=threads, n_threads_batch=threads, verbose=False)
    return model, time.perf_counter() - start


def questions(arguments, model):
    """Contents of user turns that begin with one document, and the document's tokens."""
    tasks = load_tasks(arguments.tiny)
    rng = random.Random(arguments.seed)
    document, facilities = find_document(arguments, tasks, model, rng)
    chosen = []
    for _ in range(QUESTIONS_TRIED_MAX):
        fields = rng.sample(list(tasks.FIELDS), QUESTION_FIELDS)
        question = f"TASK fields\nFACILITY {rng.choice(facilities)}\nFIELDS {', '.join(fields)}"
        content = document + question
        if content in chosen or ask(arguments, model, content) < arguments.answer_tokens:
            continue
        chosen.append(content)
        if len(chosen) == arguments.calls:
            return chosen, count(model, document)
    raise SystemExit(f"only {len(chosen)} of {QUESTIONS_TRIED_MAX} questions have long answers")


def find_document(arguments, tasks, model, rng):
    """Numbered sentences, an empty line behind them, and the names of the facilities."""
    while True:
        deal = tasks.make_deal(rng, True, 3, 0.95)
        lines, _, mentioned = tasks.make_window(rng, deal, 40, start=1)
        while count(model, "\n".join(lines) + "\n\n") > arguments.prefix_tokens + PREFIX_SLACK_TOKENS:
            lines.pop()
        document = "\n".join(lines) + "\n\n"
        if mentioned and abs(count(model, document) - arguments.prefix_tokens) <= PREFIX_SLACK_TOKENS:
            return document, [name for name, _ in deal["facilities"]]


def count(model, text):
    return len(model.tokenize(text.encode(), add_bos=False, special=True))


def ask(arguments, model, content):
    turns = [{"role": "user", "content": content}]
    answer = model.create_chat_completion(turns, temperature=0.0, max_tokens=arguments.answer_tokens)
    return answer["usage"]["completion_tokens"]


def peer(arguments, model, calls, before_each):
    start, tokens = time.perf_counter(), 0
    for content in calls:
        before_each()
        tokens += ask(arguments, model, content)
    return time.perf_counter() - start, tokens


def haul(arguments, calls, scratch):
    """Seconds of the whole process, seconds of its calls, tokens written."""
    scratch.mkdir()
    requests, responses, receipt = (scratch / name for name in ("requests.jsonl", "responses.jsonl", "receipt.json"))
    lines = [
        batch_line(str(number), [{"role": "user", "content": content}], arguments.answer_tokens)
        for number, content in enumerate(calls)
    ]
    requests.write_text("".join(lines), encoding="utf-8")
    command = ["generate", "--model", arguments.model, "--out", responses, "--receipt", receipt]
    command += ["--threads", arguments.threads]
    with requests.open() as stdin:
        start = time.perf_counter()
        run_haul(arguments.haul, command, scratch, stdin)
        whole_s = time.perf_counter() - start
    tokens = sum(answer["tokens"] for answer in answers_of(responses).values())
    return whole_s, json.loads(receipt.read_text())["calls"]["answering_s"], tokens


class Server:
    """llama-cpp-python's server with its prompt cache, in a process of its own."""

    def __init__(self, arguments, scratch):
        self.arguments = arguments
        self.log = scratch / "server.log"
        self.process = None

    def __enter__(self):
        self.restart()
        return self

    def __exit__(self, *_error):
        self.stop()

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()

    def restart(self):
        self.stop()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        threads = str(self.arguments.threads)
        command = [sys.executable, "-m", "llama_cpp.server", "--model", self.arguments.model, "--cache", "true"]
        command += ["--n_ctx", str(CONTEXT_TOKENS), "--n_threads", threads, "--n_threads_batch", threads]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--verbose", "false"]
        with self.log.open("w") as log_file:
            self.process = subprocess.Popen(command, stdout=log_file, stderr=log_file)
        deadline = time.monotonic() + SERVER_START_S_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the server does not start:\n{self.log.read_text()}") from error
                time.sleep(0.1)

    def run(self, calls):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        start, tokens = time.perf_counter(), 0
        for content in calls:
            turns = [{"role": "user", "content": content}]
            body = {"messages": turns, "temperature": 0, "max_tokens": self.arguments.answer_tokens}
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200:
                raise SystemExit(f"the server says {response.status}: {answer}")
            tokens += answer["usage"]["completion_tokens"]
        return time.perf_counter() - start, tokens


def print_runs(arguments, facts, runs):
    median = {name: statistics.median(seconds for seconds, _ in times) for name, times in runs.items()}
    rows = []
    for name, times in runs.items():
        written = {tokens for _, tokens in times}
        ratios = [f"{median[name] / median[mine]:.2f}x" for mine in ("haul, the calls", "haul, the whole process")]
        best = min(seconds for seconds, _ in times)
        rows.append((name, f"{median[name]:.3f}", f"{best:.3f}", *ratios, "/".join(map(str, sorted(written)))))
    header = ["engine", "median s", "best s", "haul's calls are", "haul's process is", "tokens written"]
    report(facts, header, rows, arguments.out)


if __name__ == "__main__":
    main()
