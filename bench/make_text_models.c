/* make_text_models.c: checkpoints with the published shapes and names of OPT-125m, BLOOM-560m and
 * GPT-2 (124M) and random weights: make_text_models OUT opt-125m|bloom-560m|gpt2. The folder gets
 * config.json and model.safetensors: f16 but for GPT-2, whose published weights are f32. */
#include <nibble/io.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MOST = 512 };

static nib_tensor_info plan[MOST];
static char names[MOST][96];
static int count;

static void add(int64_t rows, int64_t cols, const char *format, int layer) {
    snprintf(names[count], sizeof names[count], format, layer);
    plan[count] = (nib_tensor_info){.name = names[count], .shape = {cols ? 2 : 1, {rows, cols}}};
    count++;
}

/* A linear or a norm: weight and bias. */
#define LINEAR(rows, cols, name, layer)                                                            \
    (add(rows, cols, name ".weight", layer), add(rows, 0, name ".bias", layer))
#define ACROSS(in, out, name, layer)                                                               \
    (add(in, out, name ".weight", layer), add(out, 0, name ".bias", layer))
#define NORM(width, name, layer) LINEAR(width, 0, name, layer)

static const char *opt(void) {
    enum { D = 768, F = 3072 };
#define AT "model.decoder.layers.%d."
    add(50272, D, "model.decoder.embed_tokens.weight", 0);
    add(2048 + 2, D, "model.decoder.embed_positions.weight", 0);
    for (int l = 0; l < 12; l++) {
        LINEAR(D, D, AT "self_attn.k_proj", l);
        LINEAR(D, D, AT "self_attn.v_proj", l);
        LINEAR(D, D, AT "self_attn.q_proj", l);
        LINEAR(D, D, AT "self_attn.out_proj", l);
        NORM(D, AT "self_attn_layer_norm", l);
        LINEAR(F, D, AT "fc1", l);
        LINEAR(D, F, AT "fc2", l);
        NORM(D, AT "final_layer_norm", l);
    }
#undef AT
    NORM(D, "model.decoder.final_layer_norm", 0);
    return "{\"model_type\": \"opt\", \"vocab_size\": 50272, \"hidden_size\": 768, \"ffn_dim\": "
           "3072, \"num_hidden_layers\": 12, \"num_attention_heads\": 12, "
           "\"max_position_embeddings\": 2048, \"word_embed_proj_dim\": 768, "
           "\"do_layer_norm_before\": true, \"activation_function\": \"relu\", \"torch_dtype\": "
           "\"float16\"}\n";
}

static const char *bloom(void) {
    enum { D = 1024 };
    add(250880, D, "word_embeddings.weight", 0);
    NORM(D, "word_embeddings_layernorm", 0);
    for (int l = 0; l < 24; l++) {
        NORM(D, "h.%d.input_layernorm", l);
        LINEAR(3 * D, D, "h.%d.self_attention.query_key_value", l);
        LINEAR(D, D, "h.%d.self_attention.dense", l);
        NORM(D, "h.%d.post_attention_layernorm", l);
        LINEAR(4 * D, D, "h.%d.mlp.dense_h_to_4h", l);
        LINEAR(D, 4 * D, "h.%d.mlp.dense_4h_to_h", l);
    }
    NORM(D, "ln_f", 0);
    return "{\"model_type\": \"bloom\", \"vocab_size\": 250880, \"n_embed\": 1024, \"n_layer\": "
           "24, "
           "\"num_attention_heads\": 16, \"layer_norm_epsilon\": 1e-05, \"torch_dtype\": "
           "\"float16\"}\n";
}

static const char *gpt2(void) {
    enum { D = 768 };
    add(50257, D, "wte.weight", 0);
    add(1024, D, "wpe.weight", 0);
    for (int l = 0; l < 12; l++) {
        NORM(D, "h.%d.ln_1", l);
        ACROSS(D, 3 * D, "h.%d.attn.c_attn", l);
        ACROSS(D, D, "h.%d.attn.c_proj", l);
        NORM(D, "h.%d.ln_2", l);
        ACROSS(D, 4 * D, "h.%d.mlp.c_fc", l);
        ACROSS(4 * D, D, "h.%d.mlp.c_proj", l);
    }
    NORM(D, "ln_f", 0);
    return "{\"model_type\": \"gpt2\", \"vocab_size\": 50257, \"n_embd\": 768, \"n_layer\": 12, "
           "\"n_head\": 12, \"n_positions\": 1024, \"layer_norm_epsilon\": 1e-05, "
           "\"activation_function\": \"gelu_new\"}\n";
}

static int fail(void) {
    fprintf(stderr, "make_text_models: %s (%s)\n", nib_last_error()->what, nib_last_error()->path);
    return 1;
}

/* About normal with deviation 0.02: the sum of four bytes, scaled; around 1 for weights of norms.
 */
static float weight(uint64_t *state, bool norm) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t r = *state >> 32;
    const int sum = (int)(r & 255) + (int)(r >> 8 & 255) + (int)(r >> 16 & 255) + (int)(r >> 24);
    return (float)(sum - 510) * (0.02f / 148.0f) + (norm ? 1.0f : 0.0f);
}

/* Exact enough for weights like these: cut to ten bits. */
static uint16_t half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const int exponent = (int)(bits >> 23 & 255) - 112;
    return exponent <= 0 ? 0
                         : (uint16_t)((bits >> 16 & 0x8000) | (uint32_t)exponent << 10 |
                                      (bits >> 13 & 0x3ff));
}

static nib_status write_weights(nib_ctx *ctx, const char *path, nib_dtype dtype) {
    uint64_t state = 1;
    nib_writer *writer =
        nib_writer_open(ctx, path, plan, (size_t)count, &(nib_metadata){"format", "pt"}, 1);
    for (int i = 0; writer && i < count; i++) {
        const nib_shape *shape = &plan[i].shape;
        const size_t n = (size_t)(shape->dim[0] * (shape->ndim == 2 ? shape->dim[1] : 1));
        const bool norm = shape->ndim == 1 && strstr(names[i], "weight");
        float *x = malloc(n * sizeof *x);
        uint16_t *h = (uint16_t *)x; /* narrowed in place */
        for (size_t k = 0; x && k < n; k++) {
            const float w = weight(&state, norm);
            if (dtype == NIB_F16)
                h[k] = half(w);
            else
                x[k] = w;
        }
        nib_tensor *t = x ? nib_tensor_wrap(ctx, dtype, *shape, x, NULL, NULL) : NULL;
        const nib_status status = t ? nib_writer_put(writer, names[i], 0, t) : NIB_E_MEMORY;
        nib_tensor_free(t);
        free(x);
        if (status >= NIB_OK) continue;
        nib_writer_cancel(writer);
        return status;
    }
    return writer ? nib_writer_finish(writer) : nib_last_error()->status;
}

int main(int argc, char **argv) {
    const char *name = argc == 3 ? argv[2] : "", *config = NULL;
    if (strcmp(name, "opt-125m") == 0) config = opt();
    if (strcmp(name, "bloom-560m") == 0) config = bloom();
    if (strcmp(name, "gpt2") == 0) config = gpt2();
    if (!config) {
        fprintf(stderr, "usage: make_text_models OUT opt-125m|bloom-560m|gpt2\n");
        return 2;
    }
    const nib_dtype dtype = strcmp(name, "gpt2") == 0 ? NIB_F32 : NIB_F16;
    for (int i = 0; i < count; i++) plan[i].dtype = dtype;
    char path[1024];
    mkdir(argv[1], 0777);
    snprintf(path, sizeof path, "%s/config.json", argv[1]);
    FILE *f = fopen(path, "w");
    if (!f || fputs(config, f) < 0 || fclose(f) != 0) {
        perror(path);
        return 1;
    }
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
    snprintf(path, sizeof path, "%s/model.safetensors", argv[1]);
    if (!ctx || write_weights(ctx, path, dtype) < NIB_OK) return fail();
    nib_ctx_free(ctx);
    return 0;
}
