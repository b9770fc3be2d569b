"""The mixes of texts that are measured, one text a line, the same for every engine and on every machine.

256     400 texts of exactly 256 tokens, the two special tokens counted
mix     600 texts of 4 to 235 words, log-normal with a median of 60: what a search box and a shelf send together
prose   paragraphs of a book, each cut to 256 tokens (only with a text file): real spelling, names, punctuation

The words of the first two are whole words of the model's vocabulary, the common ones, drawn by a seeded generator.
"""

import random

import numpy as np

SEED = 20
MAX_TOKENS = 256
SPECIAL_TOKENS = 2
FULL_TEXTS = 400
MIX_TEXTS = 600
MIX_MEDIAN_WORDS = 60
MIX_SIGMA = 0.8
MIX_WORDS = (4, 235)
PROSE_TEXTS = 400
PROSE_SHORTEST_CHARS = 80
COMMON_WORDS = 3000
# BERT's vocabulary is sorted by frequency; "the" is the first whole word after letters, digits and scripts.
FIRST_WORD = "the"


def write_mixes(folder, tokenizer, prose_file):
    """Writes MIX.txt into `folder` for each mix; returns the names of the mixes."""
    mixes = {"256": full_texts(tokenizer), "mix": mixed_texts(tokenizer)}
    if prose_file:
        mixes["prose"] = prose_texts(prose_file, tokenizer)
    for mix, texts in mixes.items():
        (folder / f"{mix}.txt").write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return list(mixes)


def full_texts(tokenizer):
    words, generator = common_words(tokenizer), random.Random(SEED)
    texts = [" ".join(generator.choices(words, k=MAX_TOKENS - SPECIAL_TOKENS)) for _ in range(FULL_TEXTS)]
    lengths = {len(encoding) for encoding in tokenizer.encode_batch(texts)}
    if lengths != {MAX_TOKENS}:
        raise ValueError(f"a common word is more than one token: texts of {sorted(lengths)} tokens")
    return texts


def mixed_texts(tokenizer):
    words, generator = common_words(tokenizer), random.Random(SEED + 1)
    drawn = [MIX_MEDIAN_WORDS * np.exp(generator.gauss(0, MIX_SIGMA)) for _ in range(MIX_TEXTS)]
    counts = np.clip(drawn, *MIX_WORDS).astype(int)
    return [" ".join(generator.choices(words, k=int(count))) for count in counts]


def common_words(tokenizer):
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    first = tokenizer.token_to_id(FIRST_WORD)
    words = [word for word, token in by_id if token >= first and word.isascii() and word.isalpha() and len(word) > 1]
    return words[:COMMON_WORDS]


def prose_texts(file, tokenizer):
    """At most PROSE_TEXTS paragraphs, spread evenly over the file, each cut where its 256 tokens end."""
    blocks = file.read_text(encoding="utf-8").split("\n\n")
    paragraphs = [" ".join(block.split()) for block in blocks]
    paragraphs = [paragraph for paragraph in paragraphs if len(paragraph) >= PROSE_SHORTEST_CHARS]
    picked = np.linspace(0, len(paragraphs) - 1, min(PROSE_TEXTS, len(paragraphs))).astype(int)
    return [cut(paragraphs[i], tokenizer) for i in picked]


def cut(text, tokenizer):
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    content_tokens = MAX_TOKENS - SPECIAL_TOKENS
    return text if len(offsets) <= content_tokens else text[: offsets[content_tokens - 1][1]]
