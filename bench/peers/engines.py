#!/usr/bin/env python3
"""One peer in a process of its own: loads its model once, then embeds a mix for each line it reads.

    engines.py --model DIR --graphs DIR --texts DIR --threads N

A line on stdin is {"mix": NAME, "settings": {"runtime": .., ..}, "save": FILE.npy or null}; the answer is one line
{"seconds": .., "tokens": ..}. A run takes the texts as strings and ends with normalised f32 vectors [texts, 384] in
their order; tokenization is part of it. Tokens are the real ones with the two special ones, padding not counted.

The graphs of ONNX Runtime and OpenVINO pool and normalise themselves. Their texts are tokenized in one call
(two threads inside `tokenizers`), sorted by tokens, the longest first, and padded to the longest of each batch.
A batch is as many texts as fit into `batch_tokens`, padding counted. `streams` batches are in flight at a time and
share the threads.
"""

import argparse
import functools
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

MAX_TOKENS = 256
DIMENSIONS = 384


def main():
    arguments = parse_arguments()
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    tokenizer = load_tokenizer(arguments.model)
    mix = functools.cache(lambda name: load_mix(arguments.texts / f"{name}.txt", tokenizer))
    engine = functools.cache(lambda **settings: load_engine(arguments, tokenizer, **settings))
    for line in sys.stdin:
        request = json.loads(line)
        loaded = engine(**load_settings(request["settings"]))
        texts, tokens = mix(request["mix"])
        started = time.perf_counter()
        vectors = loaded.embed(texts, request["settings"])
        seconds = time.perf_counter() - started
        if request["save"]:
            np.save(request["save"], vectors)
        print(json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--graphs", required=True, type=Path)
    parser.add_argument("--texts", required=True, type=Path)
    parser.add_argument("--threads", required=True, type=int)
    return parser.parse_args()


def load_tokenizer(model_dir):
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def load_settings(settings):
    """What a model is loaded with; the size of a batch is told with every run."""
    return {name: value for name, value in settings.items() if not name.startswith("batch_")}


def load_mix(file, tokenizer):
    texts = file.read_text(encoding="utf-8").splitlines()
    return texts, sum(len(encoding) for encoding in tokenizer.encode_batch(texts))


def load_engine(arguments, tokenizer, runtime, **settings):
    runtimes = {"sentence-transformers": SentenceTransformers, "onnxruntime": OnnxRuntime, "openvino": OpenVino}
    return runtimes[runtime](arguments, tokenizer, **settings)


class SentenceTransformers:
    """sentence-transformers sorts by length, tokenizes, pads, pools and normalises by itself."""

    def __init__(self, arguments, _tokenizer, dtype):
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(arguments.threads)
        self.model = SentenceTransformer(
            str(arguments.model), device="cpu", local_files_only=True, model_kwargs={"dtype": getattr(torch, dtype)}
        )

    def embed(self, texts, settings):
        batch_size = settings["batch_texts"]
        vectors = self.model.encode(
            texts, batch_size=batch_size, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        )
        return vectors.float().numpy()


class OnnxRuntime:
    """One session; with two streams, two Python threads call it, each with half of the threads inside."""

    def __init__(self, arguments, tokenizer, graph, streams):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = arguments.threads // streams
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        path = str(arguments.graphs / graph)
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.tokenizer = tokenizer
        self.pool = ThreadPoolExecutor(streams)

    def embed(self, texts, settings):
        encodings = self.tokenizer.encode_batch_fast(texts)
        vectors = np.empty((len(texts), DIMENSIONS), np.float32)

        def run(rows):
            vectors[rows] = self.session.run(None, padded(encodings, rows))[0]

        list(self.pool.map(run, batches(encodings, settings["batch_tokens"])))
        return vectors


class OpenVino:
    """A compiled model with its own queue of requests, as its guide for throughput says."""

    def __init__(self, arguments, tokenizer, graph, streams, precision):
        import openvino
        from openvino import properties

        core = openvino.Core()
        hint = "THROUGHPUT" if streams > 1 else "LATENCY"
        config = {
            properties.hint.performance_mode(): hint,
            properties.hint.inference_precision(): precision,
            properties.num_streams(): streams,
            properties.inference_num_threads(): arguments.threads,
        }
        self.queue = openvino.AsyncInferQueue(core.compile_model(arguments.graphs / graph, "CPU", config), streams)
        self.tokenizer = tokenizer

    def embed(self, texts, settings):
        encodings = self.tokenizer.encode_batch_fast(texts)
        vectors = np.empty((len(texts), DIMENSIONS), np.float32)

        def keep(request, rows):
            vectors[rows] = request.get_output_tensor(0).data

        self.queue.set_callback(keep)
        for rows in batches(encodings, settings["batch_tokens"]):
            self.queue.start_async(padded(encodings, rows), rows)
        self.queue.wait_all()
        return vectors


def batches(encodings, batch_tokens):
    """Indices of texts, the longest first, in batches of at most `batch_tokens` with padding, at least one text."""
    order = sorted(range(len(encodings)), key=lambda i: len(encodings[i]), reverse=True)
    start = 0
    while start < len(order):
        texts = max(1, batch_tokens // len(encodings[order[start]]))
        yield order[start : start + texts]
        start += texts


def padded(encodings, rows):
    """The two inputs of the graphs, [texts, longest] each."""
    longest = max(len(encodings[row]) for row in rows)
    input_ids = np.zeros((len(rows), longest), np.int64)
    attention_mask = np.zeros((len(rows), longest), np.int64)
    for place, row in enumerate(rows):
        ids = encodings[row].ids
        input_ids[place, : len(ids)] = ids
        attention_mask[place, : len(ids)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


if __name__ == "__main__":
    main()
