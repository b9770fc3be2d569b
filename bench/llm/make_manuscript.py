#!/usr/bin/env python3
"""Writes a long Markdown manuscript with mistakes, in the tiny model's world, the same for the same seed.

    make_manuscript.py --out FILE.md [--words 15000] [--seed 1] [--tiny DIR]
    make_manuscript.py --check BEFORE.md AFTER.md

Front matter, headings, paragraphs of one to three sentences, emphasis, links, code in and between paragraphs,
lists, quotes, tables, comments and rules. Sentences are made from parts of this file; half of them get a misspelling,
a wrong verb, a word twice or a missing full stop. No paragraph and no item of a list stands there twice, so that nobody
gains by remembering answers. Needs Python alone.

With --tiny, the folder with the tiny model's generate.py, sentences are examples of its own task: those of this file are
not of its world, and most of its answers to them are not to be believed.

--check says whether everything but words of prose is as it was: blocks in their number and order with the same
whitespace between them; front matter, code, comments and rules byte for byte; of tables all but the words of cells; of
prose the marks of headings, lists and quotes, link targets, code and the marks of emphasis. It knows Markdown as this program writes it, and shares
no code with Haul. Exit code 1 where anything else differs.
"""

import argparse
import random
import re
import sys
from pathlib import Path

from tiny import load_tasks

PEOPLE = ["The committee", "The board", "The company", "The new manager", "The lender", "The borrower", "Our team",
          "The supplier", "The adviser", "The agent", "An independent expert", "The project company"]
PLURALS = ["The lenders", "The parties", "Our customers", "The directors", "Several suppliers", "The contractors",
           "All members", "The auditors"]
DONE = ["has reviewed", "has approved", "has improved", "has checked", "has signed", "has delivered", "has confirmed",
        "has changed", "has prepared", "has returned"]
DONE_PLURAL = ["have reviewed", "have approved", "have improved", "have checked", "have signed", "have delivered",
               "have confirmed", "have changed", "have prepared", "have returned"]
THINGS = ["the report", "the agreement", "the figures", "the plan", "the estimate", "the schedule", "the documents",
          "the budget", "the permit", "the certificate", "the quality of the work", "the terms of the offer",
          "the results of the study", "the list of changes", "the model of the project"]
WHEN = ["before the end of the week", "in the previous year", "after the meeting", "because of the weather",
        "in every region", "at the request of the bank", "without any delay", "for the second time",
        "during the construction period", "as soon as the study was complete"]
STATES = ["is complete and easy to read", "was higher than expected", "is kept in a safe place",
          "was moved to the afternoon", "is due in the second quarter", "remains in good condition",
          "was better than in the previous year", "is located close to the main station"]
SUBJECTS = ["The equipment", "The reserve account", "The interest period", "The office", "The meeting", "The review",
            "The insurance", "The final payment", "The power station", "The technical report"]
WHOLE = ["Please send the signed copy to the agent.", "Costs have fallen because the company changed its supplier.",
         "It is important that the documents are complete.", "No errors were found in the figures.",
         "Both parties share the costs of the review.", "The principal reason for the delay was a missing permit."]
CURRENCIES = ["EUR", "USD", "GBP", "CHF"]
PAID = ["{who} has paid {currency} {amount} to Norvik Bank {when}.",
        "The margin of Facility {letter} is {percent}% per annum.",
        "The commitment under Facility {letter} was {currency} {amount} in {year}.",
        "{who} has drawn {currency} {amount} under Term Loan {letter}."]
WRONG_VERBS = {"has": "have", "have": "has", "is": "are", "was": "were", "are": "is", "remains": "remain"}
TWICE = ["the", "of", "in", "to", "and"]
VOWELS = "aeiou"
PATHS = ["reports/annual.html", "plans/phase-two", "terms#section-4", "files/list.pdf?version=3"]
CODE = ["total = drawn + undrawn", "rate(quarter)", "list.sort()", "len(items)"]
FENCE = "```"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path)
    what.add_argument("--check", nargs=2, type=Path, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--words", type=int, default=15_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tiny", type=Path)
    arguments = parser.parse_args()
    if arguments.check:
        before, after = (path.read_bytes().decode("utf-8") for path in arguments.check)
        wrong = differences(before, after)
        print("\n".join(wrong[:20]) if wrong else "everything but words of prose is as it was")
        return sys.exit(1 if wrong else 0)
    text = manuscript(arguments.words, arguments.seed, arguments.tiny)
    arguments.out.write_bytes(text.encode("utf-8"))
    print(f"{arguments.out}: {len(text.split())} words, {len(prose(text))} blocks of prose")


class Author(random.Random):
    """Chance, and where sentences come from."""

    def __init__(self, seed, tiny):
        super().__init__(seed)
        self.tasks = load_tasks(tiny) if tiny else None

    def sentence(self):
        return self.tasks.q_correct(self, nsent=1)[0] if self.tasks else sentence(self)


def manuscript(words, seed, tiny=None):
    rng = Author(seed, tiny)
    seen = set()
    blocks = [f"---\ntitle: Notes on a project\nseed: {seed}\ntags: [notes, draft]\n---", "# Notes on a project"]
    written, chapter = 0, 0
    while written < words:
        if len(blocks) % 24 == 2:
            chapter += 1
            block = f"## Chapter {chapter}"
        else:
            block = rng.choices(
                [paragraph, bullets, numbers, quote, table, code, comment], [40, 4, 3, 3, 2, 2, 1]
            )[0](rng, seen)
        blocks.append(block)
        written += len(block.split())
    return "\n\n".join(blocks) + "\n"


def sentence(rng):
    kind = rng.random()
    if kind < 0.25:
        text = rng.choice(PAID).format(
            who=rng.choice(PEOPLE),
            currency=rng.choice(CURRENCIES),
            amount=f"{rng.randint(1, 990)},000",
            when=rng.choice(WHEN),
            letter=rng.choice("ABCD"),
            percent=f"{rng.randint(100, 575) / 100:.2f}",
            year=rng.randint(2012, 2024),
        )
    elif kind < 0.5:
        text = f"{rng.choice(PEOPLE)} {rng.choice(DONE)} {rng.choice(THINGS)} {rng.choice(WHEN)}."
    elif kind < 0.72:
        text = f"{rng.choice(PLURALS)} {rng.choice(DONE_PLURAL)} {rng.choice(THINGS)} {rng.choice(WHEN)}."
    elif kind < 0.92:
        text = f"{rng.choice(SUBJECTS)} {rng.choice(STATES)}."
    else:
        text = rng.choice(WHOLE)
    return mistaken(rng, text) if rng.random() < 0.5 else text


def unit(rng, seen, sentences):
    """Sentences that are not in the manuscript yet."""
    while True:
        text = " ".join(marked(rng, rng.sentence()) for _ in range(sentences))
        if text not in seen:
            seen.add(text)
            return text


def mistaken(rng, text):
    words = text.split(" ")
    for _ in range(8):
        at = rng.randrange(1, len(words))
        word, kind = words[at], rng.random()
        if kind < 0.5 and word in WRONG_VERBS:
            words[at] = WRONG_VERBS[word]
        elif kind < 0.5 and word in TWICE:
            words[at] = f"{word} {word}"
        elif kind > 0.96:
            words[-1] = words[-1][:-1]
        elif len(word) > 5 and word.isalpha():
            words[at] = misspelt(rng, word)
        else:
            continue
        break
    return " ".join(words)


def misspelt(rng, word):
    at = rng.randrange(1, len(word) - 2)
    vowels = [place for place in range(1, len(word)) if word[place] in VOWELS]
    if vowels and rng.random() < 0.4:
        at = rng.choice(vowels)
        return word[:at] + rng.choice([vowel for vowel in VOWELS if vowel != word[at]]) + word[at + 1 :]
    if rng.random() < 0.5:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :]


def marked(rng, text):
    """The sentence with emphasis, a link or code in it, now and then."""
    words, kind = text.split(" "), rng.random()
    if "*" in text or len(words) < 3:
        return text
    at = rng.randrange(1, len(words) - 1)
    word = words[at]
    if kind < 0.08:
        words[at] = f"*{word}*"
    elif kind < 0.12:
        words[at] = f"**{word}**"
    elif kind < 0.18:
        words[at] = f"[{word}](https://example.org/{rng.choice(PATHS)})"
    elif kind < 0.2:
        words[-1] += f" See `{rng.choice(CODE)}`."
    return " ".join(words)


def paragraph(rng, seen):
    text = unit(rng, seen, rng.choice([1, 2, 2, 3]))
    # A quarter of them are broken into lines, as editors do.
    if rng.random() < 0.25:
        words = text.split(" ")
        text = "\n".join(" ".join(words[at : at + 11]) for at in range(0, len(words), 11))
    return text


def bullets(rng, seen):
    return "\n".join(f"- {unit(rng, seen, 1)}" for _ in range(rng.randint(2, 4)))


def numbers(rng, seen):
    return "\n".join(f"{number}. {unit(rng, seen, 1)}" for number in range(1, rng.randint(3, 5)))


def quote(rng, seen):
    return f"> {unit(rng, seen, 1)}"


def table(rng, _seen):
    rows = "\n".join(
        f"| Line {number} | {rng.randint(10, 999)} | {rng.choice(['open', 'closed'])} |"
        for number in range(1, rng.randint(3, 6))
    )
    return f"| item | amount | state |\n|:-----|-------:|-------|\n{rows}"


def code(rng, _seen):
    return f"{FENCE}python\nfor teh_item in items:\n    {rng.choice(CODE)}   # recieve\n{FENCE}"


def comment(rng, _seen):
    return rng.choice(["<!-- chek this again -->", "---", "***"])


def blocks_of(text):
    """(whitespace before, block) in order; nothing of the text is left out."""
    return re.findall(r"(\n*)((?:(?!\n\n)[\s\S])+)", text)


def is_prose(block):
    return not re.match(r"---|\*\*\*$|```|\||<!--", block)


def is_table(block):
    return block.startswith("|")


def prose(text):
    return [block for _, block in blocks_of(text) if is_prose(block)]


def skeleton(block):
    """What of a table or of a block of prose may not change."""
    if is_table(block):
        head, delimiters, *rows = block.split("\n")
        return delimiters, [re.sub(r"[^|\s](?:[^|]*[^|\s])?", "x", row) for row in (head, *rows)]
    marks = re.findall(r"(?m)^(?:#+ |- |\d+\. |> )|`[^`]*`|\]\([^)]*\)|\[|\*+", block)
    return marks, len(block) - len(block.rstrip())


def differences(before, after):
    """One line for each block that differs in more than its words."""
    old, new = blocks_of(before), blocks_of(after)
    if len(old) != len(new):
        return [f"{len(old)} blocks before, {len(new)} after"]
    wrong = []
    for number, ((gap, block), (new_gap, new_block)) in enumerate(zip(old, new, strict=True)):
        if gap != new_gap:
            wrong.append(f"block {number}: {gap!r} before it has become {new_gap!r}")
        elif not (is_prose(block) or is_table(block)):
            if block != new_block:
                wrong.append(f"block {number}: {block!r} has become {new_block!r}")
        elif skeleton(block) != skeleton(new_block):
            wrong.append(f"block {number}: {skeleton(block)} has become {skeleton(new_block)} in {new_block!r}")
    if before[-1:] != after[-1:]:
        wrong.append("the last byte differs")
    return wrong


if __name__ == "__main__":
    main()
