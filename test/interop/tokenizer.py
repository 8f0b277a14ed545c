#!/usr/bin/env python3
"""Compares the host application's tokenizers with the packages tokenizers and sentencepiece.

    tokenizer.py PROGRAM [SEED]        PROGRAM is build/test/app_tokenizer; exit status 77 when a package is missing
    tokenizer.py --write DIRECTORY     writes the small tokenizers and expectations that test/app_tokenizer.c reads

Vocabularies are trained here, from the prose below, in configurations as published models have them."""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

try:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from tokenizers import Regex
except ImportError:
    print("the package tokenizers is not installed for this Python")
    sys.exit(77)

PROSE = """
A quantiser maps many values to few. It's the kind of thing that looks simple until you've tried it: they'll say
we're done, and then a channel with large activations breaks what I'd called finished. The weights don't know which
of them matter; the activations do. So scale up the columns that matter before rounding, and divide what produces
their input by the same scale.

    for (size_t i = 0; i < count; i++) {
        sum += values[i] * 0.125f;   /* 3 bits, 7 levels, 128 in a group */
    }

In 2023 there were 4096 inputs and 11008 outputs; in 2024 14336. 50 % of them were read twice, 12345678 bytes at a time.
Der Fluss fließt über die Brücke. L'été dernier, nous étions à la plage; où étiez-vous ? El niño comió piñas y jamón.
Все счастливые семьи похожи друг на друга. Η ταχύτητα του φωτός είναι σταθερή. 春眠不觉晓，处处闻啼鸟。
吾輩は猫である。名前はまだ無い。 안녕하세요, 반갑습니다. שלום עולם. مرحبا بالعالم ١٢٣٤. नमस्ते दुनिया १२३.
Tiếng Việt có dấu. Emoji 🙂🚀👩‍👩‍👧‍👦 and flags 🇩🇪🇫🇷, and a tab\there.\r\nWindows line.\r\n\r\n\r\nThree at once.
"""

GPT2_SPECIAL = ["<|endoftext|>"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+"]

BYTES = ["<0x%02X>" % value for value in range(256)]


def byte_level(vocabulary_size, pre_tokenizer, specials, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, special_tokens=specials, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([PROSE], trainer)
    return tokenizer


def metaspace(vocabulary_size, byte_tokens, prepend="first"):
    """A vocabulary with spaces as U+2581; its steps are replaced by each configuration."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_tokens))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    specials = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, show_progress=False, limit_alphabet=90,
                                  special_tokens=specials + (BYTES if byte_tokens else []))
    tokenizer.train_from_iterator([PROSE], trainer)
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] in specials]
    return data


def sentencepiece_decoder(strip=True):
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strip else []))


def part(component):
    """The JSON of one component."""
    return json.loads(component.__getstate__().decode())


def gpt2():
    return byte_level(600, pre_tokenizers.ByteLevel(add_prefix_space=False), GPT2_SPECIAL)


def gpt2_prefix_space():
    tokenizer = byte_level(500, pre_tokenizers.ByteLevel(add_prefix_space=True), ["<s>", "</s>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.add_tokens([AddedToken("<right>", rstrip=True, normalized=False),
                          AddedToken("<right>er", normalized=True)])
    return tokenizer


def split_and_bytes(expression):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(expression), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def llama3():
    tokenizer = byte_level(700, split_and_bytes(LLAMA3), ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    data = json.loads(tokenizer.to_str())
    data["model"]["ignore_merges"] = True
    # A word of the vocabulary that no merges lead to is found whole.
    data["model"]["vocab"]["Ġquantiserish"] = max(data["model"]["vocab"].values()) + 1
    template = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])
    data["post_processor"] = part(processors.Sequence([processors.ByteLevel(trim_offsets=False), template]))
    return data


def qwen2():
    tokenizer = byte_level(700, split_and_bytes(QWEN2), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                           normalizers.NFC())
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    return tokenizer


def gpt4o():
    return byte_level(650, split_and_bytes(GPT4O), ["<|endoftext|>"])


def deepseek():
    steps = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in DEEPSEEK]
    steps += [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False, use_regex=False)]
    tokenizer = byte_level(600, pre_tokenizers.Sequence(steps), ["<｜begin▁of▁sentence｜>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<｜begin▁of▁sentence｜> $A", special_tokens=[("<｜begin▁of▁sentence｜>", 0)])
    return tokenizer


def smollm():
    steps = [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return byte_level(600, pre_tokenizers.Sequence(steps), ["<|endoftext|>", "<repo_name>"])


def llama2():
    data = metaspace(700, True)
    data["normalizer"] = part(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))
    data["pre_tokenizer"] = None
    data["decoder"] = part(sentencepiece_decoder())
    data["post_processor"] = part(processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)]))
    return data


def llama2_normalized_specials():
    data = llama2()
    for token in data["added_tokens"]:
        token["normalized"] = True
    return data


def mistral(scheme="first", split=False):
    data = metaspace(600, True)
    data["pre_tokenizer"] = part(pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split))
    data["decoder"] = part(sentencepiece_decoder())
    data["post_processor"] = part(processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]))
    # Merges were written as "left right" until 2024.
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    return data


def gemma():
    data = metaspace(650, True, "never")
    data["normalizer"] = part(normalizers.Replace(" ", "▁"))
    data["pre_tokenizer"] = part(pre_tokenizers.Split(" ", "merged_with_previous"))
    data["decoder"] = part(sentencepiece_decoder(strip=False))
    return data


def unknown_tokens(fuse):
    data = metaspace(300, False)
    data["model"]["fuse_unk"] = fuse
    data["decoder"] = part(decoders.Metaspace(prepend_scheme="first"))
    return data


def behavior(name, invert):
    tokenizer = byte_level(400, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), [])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[\s\p{P}]"), name, invert),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return tokenizer


CONFIGURATIONS = {
    "gpt2": gpt2,
    "gpt2-prefix-space": gpt2_prefix_space,
    "llama3": llama3,
    "qwen2": qwen2,
    "gpt4o": gpt4o,
    "deepseek": deepseek,
    "smollm": smollm,
    "llama2": llama2,
    "llama2-normalized-specials": llama2_normalized_specials,
    "mistral": mistral,
    "mistral-always": lambda: mistral("always", True),
    "mistral-never": lambda: mistral("never", True),
    "gemma": gemma,
    "unknown-fused": lambda: unknown_tokens(True),
    "unknown-apart": lambda: unknown_tokens(False),
    "removed": lambda: behavior("removed", False),
    "merged-with-previous": lambda: behavior("merged_with_previous", False),
    "merged-with-next": lambda: behavior("merged_with_next", False),
    "contiguous": lambda: behavior("contiguous", False),
    "isolated-inverted": lambda: behavior("isolated", True),
}

# What text is made of: words, runs, every kind of white space, scripts, marks, things that look special.
SCRAPS = (
    PROSE.split() + "it's I'LL they'Re we’ve 'S 'ſ 'K 's'tt'll".split()
    + list("aeiouABCxyz0123456789.,;:!?-_'\"()[]{}<>/\\|@#$%^&*~`")
    + [" ", "  ", "   ", " " * 17, "\n", "\n\n", "\r\n", "\r", "\t", "\t\t", "\v", "\f", "\x1c", "\x1f", "\x85",
       "\xa0", "\u1680", "\u180e", "\u2003", "\u2028", "\u2029", "\u200b", "\u200d", "\u202f", "\u205f", "\u3000",
       "\ufeff", "\ufffd", "\uffff"]
    + ["\x00", "\x01", "\x1b[0m", "\x7f", "\x9f", "\xad"]
    + ["e\u0301", "\u0301", "a\u0323\u0307", "a\u0307\u0323", "q\u0307\u0323", "Å", "\u212b", "\u1e9b\u0323", "\u0958",
       "\u2126", "\u1100\u1161\u11a8", "\uac00\u11a8", "각", "\u0f73", "\u0f71\u0f72", "ﬁ", "①", "½", "Ⅷ", "٣", "१२",
       "𝟘", "𝒳", "𠜎", "丽", "🙂", "👩‍👩‍👧‍👦", "🇩🇪", "❤️", "1️⃣", "ß", "ẞ", "İ", "ı", "ǅ", "ªº", "ʰ", "々", "ー", "ｱ", "Ａ",
       "１", "‿", "_", "€", "₩", "→", "\U0010ffff"]
    + ["▁", "▁▁", "Ġ", "Ċ", "<0x0A>", "<0xE2>", "<unk>", "<s>", "</s>", "<mask>", "<right>", "<right>er", "<tool_call>",
       "</tool_call>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>",
       "<｜begin▁of▁sentence｜>", "<repo_name>", "<|endof", " quantiserish", "quantiserish"])


def texts(seed, count):
    source = random.Random(seed)
    yield from ["", " ", "\n", "a", PROSE, "a" * 5000, " " * 3000 + "x", "\n" * 2000, "é" * 999, "ab" * 3000, "🙂" * 500,
                "'" * 777]
    for _ in range(count):
        joint = source.choice(["", "", " "])
        yield joint.join(source.choice(SCRAPS) for _ in range(source.randint(1, source.choice([3, 8, 30]))))
    for _ in range(count // 4):
        ranges = [(0x20, 0x7f), (0, 0x250), (0, 0x3100), (0xa000, 0xd800)]
        yield "".join(chr(source.randrange(*source.choice(ranges))) for _ in range(source.randint(1, 20)))


def without_new_characters(text):
    """The libraries carry different versions of Unicode; what has been in it since 3.2 they agree on."""
    return "".join(c for c in text if unicodedata.ucd_3_2_0.category(c) != "Cn" or ord(c) >= 0x10000 or c in "\uffff")


class Peer:
    """Runs PROGRAM on a batch of texts and of id sequences."""

    def __init__(self, program, directory):
        self.program, self.directory = program, directory

    def run(self, records):
        data = b""
        for kind, payload in records:
            data += struct.pack("<II", kind, len(payload)) + payload
        result = subprocess.run([self.program, "--records", self.directory], input=data, stdout=subprocess.PIPE,
                                check=True)
        output, at, answers = result.stdout, 0, []
        for _ in records:
            length, = struct.unpack_from("<I", output, at)
            answers.append(output[at + 4:at + 4 + length])
            at += 4 + length
        assert at == len(output)
        return answers

    def encode(self, all_texts):
        answers = self.run([(0, text.encode()) for text in all_texts])
        return [list(struct.unpack("<%di" % (len(answer) // 4), answer)) for answer in answers]

    def decode(self, all_ids):
        answers = self.run([(1, struct.pack("<%di" % len(ids), *ids)) for ids in all_ids])
        return [answer.decode() for answer in answers]


def write_model(directory, tokenizer):
    text = json.dumps(tokenizer, ensure_ascii=False) if isinstance(tokenizer, dict) else tokenizer.to_str()
    with open(os.path.join(directory, "tokenizer.json"), "w", encoding="utf-8") as file:
        file.write(text)
    return Tokenizer.from_str(text)


def report(name, what, wrong, total):
    for item in wrong[:3]:
        print("   ", *map(ascii, item), sep="\n        ")
    print("%s  %s: %s, %d of %d differ" % ("FAIL" if wrong else "ok  ", name, what, len(wrong), total))
    return len(wrong)


def compare(name, make, program, seed):
    with tempfile.TemporaryDirectory() as directory:
        expected = write_model(directory, make())
        peer = Peer(program, directory)
        cases = [without_new_characters(text) for text in texts(seed, 1500)]
        wanted = [expected.encode(text).ids for text in cases]
        got = peer.encode(cases)
        wrong = [(text, w, g) for text, w, g in zip(cases, wanted, got) if w != g]
        failures = report(name, "encoding", wrong, len(cases))

        if name == "llama2-normalized-specials":
            return failures  # the package knows these by their normal form then, and does not skip them as special
        source = random.Random(seed)
        size = expected.get_vocab_size()
        sequences = wanted + [[source.randrange(size) for _ in range(source.randint(1, 12))] for _ in range(300)]
        wanted = [expected.decode(ids, skip_special_tokens=True) for ids in sequences]
        got = peer.decode(sequences)
        # With byte fallback, how many U+FFFD stand for broken bytes is not the same everywhere.
        fallback = name.startswith(("llama2", "mistral", "gemma"))
        wrong = [(ids, w, g) for ids, w, g in zip(sequences, wanted, got)
                 if w != g and not (fallback and "\ufffd" in w)]
        return failures + report(name, "decoding", wrong, len(sequences))


def compare_sentencepiece(program, seed):
    try:
        import sentencepiece
    except ImportError:
        print("skip  sentencepiece: the package is not installed for this Python")
        return 0
    model = os.path.join(os.path.dirname(__file__), "../../examples/models/docs-6m/tokenizer.model")
    expected = sentencepiece.SentencePieceProcessor(model_file=model)
    with tempfile.TemporaryDirectory() as directory:
        os.symlink(os.path.abspath(model), os.path.join(directory, "tokenizer.model"))
        peer = Peer(program, directory)
        cases = list(texts(seed, 1500))
        wanted = [[expected.bos_id()] + expected.encode(text) for text in cases]
        got = peer.encode(cases)
        wrong = [(text, w, g) for text, w, g in zip(cases, wanted, got) if w != g]
        failures = report("sentencepiece", "encoding", wrong, len(cases))
        source = random.Random(seed)
        sequences = wanted + [[source.randrange(expected.get_piece_size()) for _ in range(9)] for _ in range(300)]
        wanted = [expected.decode(ids) for ids in sequences]
        got = peer.decode(sequences)
        wrong = [(ids, w, g) for ids, w, g in zip(sequences, wanted, got) if w != g and "\ufffd" not in w]
        return failures + report("sentencepiece", "decoding", wrong, len(sequences))


def write_expectations(directory):
    """Small files for the tests that run without the package."""
    for name in ("gpt2-prefix-space", "llama3", "qwen2", "llama2", "mistral", "unknown-fused"):
        path = os.path.join(directory, name)
        os.makedirs(path, exist_ok=True)
        tokenizer = write_model(path, CONFIGURATIONS[name]())
        cases = [without_new_characters(text) for text in texts(7, 40)]
        cases = [text for text in cases if len(text) < 200]
        rows = []
        for text in cases:
            ids = tokenizer.encode(text).ids
            rows.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)})
        with open(os.path.join(path, "expected.json"), "w", encoding="utf-8") as file:
            file.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def main(arguments):
    if arguments[0] == "--write":
        write_expectations(arguments[1])
        return 0
    seed = int(arguments[1]) if len(arguments) > 1 else 1
    print("seed %d" % seed)
    failures = sum(compare(name, make, arguments[0], seed) for name, make in CONFIGURATIONS.items())
    failures += compare_sentencepiece(arguments[0], seed)
    return 1 if failures else 0


sys.exit(main(sys.argv[1:]))
