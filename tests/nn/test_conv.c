/* Conv1d and Conv2d against torch, and the laws that define them to the bit. */
#include "base/mem.h"
#include "counted_memory.h"
#include "golden_layers.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/quanto.h"
#include "tensor/context.h"

TEST(convolutions_are_torchs_with_every_switch) {
    for (int threads = 1; threads <= 3; threads += 2) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
        nib_safetensors *file = nib_safetensors_open(NULL, "tests/golden/nn/conv.safetensors");
        CHECK_MADE(file);
        CHECK_INT(file->metadata_count, 24);
        for (size_t i = 0; i < file->metadata_count; i++) {
            const char *name = file->metadata[i].key;
            long long v[8];
            char pad[16], mode[16];
            CHECK_INT(sscanf(file->metadata[i].value,
                             "%lld %lld %lld %lld %lld %lld %lld %lld %15s %15s", &v[0], &v[1],
                             &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], pad, mode),
                      10);
            const nib_conv_options options = {.stride = {v[1], v[2]},
                                              .padding = {v[3], v[4]},
                                              .dilation = {v[5], v[6]},
                                              .groups = v[7],
                                              .pad = strcmp(pad, "none") ? pad : NULL,
                                              .padding_mode = mode};
            nib_module *m = (v[0] == 2 ? nib_conv2d_new : nib_conv1d_new)(
                ctx, golden(ctx, file, name, "weight"), golden(ctx, file, name, "bias"), &options);
            CHECK_MADE(m);
            nib_tensor *x = golden(ctx, file, name, "x"), *want = golden(ctx, file, name, "y");
            nib_tensor *y = nib_module_forward(m, x);
            CHECK_GOLDEN(y, want, name);
            nib_tensor_free(x);
            nib_tensor_free(want);
            nib_module_free(m);
        }
        nib_safetensors_close(file);
        nib_ctx_free(ctx);
    }
}

static nib_tensor *random_tensor(nib_ctx *ctx, uint64_t *seed, nib_shape shape) {
    nib_tensor *t = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, shape));
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; i < nib_tensor_count(t); i++) data[i] = test_uniform(seed);
    return t;
}
#define SHAPE4(a, b, c, d) ((nib_shape){4, {(a), (b), (c), (d)}})

/* One number of the output by its definition: one chain over channel, row and column. */
static float chain(const nib_tensor *x, const nib_tensor *w, const nib_window *win, int64_t groups,
                   int64_t n, int64_t m, int64_t oy, int64_t ox) {
    const int64_t *s = x->shape.dim, *f = w->shape.dim, g = m / (f[0] / groups);
    const float *xd = nib_tensor_data(x), *wd = nib_tensor_data(w);
    float acc = 0;
    for (int64_t c = 0; c < f[1]; c++)
        for (int64_t i = 0; i < f[2]; i++)
            for (int64_t j = 0; j < f[3]; j++) {
                const int64_t y = oy * win->stride[0] - win->padding[0] + i * win->dilation[0],
                              z = ox * win->stride[1] - win->padding[1] + j * win->dilation[1];
                const bool in = y >= 0 && y < s[2] && z >= 0 && z < s[3];
                const float v = in ? xd[((n * s[1] + g * f[1] + c) * s[2] + y) * s[3] + z] : 0;
                acc = fmaf(v, wd[((m * f[1] + c) * f[2] + i) * f[3] + j], acc);
            }
    return acc;
}

static const struct convolution {
    int64_t x[4], w[4];
    nib_window window;
    int64_t groups;
} cases[] = {
    {{2, 3, 5, 33}, {4, 3, 3, 3}, {{0}, {1, 1}, {1, 1}, {1, 1}}, 1},
    {{1, 2, 40, 40}, {3, 2, 2, 5}, {{0}, {1, 2}, {0, 3}, {2, 1}}, 1},
    {{1, 130, 5, 5}, {7, 130, 3, 3}, {{0}, {1, 1}, {1, 1}, {1, 1}}, 1}, /* K over a block */
    {{1, 12, 4, 4}, {300, 4, 1, 1}, {{0}, {1, 1}, {0, 0}, {1, 1}}, 3},  /* cut by channels */
    {{1, 4, 17, 70}, {4, 1, 3, 3}, {{0}, {1, 1}, {1, 1}, {1, 1}}, 4},
    {{1, 70, 3, 260}, {3, 70, 3, 3}, {{0}, {1, 2}, {1, 1}, {1, 2}}, 1}, /* rows over a block */
    {{1, 1, 2, 2500}, {2, 1, 2, 7}, {{0}, {1, 1}, {1, 9}, {1, 3}}, 1},
    {{2, 2, 9, 9}, {2, 2, 2, 2}, {{0}, {3, 4}, {2, 3}, {4, 5}}, 1}, /* taps far apart */
    {{3, 1, 1, 1}, {1, 1, 1, 1}, {{0}, {1, 1}, {0, 0}, {1, 1}}, 1},
    {{2, 32, 9, 9}, {24, 32, 3, 3}, {{0}, {2, 2}, {1, 1}, {1, 1}}, 1},
    {{1, 20, 13, 11}, {40, 10, 3, 2}, {{0}, {1, 1}, {2, 1}, {1, 1}}, 2},
    {{2, 9, 12, 12}, {9, 1, 3, 3}, {{0}, {2, 3}, {1, 1}, {2, 1}}, 9},
    {{1, 6, 1, 90}, {12, 1, 1, 5}, {{0}, {1, 2}, {0, 2}, {1, 1}}, 6},     /* two filters a group */
    {{1, 1040, 2, 2}, {2, 1040, 1, 1}, {{0}, {2, 2}, {0, 0}, {1, 1}}, 1}, /* long codes */
    {{1, 1100, 1, 2}, {1, 1100, 1, 1}, {{0}, {1, 1}, {0, 0}, {1, 1}}, 1},
    {{1, 2, 70, 70}, {130, 2, 1, 1}, {{0}, {2, 1}, {0, 0}, {1, 1}}, 1},
    {{2, 3, 4, 4}, {3, 3, 4, 4}, {{0}, {1, 1}, {0, 0}, {1, 1}}, 1}, /* one position */
    {{2, 8, 11, 70}, {8, 1, 3, 3}, {{0}, {2, 2}, {1, 1}, {1, 1}}, 8},
    {{1, 5, 9, 8}, {1, 5, 5, 5}, {{0}, {1, 1}, {2, 2}, {1, 1}}, 1}, /* one filter of channels */
    {{2, 3, 7, 9}, {3, 1, 1, 1}, {{0}, {1, 2}, {0, 1}, {1, 1}}, 3},
    {{3, 3, 2, 5}, {3, 1, 2, 1}, {{0}, {1, 3}, {4, 0}, {1, 1}}, 3}, /* rows of padding alone */
    {{2, 42, 9, 31}, {30, 21, 1, 1}, {{0}, {1, 1}, {0, 0}, {1, 1}}, 2},
    {{1, 64, 40, 40}, {9, 64, 1, 1}, {{0}, {1, 1}, {0, 0}, {1, 1}}, 1}, /* several blocks */
};
enum { CASES = sizeof cases / sizeof *cases };

TEST(a_convolution_is_one_chain_for_each_output_on_every_machine_and_thread) {
    static const char *const isas[] = {"ref", "avx2", NULL};
    for (size_t c = 0; c < CASES; c++)
        for (int isa = 0; isa < 3; isa++) {
            uint64_t seed = test_seed() + c;
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1 + isa, .isa = isas[isa]});
            if (!ctx) continue; /* not this machine's */
            const int64_t *a = cases[c].x, *b = cases[c].w;
            nib_tensor *x = random_tensor(ctx, &seed, SHAPE4(a[0], a[1], a[2], a[3])),
                       *w = random_tensor(ctx, &seed, SHAPE4(b[0], b[1], b[2], b[3])),
                       *bias = random_tensor(ctx, &seed, (nib_shape){1, {b[0]}});
            nib_tensor *y = nib_conv2d(x, w, bias, &cases[c].window, cases[c].groups);
            CHECK_MADE(y);
            const float *got = nib_tensor_data(y), *bd = nib_tensor_data(bias);
            const int64_t *s = y->shape.dim;
            for (int64_t i = 0; i < nib_tensor_count(y); i++) {
                const int64_t ox = i % s[3], oy = i / s[3] % s[2], m = i / s[3] / s[2] % s[1],
                              n = i / s[3] / s[2] / s[1];
                const float want =
                    chain(x, w, &cases[c].window, cases[c].groups, n, m, oy, ox) + bd[m];
                CHECK_NEAR(got[i], want, 0);
            }
            nib_ctx_free(ctx);
        }
}

TEST(a_quantized_filter_convolves_as_its_floats_do) {
    NEEDS_SCHEME("qint8");
    static const char *const types[] = {"qint8", "qint4", "qint2", "qfloat8_e4m3fn"};
    uint64_t seed = test_seed();
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *x = random_tensor(ctx, &seed, SHAPE4(2, 16, 6, 6)),
               *w = random_tensor(ctx, &seed, SHAPE4(8, 16, 3, 3));
    const nib_window window = {.stride = {1, 1}, .padding = {1, 1}, .dilation = {1, 1}};
    for (int i = 0; i < 4; i++) {
        nib_tensor *q = nib_quantize_tensor(w, NIB_QUANTO(.weights = types[i]));
        CHECK_MADE(q);
        nib_tensor *y = nib_conv2d(x, q, NIB_NONE, &window, 1),
                   *want = nib_conv2d(x, nib_dequantize(q), NIB_NONE, &window, 1);
        CHECK_MADE(y);
        CHECK_MADE(want);
        CHECK_BYTES(nib_tensor_data(y), nib_tensor_data(want), nib_tensor_bytes(want));
        nib_tensor_free(q);
    }
    nib_ctx_free(ctx);
}

/* The sum of products of codes that an output is made of. */
static int64_t sum_of_codes(const nib_tensor *x, const nib_codes *w, const struct convolution *of,
                            int64_t n, int64_t m, int64_t oy, int64_t ox) {
    const int64_t *s = x->shape.dim, *f = of->w, g = m / (f[0] / of->groups);
    const int8_t *xd = nib_act8_data(x), *wd = w->q;
    const nib_window *win = &of->window;
    int64_t sum = 0;
    for (int64_t c = 0; c < f[1]; c++)
        for (int64_t i = 0; i < f[2]; i++)
            for (int64_t j = 0; j < f[3]; j++) {
                const int64_t y = oy * win->stride[0] - win->padding[0] + i * win->dilation[0],
                              z = ox * win->stride[1] - win->padding[1] + j * win->dilation[1];
                if (y < 0 || y >= s[2] || z < 0 || z >= s[3]) continue;
                sum += xd[((n * s[1] + g * f[1] + c) * s[2] + y) * s[3] + z] *
                       wd[((m * f[1] + c) * f[2] + i) * f[3] + j];
            }
    return sum;
}

/* Does a convolution quantize its input itself: what each filter sees is one pixel, or one filter
 * is all that sees it? */
static bool quantizes(const struct convolution *of) {
    const nib_window *w = &of->window;
    return of->w[0] == of->groups ? w->stride[1] <= 2
                                  : of->w[2] * of->w[3] == 1 && w->stride[0] * w->stride[1] == 1 &&
                                        w->padding[0] + w->padding[1] == 0;
}

TEST(codes_by_codes_are_exact_sums_on_every_machine_and_thread) {
    NEEDS_SCHEME("qint8");
    static const char *const isas[] = {"ref", "avx2", "avxvnni", "avx512", NULL};
    static const int threads[] = {1, 2, 3, 7};
    for (size_t c = 0; c < CASES; c++)
        for (int isa = 0; isa < 5; isa++) {
            uint64_t seed = test_seed() + c;
            const struct convolution *of = &cases[c];
            nib_ctx *ctx = nib_ctx_new(
                &(nib_ctx_options){.threads = threads[(c + (size_t)isa) % 4], .isa = isas[isa]});
            if (!ctx) continue; /* not this machine's */
            nib_tensor *x = random_tensor(ctx, &seed,
                                          SHAPE4(of->x[0], of->x[1], of->x[2], of->x[3])),
                       *w = random_tensor(ctx, &seed,
                                          SHAPE4(of->w[0], of->w[1], of->w[2], of->w[3])),
                       *bias = random_tensor(ctx, &seed, (nib_shape){1, {of->w[0]}}),
                       *scale = random_tensor(ctx, &seed, (nib_shape){0}), *floats;
            *(float *)nib_tensor_data_mut(scale) = 1.0f / 120; /* some codes at the end */
            nib_tensor *given = x, *entry = random_tensor(ctx, &seed, (nib_shape){0});
            memcpy(nib_tensor_data_mut(entry), nib_tensor_data(scale), 4);
            x = nib_quantize_activation(x, scale, NIB_I8);
            w = nib_quantize_tensor(w, NIB_QUANTO(.weights = "qint8"));
            CHECK_MADE(x);
            CHECK_MADE(w);
            nib_codes codes;
            CHECK(nib_unpack_rows(w, 0, of->w[0], &codes) >= NIB_OK);
            nib_tensor *y = nib_conv2d(x, w, bias, &of->window, of->groups);
            CHECK_MADE(y);
            floats =
                nib_conv2d(nib_dequantize(x), nib_dequantize(w), bias, &of->window, of->groups);
            const float *got = nib_tensor_data(y), *near = nib_tensor_data(floats),
                        *bd = nib_tensor_data(bias);
            const int64_t *s = y->shape.dim, K = of->w[1] * of->w[2] * of->w[3];
            for (int64_t i = 0; i < nib_tensor_count(y); i++) {
                const int64_t ox = i % s[3], oy = i / s[3] % s[2], m = i / s[3] / s[2] % s[1],
                              n = i / s[3] / s[2] / s[1];
                const float sum = (float)sum_of_codes(x, &codes, of, n, m, oy, ox);
                const float want =
                    sum * codes.scale[m / codes.desc.block_rows] * nib_act8_scale(x) + bd[m];
                CHECK_NEAR(got[i], want, 0);
                /* each of K products at most 1.07, a rounding for each step of the chain */
                CHECK_NEAR(got[i], near[i], 0x1p-23 * (double)(K * K + 4));
            }
            nib_codes_free(nib_ctx_mem(ctx), &codes);
            /* straight to codes: those of the floats */
            const nib_dtype types[] = {NIB_I8, NIB_F8_E4M3FN};
            *(float *)nib_tensor_data_mut(scale) = 1.0f / 50;
            for (int t = 0; t < 2; t++) {
                const nib_tensor *q = nib_conv_codes(x, w, bias, &of->window, of->groups, scale,
                                                     types[t], NIB_NONE, 0, false),
                                 *want_q = nib_quantize_activation(y, scale, types[t]);
                CHECK_MADE(q);
                CHECK(nib_act8_scale(q) == nib_act8_scale(want_q));
                CHECK_BYTES(nib_act8_data(q), nib_act8_data(want_q), (size_t)nib_tensor_count(y));
                const nib_tensor *at_once = nib_conv_codes(given, w, bias, &of->window, of->groups,
                                                           scale, types[t], entry, NIB_I8, false);
                CHECK(quantizes(of) == (at_once != NULL));
                if (at_once)
                    CHECK_BYTES(nib_act8_data(at_once), nib_act8_data(want_q),
                                (size_t)nib_tensor_count(y));
                else
                    CHECK(nib_last_error()->status == NIB_E_UNSUPPORTED);
            }
            nib_ctx_free(ctx);
        }
}

static nib_module *module_of(nib_ctx *ctx, const struct convolution *of, nib_tensor *w) {
    const nib_window *win = &of->window;
    const nib_conv_options options = {.stride = {win->stride[0], win->stride[1]},
                                      .padding = {win->padding[0], win->padding[1]},
                                      .dilation = {win->dilation[0], win->dilation[1]},
                                      .groups = of->groups};
    return nib_conv2d_new(ctx, nib_tensor_retain(w), NIB_NONE, &options);
}

TEST(a_prepared_convolution_gives_the_same_bits_and_sees_what_is_written_later) {
    static const char *const weights[] = {NULL, "qint8", "qint4"};
    for (size_t c = 0; c < CASES; c++)
        for (int i = 0; i < 3; i++) {
            if (i && !test_has_scheme("qint8")) continue;
            uint64_t seed = test_seed() + c;
            const struct convolution *of = &cases[c];
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1 + (int)c % 3});
            nib_tensor *x = random_tensor(ctx, &seed,
                                          SHAPE4(of->x[0], of->x[1], of->x[2], of->x[3])),
                       *w = random_tensor(ctx, &seed,
                                          SHAPE4(of->w[0], of->w[1], of->w[2], of->w[3]));
            if (i) w = nib_quantize_tensor(w, NIB_QUANTO(.weights = weights[i]));
            CHECK_MADE(w);
            nib_module *m = module_of(ctx, of, w);
            const nib_tensor *before = nib_module_forward(m, x);
            CHECK_MADE(before);
            for (int again = 0; again < 2; again++) {
                CHECK_OK(nib_prepare(m));
                const nib_tensor *after = nib_module_forward(m, x);
                CHECK_MADE(after);
                CHECK_BYTES(nib_tensor_data(after), nib_tensor_data(before),
                            nib_tensor_bytes(before));
            }
            if (!i) {
                float *data = nib_tensor_data_mut(w);
                for (int64_t k = 0; k < nib_tensor_count(w); k++) data[k] = -data[k];
                const float *now = nib_tensor_data(nib_module_forward(m, x)),
                            *was = nib_tensor_data(before);
                for (int64_t k = 0; k < nib_tensor_count(before); k++)
                    CHECK_NEAR(now[k], -was[k], 0);
            }
            nib_module_free(m);
            nib_ctx_free(ctx);
        }
}

/* ---- every allocation may fail ---- */

/* Floats and codes, prepared in between; how far it came. */
static nib_status whole_way(int64_t groups) {
    nib_ctx *ctx =
        nib_ctx_new(&(nib_ctx_options){.threads = 2, .alloc = counted, .dealloc = given_back});
    if (!ctx) return NIB_E_MEMORY;
    nib_tensor *x = nib_tensor_new(ctx, NIB_F32, SHAPE4(2, 8, 5, 5)),
               *w = nib_tensor_new(ctx, NIB_F32, SHAPE4(8, 8 / groups, 3, 3));
    for (int i = 0; x && i < 400; i++) ((float *)nib_tensor_data_mut(x))[i] = (float)(i % 5);
    for (int64_t i = 0; w && i < 576 / groups; i++)
        ((float *)nib_tensor_data_mut(w))[i] = (float)(i % 7) - 3;
    nib_module *m =
        nib_conv2d_new(ctx, w, NIB_NONE, &(nib_conv_options){.padding = {1, 1}, .groups = groups});
    const nib_config *config =
        NIB_QUANTO(.activations = "qint8", .streamline = "off", .inputs = "all");
    const size_t mark = nib_scope_begin(ctx);
    nib_status status = x && m && nib_module_forward(m, x) ? NIB_OK : NIB_E_MEMORY;
    if (status >= NIB_OK) status = nib_prepare(m);
    if (status >= NIB_OK && !nib_module_forward(m, x)) status = NIB_E_MEMORY;
    if (status >= NIB_OK) {
        status = nib_calibrate_begin(m, config, NULL);
        const bool begun = status >= NIB_OK;
        if (begun && !nib_module_forward(m, x)) status = NIB_E_MEMORY;
        if (begun && nib_calibrate_end(m, NULL) < NIB_OK) status = NIB_E_MEMORY;
    }
    if (status >= NIB_OK) status = nib_freeze(m);
    for (int i = 0; i < 2; i++) {
        if (status >= NIB_OK && !nib_module_forward(m, x)) status = NIB_E_MEMORY;
        if (status >= NIB_OK) status = nib_prepare(m);
    }
    nib_scope_end(ctx, mark);
    nib_tensor_free(x);
    nib_module_free(m);
    nib_ctx_free(ctx);
    return status;
}

TEST(any_allocation_that_fails_leaves_nothing_behind) {
    NEEDS_SCHEME("qint8");
    for (int64_t groups = 1; groups <= 8; groups *= 8) {
        long n = 0;
        nib_status status = NIB_E_MEMORY;
        for (; status < NIB_OK && n < 2000; n++) {
            left = n;
            live = 0;
            status = whole_way(groups);
            if (live != 0) FAIL_AT("allocation %ld failed, and %ld blocks were left", n, live);
        }
        CHECK_OK(status);
        CHECK(n > 30);
    }
}

TEST(shapes_and_options_that_contradict_are_refused_by_name) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = 1;
    nib_tensor *x = random_tensor(ctx, &seed, SHAPE4(1, 4, 5, 5)),
               *w = random_tensor(ctx, &seed, SHAPE4(6, 4, 3, 3));
    nib_window window = {.stride = {1, 1}, .dilation = {1, 1}};
    REFUSED(nib_conv2d(x, w, NIB_NONE, &window, 2), NIB_E_SHAPE, "4 channels in 2 groups");
    REFUSED(nib_conv2d(x, w, x, &window, 1), NIB_E_SHAPE, "one for each of 6 channels");
    REFUSED(nib_conv2d(w, x, NIB_NONE, &window, 1), NIB_E_SHAPE, "larger than the padded input");
    REFUSED(nib_conv1d(x, w, NIB_NONE, &window, 1), NIB_E_SHAPE, "2 or 3 dimensions");
    window.stride[1] = 0;
    REFUSED(nib_conv2d(x, w, NIB_NONE, &window, 1), NIB_E_ARGUMENT, "stride");
    const nib_conv_options strided = {.stride = {2}, .pad = "same"}, odd = {.padding_mode = "odd"},
                           negative = {.padding = {-1, 0}};
#define NEW(options) nib_conv2d_new(ctx, nib_tensor_retain(w), NIB_NONE, options)
    REFUSED(NEW(&strided), NIB_E_ARGUMENT, "wants stride 1");
    REFUSED(NEW(&odd), NIB_E_ARGUMENT, "padding_mode \"odd\"");
    REFUSED(NEW(&negative), NIB_E_ARGUMENT, "negative");
    REFUSED(nib_conv1d_new(ctx, nib_tensor_retain(w), NIB_NONE, NULL), NIB_E_SHAPE,
            "Conv1d's weight");
    nib_ctx_free(ctx);
}

TEST(a_convolution_prints_its_options_as_torch_does) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    const nib_conv_options options = {.stride = {2}, .padding = {1, 0}, .groups = 2};
    nib_module *m =
        nib_conv2d_new(ctx, nib_tensor_new(ctx, NIB_F32, SHAPE4(6, 2, 3, 1)), NIB_NONE, &options);
    char *text = nib_module_print(m);
    CHECK_TEXT(text, "Conv2d(4, 6, kernel_size=(3, 1), stride=(2, 2), padding=(1, 0), groups=2, "
                     "bias=False)  weight [6, 2, 3, 1] f32\n");
    nib_text_release(text);
    nib_module_free(m);
    nib_ctx_free(ctx);
}

TESTS(RUNS(convolutions_are_torchs_with_every_switch),
      RUNS(a_convolution_is_one_chain_for_each_output_on_every_machine_and_thread),
      RUNS(a_quantized_filter_convolves_as_its_floats_do),
      RUNS(codes_by_codes_are_exact_sums_on_every_machine_and_thread),
      RUNS(a_prepared_convolution_gives_the_same_bits_and_sees_what_is_written_later),
      RUNS(any_allocation_that_fails_leaves_nothing_behind),
      RUNS(shapes_and_options_that_contradict_are_refused_by_name),
      RUNS(a_convolution_prints_its_options_as_torch_does))
