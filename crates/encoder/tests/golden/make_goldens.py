#!/usr/bin/env python3
"""Makes the encoder's golden vectors: what transformers and sentence-transformers say.

    make_goldens.py tiny                 tiny-bert/ and tiny-bert-golden.json
    make_goldens.py minilm MODEL_DIR     minilm-texts.jsonl and minilm-vectors.npy

Everything comes from fixed seeds. The versions that made the committed files stand in README.md.
"""

import argparse
import json
import platform
import random
from pathlib import Path

import numpy as np
import sentence_transformers
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent

TINY_MAX_TOKENS = 48
TINY_CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 64,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    # Far from BERT's 1e-12, so that an ignored epsilon shows.
    "layer_norm_eps": 1e-3,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS_AND_DIGITS = "abcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
WORD_STARTS = (
    "the a of and in to is it on for that with as by at from keep light tower sea boat wind night day lamp "
    "oil glass bread flour water salt dough canal lock gate stone wheel hub gear chain storm log book page "
    "un re over under out up down north south east west one two three ten year time"
).split()
WORD_ENDS = "ing ed er est ly ness s es tion ment able al ic ous ful less en ish ism ist ive ure age ance house man ward".split()
OTHER_SCRIPTS = "é ß ø я и н о т λ α 日 本 海 灯 — … “ ” ’ € 😀".split()

TINY_TEXTS = [
    ("empty", ""),
    ("one word", "lighthouse"),
    ("one letter", "z"),
    ("sentence", "The keeper lights the lamp at night, and the storm is over by one."),
    ("whitespace around", " \t\n  Bread and salt water.  \n\n "),
    ("whitespace inside", "wind\u00a0and\tsea\r\n\r\nlog   book"),
    ("upper case, accents and ligature", "CAFÉ Zoë naïve Ångström straße ﬁne"),
    ("other scripts", "日本の海 灯台 — яхта, маяк … λόγος 😀"),
    ("only unknown characters", "한국어 ꙮ"),
    ("digits, code and an address", "let x = 3.14 * r**2; // https://example.org/a?b=c&d=42#e_f"),
    ("one word too long for WordPiece", "gear" * 40),
    ("longer than the model", "The keeper of the tower writes in the log book each night. " * 6),
]


def make_tiny():
    """Writes tiny-bert/ and its golden vectors, after checking that they would catch wrong models."""
    folder = HERE / "tiny-bert"
    folder.mkdir(exist_ok=True)
    write_tiny_files(folder)
    model = tiny_model(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
    golden = {
        "note": "float64 transformers forward of float32 weights; ids hold the special tokens and are cut to max_tokens",
        "versions": versions(),
        "max_tokens": TINY_MAX_TOKENS,
        "texts": [golden_entry(model, tokenizer, what, text) for what, text in TINY_TEXTS],
    }
    check_against_sentence_transformers(folder, golden["texts"])
    check_that_mistakes_show(folder, golden["texts"])
    write_golden(golden)
    size_bytes = sum(f.stat().st_size for f in [*folder.rglob("*"), HERE / "tiny-bert-golden.json"] if f.is_file())
    print(f"tiny-bert and its golden vectors: {size_bytes} bytes")
    assert size_bytes < 200_000


def write_tiny_files(folder):
    """The layout of a sentence-transformers model."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    module = "sentence_transformers.models."
    write_json(folder / "config.json", TINY_CONFIG)
    write_json(folder / "tokenizer.json", tiny_tokenizer())
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            # What transformers writes when the tokenizer has no limit of its own.
            "model_max_length": 1000000000000000019884624838656,
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
        },
    )
    write_json(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": module + "Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": module + "Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": module + "Normalize"},
        ],
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": TINY_CONFIG["hidden_size"],
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": False,
            "include_prompt": True,
        },
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": TINY_MAX_TOKENS, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {"query": "query: ", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )
    save_file(tiny_weights(), folder / "model.safetensors", metadata={"format": "pt"})


def tiny_tokenizer():
    """An uncased WordPiece that spells any ASCII word by its characters."""
    tokens = SPECIAL_TOKENS + list(PUNCTUATION) + OTHER_SCRIPTS
    tokens += list(LETTERS_AND_DIGITS) + ["##" + c for c in LETTERS_AND_DIGITS]
    # "a" is a letter already; dict keeps the first of each and the order.
    tokens = list(dict.fromkeys(tokens + WORD_STARTS + ["##" + end for end in WORD_ENDS]))
    assert len(tokens) <= TINY_CONFIG["vocab_size"], len(tokens)
    tokens += [f"[unused{n}]" for n in range(TINY_CONFIG["vocab_size"] - len(tokens))]
    special = {name: tokens.index(name) for name in SPECIAL_TOKENS}
    return {
        "version": "1.0",
        # all-MiniLM-L6-v2 ships with both of these on, shorter than the model reads: a reader must not obey them.
        "truncation": {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 16},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": special["[PAD]"],
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [
            {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for name, i in special.items()
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
            ],
            "special_tokens": {
                name: {"id": name, "ids": [special[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: i for i, token in enumerate(tokens)},
        },
    }


def tiny_weights():
    """Random tensors, in the names a BertModel saves. Biases and layer norms are random too, so that a forgotten one shows."""
    random_numbers = np.random.Generator(np.random.PCG64(20260401))
    weights = {}
    for name, tensor in BertModel(BertConfig(**TINY_CONFIG)).state_dict().items():
        shape = tuple(tensor.shape)
        if name.endswith("position_ids"):
            continue
        if name.endswith("LayerNorm.weight"):
            values = random_numbers.uniform(0.4, 1.6, shape)
        elif name.endswith("bias"):
            values = random_numbers.normal(0.0, 0.3, shape)
        elif "embeddings" in name:
            values = random_numbers.normal(0.0, 0.5, shape)
        else:
            # Wide enough for the activations to reach where erf and tanh GELU differ, and for attention to choose.
            values = random_numbers.normal(0.0, 2.0 / np.sqrt(shape[-1]), shape)
        weights[name] = torch.from_numpy(values.astype(np.float32))
    # Older checkpoints, all-MiniLM-L6-v2 among them, carry this integer buffer: a reader must step over it.
    weights["embeddings.position_ids"] = torch.arange(TINY_CONFIG["max_position_embeddings"]).unsqueeze(0)
    return weights


def tiny_model(folder):
    """The saved model in float64: its rounded numbers are the same on every machine."""
    model = BertModel.from_pretrained(folder, attn_implementation="eager").double().eval()
    expected = {k for k in tiny_weights() if k != "embeddings.position_ids"}
    assert expected <= set(model.state_dict()), "a weight was not loaded"
    return model


def golden_entry(model, tokenizer, what, text):
    # Releases of sentence-transformers before 6 strip a text before they tokenize it, 6.2 does not;
    # with a WordPiece tokenizer it is the same.
    ids = tokenizer(text.strip(), truncation=True, max_length=TINY_MAX_TOKENS)["input_ids"]
    whole = tokenizer(text.strip(), truncation=False)["input_ids"]
    pooled = {mode: round_list(vector) for mode, vector in pool(hidden_states(model, ids)).items()}
    return {"what": what, "text": text, "tokens": len(whole), "ids": ids, "pooled": pooled}


def hidden_states(model, ids):
    """[tokens, hidden] of the last layer."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0]


def pool(hidden):
    """Each pooling of one sequence [tokens, hidden], as it is and divided by its length."""
    pooled = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.max(0).values, "lasttoken": hidden[-1]}
    return pooled | {mode + "_normalized": vector / vector.norm() for mode, vector in pooled.items()}


def check_against_sentence_transformers(folder, entries):
    """The same texts through the whole sentence-transformers stack: the files must mean what we think they mean."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert model.max_seq_length == TINY_MAX_TOKENS, model.max_seq_length
    check_tokenizers_agree(folder, model.tokenizer, [e["text"] for e in entries])
    vectors = model.encode([e["text"] for e in entries], batch_size=5)
    wanted = np.array([e["pooled"]["mean_normalized"] for e in entries])
    difference = np.abs(vectors - wanted).max()
    print(f"sentence-transformers f32 against the golden f64: max abs difference {difference:.2e}")
    assert difference < 2e-6


def check_tokenizers_agree(folder, model_tokenizer, texts):
    """The model's tokenizer class must read tokenizer.json as the plain tokenizers library reads it."""
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    for text in texts:
        assert plain.encode(text).ids == model_tokenizer(text, truncation=False)["input_ids"], text


def check_that_mistakes_show(folder, entries):
    """Each usual mistake must move some vector by far more than a test tolerates (1e-4 where nothing is normalised)."""
    mistakes = {
        "tanh GELU": lambda m: [setattr(layer.intermediate, "intermediate_act_fn", torch.nn.GELU("tanh")) for layer in m.encoder.layer],
        "epsilon 1e-12": lambda m: [setattr(x, "eps", 1e-12) for x in m.modules() if isinstance(x, torch.nn.LayerNorm)],
        "token type 1": lambda m: m.embeddings.token_type_embeddings.weight.data.copy_(m.embeddings.token_type_embeddings.weight.data.flip(0)),
        "positions from 2": lambda m: m.embeddings.position_embeddings.weight.data.copy_(m.embeddings.position_embeddings.weight.data.roll(-2, 0)),
        "no attention scale": lambda m: [setattr(layer.attention.self, "scaling", 1.0) for layer in m.encoder.layer],
    }
    for part in ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense", "LayerNorm"]:
        mistakes[f"no {part} bias"] = lambda m, part=part: [
            p.data.zero_() for name, p in m.named_parameters() if name.endswith(f"{part}.bias") and "pooler" not in name
        ]
    for what, break_model in mistakes.items():
        model = tiny_model(folder)
        break_model(model)
        moved = {"mean": 0.0, "mean_normalized": 0.0}
        for entry in entries:
            pooled = pool(hidden_states(model, entry["ids"]))
            moved = {mode: max(old, np.abs(pooled[mode].numpy() - entry["pooled"][mode]).max()) for mode, old in moved.items()}
        print(f"mistake {what!r} moves a mean by {moved['mean']:.1e}, normalised {moved['mean_normalized']:.1e}")
        # A missing key bias shifts all scores of a query alike, and softmax forgets it.
        assert moved["mean"] > 5e-4 or what == "no key bias", what


def write_golden(golden):
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in golden.pop("texts"))
    head = json.dumps(golden, ensure_ascii=False, indent=1)[:-2]
    (HERE / "tiny-bert-golden.json").write_text(f'{head},\n "texts": [\n{lines}\n]}}\n', encoding="utf-8")


TEXT_COUNT = 500
NOUNS = (
    "keeper lamp harbour storm ledger bridge orchard engine letter winter valley machine teacher garden river "
    "signal mountain kitchen market pattern question journey library window painter captain theory forest mirror "
    "railway village sensor protein orbit contract algorithm dataset turbine glacier museum recipe parliament"
).split()
VERBS = (
    "carries watches repairs remembers measures follows describes opens paints forgets crosses explains builds "
    "collects answers calculates translates observes compresses predicts"
).split()
ADJECTIVES = (
    "quiet old narrow bright patient broken distant careful heavy golden unlikely statistical frozen transparent "
    "seasonal electric democratic molecular hollow generous"
).split()
PLACES = "near the coast|behind the mill|across the border|in the archive|under the arch|at noon|before the war|on paper|without a map|for a decade".split("|")
JOINTS = [", and", "; however,", " because", " while", ", although", " until", ", so"]
ODDITIES = [
    "https://example.org/path/to/page.html?id=4711&sort=asc#section-3",
    "user.name+tag@mail.example.com",
    "C:\\Users\\reader\\notes.txt",
    "for (let i = 0; i < n; i++) { sum += a[i] * b[i]; }",
    "def area(r): return 3.14159 * r ** 2",
    "SELECT title, COUNT(*) FROM books WHERE year >= 1987 GROUP BY title;",
    "{\"id\": 17, \"tags\": [\"a\", \"b\"], \"ok\": true}",
    "<p class=\"note\">Tom &amp; Ana</p>",
    "3,141.59 kg at 12:45:07 on 2024-02-29 (±0.5 %)",
    "E = mc², H₂O, 10⁻⁶ m, ½ cup, 37 °C, №5, §12",
    "Übergrößenträger, façade, jalapeño, Dvořák, Łódź, smørrebrød, İstanbul",
    "東京の図書館で本を読む。",
    "图书馆里有很多旧书，窗外下着雨。",
    "도서관에서 책을 읽는다",
    "Маяк стоит на скалистом берегу.",
    "Ο φάρος ανάβει κάθε νύχτα.",
    "المنارة تضيء البحر",
    "प्रकाशस्तंभ रात में चमकता है",
    "😀🚢⚓ 👩‍🔬 🇳🇴 🏴‍☠️",
    "“Well”—she said—‘perhaps…’",
    "--- *** ### !!! ??? ... ~~~ ___",
    "[CLS] [MASK] [SEP] [PAD]",
    "e\u0301 a\u0308 n\u0303 o\u0302\u0323",
    "soft\u00adhyphen zero\u200bwidth joiner\u200d nbsp\u00a0here",
    "ﬁnance oﬃce Ⅷ ｆｕｌｌ ｗｉｄｔｈ",
    "tab\tseparated\tvalues\r\nand lines\n\nand more",
    "control\u0001character\u0007and replacement \ufffd",
    "don't can't o'clock rock'n'roll state-of-the-art 24/7",
    "0 1 22 333 4444 55555 1234567890123456789012345678901234567890",
    "𝔉𝔯𝔞𝔨𝔱𝔲𝔯 𝒮𝒸𝓇𝒾𝓅𝓉 𠮷野家",
]


def make_minilm(model_dir):
    """Writes 500 texts of its own making and their vectors from sentence-transformers in float32."""
    texts = minilm_texts()
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (HERE / "minilm-texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = SentenceTransformer(model_dir, device="cpu", local_files_only=True)
    assert model.max_seq_length == 256, model.max_seq_length
    check_tokenizers_agree(Path(model_dir), model.tokenizer, texts)
    # One text a batch: no padding has any part in these numbers.
    vectors = model.encode(texts, batch_size=1, convert_to_numpy=True)
    assert vectors.shape == (TEXT_COUNT, 384) and vectors.dtype == np.float32
    np.save(HERE / "minilm-vectors.npy", vectors)
    batched = model.encode(texts, batch_size=32, convert_to_numpy=True)
    lengths = [len(model.tokenizer(t.strip(), truncation=False)["input_ids"]) for t in texts]
    print(f"{TEXT_COUNT} texts, {min(lengths)} to {max(lengths)} tokens, {sum(n > 256 for n in lengths)} cut to 256")
    print(f"batch size 32 against 1: max abs difference {np.abs(batched - vectors).max():.2e}")


def minilm_texts():
    """Texts of 1 to about 400 words: plain sentences first in number, then everything that upsets a tokenizer."""
    rng = random.Random(20260402)
    texts = list(ODDITIES)
    texts += ["", " ", "a", "I", ".", "word", "?", "\n", "unbelievable", "x" * 99, "y" * 100, "z" * 101, "w" * 300]
    texts += ["ab" * 700, "-" * 600, "日" * 300, "é" * 120, "9" * 260]
    while len(texts) < TEXT_COUNT:
        words_wanted = int(400 ** rng.random()) + 1
        texts.append(decorated(rng, passage(rng, words_wanted), len(texts)))
    return texts


def passage(rng, words_wanted):
    words = []
    while len(words) < words_wanted:
        words += sentence(rng).split(" ")
    return " ".join(words[:words_wanted])


def sentence(rng):
    def clause():
        subject = f"the {pick(rng, ADJECTIVES)} {pick(rng, NOUNS)}"
        return f"{subject} {pick(rng, VERBS)} a {pick(rng, NOUNS)} {pick(rng, PLACES)}"

    text = clause()
    if rng.random() < 0.4:
        text += f"{pick(rng, JOINTS)} {clause()}"
    if rng.random() < 0.15:
        text += f" ({int(rng.random() * 2000)})"
    return text[0].upper() + text[1:] + pick(rng, [".", ".", ".", "!", "?"])


def decorated(rng, text, number):
    """Every few texts get odd matter, shouting, paragraphs or white space around them."""
    if number % 5 == 0:
        middle = int(rng.random() * len(text))
        text = f"{text[:middle]} {pick(rng, ODDITIES)} {text[middle:]}"
    if number % 11 == 0:
        text = text.upper()
    if number % 7 == 0:
        text = text.replace(". ", ".\n\n")
    if number % 13 == 0:
        text = f" \t{text}\n  "
    return text


def pick(rng, items):
    return items[int(rng.random() * len(items))]


def round_list(vector):
    """Nine significant digits: more than a float32 holds."""
    return [float(f"{x:.9g}") for x in vector.tolist()]


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def versions():
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence-transformers": sentence_transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "numpy": np.__version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    jobs.add_parser("tiny")
    jobs.add_parser("minilm").add_argument("model_dir")
    arguments = parser.parse_args()
    print("versions:", json.dumps(versions()))
    if arguments.job == "tiny":
        make_tiny()
    else:
        make_minilm(arguments.model_dir)


if __name__ == "__main__":
    main()
