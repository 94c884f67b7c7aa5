"""Compares tiny_zero::Tokenizer with the library `tokenizers` (pip install tokenizers), which defines the file format.

    python tests/check_tokenizer.py [--lines 10000]    compares ids for each kind; exit status 1 if any differ
    python tests/check_tokenizer.py --model DIR        the same with an existing tokenizer.json
    python tests/check_tokenizer.py --write            writes tests/data/tokenizer/ again

The program is build/tiny_zero, or what the environment's TINY_ZERO_BINARY names. All lines come from fixed seeds.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data" / "tokenizer"
TINY_ZERO = os.environ.get("TINY_ZERO_BINARY", ROOT / "build" / "tiny_zero")

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
OTHERS = {  # patterns that no stored case has
    "gpt4o": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "thousands": r"(?=(\d{3})+(?!\d))",  # matches are empty
    "lines": r"^[^\n]|\s*$|(?<=[a-z])[A-Z]",
}

# "<|end" is a prefix of "<|end|>", so the longest must win; the last is sought only after normalisation.
ADDED = [
    AddedToken("<|end|>", special=True, normalized=False),
    AddedToken("<|end", special=True, normalized=False),
    AddedToken("<|im_start|>", special=True, normalized=False),
    AddedToken("<think>", special=False, normalized=False),
    AddedToken("caf\u00e9s", special=False, normalized=True),
]

WORDS = """the of and to in is that for it as was with be by on not he his but at are this have from or had an they
which one you were all her she there would their we him been has when who will no more if out so said what up its about
than into them can only other time new some could these two may first then do any like my now over such our man me even
most reward policy gradient countdown equation therefore answer number numbers target multiply divide""".split()
CHINESE = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种"
    "面而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本"
    "去把性好应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比"
    "或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并提直题党程展五果料象员革位入常文总"
    "次品式活设及管特件长求老头基资边流路级少图山统接知较将组见计别她手角期根论运农指"
)
ARABIC = "السلام عليكم ورحمة الله وبركاته هذا نصّ عربيّ مع حركات وأرقام ١٢٣٤٥ ونحن نكتب كتابا جديدا في المدينة".split()
OTHER_SCRIPTS = """Привет мир|Ελληνικά γράμματα|हिन्दी में पाठ १२३|한국어 문장입니다|日本語のテキストです。カタカナ|ภาษาไทย|עברית
Größe Straße ÄÖÜ|naïve façade œuvre|Việt Nam tiếng|ǅungla ʰ ªº|𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛|Ⅷ ½ ²³ ①②""".split("|")
EMOJI = ["😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "❤️", "☃", "1️⃣", "🧑🏿‍🚀"]
CODE = [
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n",
    "def f(x):\n    return x**2  # square\n",
    "#include <vector>\r\n\r\n",
    "if(x!=0)&&(y==1)||z{}",
    "SELECT * FROM t WHERE id='5';",
    "a->b::c<d>()",
    '\t\tvalue:\t"text"\n\n\n',
    "x=3.14159e-10;",
    "/* ---- */",
]
LATEX = r"\frac{a}{b} $x^2+y^2=z^2$ \begin{align*}a&=b\\c&=d\end{align*} \boxed{42} \sum_{i=1}^{n}i \mathbb{R}".split()
SPACE_CODES = (*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F,
               0x3000)
SPACES = [chr(code) for code in SPACE_CODES]
NOT_SPACES = list("\0\x08\x0e\x1c\x1d\x1e\x1f\x7f\u180e\u200b\u200c\u200d\u2060\ufeff")  # though some look like it
CONTRACTIONS = [
    word + sign + letters
    for word in ("I", "don", "WE", "x1", "", " ")
    for sign in ("'", "’", "''")
    for letters in "s t re ve m ll d S T RE Ve M lL D \u017f r l v K \u212a st sre RR".split(" ")
]
MARKS = (  # pairs to compose or not, in and out of order, Hangul, exclusions from composition
    "e\u0301 a\u0323\u0302 a\u0302\u0323 \u0301alone \u212b \u2126 \u1100\u1161\u11a8 \uac00\u11a8 \u0958 "
    "q\u0307\u0323 \u1e9b\u0323 cafe\u0301s caf\u00e9s \u0344 \u2adc \ufb1d n\u0303o \u0915\u093c"
).split()
SPECIAL = "<|end|> <|end <|e <|im_start|> <think> </think> <thin caf\u00e9s <|end|><|end <|end<|end|> <<think>".split()


def piece(rng):
    """One snippet of a random sort."""
    sort = rng.randrange(16)
    if sort <= 2:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 12)))
    if sort == 3:
        return "".join(rng.choice(CHINESE) for _ in range(rng.randint(1, 20)))
    if sort == 4:
        return " ".join(rng.choice(ARABIC) for _ in range(rng.randint(1, 5)))
    if sort == 5:
        return rng.choice(OTHER_SCRIPTS)
    if sort == 6:
        return "".join(rng.choice(EMOJI) for _ in range(rng.randint(1, 3)))
    if sort == 7:
        return rng.choice(CODE)
    if sort == 8:
        return rng.choice(LATEX)
    if sort == 9:
        return str(rng.randrange(10 ** rng.randint(1, 12)))
    if sort == 10:
        return "".join(rng.choice(SPACES + [" ", "\n", "\r\n"] * 6 + NOT_SPACES) for _ in range(rng.randint(1, 6)))
    if sort == 11:
        return rng.choice(CONTRACTIONS)
    if sort == 12:
        return rng.randbytes(rng.randint(1, 20)).decode("utf-8", errors="replace")
    if sort == 13:
        return rng.choice(MARKS)
    if sort == 14:
        return rng.choice(SPECIAL)
    return "".join(
        rng.choice("aZ\u00e9\u4e2d5\u0665\u00b2'.,-_ \t\n\r\u0301\u017f\u200d") for _ in range(rng.randint(1, 12))
    )


def line(rng):
    return "".join(piece(rng) + rng.choice(["", " ", " ", "  ", ", ", ".\n", "\n\n"]) for _ in range(rng.randint(1, 6)))


def untrained(kind):
    """A tokenizer of one kind without vocabulary."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind in ("gpt2", "smollm2"))
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    before = {
        "qwen2": [pre_tokenizers.Split(Regex(QWEN2), "isolated")],
        "llama3": [pre_tokenizers.Split(Regex(LLAMA3), "isolated")],
        "smollm2": [pre_tokenizers.Digits(individual_digits=True)],
        "gpt2": [],
        **{name: [pre_tokenizers.Split(Regex(pattern), "isolated")] for name, pattern in OTHERS.items()},
    }[kind]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, byte_level]) if before else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


KINDS = ("qwen2", "llama3", "gpt2", "smollm2")


def seams(lines):
    """Pairs of byte symbols between which at least one kind cuts one of the lines."""
    result = set()
    for kind in KINDS:
        tokenizer = untrained(kind)
        for text in lines:
            text = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
            pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
            result |= {(left[-1], right[0]) for left, right in zip(pieces, pieces[1:])}
    return sorted(result)


def trained(kind, vocab_size, seam_lines):
    """A tokenizer of one kind. Its first merges join what only a wrong cut leaves together or takes apart, since the
    merges that training finds hardly ever show where a rare character was cut."""
    rng = random.Random(f"corpus {kind}")
    tokenizer = untrained(kind)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([line(rng) for _ in range(8000)], trainer)
    text = json.loads(tokenizer.to_str())
    vocab, merges = text["model"]["vocab"], text["model"]["merges"]
    if kind == "llama3":  # no merge builds these words of the vocabulary any more: only ignore_merges finds them
        merges = [pair for pair in merges if "".join(pair) not in ("the", "\u0120the", "123")]
    first = [list(pair) for pair in seams(seam_lines)]
    for pair in first:
        vocab.setdefault("".join(pair), len(vocab))
    text["model"]["merges"] = first + [pair for pair in merges if pair not in first]
    tokenizer = Tokenizer.from_str(json.dumps(text, ensure_ascii=False))
    tokenizer.add_tokens(ADDED)
    return tokenizer


def expected_ids(tokenizer, lines):
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in lines]


def compare(folder, lines):
    """Number of lines whose ids differ; prints the first few."""
    expected = expected_ids(Tokenizer.from_file(str(folder / "tokenizer.json")), lines)
    stdin = "".join(json.dumps({"text": text}) + "\n" for text in lines)
    output = subprocess.run([TINY_ZERO, "tokenize", "--model", folder], input=stdin, capture_output=True, text=True, check=True).stdout
    found = [json.loads(row)["ids"] for row in output.splitlines()]
    assert len(found) == len(expected), f"{len(lines)} lines went in, {len(found)} came out"
    different = [i for i in range(len(lines)) if found[i] != expected[i]]
    for i in different[:5]:
        print(f"  line {i}: {lines[i]!r}\n    tokenizers {expected[i]}\n    tiny_zero  {found[i]}")
    return len(different)


def write_data():
    rng = random.Random("cases")
    tricky = MARKS + SPECIAL + OTHER_SCRIPTS + EMOJI + CODE + LATEX
    tricky += [text for text in CONTRACTIONS if text.startswith("I'")] + rng.sample(CONTRACTIONS, 100)
    # In modern patterns a contraction shows only before more letters: without it, the sign would lead the word.
    tricky += [f"I'{letters}x" for letters in "s S Re LL d D k \u017f".split()]
    tricky += ["a\nb", "a\rb", "a\r\nb", "a\tb", "", " ", "\n", "1234567", " 1234567", "a 12 b", "x  12", "12  "]
    for space in SPACES + NOT_SPACES:
        tricky += [f"x{space}{space}y", f"1{space}2", f"{space}\n{space}."]
    tricky += ["a" * 300]
    lines = tricky + [line(rng) for _ in range(40)]
    for kind in KINDS:
        folder = DATA / kind
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = trained(kind, vocab_size=600, seam_lines=tricky)
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        rows = [json.dumps({"text": text, "ids": ids}) for text, ids in zip(lines, expected_ids(tokenizer, lines))]
        (folder / "cases.jsonl").write_text("\n".join(rows) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=10000)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write:
        return write_data()
    rng = random.Random("lines")
    lines = [line(rng) for _ in range(options.lines)]
    # PCRE2 10.42 knows the characters of Unicode 14.0, as Python 3.11 does, the library later ones.
    lines = [text for text in lines if all(unicodedata.category(c) != "Cn" for c in text)]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        folders = [options.model] if options.model else [pathlib.Path(folder) / kind for kind in (*KINDS, *OTHERS)]
        for path in folders:
            if not options.model:
                path.mkdir()
                trained(path.name, vocab_size=6000, seam_lines=lines).save(str(path / "tokenizer.json"))
            different = compare(path, lines)
            failed += different
            print(f"{path.name}: {different} of {len(lines)} lines differ")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
