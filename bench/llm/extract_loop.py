"""Extraction from the tiny model's companies as a plain loop does it: one call at a time, nothing shared, nothing kept.

    python extract_loop.py --tiny DIR --model tiny-f16.gguf --out loop.json

Windows of 16 lines, 14 apart; in each window the facilities; then for each facility and window the groups that are
present, and one question for each field of those. Of several answers to a field those whose value stands in the cited line
come first, then the most frequent. Prompts are those of the schema, document first. The result has the shape of
`records.json`, so that `extract_score.py` counts both alike.
"""
import argparse
import collections
import json
import re
import time
from pathlib import Path

import numpy as np
from llama_cpp import Llama

WINDOW_LINES, STEP = 16, 14
ANSWER_TOKENS_MAX = 120
CONTEXT = 1024


class Loop:
    """A model that answers one prompt after the other."""

    def __init__(self, file, threads):
        self.model = Llama(str(file), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)
        self.end = self.model.tokenize(b"<|im_end|>", add_bos=False, special=True)[0]
        self.calls = self.prefill = self.decoded = 0

    def ask(self, document, question):
        prompt = f"<|im_start|>user\n{document}\n\n{question}<|im_end|>\n<|im_start|>assistant\n"
        ids = self.model.tokenize(prompt.encode(), add_bos=False, special=True)
        self.model.reset()
        self.model.eval(ids)
        out = []
        while len(out) < ANSWER_TOKENS_MAX and len(ids) + len(out) < CONTEXT - 4:
            token = int(np.ctypeslib.as_array(self.model._ctx.get_logits(), shape=(self.model.n_vocab(),)).argmax())
            if token == self.end:
                break
            out.append(token)
            self.model.eval([token])
        self.calls += 1
        self.prefill += len(ids)
        self.decoded += len(out)
        try:
            return json.loads(self.model.detokenize(out).decode("utf-8", "replace"))
        except ValueError:
            return {}


def lines_of(text):
    """Headings and sentences, in order."""
    lines = []
    for paragraph in text.split("\n"):
        start, paragraph = 0, paragraph.strip()
        for end in re.finditer(r"(?<=[.])\s+(?=[A-Z0-9])", paragraph):
            if not re.search(r"(^\d+|\b[A-Z])\.$", paragraph[: end.start()]):
                lines.append(paragraph[start : end.start()])
                start = end.end()
        if paragraph[start:]:
            lines.append(paragraph[start:])
    return lines


def windows_of(folder):
    windows = []
    for file in sorted(folder.glob("*.txt")):
        lines = lines_of(file.read_text(encoding="utf-8"))
        for start in range(0, len(lines), STEP):
            windows.append(lines[start : start + WINDOW_LINES])
            if start + WINDOW_LINES >= len(lines):
                break
    return windows


def shown(window):
    return "\n".join(f"[{number}] {line}" for number, line in enumerate(window, 1))


def facilities_of(loop, windows):
    found = {}
    for window in windows:
        answer = loop.ask(shown(window), "TASK facilities")
        for facility in answer.get("facilities", []) if isinstance(answer, dict) else []:
            found.setdefault(facility.get("name", ""), facility.get("type"))
    return found


def chosen(answers):
    """Of (value, line that was cited): whose value stands in its line, then the most frequent."""
    counted = collections.Counter(answers)
    (value, _), _ = max(counted.items(), key=lambda item: (item[0][1], item[1]))
    return value


def fields_of(loop, windows, facility, groups):
    answers = collections.defaultdict(list)
    for window in windows:
        present = loop.ask(shown(window), f"TASK present\nFACILITY {facility}\nGROUPS {', '.join(groups)}").get("present", [])
        for field in (field for group in present for field in groups.get(group, [])):
            stated = loop.ask(shown(window), f"TASK fields\nFACILITY {facility}\nFIELDS {field}").get(field)
            if not isinstance(stated, dict) or "value" not in stated:
                continue
            at = stated.get("at", 0)
            is_there = isinstance(at, int) and 1 <= at <= len(window) and str(stated["value"]) in window[at - 1]
            answers[field].append((str(stated["value"]), is_there))
    return {field: {"value": chosen(of_field)} for field, of_field in answers.items()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--tiny", type=Path, required=True, help="folder with schema.json and companies/")
    arguments.add_argument("--model", type=Path, help="the GGUF file [default: tiny-f16.gguf of the folder]")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--companies", type=int, default=24)
    arguments.add_argument("--out", type=Path, required=True)
    args = arguments.parse_args()
    schema = json.loads((args.tiny / "schema.json").read_text(encoding="utf-8"))
    groups = {group["name"]: [field["name"] for field in group["fields"]] for group in schema["groups"]}
    loop = Loop(args.model or args.tiny / "tiny-f16.gguf", args.threads)
    records, started = [], time.perf_counter()
    for folder in sorted(path for path in (args.tiny / "companies").iterdir() if path.is_dir())[: args.companies]:
        windows = windows_of(folder)
        for facility, kind in facilities_of(loop, windows).items():
            fields = fields_of(loop, windows, facility, groups)
            records.append({"company": folder.name, "facility": facility, "facility_type": kind, "fields": fields})
    seconds = time.perf_counter() - started
    args.out.write_text(json.dumps(records, indent=1), encoding="utf-8")
    print(f"{loop.calls} calls, {loop.prefill} prompt tokens, {loop.decoded} answer tokens, {seconds:.0f} s, "
          f"{60 * loop.calls / seconds:.0f} calls a minute")


if __name__ == "__main__":
    main()
