#!/usr/bin/env python3
"""Haul beside the fastest ways to run the same encoder on a CPU: same texts, weights, threads and hours.

    compare.py --model DIR --calibration FILE.txt [--prose FILE.txt] [--haul BINARY]
               [--work DIR] [--venv DIR] [--threads 2] [--rounds 5]

DIR is all-MiniLM-L6-v2. The two text files are books, a blank line between paragraphs; they should differ, because
one calibrates OpenVINO's int8 and the other measures it. Without --haul only the peers are run.

Makes the environment of `requirements.txt` in --venv, the graphs of the peers in --work, and finds the best settings
of each peer for each mix of texts on this machine, each when it is not there; --work/settings.json is for one
machine, so delete it on another. Every peer is a process that has loaded its model and has seen the texts once before
anything is timed. Then the engines take turns, round after round, so that noise meets all of them alike. A run is a
whole mix, strings in, normalised vectors out, tokenization included. Printed are the median and the best of the
rounds, the ratios of the medians, and the cosine of each row to sentence-transformers in f32.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

SENTENCE_TRANSFORMERS = {"batch_texts": [32, 8, 16, 64]}
ONNX_RUNTIME = {"batch_tokens": [2048, 512, 1024, 4096, 8192], "streams": [1, 2, 4, 8]}
OPENVINO = {"batch_tokens": [1024, 256, 512, 2048, 4096], "streams": [1, 2, 4, 8]}

# Per peer: what is fixed, and the values tried of the rest, the first of each is where the search starts.
PEERS = {
    "sentence-transformers f32": ("sentence-transformers", {"dtype": ["float32"]} | SENTENCE_TRANSFORMERS),
    "sentence-transformers bf16": ("sentence-transformers", {"dtype": ["bfloat16"]} | SENTENCE_TRANSFORMERS),
    "ONNX Runtime f32": ("onnxruntime", {"graph": ["plain.onnx", "fused.onnx"]} | ONNX_RUNTIME),
    "ONNX Runtime int8 dynamic": ("onnxruntime", {"graph": ["plain-int8.onnx", "fused-int8.onnx"]} | ONNX_RUNTIME),
    "OpenVINO f32": ("openvino", {"graph": ["model.xml"], "precision": ["f32"]} | OPENVINO),
    "OpenVINO bf16": ("openvino", {"graph": ["model.xml"], "precision": ["bf16"]} | OPENVINO),
    "OpenVINO int8 NNCF": ("openvino", {"graph": ["int8.xml"], "precision": ["f32", "bf16"]} | OPENVINO),
    "OpenVINO int8 dynamic": ("openvino", {"graph": ["int8-dynamic.xml"], "precision": ["f32", "bf16"]} | OPENVINO),
}
ORACLE = "sentence-transformers f32"
HAUL_DTYPES = ["f32", "bf16", "int16", "int8"]
# Settings are searched on every fourth text of a mix.
TUNING_STRIDE = 4
TUNING_RUNS = 2
PACKAGES = ["sentence-transformers", "torch", "transformers", "tokenizers", "onnxruntime", "openvino", "nncf"]
ISA_FLAGS = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"]


def main():
    arguments = parse_arguments()
    continue_in_environment(arguments.venv)
    make_graphs(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        mixes = write_texts(arguments, scratch)
        engines = {name: Peer(arguments, scratch, name, runtime) for name, (runtime, _) in PEERS.items()}
        tune(engines, mixes, arguments.threads, arguments.work / "settings.json")
        if arguments.haul:
            engines = start_haul(arguments, scratch) | engines
        vectors = {(name, mix): engine.vectors(mix) for name, engine in engines.items() for mix in mixes}
        runs = run_rounds(engines, mixes, arguments.rounds)
    print_machine(arguments)
    for mix in mixes:
        print_mix(mix, engines, runs, vectors)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--calibration", required=True, type=Path)
    parser.add_argument("--prose", type=Path)
    parser.add_argument("--haul", type=Path)
    parser.add_argument("--work", type=Path, default=Path("peers"))
    parser.add_argument("--venv", type=Path, default=Path("venv"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def continue_in_environment(venv):
    """Makes the environment when it is not there, and starts this program again inside it."""
    python = venv.absolute() / "bin" / "python"
    if not python.exists():
        log(f"making the Python environment of the peers in {venv} (several GB)")
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        requirements = ["-r", HERE / "requirements.txt"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
    if not Path(sys.prefix).samefile(venv):
        os.execv(python, [python, *sys.argv])


def make_graphs(arguments):
    graphs = arguments.work / "graphs"
    if graphs.exists():
        return
    log(f"making the graphs of the peers in {graphs} (minutes)")
    arguments.work.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=arguments.work))
    command = [sys.executable, HERE / "graphs.py", "--model", arguments.model, "--out", unfinished]
    command += ["--calibration", arguments.calibration]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode != 0:
        raise SystemExit(f"graphs.py failed:\n{made.stderr}")
    unfinished.rename(graphs)


def write_texts(arguments, folder):
    """Writes each mix, and a part of it for the search of settings; returns the names of the mixes."""
    from engines import load_tokenizer
    from texts import write_mixes

    mixes = write_mixes(folder, load_tokenizer(arguments.model), arguments.prose)
    for mix in mixes:
        lines = text_file(folder, mix).read_text(encoding="utf-8").splitlines(keepends=True)
        text_file(folder, tuning_mix(mix)).write_text("".join(lines[::TUNING_STRIDE]), encoding="utf-8")
    return mixes


def text_file(folder, mix):
    return folder / f"{mix}.txt"


def tuning_mix(mix):
    return f"{mix}-tuning"


class Peer:
    """The process of one peer; `settings` holds the best ones of each mix once they are found."""

    def __init__(self, arguments, scratch, name, runtime):
        self.scratch = scratch
        self.runtime = runtime
        self.settings = {}
        self.log = scratch / f"{name}.log"
        command = [sys.executable, HERE / "engines.py", "--model", arguments.model, "--texts", scratch]
        command += ["--graphs", arguments.work / "graphs", "--threads", str(arguments.threads)]
        pipe = subprocess.PIPE
        with self.log.open("w") as stderr:
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True)

    def ask(self, mix, settings, save):
        request = {"mix": mix, "settings": {"runtime": self.runtime} | settings, "save": save}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.runtime} {settings} ended:\n{self.log.read_text()}")
        return json.loads(answer)

    def run(self, mix):
        return self.ask(mix, self.settings[mix], None)

    def vectors(self, mix):
        import numpy as np

        file = self.scratch / "vectors.npy"
        self.ask(mix, self.settings[mix], str(file))
        return np.load(file)

    def described(self, mix):
        return " ".join(f"{name}={value}" for name, value in self.settings[mix].items())


def tune(peers, mixes, threads, file):
    """Sets the settings of each peer and mix, from `file` as far as they are there."""
    found = json.loads(file.read_text()) if file.exists() else {}
    for name, peer in peers.items():
        for mix in mixes:
            key = f"{name}, {mix}"
            if key not in found:
                found[key] = best_settings(peer, tuning_mix(mix), possible_choices(name, threads))
                log(f"  {key}: {found[key]}")
                file.write_text(json.dumps(found, indent=1) + "\n")
            peer.settings[mix] = found[key]


def possible_choices(name, threads):
    """The choices of a peer, without the streams that cannot share the threads evenly."""
    _, choices = PEERS[name]
    return {key: [v for v in values if key != "streams" or threads % v == 0] for key, values in choices.items()}


def best_settings(peer, mix, choices):
    """One setting after the other, the others kept at their best so far."""
    best = {name: values[0] for name, values in choices.items()}
    best_s = tuning_seconds(peer, mix, best)
    for name, values in choices.items():
        for value in values[1:]:
            candidate = best | {name: value}
            seconds = tuning_seconds(peer, mix, candidate)
            if seconds < best_s:
                best, best_s = candidate, seconds
    return best


def tuning_seconds(peer, mix, settings):
    peer.ask(mix, settings, None)
    return min(peer.ask(mix, settings, None)["seconds"] for _ in range(TUNING_RUNS))


def start_haul(arguments, scratch):
    environment = os.environ | {"HAUL_HOME": str(scratch / "home")}
    add = [arguments.haul, "model", "add", arguments.model.absolute(), "--name", "minilm", "--link"]
    subprocess.run(add, check=True, capture_output=True, env=environment)
    return {f"haul {dtype}": Haul(arguments, scratch, environment, dtype) for dtype in HAUL_DTYPES}


class Haul:
    """Haul in one dtype: a process for each run, which times itself once its model is loaded."""

    def __init__(self, arguments, scratch, environment, dtype):
        self.binary = arguments.haul
        self.scratch = scratch
        self.environment = environment
        self.dtype = dtype
        self.options = ["--model", "minilm", "--dtype", dtype, "--threads", str(arguments.threads)]

    def run(self, mix):
        command = [self.binary, "bench", "encoder", *self.options, "--texts", text_file(self.scratch, mix), "--json"]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=self.environment)
        return next(row for row in json.loads(ran.stdout)["rows"] if row["dtype"] == self.dtype)

    def vectors(self, mix):
        import numpy as np

        file = self.scratch / "vectors.npy"
        command = [self.binary, "embed", *self.options, "--out", file]
        with text_file(self.scratch, mix).open("rb") as lines:
            subprocess.run(command, check=True, stdin=lines, stdout=subprocess.DEVNULL, env=self.environment)
        return np.load(file)

    def described(self, _mix):
        return "as it comes"


def run_rounds(engines, mixes, rounds):
    """The runs of each (engine, mix), one in each round."""
    runs = {(name, mix): [] for name in engines for mix in mixes}
    for number in range(1, rounds + 1):
        log(f"round {number} of {rounds}")
        for mix in mixes:
            for name, engine in engines.items():
                runs[name, mix].append(engine.run(mix))
            counts = {name: runs[name, mix][-1]["tokens"] for name in engines}
            if len(set(counts.values())) > 1:
                raise SystemExit(f"the engines do not agree on the tokens of {mix}: {counts}")
    return runs


def print_machine(arguments):
    cpu = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    cpu = {name.strip(): value.strip() for name, value in cpu.items()}
    isa = [flag for flag in ISA_FLAGS if flag in cpu["flags"].split()]
    print(f"date      {datetime.date.today()}")
    print(f"machine   {cpu['model name']} (family {cpu['cpu family']}, model {cpu['model']}), {os.cpu_count()} CPUs")
    print(f"isa       {' '.join(isa)}")
    print(f"threads   {arguments.threads}, {arguments.rounds} rounds, load {os.getloadavg()[0]:.1f} at the end")
    versions = [f"{package} {importlib.metadata.version(package)}" for package in PACKAGES]
    print(f"versions  Python {platform.python_version()}, {', '.join(versions)}")
    if arguments.haul:
        version = subprocess.run([arguments.haul, "--version"], check=True, capture_output=True, text=True).stdout
        print(f"          {version.strip()}")


def print_mix(mix, engines, runs, vectors):
    texts, tokens = len(vectors[ORACLE, mix]), runs[ORACLE, mix][0]["tokens"]
    print(f"\n{mix}: {texts} texts, {tokens} tokens\n")
    median, best = {}, {}
    for name in engines:
        rates = [run["tokens"] / run["seconds"] for run in runs[name, mix]]
        median[name], best[name] = statistics.median(rates), max(rates)
    hauls = [name for name in engines if name not in PEERS]
    ratios = "".join(f" | {name} is" for name in hauls)
    print(f"| engine | median tokens/s | best{ratios} | cosine mean | min | settings |")
    print(f"|---|---:|---:|{'---:|' * len(hauls)}---:|---:|---|")
    for name, engine in engines.items():
        ratios = "".join(f" | {median[haul] / median[name]:.2f}x" for haul in hauls)
        cosine = row_cosines(vectors[name, mix], vectors[ORACLE, mix])
        quality = f"{cosine.mean():.5f} | {cosine.min():.5f}"
        print(f"| {name} | {median[name]:,.0f} | {best[name]:,.0f}{ratios} | {quality} | {engine.described(mix)} |")


def row_cosines(rows, oracle):
    import numpy as np

    rows, oracle = rows.astype(np.float64), oracle.astype(np.float64)
    return (rows * oracle).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(oracle, axis=1)


def log(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
