#!/usr/bin/env python3
"""Golden file of the pattern tests: python3 patterns.py

What Split(Regex(pattern), "isolated") of the `tokenizers` wheel makes of the hand-picked strings
and of all code points: patterns.bin holds, for each pattern, u32 length, the pattern, then FNV-1a
64 of the ends (as u32, in bytes) of all pieces, each string closed by 0xffffffff.
"""
import os, struct
from tokenizers import Regex, pre_tokenizers, __version__

HERE = os.path.dirname(os.path.abspath(__file__))
PATTERNS = r"""
\s
\S+
\d+
\D
\w+
\W+
\h+
\H
\p{L}+
\P{L}+
\p{^N}+
\p{Lu}\p{Ll}+
\p{lu}
\p{L_u}
\p{M}
\p{P}+
\p{S}
\p{Z}
\p{Cc}
\p{Cf}
\p{Nd}|\p{Nl}|\p{No}
\p{Pc}|\p{Pd}|\p{Ps}|\p{Pe}|\p{Pi}|\p{Pf}|\p{Po}
\p{Sm}|\p{Sc}|\p{Sk}|\p{So}
\p{Mc}|\p{Me}
\p{Lt}|\p{Lm}|\p{Lo}
\p{Han}+
\p{Hiragana}+|\p{Katakana}+
\p{Hangul}|\p{Greek}|\p{Hebrew}|\p{Thai}|\p{Latin}|\p{Cyrillic}
\b
\B
\b\w
\w\b.
^.
.$
\A.
.\z
.\Z
a|b|c
(?i:'s|'t|'re|'ve|'m|'ll|'d)
(?i)THE
(?i:k)
(?i:s)
(?i:[a-k])
(?i:é)
(?m:a.b)
a.b
[abc]+
[^abc]+
[a-c[x-z]]+
[a-z&&[^aeiou]]+
[^a-z&&[^aeiou]]+
[\p{L}&&[^\p{Lu}]]+
[\p{L}&&\p{Lu}&&[A-M]]+
[^\S\n]+
[^\W\d]+
[\W\d]+
[\s\S]
[^\s\S]
[a\-z]+
[a-]+
[-a]+
[\]\[]
[\]a-c]+
[\n\r\t]+
[\x41-\x5a]+
[\u4e00-\u9fff]+
[\x{1F600}-\x{1F64F}]+
[.*+?(){}|^$\\]+
[^(\s|[.,!?…。，、।۔،])]+
[[a][b]c]
[^[a][b]c]+
[^[^a-c]]
[a&b]
[^\p{L}\p{N}]?\p{L}+
a{2}
a{2,}
a{2,3}
a{,3}
a{2}?b
a{2,3}?
a{2}+
a{2,3}+
(?:ab){2}+c?
a?+b
a*+
a++b
a{
a{x}
\{2\}
(a)(b)?
(?<name>a)b
(a)\1
(?>a+)b
(?=a)
(?!a).
(?<=a)b
(?<!a)b
(?#comment)a
a(?i)B
a(?-i)b
(?i-m:ab)c
\n+
\R
\t|\v|\f|\a|\e
x*
a*?
|a
a|
\.
\'
é+
😀+
👍🏽
\u00e9
\x{e9}
 ?[^\s\p{L}\p{N}]+[\r\n]*
\s+(?!\S)|\s+
\s*[\r\n]+
'(?:[sdmt]|ll|ve|re)| ?\p{L}+
[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?
[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*
[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+
[一-龥぀-ゟ゠-ヿ]+
""".strip("\n").split("\n")
M64 = (1 << 64) - 1


def strings():
    with open(os.path.join(HERE, "strings.bin"), "rb") as f:
        b = f.read()
    at, out = 0, []
    while at < len(b):
        n, = struct.unpack_from("<I", b, at)
        out.append(b[at + 4:at + 4 + n].decode())
        at += 4 + n
    return out


def main():
    texts = strings() + ["".join(chr(c) for c in range(i, i + 4096) if not 0xd800 <= c < 0xe000)
                         for i in range(0, 0x110000, 4096)]
    with open(os.path.join(HERE, "patterns.bin"), "wb") as f:
        for pattern in PATTERNS:
            split = pre_tokenizers.Split(Regex(pattern), "isolated")
            h = 0xcbf29ce484222325
            for s in texts:
                ends, at = [], 0
                for piece, _ in split.pre_tokenize_str(s):
                    at += len(piece.encode())
                    ends.append(at)
                ends.append(0xffffffff)
                for b in struct.pack(f"<{len(ends)}I", *ends):
                    h = ((h ^ b) * 0x100000001b3) & M64
            b = pattern.encode()
            f.write(struct.pack("<I", len(b)) + b + struct.pack("<Q", h))
    print(len(PATTERNS), "patterns, tokenizers", __version__)


main()
