#!/usr/bin/env python3
"""Golden files of the tokenizer tests: python3 make.py DATA_FOLDER

Each family's pipeline is put together as transformers' converters of slow tokenizers do
(convert_slow_tokenizer.py: GPT2Converter, WhisperConverter, TikTokenConverter, LlamaConverter,
Qwen2Converter; OPT and BLOOM as their published files are described), its merges are trained here
with the `tokenizers` wheel, and what the wheel makes of three texts is written down:

  strings.bin      hand-picked strings: u32 length, bytes, and so on (little endian)
  words.txt        words for the 10 MB text that test_tokenizer_golden.c makes by the same rule
  FAMILY.json      the tokenizer
  FAMILY.strings   for each string: u32 n, n x u16 ids with special tokens, then FNV-1a 64 of the
                   ids without special tokens (as u32), of decode(ids), of decode(ids) without
                   special tokens
  FAMILY.blocks    FNV-1a 64 of the ids (as u32) of each 64 KiB block of the 10 MB text, then of
                   each 4096 code points of all code points
"""
import json, os, random, struct, sys
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers, __version__)

HERE = os.path.dirname(os.path.abspath(__file__))
MERGES = 4000
BLOCKS, BLOCK_BYTES = 160, 65536

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"

# ---- the text made by rule; test_tokenizer_golden.c holds the same tables ----
PUNCTUATION = [".", ",", "!", "?", ";", ":", "'", '"', "-", "--", "...", "(", ")", "[", "]", "{",
               "}", "<", ">", "/", "\\", "|", "@", "#", "$", "%", "^", "&", "*", "_", "=", "+", "`",
               "~", "'s", "'ll", "'RE", "n't", "://", "</", "==", "…", "。", "，", "、", "।", "۔",
               "،", "«", "»", "–", "—", "’s", "▁", "Ġ"]
BLANKS = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", " \t ", "\u00a0", "\u3000",
          "\u2028", "\u0085", "\u200b", "\u180e", "\x1c", "        ", "\n\n\n", "\x0b\x0c"]
RANGES = [(0x20, 0x7e), (0xa1, 0x17f), (0x300, 0x36f), (0x370, 0x3ff), (0x400, 0x4ff),
          (0x5d0, 0x5ea), (0x600, 0x6ff), (0x900, 0x97f), (0xe01, 0xe3a), (0x1100, 0x11ff),
          (0x1e00, 0x1eff), (0x2000, 0x206f), (0x2150, 0x218b), (0x2460, 0x24ff), (0x3041, 0x3096),
          (0x30a1, 0x30fa), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xfb00, 0xfb06), (0xff01, 0xff5e),
          (0x1d400, 0x1d7ff), (0x1f300, 0x1f64f), (0x1f1e6, 0x1f1ff), (0x31350, 0x313ff)]
TOKENS = ["<s>", "</s>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<unk>", "<pad>",
          "<one>", "<left>", "<right>", "<both>", "Wort", "<0x41>", "<|startoftranscript|>"]
M64 = (1 << 64) - 1


def splitmix(state):
    state[0] = (state[0] + 0x9e3779b97f4a7c15) & M64
    z = state[0]
    z = ((z ^ (z >> 30)) * 0xbf58476d1ce4e5b9) & M64
    z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & M64
    return z ^ (z >> 31)


def block_text(block, words):
    state, parts, size = [block + 1], [], 0
    while True:
        r = splitmix(state)
        kind, pick = r % 100, r >> 8
        if kind < 66:
            part = " " + words[pick % len(words)]
        elif kind < 70:
            part = words[pick % len(words)]
        elif kind < 74:
            part = words[pick % len(words)].upper() if words[pick % len(words)].isascii() else "É"
        elif kind < 79:
            part = str(pick % 10 ** (1 + (pick >> 40) % 9))
        elif kind < 85:
            part = PUNCTUATION[pick % len(PUNCTUATION)]
        elif kind < 90:
            part = BLANKS[pick % len(BLANKS)]
        elif kind < 96:
            lo, hi = RANGES[pick % len(RANGES)]
            part = "".join(chr(lo + splitmix(state) % (hi - lo + 1)) for _ in range(1 + (pick >> 16) % 6))
        elif kind < 98:
            code = pick % 0x10f800
            part = chr(code if code < 0xd800 else code + 0x800)
        else:
            part = TOKENS[pick % len(TOKENS)]
        n = len(part.encode())
        if size + n > BLOCK_BYTES:
            return "".join(parts)
        parts.append(part)
        size += n


def code_point_text(block):
    out = []
    for code in range(block * 4096, (block + 1) * 4096):
        if not 0xd800 <= code < 0xe000:
            c = chr(code)
            out.append(f"a{c}b {c}{c}1{c} '{c}\n")
    return "".join(out)


# ---- hand-picked strings ----
def strings():
    rng = random.Random(20)
    s = ["", " ", "  ", "\n", "\t", "\r\n", "a", "A", "0", ".", "\x00", "a\x00b", "\x00\x00",
         "Hello, world!", "hello world", " hello", "hello ", "  hello  ", "Hello\nworld\n"]
    words = "the quick brown fox jumps over a lazy dog and then some".split()
    # contractions
    for w in ["I", "you", "we", "they", "it", "don", "can", "O", "'", "''"]:
        for c in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'Re", "’s", "'x", "'\u017f", "'"]:
            s.append(f"{w}{c} ok")
    # digits
    s += [str(10 ** i + i) for i in range(14)]
    s += ["1,234,567.89", "3.14e-10", "0x1F", "1/2", "½", "²³¹", "Ⅷ", "①②", "٣٤٥", "१२३", "x2y3",
          "12ab34", "2024-01-31T23:59:60Z", "1 2 3", "1  22   333    4444", "१२३४५", "㊿", "𝟘𝟙𝟚"]
    # scripts
    s += ["你好，世界！", "今天天气很好。我们去公园吧？", "日本語のテキスト、カタカナとひらがな。", "한국어 문장입니다.",
          "Привет, мир!", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم، كيف الحال؟", "नमस्ते दुनिया।",
          "สวัสดีชาวโลก", "Xin chào thế giới", "Zażółć gęślą jaźń", "Straße GROẞ ß", "İstanbul ıI",
          "ﬁﬂ ﬀ ﬆ", "Ａｂｃ１２３", "ｶﾞｷﾞ", "ǅ ǆ Ǆ", "ᾳ ᾼ", "ქართული ᲥᲐᲠᲗᲣᲚᲘ", "Ꭰꭰ", "ԱԲԳ աբգ",
          "\U00010400\U00010428", "𐐷", "𠀋𡈽", "\U00031350\U000323af", "বাংলা", "தமிழ்", "ગુજરાતી", "ଓଡ଼ିଆ",
          "മലയാളം", "ខ្មែរ", "မြန်မာ", "བོད་ཡིག", "አማርኛ", "ᚠᛇᚻ", "ꦗꦮ"]
    # emoji
    s += ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "1️⃣", "❤️", "☕️ time", "a😀b", "😀😀😀", "👩🏿‍🚀 to 🌕", "🫠🫨",
          "🧑‍🤝‍🧑🏻", "✂︎✂️", "\u200d\u200d", "😀\ufe0f\u200d"]
    # combining marks, composed and not, wrong order, many
    for base in "aeoÅn가":
        for mark in ["\u0301", "\u0323\u0301", "\u0301\u0323", "\u0302\u0301", "\u0345\u0301",
                     "\u20dd", "\u0300" * 8]:
            s.append(f"{base}{mark} x{mark}{base}")
    s += ["\u1100\u1161\u11a8", "\u1112\u1161\u11ab\u1100\u1173\u11af", "\u212b\u2126\u212a",
          "\u0344", "\u0958", "\ufb1d", "\u1e9b\u0323", "\u0301start", "\U00011935\U00011930",
          "\U00011938", "\u08ca\u0301", "\u1dfa\u0334", "q\u0307\u0323", "\u0f71\u0f72\u0f74"]
    # right to left and controls of direction
    s += ["\u202eabc\u202c", "\u2066x\u2069", "abc\u200fdef", "אבג 123 abc", "١٢٣ abc، def؛"]
    # white space
    blanks = [" ", "\t", "\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85",
              "\xa0", "\u1680", "\u180e", "\u2000", "\u2009", "\u200a", "\u200b", "\u2028", "\u2029",
              "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff"]
    for b in blanks:
        s += [f"a{b}b", f"{b}a", f"a{b}", b * 3, f"a{b}{b} b", f"a {b}b", f"1{b}2"]
    for n in (2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 64, 100):
        s += [" " * n + "x", "x" + " " * n, "a" + " " * n + "b", "\n" * n, "a" + "\n" * n + " b",
              "\t" * n + "y"]
    s += [" \n \n ", "a \n\n b", "a\n \nb", "\r\r\n\n", "x\r\ny\r\n", " \t\n\r ", "a\n\n\n  b", "  \n  c",
          "a  \n", "end.\n\nNew", "def f(x):\n    return x\n\n\tif y:\n"]
    # control characters and the edges of Unicode
    s += [chr(i) for i in range(1, 32)] + ["\x7f", "\x80", "\x9f", "\xad", "\u061c", "\ufffd", "\ufffe",
          "\uffff", "\U0010ffff", "\ud7ff", "\ue000", "\U0001fffe", "\u2061", "\ufff9", "\U000e0001",
          "\U000e0041", "\u0600", "\u070f"]
    # punctuation
    s += ["...", "!!!", "?!?!", "a.b.c", "(a) [b] {c}", "<a>b</a>", "x=y+z*w", "a_b__c", "C:\\dir\\f",
          "https://example.org/a?b=c&d=%20#e", "user@host.example", "$5.00 €6 £7 ¥8", "—–-‐‑", "“q” ‘q’",
          "¿Qué? ¡Sí!", "a…b", "。、！？", "।۔،", "(|)", "a|b", "a(b", ")c", "[d", "e]", "f,g", "▁", "▁▁a",
          "a▁b", "▁ ▁", "Ġ", "aĠb", "Ċ", "ĉ", "<0x0A>", "<0x-1>", "<0x", "<0xZZ>", "#version", "\\p{L}"]
    # tokens in text
    for t in TOKENS:
        s += [t, f"a{t}b", f"a {t} b", f"{t}{t}", f" {t}", f"{t} ", f"x  {t}  y", f"{t[:-1]}", f"{t}\n{t}",
              f"1{t}2", f"é{t}é", f"\u3000{t}\u3000", f"({t})"]
    s += ["<s><unk></s>", "<s> </s>", "<left><right>", "a <left> <right> b", "a<right> <left>b",
          "<right>  <left>", "<one><one>", "x<one>", "<one>x", " <one> ", "-<one>-", "Wortart", "Wort art",
          "EinWort", "Wort, Wort!", "wort", "<both>   <both>", "  <both>\n\n<both>  ", "<|eot_id|>\n\n",
          "<|begin_of_text|><|begin_of_text|>hi", "<|endoftext|", "|endoftext|>", "<<s>>", "</</s>s>",
          "<\u200ds>", "<S>", "W\u00f6rt", "Wo\u0308rt", "\uff37ort", "<|0.00|>", "<|0.02|> hello <|0.04|>",
          "<|en|><|transcribe|>"]
    # very long words
    s += ["a" * 50, "ab" * 200, "abc" * 300, "é" * 100, "好" * 150, "😀" * 40, "x" * 1000, "1" * 200,
          "aaaa" * 64 + "b", "_" * 120, "=" * 77, "the" * 100, "antidisestablishmentarianism" * 4,
          "'" * 60, "'s" * 50, "\u0301" * 90, "Ab" * 64, "a1" * 90, ".a" * 50]
    # random mixtures
    pool = words + ["Café", "naïve", "I'm", "42", "3.5", "\n", "  ", "-", "…", "你", "好", "🙂", "<s>", "e\u0301"]
    while len(s) < 920:
        s.append("".join(rng.choice(pool) + rng.choice(["", " ", " ", " ", "\n", "\t"])
                         for _ in range(rng.randint(1, 24))))
    while len(s) < 1000:
        out = []
        for _ in range(rng.randint(1, 40)):
            lo, hi = rng.choice(RANGES)
            out.append(chr(rng.randint(lo, hi)))
        s.append("".join(out))
    assert len(s) == 1000, len(s)
    return s


# ---- training ----
def corpus(data):
    def read(*name):
        with open(os.path.join(data, *name), encoding="utf-8") as f:
            return f.read()
    texts = [read("tinyshakespeare", "input.txt")[:600000] if os.path.exists(
        os.path.join(data, "tinyshakespeare", "input.txt")) else ""]
    for folder in ("tinyshakespeare", "wikitext-2", "lambada", "hellaswag"):
        for name in sorted(os.listdir(os.path.join(data, folder))):
            if name.endswith((".txt", ".jsonl", ".raw", ".json", ".tokens")):
                texts.append(read(folder, name)[:500000])
    rng = random.Random(5)
    for _ in range(3000):
        lo, hi = rng.choice(RANGES)
        hi = min(hi, lo + 60)
        texts.append(" ".join("".join(chr(rng.randint(lo, hi)) for _ in range(rng.randint(1, 7)))
                              for _ in range(12)))
    return [line for text in texts for line in text.splitlines(keepends=True)]


def train(lines, pre, normalizer=None, alphabet=(), limit=None, merges=MERGES, **model):
    t = Tokenizer(models.BPE(**model))
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    more = {"limit_alphabet": limit} if limit else {}
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + (limit or 0) + merges, show_progress=False,
                                  initial_alphabet=list(alphabet), max_token_length=24, **more,
                                  **({"end_of_word_suffix": model["end_of_word_suffix"]}
                                     if "end_of_word_suffix" in model else {}))
    t.train_from_iterator(lines, trainer)
    m = json.loads(t.to_str())["model"]
    pieces = sorted(m["vocab"], key=m["vocab"].get)
    return pieces, [tuple(x) for x in m["merges"]]


def added(*tokens):
    return [AddedToken(t, special=True, normalized=False) for t in tokens]


ODD = [AddedToken("<one>", single_word=True, normalized=False), AddedToken("<left>", lstrip=True, normalized=False),
       AddedToken("<right>", rstrip=True, normalized=False),
       AddedToken("<both>", lstrip=True, rstrip=True, normalized=False, special=True),
       AddedToken("Wort", normalized=True)]


def vocabulary(first, pieces, last=()):
    v = {}
    for p in list(first) + list(pieces) + list(last):
        v.setdefault(p, len(v))
    return v


def families(lines):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces, merges = train(lines, pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet=alphabet)

    def byte_level(vocab, m, pre=None, post=None, **model):
        t = Tokenizer(models.BPE(vocab=vocab, merges=m, continuing_subword_prefix="", end_of_word_suffix="",
                                 fuse_unk=False, **model))
        t.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)
        t.decoder = decoders.ByteLevel()
        t.post_processor = post or processors.ByteLevel(trim_offsets=False)
        return t

    t = byte_level(vocabulary([], pieces, ["<|endoftext|>"]), merges)
    t.add_special_tokens(added("<|endoftext|>"))
    t.add_tokens(ODD)
    yield "gpt2", t, True

    v = vocabulary(["<s>", "<pad>", "</s>", "<unk>"], pieces)
    t = byte_level(v, merges, post=processors.TemplateProcessing(
        single="</s>:0 $A:0", pair="</s>:0 $A:0 $B:1", special_tokens=[("</s>", 2)]))
    t.add_special_tokens([AddedToken(x, special=True, normalized=True) for x in ("<pad>", "</s>", "<unk>")])
    t.add_special_tokens(added("<s>"))
    t.add_tokens(ODD)
    yield "opt", t, False

    v = vocabulary([], pieces, ["<|endoftext|>"])
    t = byte_level(v, merges, pre=pre_tokenizers.ByteLevel(add_prefix_space=True))
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    t.add_special_tokens(added(*special))
    t.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", normalized=False) for i in range(50)] + ODD)
    ids = [(x, t.token_to_id(x)) for x in special]
    t.post_processor = processors.TemplateProcessing(
        single="<|startoftranscript|>:0 <|en|>:0 <|transcribe|>:0 <|notimestamps|>:0 $A:0 <|endoftext|>:0",
        pair="<|startoftranscript|>:0 $A:0 $B:1 <|endoftext|>:1", special_tokens=ids)
    yield "whisper", t, True

    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    p3, m3 = train(lines, split, alphabet=alphabet)
    # A whole word is taken when it is a piece, whether merges lead to it or not.
    t = byte_level(vocabulary([], p3, ["Ġextraordinary", "abcabcabc", "Hello,"]), m3, pre=split, ignore_merges=True)
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    t.add_special_tokens(added(*special))
    t.add_tokens(ODD)
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|>:0 $A:0", pair="<|begin_of_text|>:0 $A:0 <|begin_of_text|>:1 $B:1",
        special_tokens=[(special[0], t.token_to_id(special[0]))])])
    yield "llama3", t, False

    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t = byte_level(vocabulary([], p3), m3, pre=split)
    t.normalizer = normalizers.NFC()
    t.add_special_tokens(added("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    t.add_tokens(ODD)
    yield "qwen2", t, True

    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(BLOOM), "isolated"),
                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    pb, mb = train(lines, split, alphabet=alphabet)
    t = byte_level(vocabulary(["<unk>", "<s>", "</s>", "<pad>"], pb), mb, pre=split)
    t.add_special_tokens(added("<unk>", "<s>", "</s>", "<pad>"))
    t.add_tokens(ODD)
    yield "bloom", t, False

    # SentencePiece: spaces are U+2581, words are not cut, unknown characters become bytes.
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    sp, sm = train([x[:120] for x in lines[::3]], None, spaces, limit=350)
    first = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])

    def sentencepiece(**model):
        t = Tokenizer(models.BPE(vocab=vocabulary(first, sp), merges=sm, unk_token="<unk>", fuse_unk=True,
                                 byte_fallback=True, **model))
        t.post_processor = template
        t.add_special_tokens(added("<unk>", "<s>", "</s>"))
        return t

    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    t = sentencepiece()
    t.normalizer = spaces
    t.decoder = decoders.Sequence(back + [decoders.Strip(content=" ", left=1)])
    t.add_tokens(ODD)
    yield "llama2", t, True

    t = sentencepiece()
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence(back + [decoders.Strip(content=" ", left=1)])
    t.add_tokens(ODD)
    yield "tinyllama", t, False

    # No published family: the remaining kinds, all in one.
    pre = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Metaspace(prepend_scheme="always"),
        pre_tokenizers.Split("-", "merged_with_previous"),
        pre_tokenizers.Split(Regex(r"[\w&&[^a-f\d]]{3}+|[^\S\n]|\bx{2}?"), "merged_with_next"),
        pre_tokenizers.Split(Regex(r"[\p{Han}&&[^好]]|[.[!?]]"), "contiguous", invert=True),
        pre_tokenizers.Split(Regex(r"\h+q"), "removed")])
    norm = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(),
                                 normalizers.Replace(Regex(r"\s{2,}|,+"), " ")])
    po, mo = train(lines, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.Metaspace(prepend_scheme="always")]),
                   norm, limit=250, merges=2500, end_of_word_suffix="</w>")
    t = Tokenizer(models.BPE(vocab=vocabulary(["<unk>", "<0x41>"], po), merges=mo, unk_token="<unk>", fuse_unk=False,
                             end_of_word_suffix="</w>"))
    t.normalizer = norm
    t.pre_tokenizer = pre
    t.decoder = decoders.Sequence([decoders.Replace(Regex("</w>"), ""), decoders.Metaspace(prepend_scheme="always")])
    t.add_special_tokens(added("<unk>", "<s>"))
    t.add_tokens(ODD)
    t.post_processor = processors.RobertaProcessing(("<s>", t.token_to_id("<s>")), ("<unk>", 0))
    yield "mixed", t, True


def fnv(data):
    h = 0xcbf29ce484222325
    for b in data:
        h = ((h ^ b) * 0x100000001b3) & M64
    return h


def ids_hash(ids):
    return fnv(struct.pack(f"<{len(ids)}I", *ids))


def main():
    lines = corpus(sys.argv[1])
    only = sys.argv[2:]
    picked = strings()
    with open(os.path.join(HERE, "strings.bin"), "wb") as f:
        for s in picked:
            b = s.encode()
            f.write(struct.pack("<I", len(b)) + b)
    counts = {}
    for line in lines:
        for w in line.split():
            counts[w] = counts.get(w, 0) + 1
    words = sorted(sorted(counts, key=lambda w: (-counts[w], w))[:1500]) + sorted(random.Random(3).sample(sorted(counts), 900))
    with open(os.path.join(HERE, "words.txt"), "w", encoding="utf-8", newline="") as f:
        f.write("".join(w + "\n" for w in words))
    blocks = [block_text(i, words) for i in range(BLOCKS)]
    blocks += [code_point_text(i) for i in range(0x110)]
    print("text", sum(len(b.encode()) for b in blocks[:BLOCKS]), "bytes")
    for name, t, spelled_as_strings in families(lines):
        if only and name not in only:
            continue
        root = json.loads(t.to_str())
        if spelled_as_strings:
            assert all(" " not in a + b for a, b in root["model"]["merges"])
            root["model"]["merges"] = [f"{a} {b}" for a, b in root["model"]["merges"]]
        text = json.dumps(root, ensure_ascii=False, separators=(",", ":")) + "\n"
        assert json.loads(text) == root
        with open(os.path.join(HERE, name + ".json"), "w", encoding="utf-8", newline="") as f:
            f.write(text)
        t = Tokenizer.from_str(text)
        with open(os.path.join(HERE, name + ".strings"), "wb") as f:
            for s in picked:
                ids = t.encode(s).ids
                f.write(struct.pack(f"<I{len(ids)}H", len(ids), *ids))
                f.write(struct.pack("<QQQ", ids_hash(t.encode(s, add_special_tokens=False).ids),
                                    fnv(t.decode(ids, skip_special_tokens=False).encode()),
                                    fnv(t.decode(ids, skip_special_tokens=True).encode())))
        with open(os.path.join(HERE, name + ".blocks"), "wb") as f:
            for b in blocks:
                f.write(struct.pack("<Q", ids_hash(t.encode(b, add_special_tokens=False).ids)))
        print(name, t.get_vocab_size(), "pieces", len(root["model"]["merges"]), "merges", len(text), "bytes", flush=True)
    print("made with tokenizers", __version__)


main()
