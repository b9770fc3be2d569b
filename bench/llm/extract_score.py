"""What is right of the records of the tiny model's companies.

    python extract_score.py --tiny DIR RECORDS.json [--show 20]

RECORDS.json is what `haul extract` or `extract_loop.py` wrote. A field is right if its value is letter by letter the one of
`companies/gold.json`; invented is a value of a field that is stated nowhere; a facility is known by its name.
"""
import argparse
import collections
import json
from pathlib import Path


def values_of(records):
    """{(company, facility): {field: value}}, without fields that have none."""
    found = {}
    for record in records:
        fields = record["fields"].items()
        found[record["company"], record["facility"]] = {
            name: field["value"] for name, field in fields if field.get("value") not in (None, "")
        }
    return found


def scored(gold, records):
    counts, wrong = collections.Counter(), []
    found = values_of(records)
    companies = {company for company, _ in found}
    for company in sorted(companies):
        for facility in gold[company]["facilities"]:
            name, stated = facility["name"], facility["fields"]
            got = found.pop((company, name), None)
            counts["facilities"] += 1
            counts["facilities found"] += got is not None
            got = got or {}
            counts["stated"] += len(stated)
            for field, fact in stated.items():
                if field not in got:
                    counts["missing"] += 1
                    wrong.append((company, name, field, fact["value"], None, fact["sentence"]))
                elif got[field] == fact["value"]:
                    counts["right"] += 1
                else:
                    counts["wrong"] += 1
                    wrong.append((company, name, field, fact["value"], got[field], fact["sentence"]))
            for field in got.keys() - stated.keys():
                counts["invented"] += 1
                wrong.append((company, name, field, None, got[field], ""))
    counts["facilities that are none"] = len(found)
    counts["values of facilities that are none"] = sum(len(fields) for fields in found.values())
    return counts, wrong, sorted(found)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--tiny", type=Path, required=True)
    arguments.add_argument("--show", type=int, default=0, help="so many of what is not right")
    arguments.add_argument("records", type=Path)
    args = arguments.parse_args()
    gold = json.loads((args.tiny / "companies/gold.json").read_text(encoding="utf-8"))
    counts, wrong, none = scored(gold, json.loads(args.records.read_text(encoding="utf-8")))
    print(json.dumps(counts))
    for row in wrong[: args.show]:
        print(*row, sep=" | ")
    for company, facility in none[: args.show]:
        print(company, facility, "is none", sep=" | ")


if __name__ == "__main__":
    main()
