"""What the scripts of this folder share: prompts of the tiny model's five tasks, its weights, tables, the machine."""

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

TASKS = ["facilities", "fields", "verify", "present", "correct"]
# Prompts longer than this do not fit the tiny model's 1,024 tokens with their answers.
PROMPT_CHARACTERS_MAX = 2200
ISA_FLAGS = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"]


def load_tasks(folder):
    """The module `generate.py` beside the tiny model, which writes examples of its tasks."""
    spec = importlib.util.spec_from_file_location("tiny_llm_tasks", Path(folder) / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prompts(tasks, count, seed):
    """`count` prompts as ChatML text, the five tasks in turns, with names that never occur in training."""
    found = []
    while len(found) < count:
        task = TASKS[len(found) % len(TASKS)]
        rng = random.Random(f"{seed}-{len(found)}")
        text = None
        while text is None or len(text) > PROMPT_CHARACTERS_MAX:
            text, _ = tasks.eval_example(rng, task, 4, 14, True)
        found.append((task, text))
    return found


def messages(text):
    """Turns of a ChatML prompt, without the head of the answer."""
    turns = []
    for turn in text.split("<|im_start|>")[1:-1]:
        role, content = turn.split("\n", 1)
        turns.append({"role": role, "content": content.removesuffix("\n").removesuffix("<|im_end|>")})
    return turns


def batch_line(custom_id, turns, max_tokens):
    """A request in OpenAI's batch format, greedy."""
    body = {"messages": turns, "max_tokens": max_tokens, "temperature": 0}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line, ensure_ascii=False) + "\n"


def run_haul(haul, arguments, scratch, stdin=None):
    """Runs haul with a home of its own in `scratch`; an exit code other than 0 and 1 ends this program."""
    environment = os.environ | {"HAUL_HOME": str(scratch / "home")}
    command = [str(haul), *map(str, arguments)]
    ran = subprocess.run(command, check=False, stdin=stdin, capture_output=True, text=True, env=environment)
    if ran.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)}: exit code {ran.returncode}\n{ran.stderr}")
    return ran


def answers_of(path):
    """Text and tokens of each response of `haul generate`, by custom_id."""
    found = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["error"]:
            raise SystemExit(f"{row['custom_id']}: {row['error']}")
        body = row["response"]["body"]
        found[row["custom_id"]] = {
            "text": body["choices"][0]["message"]["content"],
            "finish": body["choices"][0]["finish_reason"],
            "tokens": body["usage"]["completion_tokens"],
            "prompt_tokens": body["usage"]["prompt_tokens"],
        }
    return found


def machine(threads, packages, haul=None):
    """Lines that say what was measured on what."""
    cpu = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    cpu = {name.strip(): value.strip() for name, value in cpu.items()}
    isa = [flag for flag in ISA_FLAGS if flag in cpu.get("flags", "").split()]
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{package} {importlib.metadata.version(package)}" for package in packages]
    if haul:
        versions.append(subprocess.run([haul, "--version"], check=True, capture_output=True, text=True).stdout.strip())
    return {
        "date": str(datetime.date.today()),
        "machine": f"{cpu.get('model name', platform.machine())}, {os.cpu_count()} CPUs",
        "isa": " ".join(isa),
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
        "versions": ", ".join(versions),
    }


def report(facts, header, rows, path):
    """Prints the machine and a Markdown table; `path` gets the same as JSON."""
    for name, value in facts.items():
        print(f"{name:9} {value}")
    print(f"\n| {' | '.join(header)} |")
    print(f"|---|{'---:|' * (len(header) - 1)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")
    if path:
        document = facts | {"rows": [dict(zip(header, row, strict=True)) for row in rows]}
        Path(path).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def log(line):
    print(line, file=sys.stderr, flush=True)
