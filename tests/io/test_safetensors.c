#include "io/safetensors.h"

#include <errno.h>

#include "base/error.h"
#include "base/sys.h"
#include "base/text_util.h"
#include "test_files.h"

#define GOLDEN "tests/golden/io/"

TEST(every_dtype_of_the_reference_library_is_read) {
    /* name, bits; in the order of the file */
    static const struct {
        const char *name;
        nib_dtype dtype;
        int64_t columns;
        size_t bytes;
    } want[] = {
        {"t.uint64", NIB_U64, 2, 48},
        {"t.int64", NIB_I64, 2, 48},
        {"t.float64", NIB_F64, 2, 48},
        {"t.complex64", NIB_C64, 2, 48},
        {"t.float32", NIB_F32, 2, 24},
        {"t.uint32", NIB_U32, 2, 24},
        {"t.int32", NIB_I32, 2, 24},
        {"t.bfloat16", NIB_BF16, 2, 12},
        {"t.float16", NIB_F16, 2, 12},
        {"t.uint16", NIB_U16, 2, 12},
        {"t.int16", NIB_I16, 2, 12},
        {"t.float8_e5m2fnuz", NIB_F8_E5M2FNUZ, 2, 6},
        {"t.float8_e4m3fnuz", NIB_F8_E4M3FNUZ, 2, 6},
        {"t.float8_e8m0fnu", NIB_F8_E8M0, 2, 6},
        {"t.float8_e4m3fn", NIB_F8_E4M3FN, 2, 6},
        {"t.float8_e5m2", NIB_F8_E5M2, 2, 6},
        {"t.int8", NIB_I8, 2, 6},
        {"t.uint8", NIB_U8, 2, 6},
        {"t.float4_e2m1fn_x2", NIB_F4_E2M1, 4, 6},
        {"t.bool", NIB_BOOL, 2, 6},
    };
    nib_safetensors *file = nib_safetensors_open(NULL, GOLDEN "all_dtypes.safetensors");
    CHECK_MADE(file);
    CHECK_INT(file->count, sizeof want / sizeof *want);
    size_t at = file->data_offset;
    for (size_t i = 0; i < file->count; i++) {
        const nib_safetensors_entry *entry = nib_safetensors_find(file, want[i].name);
        CHECK(entry == &file->entries[i]);
        CHECK_INT(entry->dtype, want[i].dtype);
        CHECK_INT(entry->shape.ndim, 2);
        CHECK_INT(entry->shape.dim[0], 3);
        CHECK_INT(entry->shape.dim[1], want[i].columns);
        CHECK_INT(entry->size, want[i].bytes);
        CHECK_INT(entry->offset, at);
        at += entry->size;
        unsigned char bytes[48]; /* the file counts its data up from 0 */
        CHECK_OK(nib_safetensors_read(file, entry, bytes, entry->size - 1, 1));
        const unsigned char *mapped = nib_safetensors_data(file, entry);
        CHECK_MADE(mapped);
        for (size_t k = 0; k + 1 < entry->size; k++) {
            CHECK_INT(bytes[k], (entry->offset - file->data_offset + 1 + k) % 256);
            CHECK_INT(mapped[k + 1], bytes[k]);
        }
        CHECK_FAILS(nib_safetensors_read(file, entry, bytes, entry->size, 1), NIB_E_ARGUMENT,
                    "asked");
        CHECK_TEXT(nib_last_error()->tensor, want[i].name);
    }
    CHECK(!nib_safetensors_find(file, "t") && !nib_safetensors_find(file, ""));
    nib_safetensors_close(file);
}

TEST(scalars_and_empty_tensors_are_tensors) {
    nib_safetensors *file = nib_safetensors_open(NULL, GOLDEN "shapes.safetensors");
    CHECK_MADE(file);
    const nib_safetensors_entry *scalar = nib_safetensors_find(file, "scalar");
    const nib_safetensors_entry *none = nib_safetensors_find(file, "none");
    CHECK(scalar && scalar->shape.ndim == 0 && scalar->size == 4);
    CHECK(none && none->shape.ndim == 3 && none->shape.dim[1] == 0 && none->size == 0);
    CHECK_MADE(nib_safetensors_data(file, none));
    CHECK_OK(nib_safetensors_read(file, none, NULL, 0, 0));
    CHECK_INT(nib_safetensors_find(file, "eight")->shape.ndim, 8);
    CHECK_TEXT(nib_safetensors_metadata(file, "format"), "pt");
    CHECK(!nib_safetensors_metadata(file, "other"));
    nib_safetensors_close(file);
}

TEST(names_come_out_of_their_escapes) {
    nib_safetensors *file = nib_safetensors_open(NULL, GOLDEN "names.safetensors");
    CHECK_MADE(file);
    CHECK_INT(file->count, 4);
    CHECK(nib_safetensors_find(file, "\xc3\xa9\"\\/\n\t\xe2\x80\xa8\x7f\x01") != NULL);
    CHECK(nib_safetensors_find(file, "\xf0\x9f\x98\x80") && nib_safetensors_find(file, ""));
    CHECK_TEXT(nib_safetensors_metadata(file, "ke\"y"), "va\\l\xc3\xbc"
                                                        "e");
    nib_safetensors_close(file);
}

TEST(a_file_without_tensors_is_read) {
    nib_safetensors *file = nib_safetensors_open(NULL, GOLDEN "empty.safetensors");
    CHECK_MADE(file);
    CHECK(file->count == 0 && !nib_safetensors_find(file, "x"));
    nib_safetensors_close(file);
    file = nib_safetensors_open(NULL, GOLDEN "empty_with_metadata.safetensors");
    CHECK_MADE(file);
    CHECK(file->count == 0 && file->metadata_count == 1);
    nib_safetensors_close(file);
}

static nib_safetensors *parse(const char *header, size_t data_size) {
    nib_text text = {0};
    const size_t length = strlen(header);
    for (int i = 0; i < 8; i++) nib_text_append(&text, (char[]){(char)(length >> 8 * i)}, 1);
    nib_text_add(&text, header);
    nib_safetensors *file =
        nib_safetensors_parse(NULL, "mem", text.data, text.length, text.length + data_size);
    nib_text_free(&text);
    return file;
}

TEST(keys_and_blanks_may_stand_in_any_order) {
    nib_safetensors *file =
        parse("{ \"\\u0062\\ud83d\\ude00\" :\n{\"data_offsets\":[6,9],\t\"shape\" : [ 1, 3 "
              "],\r\"dtype\":\"U8\"},"
              "\"__metadata__\":{\"b\":\"1\",\"a\":\"\"},"
              "\"a\":{\"shape\":[3],\"dtype\":\"\\u0042F16\",\"data_offsets\":[0,6]}}   ",
              9);
    CHECK_MADE(file);
    CHECK_INT(file->count, 2);
    CHECK_TEXT(file->entries[0].name, "a");
    CHECK_TEXT(file->entries[1].name, "b\xf0\x9f\x98\x80");
    CHECK_TEXT(file->metadata[0].key, "b");
    nib_safetensors_close(file);
}

/* Empty tensors may stand at the offset of a neighbour, but not inside one. */
TEST(empty_tensors_share_offsets_but_do_not_lie_within_others) {
    nib_safetensors *file = parse("{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                                  "\"z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
                                  "\"y\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]}}",
                                  2);
    CHECK_MADE(file);
    CHECK_TEXT(file->entries[0].name, "z");
    nib_safetensors_close(file);
    CHECK(!parse("{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                 "\"z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]}}",
                 2));
    CHECK_TEXT(nib_last_error()->tensor, "z");
}

/* As many tensors as fit the largest header: all found, none twice, in one pass. */
TEST(half_a_million_tensors_are_read) {
    enum { N = 500000 };
    nib_text text = {0};
    nib_text_append(&text, "\0\0\0\0\0\0\0\0{", 9);
    for (int i = 0; i < N; i++) /* in an order that is neither that of names nor offsets */
        nib_text_format(&text, "%s\"%x\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                        i ? "," : "", i, i ^ 31, (i ^ 31) + 1);
    nib_text_add(&text, "}");
    CHECK(!text.failed);
    CHECK(text.length - 8 <= NIB_SAFETENSORS_MAX_HEADER);
    for (int i = 0; i < 8; i++) text.data[i] = (char)((text.length - 8) >> 8 * i);
    nib_safetensors *file =
        nib_safetensors_parse(NULL, NULL, text.data, text.length, text.length + N);
    CHECK_MADE(file);
    CHECK_INT(file->count, N);
    for (int i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof name, "%x", (unsigned)i);
        CHECK(nib_safetensors_find(file, name)->offset == text.length + (size_t)(i ^ 31));
    }
    nib_safetensors_close(file);
    nib_text_free(&text);
}

TEST(opening_and_reading_survive_any_failing_call_or_allocation) {
    const size_t used = nib_mem_used(NULL);
    for (int what = 0; what < 2; what++) {
        for (long n = 0;; n++) {
            char bytes[16];
            bool all = false;
            if (what)
                nib_mem_fail_after(n, false);
            else
                nib_sys_fail_after(n, EIO);
            nib_safetensors *file = nib_safetensors_open(NULL, GOLDEN "shapes.safetensors");
            const nib_safetensors_entry *a = file ? nib_safetensors_find(file, "a") : NULL;
            all = a && nib_safetensors_read(file, a, bytes, 12, 0) == NIB_OK &&
                  nib_safetensors_data(file, a);
            nib_safetensors_close(file);
            const long made = what ? nib_mem_fail_after(-1, false) : nib_sys_fail_after(-1, 0);
            CHECK_INT(nib_mem_used(NULL), used);
            if (!all) {
                CHECK_INT(nib_last_error()->status, what ? NIB_E_MEMORY : NIB_E_IO);
                CHECK_TEXT(nib_last_error()->path,
                           what && !nib_last_error()->path[0] ? "" : GOLDEN "shapes.safetensors");
            }
            if (made <= n) {
                CHECK(all && n > 4);
                break;
            }
        }
    }
}

TESTS(RUNS(every_dtype_of_the_reference_library_is_read),
      RUNS(scalars_and_empty_tensors_are_tensors), RUNS(names_come_out_of_their_escapes),
      RUNS(a_file_without_tensors_is_read), RUNS(keys_and_blanks_may_stand_in_any_order),
      RUNS(empty_tensors_share_offsets_but_do_not_lie_within_others),
      RUNS(half_a_million_tensors_are_read),
      RUNS(opening_and_reading_survive_any_failing_call_or_allocation))
