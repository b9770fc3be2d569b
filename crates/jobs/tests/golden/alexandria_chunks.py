#!/usr/bin/env python3
"""Where Alexandria's chunkers cut, by its rules written down again, for texts and sentence vectors made from a seed.

    python3 alexandria_chunks.py > alexandria_chunks.json

Needs Python alone. `chunks_are_those_of_alexandria` in jobs/src/ingest/pieces.rs must cut the same texts alike.
Vectors are chosen so that no cosine is nearer than 0.001 to a threshold: rounding decides nothing.
"""

import json
import math
import random
import re

WORDS_PER_TOKEN = 1 / 1.3
THRESHOLDS = (0.4, 0.55, 0.7)
SPACES = (" ", "  ", "\n", " \n\n ", "\t", "\u00a0")
MARKS = (".", "!", "?", "...", ".\u201d", ";", ",", ". )")


def sentences_of(text):
    """Parts of a text between white space that follows a full stop, an exclamation mark or a question mark."""
    parts = re.split(r"(?<=[.!?])\s+", text)
    return [part.strip() for part in parts if len(part.strip()) > 2]


def semantic(sentences, vectors, threshold, words_min, words_max):
    chunks, held, held_words = [], [], 0
    for number, sentence in enumerate(sentences):
        words = len(sentence.split())
        if held:
            differs = cosine(vectors[number - 1], vectors[number]) < threshold
            if (differs and held_words >= words_min) or held_words + words > words_max:
                chunks.append(" ".join(held))
                held, held_words = [], 0
        held.append(sentence)
        held_words += words
    return chunks + [" ".join(held)] if held else chunks


def fixed(text, size, overlap, minimum):
    words = text.split()
    if len(words) < minimum:
        return [text.strip()] if len(words) >= 10 else []
    chunks, start = [], 0
    while True:
        end = min(start + size, len(words))
        chunks.append(" ".join(words[start:end]))
        if end == len(words):
            return chunks
        start = end - overlap


def sections_by_headings(text):
    """Name and words of each section of a PDF without an outline; short ones are dropped."""
    heading = re.compile(r"(CHAPTER|Chapter)\s+\d|(PART|Part)\s+[IVX\d]|\d+\.\s+[A-Z]")
    found, name, lines = [], "Introduction", []
    for line in text.split("\n"):
        if heading.match(line.strip()):
            if lines:
                found.append((name, "\n".join(lines)))
            name, lines = line.strip(), []
        else:
            lines.append(line)
    if lines:
        found.append((name, "\n".join(lines)))
    kept = [(name, len(body.split())) for name, body in found if len(body.split()) >= int(500 * WORDS_PER_TOKEN)]
    return kept or sections_by_words(text)


def sections_by_words(text):
    size, found = int(5000 * WORDS_PER_TOKEN), []
    words = text.split()
    for start in range(0, len(words), size):
        part = words[start:start + size]
        if len(part) >= 500 / 1.3:
            found.append((f"Section {len(found) + 1}", len(part)))
    return found


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def make_text(rng, sentences):
    text = rng.choice(("", " ", "\n"))
    for _ in range(sentences):
        words = ["".join(rng.choices("abcdefgäß\u5929", k=rng.randint(1, 9))) for _ in range(rng.randint(1, 14))]
        text += rng.choice(SPACES).join(words) + rng.choice(MARKS) + rng.choice(SPACES)
        if rng.random() < 0.1:
            text += rng.choice(("I. ", "?! ", "- ", "ab. "))
    return text


def make_vectors(rng, count):
    vectors = []
    while len(vectors) < count:
        fresh = [rng.gauss(0, 1) for _ in range(4)]
        # Neighbours are often alike.
        if vectors and rng.random() < 0.7:
            fresh = [x + 0.6 * y for x, y in zip(vectors[-1], fresh)]
        fresh = [round(x, 3) for x in fresh]
        if not vectors or all(abs(cosine(vectors[-1], fresh) - threshold) > 0.001 for threshold in THRESHOLDS):
            vectors.append(fresh)
    return vectors


def chunk_cases(rng):
    for sentences in (0, 1, 2, 5, 40, 120):
        text = make_text(rng, sentences)
        found = sentences_of(text)
        vectors = make_vectors(rng, len(found))
        cuts = []
        for threshold in THRESHOLDS:
            for words_min, words_max in ((0, 20), (20, 60), (60, 400)):
                chunks = semantic(found, vectors, threshold, words_min, words_max)
                cuts.append({"threshold": threshold, "words_min": words_min, "words_max": words_max, "chunks": chunks})
        windows = []
        for size, overlap, minimum in ((500, 50, 100), (20, 5, 10), (7, 0, 3), (30, 15, 30)):
            chunks = fixed(text, size, overlap, minimum)
            windows.append({"words": size, "overlap_words": overlap, "words_min": minimum, "chunks": chunks})
        yield {"text": text, "sentences": found, "vectors": vectors, "semantic": cuts, "fixed": windows}


def section_cases(rng):
    """Texts as lists of [word, how often] and headings, so that the file stays small."""
    headings = ("CHAPTER 1", "Chapter 22 Home", "PART IV", "Part 3", "1. Title", "12.  End", "chapter 3", "3.Title")
    for _ in range(12):
        parts = []
        for _ in range(rng.randint(1, 5)):
            if rng.random() < 0.7:
                parts.append([rng.choice(headings), 1])
            parts.append(["word", rng.choice((3, 383, 384, 385, 400, 3846, 4230, 4231))])
        text = "\n".join(" ".join([word] * count) for word, count in parts)
        yield {"parts": parts, "pdf": sections_by_headings(text), "text": sections_by_words(text)}


def main():
    rng = random.Random(4)
    golden = {"chunks": list(chunk_cases(rng)), "sections": list(section_cases(rng))}
    print(json.dumps(golden, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
