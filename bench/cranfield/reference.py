#!/usr/bin/env python3
"""What sentence-transformers and SQLite's FTS5 score on Cranfield: the figures `haul eval` is held to.

    reference.py --data DIR --model DIR [--depth 100]

DIR is what convert.py wrote. The score is nDCG@10 over all 225 queries:

    relevant   gain > 0, and then every gain counts as 1
    DCG        sum of 1 / log2(rank + 1) over the relevant among the first ten, rank from 1
    ideal DCG  the same sum for min(10, number of relevant documents) hits; documents that cannot be found
               (995 is empty, and relevant to query 125) count in it
    mean       over all queries; a query without a relevant document would be left out, and there is none

dense ranks by the cosine of float32 vectors. bm25 is FTS5's own rank with the words of the query (\\w+), each
quoted, joined by OR. hybrid is reciprocal rank fusion of dense and porter bm25: the sum of 1 / (60 + rank)
over the lists a document is in, each cut at --depth. Equal scores keep dense order, then bm25 order.
"""

import argparse
import json
import math
import re
import sqlite3
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

RESULTS = 10
FUSION_K = 60
BATCH_TEXTS = 32


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--depth", type=int, default=100, help="how much of each list is fused")
    arguments = parser.parse_args()
    documents = read_lines(arguments.data / "documents.jsonl")
    queries = read_lines(arguments.data / "queries.jsonl")
    relevant = read_relevant(arguments.data / "judgments.qrels")

    dense = rank_dense(arguments.model, documents, queries)
    porter = rank_bm25("porter", documents, queries)
    rankings = {
        "dense": dense,
        "bm25 porter": porter,
        "bm25 unicode61": rank_bm25("unicode61", documents, queries),
        "hybrid": [fuse(lists, arguments.depth) for lists in zip(dense, porter)],
    }
    for name, ranking in rankings.items():
        scores = [ndcg(ranked, relevant[query["id"]]) for ranked, query in zip(ranking, queries) if query["id"] in relevant]
        print(f"{name:16} {sum(scores) / len(scores):.4f}")


def ndcg(ranked, relevant):
    dcg = sum(1 / math.log2(rank + 1) for rank, document in enumerate(ranked[:RESULTS], start=1) if document in relevant)
    return dcg / sum(1 / math.log2(rank + 1) for rank in range(1, min(RESULTS, len(relevant)) + 1))


def fuse(lists, depth):
    scores = {}
    for ranked in lists:
        for rank, document in enumerate(ranked[:depth], start=1):
            scores[document] = scores.get(document, 0.0) + 1 / (FUSION_K + rank)
    return sorted(scores, key=lambda document: -scores[document])


def rank_dense(model_dir, documents, queries):
    model = SentenceTransformer(model_dir, device="cpu", local_files_only=True)
    vectors = model.encode([d["text"] for d in documents], batch_size=BATCH_TEXTS, normalize_embeddings=True)
    wanted = model.encode([q["text"] for q in queries], batch_size=BATCH_TEXTS, normalize_embeddings=True)
    return [[documents[i]["id"] for i in np.argsort(-row, kind="stable")] for row in wanted @ vectors.T]


def rank_bm25(tokenizer, documents, queries):
    database = sqlite3.connect(":memory:")
    database.execute(f"CREATE VIRTUAL TABLE documents USING fts5(text, tokenize = '{tokenizer}')")
    database.executemany("INSERT INTO documents(rowid, text) VALUES (?, ?)", [(i, d["text"]) for i, d in enumerate(documents)])
    ranking = []
    for query in queries:
        words = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", query["text"]))
        rows = database.execute("SELECT rowid FROM documents WHERE documents MATCH ? ORDER BY rank, rowid", (words,))
        ranking.append([documents[rowid]["id"] for (rowid,) in rows])
    return ranking


def read_relevant(path):
    relevant = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        query, _, document, gain = line.split()
        if int(gain) > 0:
            relevant.setdefault(query, set()).add(document)
    return relevant


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
