#include "io/idx.h"

#include <nibble/io.h>
#include <zlib.h>

#include "base/mem.h"
#include "io/gzip.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test_files.h"

static const unsigned char images[] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2,  0,  0,
                                       0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255};

/* As `gzip` packs them; returns the size. */
static size_t pack(const void *bytes, size_t size, unsigned char *to, size_t room) {
    z_stream z = {.next_in = (unsigned char *)(uintptr_t)bytes,
                  .avail_in = (unsigned)size,
                  .next_out = to,
                  .avail_out = (unsigned)room};
    if (deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK) abort();
    if (deflate(&z, Z_FINISH) != Z_STREAM_END) abort();
    deflateEnd(&z);
    return room - z.avail_out;
}

static void check_images(void **state_, nib_tensor *t) {
    CHECK_MADE(t);
    CHECK_INT(nib_tensor_dtype(t), NIB_U8);
    const nib_shape s = nib_tensor_shape(t);
    CHECK(s.ndim == 3 && s.dim[0] == 2 && s.dim[1] == 2 && s.dim[2] == 3);
    CHECK_BYTES(nib_tensor_data(t), images + 16, 12);
    nib_tensor_free(t);
}

TEST(images_are_read_plain_and_packed) {
    TEST_FOLDER(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    unsigned char packed[128];
    test_write(IN(folder, "images"), images, sizeof images);
    test_write(IN(folder, "images.gz"), packed, pack(images, sizeof images, packed, sizeof packed));
    check_images(state_, nib_idx_load(ctx, IN(folder, "images")));
    check_images(state_, nib_idx_load(ctx, IN(folder, "images.gz")));
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TEST(numbers_of_every_type_are_big_endian) {
    static const struct {
        unsigned char type;
        nib_dtype dtype;
        unsigned char bytes[8];
        size_t size;
        double want;
    } cases[] = {
        {0x08, NIB_U8, {200}, 1, 200},
        {0x09, NIB_I8, {200}, 1, -56},
        {0x0b, NIB_I16, {0xff, 0xfe}, 2, -2},
        {0x0c, NIB_I32, {0x00, 0x01, 0x00, 0x02}, 4, 65538},
        {0x0d, NIB_F32, {0x3f, 0xc0, 0x00, 0x00}, 4, 1.5},
        {0x0e, NIB_F64, {0xc0, 0x04, 0, 0, 0, 0, 0, 0}, 8, -2.5},
    };
    TEST_FOLDER(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char file[16] = {0, 0, cases[i].type, 1, 0, 0, 0, 1};
        memcpy(file + 8, cases[i].bytes, cases[i].size);
        test_write(IN(folder, "a"), file, 8 + cases[i].size);
        nib_tensor *t = nib_idx_load(ctx, IN(folder, "a"));
        CHECK_MADE(t);
        CHECK_INT(nib_tensor_dtype(t), cases[i].dtype);
        const void *d = nib_tensor_data(t);
        double got = 0;
        switch (cases[i].dtype) {
        case NIB_U8:
            got = *(const uint8_t *)d;
            break;
        case NIB_I8:
            got = *(const int8_t *)d;
            break;
        case NIB_I16:
            got = *(const int16_t *)d;
            break;
        case NIB_I32:
            got = *(const int32_t *)d;
            break;
        case NIB_F32:
            got = (double)*(const float *)d;
            break;
        default:
            got = *(const double *)d;
        }
        CHECK_NEAR(got, cases[i].want, 0);
        nib_tensor_free(t);
    }
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

/* Not one byte may lack, and none be over: each is an error that names the file and a byte in it.
 */
TEST(a_file_that_is_cut_anywhere_is_refused) {
    TEST_FOLDER_IN_MEMORY(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    unsigned char packed[128], longer[sizeof images + 1] = {0};
    const size_t packed_size = pack(images, sizeof images, packed, sizeof packed);
    memcpy(longer, images, sizeof images);
    for (int gz = 0; gz < 2; gz++)
        for (size_t size = 0; size < (gz ? packed_size : sizeof images); size++) {
            test_write(IN(folder, "cut"), gz ? packed : images, size);
            CHECK(!nib_idx_load(ctx, IN(folder, "cut")));
            CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
            CHECK(strstr(nib_last_error()->path, "cut"));
            CHECK(nib_last_error()->offset >= 0 && nib_last_error()->offset <= (int64_t)size);
        }
    test_write(IN(folder, "cut"), images, sizeof images - 1);
    CHECK(!nib_idx_load(ctx, IN(folder, "cut")));
    CHECK(strstr(nib_last_error()->what, "[2, 2, 3] of u8 does not take the 11 bytes"));
    CHECK(strstr(nib_last_error()->what, "the idx file is cut"));
    test_write(IN(folder, "longer"), longer, sizeof longer);
    CHECK(!nib_idx_load(ctx, IN(folder, "longer")));
    CHECK(strstr(nib_last_error()->what, "13 bytes"));
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TEST(damaged_headers_and_bombs_are_refused_before_memory_is_taken) {
    static const struct {
        const char *text;
        unsigned char at, value;
        nib_status status;
    } cases[] = {
        {"two zero bytes", 0, 1, NIB_E_FORMAT},   {"element type 0x07", 2, 7, NIB_E_FORMAT},
        {"more than 8", 3, 9, NIB_E_UNSUPPORTED}, {"within its dimensions", 3, 7, NIB_E_FORMAT},
        {"does not take", 4, 255, NIB_E_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char bytes[sizeof images];
        nib_idx array;
        memcpy(bytes, images, sizeof bytes);
        bytes[cases[i].at] = cases[i].value;
        CHECK_FAILS(nib_idx_parse("f", bytes, sizeof bytes, sizeof bytes, &array), cases[i].status,
                    cases[i].text);
    }
    unsigned char packed[128];
    size_t size = pack(images, sizeof images, packed, sizeof packed), unpacked;
    packed[size - 1] = 0x30; /* says 800 MiB */
    CHECK(!nib_gzip_unpack(NULL, "f", packed, size, 1 << 30, &unpacked));
    CHECK(strstr(nib_last_error()->what, "cut or damaged"));
    size = pack(images, sizeof images, packed, sizeof packed);
    packed[size - 6] ^= 1; /* of its CRC */
    CHECK(!nib_gzip_unpack(NULL, "f", packed, size, 1 << 30, &unpacked));
    CHECK(strstr(nib_last_error()->what, "damaged"));
    size = pack(images, sizeof images, packed, sizeof packed);
    packed[size - 4]++; /* one byte more than there is */
    CHECK(!nib_gzip_unpack(NULL, "f", packed, size, 1 << 30, &unpacked));
    CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
}

TEST(every_failed_allocation_leaves_nothing_behind) {
    TEST_FOLDER_IN_MEMORY(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    unsigned char packed[128];
    test_write(IN(folder, "a.gz"), packed, pack(images, sizeof images, packed, sizeof packed));
    const size_t before = nib_mem_used(nib_ctx_mem(ctx));
    bool done = false;
    for (long n = 0; !done; n++) {
        nib_mem_fail_after(n, false);
        nib_tensor *t = nib_idx_load(ctx, IN(folder, "a.gz"));
        nib_mem_fail_after(-1, false);
        done = t != NULL;
        if (!done) CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
        nib_tensor_free(t);
        CHECK_INT(nib_mem_used(nib_ctx_mem(ctx)), before);
    }
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TESTS(RUNS(images_are_read_plain_and_packed), RUNS(numbers_of_every_type_are_big_endian),
      RUNS(a_file_that_is_cut_anywhere_is_refused),
      RUNS(damaged_headers_and_bombs_are_refused_before_memory_is_taken),
      RUNS(every_failed_allocation_leaves_nothing_behind))
