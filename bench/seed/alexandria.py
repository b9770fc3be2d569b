#!/usr/bin/env python3
"""Alexandria's way of a book, repeated in our own words, to measure Haul beside it.

    alexandria.py --model DIR --book FILE.epub [--threads 2] [--parents] [--json]

The steps are those of Alexandria-RAG (2026-02): EPUB items in manifest order, chapters under 384 words
dropped, a semantic chunker that embeds every sentence to find where the topic breaks, then a second pass
of the same model over the chunks; one book at a time, on the CPU, 32 texts a batch.
Parsing, both passes and the walk between them are timed. Python's imports and loading the model are not.
"""

import argparse
import json
import re
import time
import warnings

import numpy as np
import torch
from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning
from ebooklib import ITEM_DOCUMENT, epub
from sentence_transformers import SentenceTransformer

WORDS_PER_TOKEN = 1 / 1.3
CHAPTER_WORDS_MIN = int(500 * WORDS_PER_TOKEN)
PARENT_WORDS_MAX = int(8192 * WORDS_PER_TOKEN)
CHUNK_WORDS_MIN = 200
CHUNK_WORDS_MAX = 1200
SIMILARITY_THRESHOLD = 0.55
SENTENCE_CHARS_MIN = 3
BATCH_TEXTS = 32


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    model = SentenceTransformer(arguments.model, device="cpu", local_files_only=True)
    report = ingest(model, arguments.book, with_parents=arguments.parents)
    report["threads"] = arguments.threads
    if arguments.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name:>20} {value}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory of a sentence-transformers model")
    parser.add_argument("--book", required=True, help="EPUB file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parents", action="store_true", help="also embed every chapter, as the hierarchical mode does")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def ingest(model, book, with_parents):
    """Parses, chunks and embeds one book; the report's seconds hold all of it."""
    started, cpu_started = time.perf_counter(), time.process_time()
    chapters = read_chapters(book)
    parsed = time.perf_counter()
    chunks, sentences, sentence_seconds = [], 0, 0.0
    for chapter in chapters:
        chapter_chunks, chapter_sentences, seconds = chunk_by_topic(model, chapter)
        chunks += chapter_chunks
        sentences += chapter_sentences
        sentence_seconds += seconds
    parents = [parent_text(chapter) for chapter in chapters] if with_parents else []
    chunked = time.perf_counter()
    vectors = model.encode(parents + chunks, batch_size=BATCH_TEXTS, show_progress_bar=False)
    finished = time.perf_counter()
    assert len(vectors) == len(parents) + len(chunks)
    return {
        "seconds": round(finished - started, 2),
        "parse_seconds": round(parsed - started, 2),
        "sentence_seconds": round(sentence_seconds, 2),
        "chunk_embed_seconds": round(finished - chunked, 2),
        # About threads x seconds on a calm machine; less than that, and something else was running.
        "cpu_seconds": round(time.process_time() - cpu_started, 2),
        "chapters": len(chapters),
        "parents": len(parents),
        "chunks": len(chunks),
        "sentences": sentences,
        "words": sum(len(chapter.split()) for chapter in chapters),
    }


def read_chapters(path):
    """The text of each document item in manifest order, without those too short to be a chapter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        book = epub.read_epub(path, options={"ignore_ncx": True})
        items = book.get_items_of_type(ITEM_DOCUMENT)
        texts = [BeautifulSoup(item.get_content(), "html.parser").get_text() for item in items]
    return [text for text in texts if len(text.split()) >= CHAPTER_WORDS_MIN]


def chunk_by_topic(model, text):
    """Cuts where two neighbouring sentences differ; returns the chunks, the count of sentences and the model's seconds."""
    sentences = [s.strip() for s in re.split(r"(?<=[.!?])\s+", text)]
    sentences = [s for s in sentences if len(s) >= SENTENCE_CHARS_MIN]
    started = time.perf_counter()
    vectors = model.encode(sentences, batch_size=BATCH_TEXTS, show_progress_bar=False)
    seconds = time.perf_counter() - started

    chunks, current, words = [], [], 0
    for i, sentence in enumerate(sentences):
        sentence_words = len(sentence.split())
        topic_breaks = i > 0 and words >= CHUNK_WORDS_MIN and cosine(vectors[i - 1], vectors[i]) < SIMILARITY_THRESHOLD
        if current and (topic_breaks or words + sentence_words > CHUNK_WORDS_MAX):
            chunks.append(" ".join(current))
            current, words = [], 0
        current.append(sentence)
        words += sentence_words
    if current:
        chunks.append(" ".join(current))
    return chunks, len(sentences), seconds


def cosine(a, b):
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def parent_text(chapter):
    words = chapter.split()
    if len(words) <= PARENT_WORDS_MAX:
        return chapter
    return " ".join(words[:PARENT_WORDS_MAX]) + " [truncated]"


if __name__ == "__main__":
    main()
