/* golden_text.h: reading the tokenizer goldens, and the long text that tests/golden/tokenizer/
 * make.py makes by the same rule. */
#ifndef NIB_TESTS_GOLDEN_TEXT_H
#define NIB_TESTS_GOLDEN_TEXT_H
#include "base/file.h"
#include "test.h"

#define GOLDEN "tests/golden/tokenizer/"
enum { BLOCKS = 160, BLOCK_BYTES = 65536, CODE_BLOCKS = 0x110, CODES_PER_BLOCK = 4096 };

static inline uint64_t fnv(uint64_t h, const void *bytes, size_t size) {
    const unsigned char *b = bytes;
    for (size_t i = 0; i < size; i++) h = (h ^ b[i]) * 0x100000001b3u;
    return h;
}
#define FNV_START 0xcbf29ce484222325u

/* FNV-1a 64 of ids as little-endian u32. */
static inline uint64_t ids_hash(const int32_t *ids, size_t n) {
    uint64_t h = FNV_START;
    for (size_t i = 0; i < n; i++) {
        const uint32_t v = (uint32_t)ids[i];
        const unsigned char b[4] = {(unsigned char)v, (unsigned char)(v >> 8),
                                    (unsigned char)(v >> 16), (unsigned char)(v >> 24)};
        h = fnv(h, b, 4);
    }
    return h;
}

static inline uint64_t little_endian(const unsigned char *b, int n) {
    uint64_t v = 0;
    while (n--) v = v << 8 | b[n];
    return v;
}

/* A golden file, whole; an absent one fails the test. Free with free_golden. */
typedef struct golden {
    unsigned char *bytes;
    size_t size;
} golden;
static inline golden read_golden(const char *name) {
    char path[256];
    golden g = {0};
    snprintf(path, sizeof path, GOLDEN "%s", name);
    g.bytes = (unsigned char *)nib_file_read_whole(NULL, path, 64 << 20, &g.size);
    if (!g.bytes) {
        print_error("%s: %s\n", path, nib_last_error()->what);
        fail();
    }
    return g;
}
static inline void free_golden(golden *g) { nib_mem_free(NULL, g->bytes, g->size + 1); }

/* ---- the text made by rule ---- */
static const char *const golden_punctuation[] = {
    ".",  ",",  "!",  "?", ";", ":", "'",  "\"",  "-",   "--",  "...", "(",  ")",  "[",
    "]",  "{",  "}",  "<", ">", "/", "\\", "|",   "@",   "#",   "$",   "%",  "^",  "&",
    "*",  "_",  "=",  "+", "`", "~", "'s", "'ll", "'RE", "n't", "://", "</", "==", "…",
    "。", "，", "、", "।", "۔", "،", "«",  "»",   "–",   "—",   "’s",  "▁",  "Ġ",
};
static const char *const golden_blanks[] = {
    " ",      "  ",     "   ",  "\n",       "\n\n",   "\r\n",     "\t",
    " \n",    "\n ",    " \t ", "\u00a0",   "\u3000", "\u2028",   "\xc2\x85",
    "\u200b", "\u180e", "\x1c", "        ", "\n\n\n", "\x0b\x0c",
};
static const uint32_t golden_ranges[][2] = {
    {0x20, 0x7e},       {0xa1, 0x17f},      {0x300, 0x36f},     {0x370, 0x3ff},
    {0x400, 0x4ff},     {0x5d0, 0x5ea},     {0x600, 0x6ff},     {0x900, 0x97f},
    {0xe01, 0xe3a},     {0x1100, 0x11ff},   {0x1e00, 0x1eff},   {0x2000, 0x206f},
    {0x2150, 0x218b},   {0x2460, 0x24ff},   {0x3041, 0x3096},   {0x30a1, 0x30fa},
    {0x4e00, 0x9fff},   {0xac00, 0xd7a3},   {0xfb00, 0xfb06},   {0xff01, 0xff5e},
    {0x1d400, 0x1d7ff}, {0x1f300, 0x1f64f}, {0x1f1e6, 0x1f1ff}, {0x31350, 0x313ff},
};
static const char *const golden_tokens[] = {
    "<s>",           "</s>",
    "<|endoftext|>", "<|begin_of_text|>",
    "<|eot_id|>",    "<unk>",
    "<pad>",         "<one>",
    "<left>",        "<right>",
    "<both>",        "Wort",
    "<0x41>",        "<|startoftranscript|>",
};
#define COUNT(array) (sizeof(array) / sizeof(array)[0])

typedef struct word_list {
    golden file;
    const char *words[4096];
    size_t lengths[4096], count;
} word_list;

static inline void read_words(word_list *list) {
    list->file = read_golden("words.txt");
    list->count = 0;
    for (size_t i = 0, start = 0; i < list->file.size && list->count < 4096; i++) {
        if (list->file.bytes[i] != '\n') continue;
        list->words[list->count] = (const char *)list->file.bytes + start;
        list->lengths[list->count++] = i - start;
        start = i + 1;
    }
}

static inline size_t put_code(char *to, uint32_t c) {
    if (c < 0x80) return to[0] = (char)c, 1;
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) to[i] = (char)(0x80 | (c & 63));
    to[0] = (char)((n == 2 ? 0xC0u : n == 3 ? 0xE0u : 0xF0u) | c);
    return n;
}

/* The text of one block into text[BLOCK_BYTES]; returns its length. */
static inline size_t block_text(uint64_t block, const word_list *list, char *text) {
    uint64_t state = block + 1;
    for (size_t size = 0;;) {
        const uint64_t r = test_random(&state), kind = r % 100, pick = r >> 8;
        char part[256];
        size_t n = 0;
        if (kind < 74) {
            const char *word = list->words[pick % list->count];
            const size_t length = list->lengths[pick % list->count];
            bool ascii = true;
            for (size_t i = 0; i < length; i++) ascii &= (unsigned char)word[i] < 0x80;
            if (kind < 66) part[n++] = ' ';
            if (kind < 70 || ascii) {
                memcpy(part + n, word, length);
                if (kind >= 70)
                    for (size_t i = 0; i < length; i++)
                        if (part[i] >= 'a' && part[i] <= 'z') part[i] = (char)(part[i] - 32);
                n += length;
            } else {
                n += put_code(part, 0xC9);
            }
        } else if (kind < 79) {
            uint64_t power = 10;
            for (uint64_t i = (pick >> 40) % 9; i > 0; i--) power *= 10;
            n = (size_t)snprintf(part, sizeof part, "%" PRIu64, pick % power);
        } else if (kind < 90 || kind >= 98) {
            const char *chosen = kind < 85   ? golden_punctuation[pick % COUNT(golden_punctuation)]
                                 : kind < 90 ? golden_blanks[pick % COUNT(golden_blanks)]
                                             : golden_tokens[pick % COUNT(golden_tokens)];
            n = strlen(chosen);
            memcpy(part, chosen, n);
        } else if (kind < 96) {
            const uint32_t *range = golden_ranges[pick % COUNT(golden_ranges)];
            for (uint64_t i = 1 + (pick >> 16) % 6; i > 0; i--)
                n += put_code(part + n, range[0] + (uint32_t)(test_random(&state) %
                                                              (range[1] - range[0] + 1)));
        } else {
            const uint32_t code = (uint32_t)(pick % 0x10f800);
            n = put_code(part, code < 0xd800 ? code : code + 0x800);
        }
        if (size + n > BLOCK_BYTES) return size;
        memcpy(text + size, part, n);
        size += n;
    }
}

/* "a?b ??1? '?\n" for each code point of a block; text has room for 28 bytes each. */
static inline size_t code_text(uint32_t block, char *text) {
    size_t n = 0;
    for (uint32_t code = block * CODES_PER_BLOCK; code < (block + 1) * CODES_PER_BLOCK; code++) {
        if (code >= 0xd800 && code < 0xe000) continue;
        text[n++] = 'a';
        n += put_code(text + n, code);
        text[n++] = 'b';
        text[n++] = ' ';
        n += put_code(text + n, code);
        n += put_code(text + n, code);
        text[n++] = '1';
        n += put_code(text + n, code);
        text[n++] = ' ';
        text[n++] = '\'';
        n += put_code(text + n, code);
        text[n++] = '\n';
    }
    return n;
}
#endif
