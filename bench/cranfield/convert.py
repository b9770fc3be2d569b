#!/usr/bin/env python3
"""Turns the Cranfield collection into the files `haul ingest` and `haul eval` read.

    convert.py --source DIR --out DIR

DIR holds cran.all.1400, cran.qry and cranqrel. Written are

    documents.jsonl   {"id", "title", "text"}: text is the title and then the .W field. That field repeats the
                      title at its start, so a title counts twice: that is the text of the published figures.
    queries.jsonl     {"id", "text"}: ids 1 to 225 by place in the file. cran.qry's own .I numbers run to 365
                      and are not the ones that cranqrel speaks of.
    judgments.qrels   TREC lines `query 0 document gain`: gain 1 for the codes 1 to 4, 0 for -1.

Cranfield's codes run backwards, 1 is a complete answer and 4 of minimum interest, so they are no gains; -1
(5 in other copies, once for each query) is judged and of no interest. Documents 471 and 995 are empty and
kept as they are. 995 is judged relevant to query 125, so no text search can be perfect there.
"""

import argparse
import json
import re
from pathlib import Path

DOCUMENTS = 1400
QUERIES = 225


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    documents = read_documents(arguments.source / "cran.all.1400")
    queries = read_queries(arguments.source / "cran.qry")
    judgments = read_judgments(arguments.source / "cranqrel")
    if (len(documents), len(queries)) != (DOCUMENTS, QUERIES):
        raise SystemExit(f"{len(documents)} documents and {len(queries)} queries, wanted {DOCUMENTS} and {QUERIES}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_lines(arguments.out / "documents.jsonl", [json.dumps(d) for d in documents])
    write_lines(arguments.out / "queries.jsonl", [json.dumps(q) for q in queries])
    write_lines(arguments.out / "judgments.qrels", [f"{query} 0 {document} {gain}" for query, document, gain in judgments])
    relevant = sum(gain > 0 for _, _, gain in judgments)
    print(f"{len(documents)} documents, {len(queries)} queries, {len(judgments)} judgments, {relevant} of them relevant")


def read_documents(path):
    documents = []
    for record in records(path):
        number, title, rest = re.match(r"(\d+)\n\.T\n(.*?)^\.A\n(.*)", record, re.DOTALL | re.MULTILINE).groups()
        _, _, abstract = rest.partition(".W\n")
        # 576 and 578 open a second .W field, which goes on with the same abstract.
        text = one_line(title) + " " + one_line(re.sub(r"^\.W\n", "", abstract, flags=re.MULTILINE))
        documents.append({"id": number, "title": one_line(title), "text": text.strip()})
    return documents


def read_queries(path):
    texts = [one_line(record.partition("\n.W\n")[2]) for record in records(path)]
    return [{"id": str(place), "text": text} for place, text in enumerate(texts, start=1)]


def read_judgments(path):
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [(query, document, 1 if int(code) >= 1 else 0) for query, document, code in rows]


def records(path):
    return re.split(r"^\.I ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


def one_line(text):
    return " ".join(text.split())


def write_lines(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
