#include "text/unicode_property.h"

#include <string.h>
#include <utf8proc.h>

/* Code points that Unicode 15 and 16 assigned or moved to another category, for libraries that
 * know only Unicode 14; made by tests/golden/tokenizer/properties.py. To name them once more
 * where the library knows them does no harm. */
static const struct {
    int32_t first, last;
    char category[3];
} since_14[] = {
    {0x897, 0x897, "Mn"},     {0xCF3, 0xCF3, "Mc"},     {0xECE, 0xECE, "Mn"},
    {0x1B4E, 0x1B4F, "Po"},   {0x1B7F, 0x1B7F, "Po"},   {0x1C89, 0x1C89, "Lu"},
    {0x1C8A, 0x1C8A, "Ll"},   {0x2427, 0x2429, "So"},   {0x2FFC, 0x2FFF, "So"},
    {0x31E4, 0x31E5, "So"},   {0x31EF, 0x31EF, "So"},   {0xA7CB, 0xA7CC, "Lu"},
    {0xA7CD, 0xA7CD, "Ll"},   {0xA7DA, 0xA7DA, "Lu"},   {0xA7DB, 0xA7DB, "Ll"},
    {0xA7DC, 0xA7DC, "Lu"},   {0x105C0, 0x105F3, "Lo"}, {0x10D40, 0x10D49, "Nd"},
    {0x10D4A, 0x10D4D, "Lo"}, {0x10D4E, 0x10D4E, "Lm"}, {0x10D4F, 0x10D4F, "Lo"},
    {0x10D50, 0x10D65, "Lu"}, {0x10D69, 0x10D6D, "Mn"}, {0x10D6E, 0x10D6E, "Pd"},
    {0x10D6F, 0x10D6F, "Lm"}, {0x10D70, 0x10D85, "Ll"}, {0x10D8E, 0x10D8F, "Sm"},
    {0x10EC2, 0x10EC4, "Lo"}, {0x10EFC, 0x10EFF, "Mn"}, {0x1123F, 0x11240, "Lo"},
    {0x11241, 0x11241, "Mn"}, {0x11380, 0x11389, "Lo"}, {0x1138B, 0x1138B, "Lo"},
    {0x1138E, 0x1138E, "Lo"}, {0x11390, 0x113B5, "Lo"}, {0x113B7, 0x113B7, "Lo"},
    {0x113B8, 0x113BA, "Mc"}, {0x113BB, 0x113C0, "Mn"}, {0x113C2, 0x113C2, "Mc"},
    {0x113C5, 0x113C5, "Mc"}, {0x113C7, 0x113CA, "Mc"}, {0x113CC, 0x113CD, "Mc"},
    {0x113CE, 0x113CE, "Mn"}, {0x113CF, 0x113CF, "Mc"}, {0x113D0, 0x113D0, "Mn"},
    {0x113D1, 0x113D1, "Lo"}, {0x113D2, 0x113D2, "Mn"}, {0x113D3, 0x113D3, "Lo"},
    {0x113D4, 0x113D5, "Po"}, {0x113D7, 0x113D8, "Po"}, {0x113E1, 0x113E2, "Mn"},
    {0x116D0, 0x116E3, "Nd"}, {0x1171E, 0x1171E, "Mc"}, {0x11B00, 0x11B09, "Po"},
    {0x11BC0, 0x11BE0, "Lo"}, {0x11BE1, 0x11BE1, "Po"}, {0x11BF0, 0x11BF9, "Nd"},
    {0x11F00, 0x11F01, "Mn"}, {0x11F02, 0x11F02, "Lo"}, {0x11F03, 0x11F03, "Mc"},
    {0x11F04, 0x11F10, "Lo"}, {0x11F12, 0x11F33, "Lo"}, {0x11F34, 0x11F35, "Mc"},
    {0x11F36, 0x11F3A, "Mn"}, {0x11F3E, 0x11F3F, "Mc"}, {0x11F40, 0x11F40, "Mn"},
    {0x11F41, 0x11F41, "Mc"}, {0x11F42, 0x11F42, "Mn"}, {0x11F43, 0x11F4F, "Po"},
    {0x11F50, 0x11F59, "Nd"}, {0x11F5A, 0x11F5A, "Mn"}, {0x1342F, 0x1342F, "Lo"},
    {0x13439, 0x1343F, "Cf"}, {0x13440, 0x13440, "Mn"}, {0x13441, 0x13446, "Lo"},
    {0x13447, 0x13455, "Mn"}, {0x13460, 0x143FA, "Lo"}, {0x16100, 0x1611D, "Lo"},
    {0x1611E, 0x16129, "Mn"}, {0x1612A, 0x1612C, "Mc"}, {0x1612D, 0x1612F, "Mn"},
    {0x16130, 0x16139, "Nd"}, {0x16D40, 0x16D42, "Lm"}, {0x16D43, 0x16D6A, "Lo"},
    {0x16D6B, 0x16D6C, "Lm"}, {0x16D6D, 0x16D6F, "Po"}, {0x16D70, 0x16D79, "Nd"},
    {0x18CFF, 0x18CFF, "Lo"}, {0x1B132, 0x1B132, "Lo"}, {0x1B155, 0x1B155, "Lo"},
    {0x1CC00, 0x1CCEF, "So"}, {0x1CCF0, 0x1CCF9, "Nd"}, {0x1CD00, 0x1CEB3, "So"},
    {0x1D2C0, 0x1D2D3, "No"}, {0x1DF25, 0x1DF2A, "Ll"}, {0x1E030, 0x1E06D, "Lm"},
    {0x1E08F, 0x1E08F, "Mn"}, {0x1E4D0, 0x1E4EA, "Lo"}, {0x1E4EB, 0x1E4EB, "Lm"},
    {0x1E4EC, 0x1E4EF, "Mn"}, {0x1E4F0, 0x1E4F9, "Nd"}, {0x1E5D0, 0x1E5ED, "Lo"},
    {0x1E5EE, 0x1E5EF, "Mn"}, {0x1E5F0, 0x1E5F0, "Lo"}, {0x1E5F1, 0x1E5FA, "Nd"},
    {0x1E5FF, 0x1E5FF, "Po"}, {0x1F6DC, 0x1F6DC, "So"}, {0x1F774, 0x1F776, "So"},
    {0x1F77B, 0x1F77F, "So"}, {0x1F7D9, 0x1F7D9, "So"}, {0x1F8B2, 0x1F8BB, "So"},
    {0x1F8C0, 0x1F8C1, "So"}, {0x1FA75, 0x1FA77, "So"}, {0x1FA87, 0x1FA89, "So"},
    {0x1FA8F, 0x1FA8F, "So"}, {0x1FAAD, 0x1FAAF, "So"}, {0x1FABB, 0x1FABF, "So"},
    {0x1FAC6, 0x1FAC6, "So"}, {0x1FACE, 0x1FACF, "So"}, {0x1FADA, 0x1FADC, "So"},
    {0x1FADF, 0x1FADF, "So"}, {0x1FAE8, 0x1FAE9, "So"}, {0x1FAF7, 0x1FAF8, "So"},
    {0x1FBCB, 0x1FBEF, "So"}, {0x2B739, 0x2B739, "Lo"}, {0x2EBF0, 0x2EE5D, "Lo"},
    {0x31350, 0x323AF, "Lo"},
};
enum { SINCE_14 = sizeof since_14 / sizeof since_14[0] };

/* Scripts that patterns name, with what Unicode 15 and 16 added to them. PCRE2's own \p{Han} would
 * also match what Han shares with others, hence "sc:". */
static const struct {
    const char *name, *class;
} scripts[] = {
    {"han", "\\p{sc:Han}\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"},
    {"hiragana", "\\p{sc:Hiragana}\\x{1B132}"},
    {"katakana", "\\p{sc:Katakana}\\x{1B155}"},
    {"hangul", "\\p{sc:Hangul}"},
    {"latin", "\\p{sc:Latin}\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}\\x{1DF25}-\\x{1DF2A}"},
    {"cyrillic", "\\p{sc:Cyrillic}\\x{1C89}\\x{1C8A}\\x{1E030}-\\x{1E06D}\\x{1E08F}"},
    {"greek", "\\p{sc:Greek}"},
    {"hebrew", "\\p{sc:Hebrew}"},
    {"thai", "\\p{sc:Thai}"},
};

static const char *const categories[] = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd",
    "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm",
    "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf", "Co",
};

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

/* `name` without what does not matter, in lower case; false when it does not fit. */
static bool plain_name(char *to, size_t room, const char *name, size_t length) {
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        if (name[i] == '_' || name[i] == '-' || name[i] == ' ') continue;
        if (n + 1 >= room) return false;
        to[n++] = lower(name[i]);
    }
    to[n] = '\0';
    return n > 0;
}

static void category_class(nib_text *out, const char *category) {
    nib_text_format(out, "\\p{%s}", category);
    for (int i = 0; i < SINCE_14; i++)
        if (nib_text_starts(since_14[i].category, category))
            nib_text_format(out, "\\x{%X}-\\x{%X}", (unsigned)since_14[i].first,
                            (unsigned)since_14[i].last);
}

nib_status nib_property_class(nib_text *out, const char *name, size_t length) {
    char plain[16] = "";
    if (plain_name(plain, sizeof plain, name, length)) {
        for (size_t i = 0; i < sizeof categories / sizeof *categories; i++) {
            const char *c = categories[i];
            if (plain[0] == lower(c[0]) && plain[1] == c[1] && (!c[1] || !plain[2])) {
                category_class(out, c);
                return NIB_OK;
            }
        }
        for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++)
            if (!strcmp(plain, scripts[i].name)) {
                nib_text_add(out, scripts[i].class);
                return NIB_OK;
            }
    }
    return NIB_RAISE(NIB_E_UNSUPPORTED,
                     "pattern: property \"%.*s\" is not known (categories such "
                     "as L or Nd, and scripts such as Han, are)",
                     (int)(length < 40 ? length : 40), name);
}

void nib_space_class(nib_text *out) {
    nib_text_add(out, "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}"
                      "\\x{2029}\\x{202F}\\x{205F}\\x{3000}");
}

/* Letters, marks, decimal digits, letter-like numbers, connectors, and letters in circles and
 * squares (alphabetic symbols). */
void nib_word_class(nib_text *out, bool alone) {
    static const char *const parts[] = {"L", "M", "Nd", "Nl", "Pc"};
    for (int i = 0; i < 5; i++) category_class(out, parts[i]);
    nib_text_add(out, "\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}"
                      "\\x{1F170}-\\x{1F189}");
    if (alone) nib_text_add(out, "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}");
}

bool nib_is_space(int32_t c) {
    return c == 0x20 || (c >= 9 && c <= 0xD) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

/* One of the categories of `mask`, a bit for each value of utf8proc_category_t. */
static bool in_categories(int32_t c, uint32_t mask, const char *letters) {
    if (mask >> utf8proc_category(c) & 1) return true;
    if (c < 0x800) return false; /* nothing that low is newer */
    for (int i = 0; i < SINCE_14; i++)
        if (c >= since_14[i].first && c <= since_14[i].last)
            return strchr(letters, since_14[i].category[0]) != NULL;
    return false;
}

bool nib_is_number(int32_t c) {
    const uint32_t n =
        1u << UTF8PROC_CATEGORY_ND | 1u << UTF8PROC_CATEGORY_NL | 1u << UTF8PROC_CATEGORY_NO;
    /* the last two ranges are Unicode 17's, which Rust's is_numeric knows already */
    return in_categories(c, n, "N") || (c >= 0x11DE0 && c <= 0x11DE9) ||
           (c >= 0x16FF4 && c <= 0x16FF6);
}

bool nib_is_word(int32_t c) {
    const uint32_t words =
        1u << UTF8PROC_CATEGORY_LU | 1u << UTF8PROC_CATEGORY_LL | 1u << UTF8PROC_CATEGORY_LT |
        1u << UTF8PROC_CATEGORY_LM | 1u << UTF8PROC_CATEGORY_LO | 1u << UTF8PROC_CATEGORY_MN |
        1u << UTF8PROC_CATEGORY_MC | 1u << UTF8PROC_CATEGORY_ME | 1u << UTF8PROC_CATEGORY_ND |
        1u << UTF8PROC_CATEGORY_NL | 1u << UTF8PROC_CATEGORY_PC;
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || c == '_' ||
               (c >= 'a' && c <= 'z');
    if (c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9)) return true;
    if ((c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
        (c >= 0x1F170 && c <= 0x1F189))
        return true;
    if (utf8proc_category(c) == UTF8PROC_CATEGORY_CN)
        for (int i = 0; i < SINCE_14; i++)
            if (c >= since_14[i].first && c <= since_14[i].last) {
                const char *category = since_14[i].category;
                return category[0] == 'L' || category[0] == 'M' || !strcmp(category, "Nd") ||
                       !strcmp(category, "Nl") || !strcmp(category, "Pc");
            }
    return words >> utf8proc_category(c) & 1;
}

int32_t nib_utf8_next(const char *text, size_t *at) {
    const unsigned char *s = (const unsigned char *)text + *at;
    if (s[0] < 0x80) return *at += 1, s[0];
    if (s[0] < 0xE0) return *at += 2, (s[0] & 31) << 6 | (s[1] & 63);
    if (s[0] < 0xF0) return *at += 3, (s[0] & 15) << 12 | (s[1] & 63) << 6 | (s[2] & 63);
    return *at += 4, (s[0] & 7) << 18 | (s[1] & 63) << 12 | (s[2] & 63) << 6 | (s[3] & 63);
}

size_t nib_utf8_back(const char *text, size_t at) {
    do at--;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}
