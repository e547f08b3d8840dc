/* Unicode normal forms through utf8proc.
 *
 * The `tokenizers` library normalizes by the tables of Unicode 9. Characters whose composition,
 * decomposition or combining class came later are left where they are, and what stands on either
 * side of one is normalized by itself: so the same text gives the same ids. */
#include <string.h>
#include <utf8proc.h>

#include "base/error.h"
#include "text/normalizer.h"
#include "text/unicode_property.h"

/* First and last code point of each run, found by comparing both libraries over all code points, in
 * the company of marks of low and high combining classes. U+11A7 is old: no Hangul final, but
 * utf8proc 2.8 composes it away as if it were one. */
static const int32_t later[][2] = {
    {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x11A7, 0x11A7},
    {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0x32FF, 0x32FF},
    {0xA7F1, 0xA7F4},   {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x105C0, 0x105F3},
    {0x10781, 0x107BA}, {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC},
    {0x10EFA, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
    {0x1133B, 0x1133B}, {0x11380, 0x113E2}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
    {0x16100, 0x1612F}, {0x16D40, 0x16D6A}, {0x16FF0, 0x16FF1}, {0x1CCD6, 0x1CCF9},
    {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}, {0x1F16C, 0x1F16C},
    {0x1FBF0, 0x1FBF9},
};

static bool is_later(int32_t code) {
    if (code < later[0][0]) return false;
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        if (code <= later[i][1]) return code >= later[i][0];
    return false;
}

/* A run without later characters. */
static nib_status apply(utf8proc_option_t options, const char *text, size_t length, nib_text *out) {
    nib_status status = NIB_OK;
    utf8proc_int32_t *codes = NULL;
    size_t room = 0;
    const utf8proc_ssize_t need = utf8proc_decompose((const utf8proc_uint8_t *)text,
                                                     (utf8proc_ssize_t)length, NULL, 0, options);
    if (need < 0) return NIB_RAISE(NIB_E_FORMAT, "normalizer: %s", utf8proc_errmsg(need));
    room = ((size_t)need + 1) * sizeof *codes; /* and the zero that reencode puts behind */
    codes = nib_mem_alloc(out->mem, room);
    if (!codes) return NIB_E_MEMORY;
    utf8proc_ssize_t n = utf8proc_decompose((const utf8proc_uint8_t *)text,
                                            (utf8proc_ssize_t)length, codes, need, options);
    if (n >= 0) n = utf8proc_reencode(codes, n, options);
    if (n < 0)
        status = NIB_RAISE(NIB_E_FORMAT, "normalizer: %s", utf8proc_errmsg(n));
    else
        nib_text_append(out, (const char *)codes, (size_t)n);
    nib_mem_free(out->mem, codes, room);
    return status;
}

nib_status nib_unicode_form_apply(nib_unicode_form form, const char *text, size_t length,
                                  nib_text *out) {
    static const unsigned options[] = {
        [NIB_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
        [NIB_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [NIB_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [NIB_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    size_t start = 0;
    bool ascii = true; /* then it is in every normal form already */
    for (size_t at = 0; at < length;) {
        const size_t before = at;
        const int32_t code = nib_utf8_next(text, &at);
        ascii &= code < 0x80;
        if (!is_later(code)) continue;
        if (before > start)
            NIB_TRY(apply((utf8proc_option_t)options[form], text + start, before - start, out));
        nib_text_append(out, text + before, at - before);
        start = at;
    }
    if (ascii)
        nib_text_append(out, text, length);
    else if (start < length)
        return apply((utf8proc_option_t)options[form], text + start, length - start, out);
    return NIB_OK;
}
