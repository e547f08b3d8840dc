/* Files that lie. Each is refused with one error that names the file, the byte and, where there
 * is one, the tensor; and looking at them changes nothing in their folder. */
#include <errno.h>

#include "base/error.h"
#include "io/safetensors.h"
#include "test_files.h"

/* Length, header and `data_size` bytes 0x01 into `path`. */
static void put_file(const char *path, uint64_t length, const char *header, size_t header_size,
                     size_t data_size) {
    char *bytes = malloc(8 + header_size + data_size + 1);
    for (int i = 0; i < 8; i++) bytes[i] = (char)(length >> 8 * i);
    memcpy(bytes + 8, header, header_size);
    memset(bytes + 8 + header_size, 1, data_size);
    test_write(path, bytes, 8 + header_size + data_size);
    free(bytes);
}

/* Opening must fail as said; offset -2: any byte of the file. */
static void refused(void **state_, const char *dir, nib_status status, const char *text,
                    const char *tensor, int64_t offset, const char *what) {
    const char *path = IN(dir, "m.safetensors");
    char *before = test_picture(dir);
    const size_t used = nib_mem_used(NULL);
    nib_safetensors *file = nib_safetensors_open(NULL, path);
    const nib_error *error = nib_last_error();
    char *after = test_picture(dir);
    CHECK_TEXT(after, before);
    free(before);
    free(after);
    if (file) FAIL_AT("%s: was read", what);
    CHECK_INT(nib_mem_used(NULL), used);
    if (error->status != status) FAIL_AT("%s: status %d (%s)", what, error->status, error->what);
    if (!strstr(error->what, text)) FAIL_AT("%s: says \"%s\", not \"%s\"", what, error->what, text);
    CHECK_TEXT(error->path, path);
    if (tensor && strcmp(tensor, error->tensor) != 0)
        FAIL_AT("%s: tensor \"%s\", want \"%s\"", what, error->tensor, tensor);
    struct stat about;
    CHECK(stat(path, &about) == 0);
    const bool somewhere = error->offset >= 0 && error->offset <= about.st_size;
    if (offset == -2 ? !somewhere : error->offset != offset)
        FAIL_AT("%s: offset %lld, want %lld", what, (long long)error->offset, (long long)offset);
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}"
#define B "\"b\":{\"dtype\":\"I8\",\"shape\":[5],\"data_offsets\":[24,29]}"

/* A caret in the header is not part of it: it marks the byte that the error must name. */
static const struct {
    const char *header;
    size_t data_size;
    nib_status status;
    const char *text, *tensor;
} lies[] = {
    /* grammar */
    {"^", 0, NIB_E_FORMAT, "the text ends", ""},
    {"^ {}", 0, NIB_E_FORMAT, "'{' as the header's first byte", ""},
    {"^[]", 0, NIB_E_FORMAT, "'{'", ""},
    {"{} ^\n", 0, NIB_E_FORMAT, "nothing but blanks", ""},
    {"{}^{}", 0, NIB_E_FORMAT, "nothing but blanks", ""},
    {"{^1:2}", 0, NIB_E_FORMAT, "a string", ""},
    {"{" A ",^}", 24, NIB_E_FORMAT, "a string", ""},
    {"{" A " ^" B "}", 29, NIB_E_FORMAT, "'}'", ""},
    {"{\"a^", 0, NIB_E_FORMAT, "the end of a string", ""},
    {"{\"a^\xff\":1}", 0, NIB_E_FORMAT, "not valid UTF-8", ""},
    {"{\"a^\n\":1}", 0, NIB_E_FORMAT, "control character", ""},
    {"{\"a^\\x\":1}", 0, NIB_E_FORMAT, "escape", ""},
    {"{\"a^\\u00g0\":1}", 0, NIB_E_FORMAT, "hexadecimal", ""},
    {"{\"a^\\u0000\":1}", 0, NIB_E_FORMAT, "zero byte", ""},
    {"{\"a^\\ud800\":1}", 0, NIB_E_FORMAT, "surrogate", ""},
    {"{\"a^\\udc00\":1}", 0, NIB_E_FORMAT, "surrogate", ""},
    {"{\"a^\\ud800\\u0041\":1}", 0, NIB_E_FORMAT, "surrogate", ""},
    /* entries wrongly typed or incomplete */
    {"{\"a\":^1}", 0, NIB_E_FORMAT, "'{'", "a"},
    {"{\"a\":^null}", 0, NIB_E_FORMAT, "'{'", "a"},
    {"{^\"a\":{}}", 0, NIB_E_FORMAT, "\"dtype\" is missing", "a"},
    {"{^\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 4, NIB_E_FORMAT, "\"data_offsets\" is missing",
     "a"},
    {"{^\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT, "\"shape\" is missing",
     "a"},
    {"{\"a\":{\"dtype\":^1,\"shape\":[],\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT, "a string",
     "a"},
    {"{\"a\":{\"dtype\":^\"F33\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT,
     "unknown dtype \"F33\"", "a"},
    {"{\"a\":{\"dtype\":^\"f32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT,
     "unknown dtype", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":^4,\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT, "'['",
     "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[^\"1\"],\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT,
     "whole number", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[^1.0],\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT,
     "whole number", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[^1e0],\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT,
     "whole number", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[^01],\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT,
     "whole number", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[^true],\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT,
     "whole number", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,^],\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT,
     "whole number", "a"},
    {"{^\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[4]}}", 4, NIB_E_FORMAT,
     "not two numbers", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4,4^]}}", 4, NIB_E_FORMAT,
     "more than 2", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],^\"x\":1}}", 4, NIB_E_FORMAT,
     "unknown key \"x\"", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],^\"shape\":[],\"data_offsets\":[0,4]}}", 4,
     NIB_E_FORMAT, "twice", "a"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1^],\"data_offsets\":[0,1]}}", 1,
     NIB_E_UNSUPPORTED, "more than 8 dimensions", "a"},
    /* metadata */
    {"{\"__metadata__\":^[]}", 0, NIB_E_FORMAT, "'{'", ""},
    {"{\"__metadata__\":{\"a\":^1}}", 0, NIB_E_FORMAT, "a string", ""},
    {"{\"__metadata__\":{\"a\":^{}}}", 0, NIB_E_FORMAT, "a string", ""},
    {"{\"__metadata__\":{},^\"__metadata__\":{}}", 0, NIB_E_FORMAT, "twice", ""},
    /* sizes */
    {"{^\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT,
     "make 8 bytes, data_offsets hold 4", "a"},
    {"{^\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,4]}}", 4, NIB_E_FORMAT,
     "make 0 bytes", "a"},
    {"{^\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, NIB_E_FORMAT,
     "whole bytes", "a"},
    {"{^\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, NIB_E_FORMAT,
     "whole bytes", "a"},
    {"{^\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
     NIB_E_FORMAT, "overflows", "a"},
    {"{^\"a\":{\"dtype\":\"F32\",\"shape\":[1152921504606846976,2],\"data_offsets\":[0,0]}}", 0,
     NIB_E_FORMAT, "overflows", "a"},
    {"{^\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775807,9223372036854775807],\"data_"
     "offsets\":[0,1]}}",
     1, NIB_E_FORMAT, "overflows", "a"},
    {"{^\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[4,0]}}", 4, NIB_E_FORMAT,
     "before they begin", "a"},
    /* cover */
    {"{" A ",^\"b\":{\"dtype\":\"I8\",\"shape\":[5],\"data_offsets\":[23,28]}}", 28, NIB_E_FORMAT,
     "within \"a\"", "b"},
    {"{" A ",^\"b\":{\"dtype\":\"I8\",\"shape\":[5],\"data_offsets\":[0,5]}}", 24, NIB_E_FORMAT, "",
     NULL},
    {"{" A ",^\"b\":{\"dtype\":\"I8\",\"shape\":[5],\"data_offsets\":[25,30]}}", 30, NIB_E_FORMAT,
     "before it end at 24", "b"},
    {"{^\"b\":{\"dtype\":\"I8\",\"shape\":[5],\"data_offsets\":[1,6]}}", 6, NIB_E_FORMAT,
     "before it end at 0", "b"},
    {"{^\"b\":{\"dtype\":\"I8\",\"shape\":[1152921504606846974],\"data_offsets\":[1,"
     "1152921504606846975]}}",
     6, NIB_E_FORMAT, "begins at 1", "b"},
    /* names */
    {"{" A ",^\"a\":{\"dtype\":\"I8\",\"shape\":[5],\"data_offsets\":[24,29]}}", 29, NIB_E_FORMAT,
     "two tensors have this name", "a"},
    {"{" A ",^\"\\u0061\":{\"dtype\":\"I8\",\"shape\":[5],\"data_offsets\":[24,29]}}", 29,
     NIB_E_FORMAT, "two tensors have this name", "a"},
};

TEST(every_lie_of_the_list_is_refused_at_its_byte) {
    TEST_FOLDER(dir);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        char header[512], *caret;
        snprintf(header, sizeof header, "%s", lies[i].header);
        caret = strchr(header, '^');
        CHECK(caret != NULL);
        memmove(caret, caret + 1, strlen(caret));
        put_file(IN(dir, "m.safetensors"), strlen(header), header, strlen(header),
                 lies[i].data_size);
        /* of two that begin together the longer is the one that overlaps */
        const bool either = !lies[i].tensor;
        refused(state_, dir, lies[i].status, lies[i].text, lies[i].tensor,
                either ? -2 : 8 + (caret - header), lies[i].header);
    }
    test_folder_remove(dir);
}

TEST(a_key_of_the_metadata_is_there_once) {
    TEST_FOLDER(dir);
    const char *header = "{\"__metadata__\":{\"k\":\"1\",\"x\":\"\",\"k\":\"2\"}}";
    put_file(IN(dir, "m.safetensors"), strlen(header), header, strlen(header), 0);
    refused(state_, dir, NIB_E_FORMAT, "the metadata has \"k\" twice", "", 8, header);
    test_folder_remove(dir);
}

TEST(a_file_cut_after_any_byte_says_how_much_is_missing) {
    TEST_FOLDER(dir);
    static const char *const goldens[] = {"all_dtypes", "shapes", "names", "empty"};
    for (size_t g = 0; g < sizeof goldens / sizeof *goldens; g++) {
        char path[128], text[64];
        size_t size = 0;
        snprintf(path, sizeof path, "tests/golden/io/%s.safetensors", goldens[g]);
        char *whole = test_read(path, &size);
        CHECK(whole != NULL);
        const size_t data = 8 + (unsigned char)whole[0] + 256u * (unsigned char)whole[1];
        for (size_t cut = 0; cut < size; cut++) {
            test_write(IN(dir, "m.safetensors"), whole, cut);
            if (cut < 8)
                snprintf(text, sizeof text, "%zu bytes cannot hold", cut);
            else
                snprintf(text, sizeof text, "%zu bytes short",
                         cut < data ? data - cut : size - cut);
            refused(state_, dir, NIB_E_FORMAT, text, cut < data ? "" : NULL, (int64_t)cut, text);
            if (cut >= data) CHECK(nib_last_error()->tensor[0] != '\0' || g == 2);
        }
        /* and one byte more than there should be */
        whole[size] = 'x';
        test_write(IN(dir, "m.safetensors"), whole, size + 1);
        refused(state_, dir, NIB_E_FORMAT, "1 bytes that belong to no tensor", "", (int64_t)size,
                "one byte too many");
        free(whole);
    }
    test_folder_remove(dir);
}

static const char *const numbers[] = {
    "0",
    "-1",
    "1",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999",
    "size-1",
    "size",
    "size+1",
};

TEST(every_number_of_the_header_set_wrong_is_refused) {
    TEST_FOLDER(dir);
    const char *good = "{" A "," B "}";
    const long long file_size = 8 + (long long)strlen(good) + 29;
    int tried = 0;
    for (const char *p = good; *p; p++) {
        const bool starts = *p >= '0' && *p <= '9' && (p[-1] == '[' || p[-1] == ',');
        if (!starts) continue;
        const size_t digits = strspn(p, "0123456789");
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
            char header[256], number[32], what[64];
            snprintf(number, sizeof number, "%s", numbers[i]);
            if (numbers[i][0] == 's')
                snprintf(number, sizeof number, "%lld",
                         file_size + (numbers[i][4] == '+'   ? 1
                                      : numbers[i][4] == '-' ? -1
                                                             : 0));
            if (strlen(number) == digits && strncmp(number, p, digits) == 0) continue;
            snprintf(header, sizeof header, "%.*s%s%s", (int)(p - good), good, number, p + digits);
            snprintf(what, sizeof what, "%s at %d", number, (int)(p - good));
            put_file(IN(dir, "m.safetensors"), strlen(header), header, strlen(header), 29);
            refused(state_, dir, NIB_E_FORMAT, "", p < strstr(good, ",\"b\"") ? NULL : "b", -2,
                    what);
            CHECK(nib_last_error()->tensor[0] == 'a' || nib_last_error()->tensor[0] == 'b');
            tried++;
        }
    }
    CHECK(tried > 7 * 13);
    test_folder_remove(dir);
}

TEST(every_wrong_length_of_the_header_is_refused) {
    TEST_FOLDER(dir);
    const char *good = "{" A "," B "}";
    const uint64_t n = strlen(good), size = 8 + n + 29;
    const uint64_t lengths[] = {
        0,          1,         n - 1,      n + 1,      size - 9,       size - 7,
        size - 1,   size,      size + 1,   INT32_MAX,  1ull << 31,     UINT32_MAX,
        1ull << 32, INT64_MAX, 1ull << 63, UINT64_MAX, UINT64_MAX - 7, UINT64_MAX - 8};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char what[64];
        snprintf(what, sizeof what, "length %" PRIu64, lengths[i]);
        put_file(IN(dir, "m.safetensors"), lengths[i], good, n, 29);
        refused(state_, dir, NIB_E_FORMAT, "", "", -2, what);
    }
    test_folder_remove(dir);
}

/* 100 MB is what the reference library reads at most; here it is refused before it is read. */
TEST(a_header_of_100_megabytes_is_refused_unread) {
    TEST_FOLDER(dir);
    const char *path = IN(dir, "m.safetensors");
    put_file(path, 100000000, "{}", 2, 0);
    CHECK(truncate(path, 8 + 100000000) == 0);
    nib_mem mem = {.limit = 1 << 20};
    CHECK(!nib_safetensors_open(&mem, path));
    CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
    CHECK(strstr(nib_last_error()->what, "100000000 bytes is over the limit of 33554432") != NULL);
    CHECK_TEXT(nib_last_error()->path, path);
    CHECK_INT(nib_last_error()->offset, 0);
    test_folder_remove(dir);
}

/* One bit wrong: an error with file and byte, or a file that still accounts for every byte. */
TEST(any_flipped_bit_is_an_error_or_a_valid_file) {
    size_t size = 0;
    char *whole = test_read("tests/golden/io/shapes.safetensors", &size);
    CHECK(whole != NULL);
    const size_t header = 8 + (unsigned char)whole[0] + 256u * (unsigned char)whole[1];
    for (size_t bit = 0; bit < 8 * header; bit++) {
        whole[bit / 8] = (char)(whole[bit / 8] ^ 1 << bit % 8);
        nib_safetensors *file = nib_safetensors_parse(NULL, "m", whole, size, size);
        if (file) {
            size_t sum = 0;
            for (size_t i = 0; i < file->count; i++) sum += file->entries[i].size;
            CHECK_INT(sum, size - file->data_offset);
            nib_safetensors_close(file);
        } else {
            CHECK_TEXT(nib_last_error()->path, "m");
            CHECK(nib_last_error()->offset >= 0 && nib_last_error()->offset <= (int64_t)size);
        }
        whole[bit / 8] = (char)(whole[bit / 8] ^ 1 << bit % 8);
    }
    free(whole);
}

TESTS(RUNS(every_lie_of_the_list_is_refused_at_its_byte), RUNS(a_key_of_the_metadata_is_there_once),
      RUNS(a_file_cut_after_any_byte_says_how_much_is_missing),
      RUNS(every_number_of_the_header_set_wrong_is_refused),
      RUNS(every_wrong_length_of_the_header_is_refused),
      RUNS(a_header_of_100_megabytes_is_refused_unread),
      RUNS(any_flipped_bit_is_an_error_or_a_valid_file))
