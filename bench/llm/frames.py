"""haul-llama spoken to from Python: frames of `crates/frames`, a 4-byte little-endian length before a JSON document."""

import json
import struct
import subprocess
from pathlib import Path

PROTOCOL = 3
FRAME_BYTES_MAX = 256 << 20
GREEDY = {
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repeat_penalty": 1.0,
    "repeat_last": 0,
    "seed": 0,
}


class Worker:
    """A worker with one model, on the processor. Use it in a `with`, so that it ends."""

    def __init__(self, executable, model, n_ctx, threads=2, sequences=2):
        executable = Path(executable).absolute()
        command = [executable, "--backends", executable.parent / "backends"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        self.hello = self.event("hello")
        if self.hello["protocol"] != PROTOCOL:
            raise SystemExit(f"protocol {self.hello['protocol']}, not {PROTOCOL}")
        self.loaded = self.ask(
            "load",
            "loaded",
            model=str(Path(model).absolute()),
            devices=[],
            gpu_layers=None,
            lanes=1,
            n_ctx=n_ctx,
            n_batch=min(n_ctx, 2048),
            n_ubatch=512,
            n_seq_max=sequences,
            kv_unified=True,
            threads=threads,
            type_k="f16",
            type_v="f16",
            flash_attention="auto",
            mmap=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.process.stdin.close()
        self.process.wait()

    def send(self, ask, **fields):
        body = json.dumps({"ask": ask, **fields}).encode()
        self.process.stdin.write(struct.pack("<I", len(body)) + body)
        self.process.stdin.flush()

    def event(self, say):
        """The next event that is no beat; it must be `say`."""
        while True:
            length = self.process.stdout.read(4)
            if len(length) < 4:
                raise SystemExit(f"haul-llama ended ({self.process.wait()}) where {say} was expected")
            (length,) = struct.unpack("<I", length)
            if length > FRAME_BYTES_MAX:
                raise SystemExit(f"a frame of {length} bytes")
            event = json.loads(self.process.stdout.read(length))
            if event["say"] == say:
                return event
            if event["say"] != "beat":
                raise SystemExit(f"{say} was expected: {json.dumps(event)[:500]}")

    def ask(self, ask, say, **fields):
        self.send(ask, **fields)
        return self.event(say)

    def tokenize(self, text):
        return self.ask("tokenize", "tokens", texts=[text], marks="read")["ids"][0]

    def score(self, ids, top_k=0, wanted=()):
        """Log-probabilities after each position: `top` pairs, `wanted` lists, `next`."""
        return self.ask("score", "scored", ids=list(ids), top_k=top_k, wanted=[list(w) for w in wanted])

    def answer(self, prefix, suffixes, max_tokens):
        """Answers to calls with one prefix, in their order."""
        calls = [
            {
                "id": number,
                "suffix": suffix,
                "max_tokens": max_tokens,
                "stop": [],
                "sampling": GREEDY,
                "constraint": None,
                "logprobs": None,
            }
            for number, suffix in enumerate(suffixes, 1)
        ]
        self.send("group", prefix=prefix, calls=calls)
        answers = [self.event("answer") for _ in calls]
        return sorted(answers, key=lambda answer: answer["id"])
