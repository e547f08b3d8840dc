#!/usr/bin/env python3
"""Prints the table `since_14` of src/text/unicode_property.c: python3 properties.py

For each general category, the code points that the `tokenizers` wheel counts to it (its regular
expressions know Unicode 16) and PCRE2 10.42 (Unicode 14) does not. Needs libpcre2-8.
"""
import ctypes
from tokenizers import Regex, pre_tokenizers, __version__

CODES = [c for c in range(0x110000) if not 0xd800 <= c < 0xe000]
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Cf".split()
UTF, UCP = 0x80000, 0x20000

pcre = ctypes.CDLL("libpcre2-8.so.0")
pcre.pcre2_compile_8.restype = pcre.pcre2_match_data_create_8.restype = ctypes.c_void_p


def in_wheel(pattern):
    split, found = pre_tokenizers.Split(Regex(pattern), "removed", invert=True), set()
    for i in range(0, len(CODES), 20000):
        for piece, _ in split.pre_tokenize_str("".join(map(chr, CODES[i:i + 20000]))):
            found.update(map(ord, piece))
    return found


def in_pcre2(pattern):
    error, at, text = ctypes.c_int(), ctypes.c_size_t(), pattern.encode()
    code = ctypes.c_void_p(pcre.pcre2_compile_8(text, ctypes.c_size_t(len(text)), UTF | UCP,
                                                ctypes.byref(error), ctypes.byref(at), None))
    data, found = ctypes.c_void_p(pcre.pcre2_match_data_create_8(4, None)), set()
    for c in CODES:
        one = chr(c).encode()
        if pcre.pcre2_match_8(code, one, ctypes.c_size_t(len(one)), ctypes.c_size_t(0), 0, data, None) > 0:
            found.add(c)
    return found


def runs(codes):
    out = []
    for c in sorted(codes):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


rows = []
for category in CATEGORIES:
    pattern = r"\p{%s}" % category
    rows += [(first, last, category) for first, last in runs(in_wheel(pattern) - in_pcre2(pattern))]
for first, last, category in sorted(rows):
    print('    {0x%X, 0x%X, "%s"},' % (first, last, category))
print("/* tokenizers", __version__, "*/")
