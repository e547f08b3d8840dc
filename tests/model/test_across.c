/* Linears that lie across in files: told by their biases, read as the linears that they are. */
#include "model/across.h"

#include "base/mem.h"
#include "tensor/context.h"
#include "test.h"

TEST(copies_are_transposes_at_every_size) {
    static const int sizes[] = {0, 1, 2, 31, 32, 33, 65};
    for (int i = 0; i < 7 * 7; i++) {
        const int rows = sizes[i / 7], cols = sizes[i % 7];
        static uint32_t x[65 * 70], y[65 * 70];
        static uint16_t h[65 * 70], k[65 * 70];
        for (int j = 0; j < 65 * 70; j++) {
            x[j] = (uint32_t)j * 2654435761u;
            h[j] = (uint16_t)x[j];
            y[j] = 7, k[j] = 7;
        }
        nib_across_copy(y, 70, x, 70, rows, cols, 4);
        nib_across_copy(k, 70, h, 70, rows, cols, 2);
        for (int c = 0; c < 65; c++)
            for (int r = 0; r < 70; r++) {
                const bool there = c < cols && r < rows;
                CHECK_INT(y[c * 70 + r], there ? x[r * 70 + c] : 7);
                CHECK_INT(k[c * 70 + r], there ? h[r * 70 + c] : 7);
            }
    }
}

TEST(checkpoints_that_have_them_are_told_by_the_length_of_biases) {
    static const struct {
        const char *name;
        bool across;
    } cases[] = {{"gpt2_trunk_names", true},
                 {"gpt2_inner", true},
                 {"llama_mlp_bias", false},
                 {"bloom_six_heads", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[128];
        snprintf(path, sizeof path, "tests/golden/model/%s", cases[i].name);
        nib_checkpoint *c = nib_checkpoint_open(NULL, path);
        CHECK_MADE(c);
        CHECK_INT(nib_across_checkpoint(c), cases[i].across);
        nib_checkpoint_close(c);
    }
    CHECK(nib_across_name("transformer.h.3.attn.c_attn.weight") &&
          nib_across_name("h.0.mlp.c_proj.weight") && !nib_across_name("h.0.attn.c_attn.bias") &&
          !nib_across_name("model.layers.0.self_attn.o_proj.weight"));
}

TEST(rows_of_what_lies_across_are_columns_of_the_file) {
    nib_checkpoint *c = nib_checkpoint_open(NULL, "tests/golden/model/gpt2_trunk_names");
    CHECK_MADE(c);
    const nib_checkpoint_tensor *t = nib_checkpoint_find(c, "h.1.mlp.c_fc.weight");
    CHECK(t && t->entry->dtype == NIB_F32);
    const int64_t K = t->entry->shape.dim[0], N = t->entry->shape.dim[1];
    const float *file = nib_checkpoint_data(c, t);
    for (int64_t row = 0; row < N; row += 37)
        for (int64_t rows = 1; row + rows <= N; rows += 40) {
            float *out = malloc((size_t)(rows * K) * sizeof *out);
            const size_t size = (size_t)K * sizeof *out;
            CHECK_OK(nib_across_read(c, t, out, (size_t)rows * size, (size_t)row * size));
            for (int64_t r = 0; r < rows; r++)
                for (int64_t k = 0; k < K; k++)
                    CHECK_NEAR(out[r * K + k], file[k * N + row + r], 0);
            free(out);
        }
    nib_checkpoint_close(c);
}

TESTS(RUNS(copies_are_transposes_at_every_size),
      RUNS(checkpoints_that_have_them_are_told_by_the_length_of_biases),
      RUNS(rows_of_what_lies_across_are_columns_of_the_file))
