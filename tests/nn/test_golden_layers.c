/* Every layer against torch, with every switch: tests/golden/nn/make_layers.py. */
#include "golden_layers.h"

/* State and inputs of a case; what is not there is NIB_NONE. */
#define STATE(part) golden(ctx, file, name, "state." part)

static nib_module *batch_norm(nib_ctx *ctx, nib_safetensors *file, const char *name,
                              const char *note, int *train) {
    int dims = 0, cumulative = 0;
    nib_batch_norm_options o = {0};
    if (sscanf(note, "bn%dd %d %lf %lf %d", &dims, train, &o.eps, &o.momentum, &cumulative) != 5)
        return NULL;
    o.cumulative = cumulative;
    nib_module *m = (dims == 2 ? nib_batch_norm2d_new : nib_batch_norm1d_new)(
        ctx, STATE("weight"), STATE("bias"), STATE("running_mean"), STATE("running_var"), &o);
    /* copies of what training moves, since the golden bytes are const */
    const char *const moved[] = {"running_mean", "running_var"};
    for (int i = 0; i < 2 && *train; i++) {
        nib_tensor *copy = nib_tensor_new(ctx, NIB_F32, nib_module_buffer(m, moved[i])->shape);
        memcpy(nib_tensor_data_mut(copy), nib_tensor_data(nib_module_buffer(m, moved[i])),
               nib_tensor_bytes(copy));
        if (nib_module_set_buffer(m, moved[i], copy) < NIB_OK) return NULL;
    }
    nib_module_train(m, *train > 0);
    return m;
}

static nib_module *pool(nib_ctx *ctx, const char *note) {
    long long v[8];
    int ceil = 0, divisor = 0, left_out = 0;
    char kind[8];
    if (sscanf(note, "%7s %lld %lld %lld %lld %lld %lld %lld %lld %d %d %d", kind, &v[0], &v[1],
               &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &ceil, &divisor, &left_out) != 12)
        return NULL;
    const nib_pool_options o = {.kernel_size = {v[0], v[1]},
                                .stride = {v[2], v[3]},
                                .padding = {v[4], v[5]},
                                .dilation = {v[6], v[7]},
                                .ceil_mode = ceil,
                                .padding_left_out = left_out,
                                .divisor = divisor};
    return strcmp(kind, "max") == 0 ? nib_max_pool2d_new(ctx, &o) : nib_avg_pool2d_new(ctx, &o);
}

static nib_module *simple(nib_ctx *ctx, const char *note) {
    double a = 0, b = 0;
    char kind[24];
    sscanf(note, "%23s %lf %lf", kind, &a, &b);
#define IS(text)                                                                                   \
    if (strcmp(kind, text) == 0) return
    IS("relu") nib_relu_new(ctx);
    IS("relu6") nib_relu6_new(ctx);
    IS("hardtanh") nib_hardtanh_new(ctx, a, b);
    IS("leaky_relu") nib_leaky_relu_new(ctx, a);
    IS("elu") nib_elu_new(ctx, a);
    IS("gelu") nib_gelu_new(ctx, a != 0);
    IS("silu") nib_silu_new(ctx);
    IS("tanh") nib_tanh_new(ctx);
    IS("sigmoid") nib_sigmoid_new(ctx);
    IS("hardswish") nib_hardswish_new(ctx);
    IS("hardsigmoid") nib_hardsigmoid_new(ctx);
    IS("softmax") nib_softmax_new(ctx, (int)a);
    IS("flatten") nib_flatten_new(ctx, (int)a, (int)b);
    IS("identity") nib_identity_new(ctx);
    IS("dropout") nib_dropout_new(ctx, a);
    IS("adaptive") nib_adaptive_avg_pool2d_new(ctx, (int64_t)a, (int64_t)b);
    return NULL;
}

static nib_module *attention(nib_ctx *ctx, nib_safetensors *file, const char *name,
                             const char *note) {
    static const char *const more[] = {"q_proj_weight", "k_proj_weight", "v_proj_weight", "bias_k",
                                       "bias_v"};
    long long heads = 0;
    int first = 0, zero = 0, causal = 0;
    if (sscanf(note, "attention %lld %d %d %d", &heads, &first, &zero, &causal) != 4) return NULL;
    const nib_attention_options o = {
        .num_heads = heads, .batch_first = first, .add_zero_attn = zero, .is_causal = causal};
    nib_module *m = nib_multihead_attention_new(
        ctx, STATE("in_proj_weight"), STATE("in_proj_bias"),
        nib_linear_new(ctx, STATE("out_proj.weight"), STATE("out_proj.bias")), &o);
    for (int i = 0; i < 5; i++) {
        char key[32];
        snprintf(key, sizeof key, "state.%s", more[i]);
        nib_tensor *t = golden(ctx, file, name, key);
        if (t != NIB_NONE && nib_module_set(m, more[i], t) < NIB_OK) return NULL;
    }
    return m;
}

static nib_module *make(nib_ctx *ctx, nib_safetensors *file, const char *name, const char *note,
                        int *train) {
    long long groups = 0;
    double eps = 0;
    *train = 0;
    if (strncmp(note, "attention", 9) == 0) return attention(ctx, file, name, note);
    if (strncmp(note, "bn", 2) == 0) return batch_norm(ctx, file, name, note, train);
    if (strncmp(note, "max", 3) == 0 || strncmp(note, "avg", 3) == 0) return pool(ctx, note);
    if (sscanf(note, "gn %lld %lf", &groups, &eps) == 2)
        return nib_group_norm_new(ctx, groups, STATE("weight"), STATE("bias"), eps);
    return simple(ctx, note);
}

/* What the module makes of the case's inputs: x, x + 1, ... while it trains. In the open scope. */
static nib_tensor *answer(nib_ctx *ctx, nib_safetensors *file, const char *name, const char *note,
                          nib_module *m, int train) {
    static const char *const inputs[] = {"query", "key", "value", "key_padding_mask", "attn_mask"};
    nib_tensor *in[5], *y = NULL;
    if (strncmp(note, "attention", 9) == 0) {
        for (int i = 0; i < 5; i++) {
            in[i] = golden(ctx, file, name, inputs[i]);
            if (in[i] != NIB_NONE) in[i] = nib_scope_own(ctx, in[i]);
        }
        return nib_module_forward_many(m, in, 5);
    }
    nib_tensor *x = nib_scope_own(ctx, golden(ctx, file, name, "x"));
    for (int step = 0; step < (train ? train : 1); step++) {
        nib_tensor *moved = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, x->shape));
        float *data = nib_tensor_data_mut(moved);
        for (int64_t i = 0; i < nib_tensor_count(moved); i++)
            data[i] = ((const float *)nib_tensor_data(x))[i] + (float)step;
        y = nib_module_forward(m, moved);
    }
    return y;
}

static void check_case(void **state_, nib_ctx *ctx, nib_safetensors *file, const char *name,
                       const char *note) {
    int train = 0;
    nib_module *m = make(ctx, file, name, note, &train);
    CHECK_MADE(m);
    nib_tensor *want = golden(ctx, file, name, "y"), *y = answer(ctx, file, name, note, m, train);
    CHECK_GOLDEN(y, want, name);
    nib_tensor_free(want);
    if (train) {
        nib_tensor *mean = golden(ctx, file, name, "after.running_mean"),
                   *variance = golden(ctx, file, name, "after.running_var");
        CHECK_GOLDEN(nib_module_buffer(m, "running_mean"), mean, name);
        CHECK_GOLDEN(nib_module_buffer(m, "running_var"), variance, name);
        nib_tensor_free(mean);
        nib_tensor_free(variance);
        CHECK_INT(*(const int64_t *)nib_tensor_data(nib_module_buffer(m, "num_batches_tracked")),
                  train);
    }
    nib_module_free(m);
}

TEST(layers_are_torchs_with_every_switch) {
    for (int threads = 1; threads <= 3; threads += 2) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
        nib_safetensors *file = nib_safetensors_open(NULL, "tests/golden/nn/layers.safetensors");
        CHECK_MADE(file);
        CHECK(file->metadata_count > 60);
        for (size_t i = 0; i < file->metadata_count; i++) {
            const size_t mark = nib_scope_begin(ctx);
            check_case(state_, ctx, file, file->metadata[i].key, file->metadata[i].value);
            nib_scope_end(ctx, mark);
        }
        nib_safetensors_close(file);
        nib_ctx_free(ctx);
    }
}

/* From plain C on one thread and from this machine's kernels on three. */
TEST(layers_have_the_same_bits_on_every_machine_and_thread) {
    static const nib_ctx_options options[2] = {{.threads = 1, .isa = "ref"}, {.threads = 3}};
    nib_safetensors *file = nib_safetensors_open(NULL, "tests/golden/nn/layers.safetensors");
    CHECK_MADE(file);
    for (size_t i = 0; i < file->metadata_count; i++) {
        const char *name = file->metadata[i].key, *note = file->metadata[i].value;
        float *got[2] = {0};
        size_t size = 0;
        for (int k = 0; k < 2; k++) {
            nib_ctx *ctx = nib_ctx_new(&options[k]);
            int train = 0;
            nib_module *m = make(ctx, file, name, note, &train);
            nib_tensor *y = answer(ctx, file, name, note, m, train);
            CHECK_MADE(y);
            size = nib_tensor_bytes(y);
            got[k] = malloc(size);
            CHECK_OK(nib_tensor_read(y, got[k], size));
            nib_module_free(m);
            nib_ctx_free(ctx);
        }
        for (size_t e = 0; e < size / sizeof(float); e++)
            if (memcmp(&got[0][e], &got[1][e], sizeof(float)) != 0 &&
                !(isnan(got[0][e]) && isnan(got[1][e])))
                FAIL_AT("%s: element %zu is %.9g in plain C, %.9g here", name, e, (double)got[0][e],
                        (double)got[1][e]);
        free(got[0]);
        free(got[1]);
    }
    nib_safetensors_close(file);
}

TESTS(RUNS(layers_are_torchs_with_every_switch),
      RUNS(layers_have_the_same_bits_on_every_machine_and_thread))
