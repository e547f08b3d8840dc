/* make_models.c: checkpoints with the published shapes and names of a few models and random
 * weights: make_models OUT
 * opt-125m|bloom-560m|gpt2|whisper-tiny|whisper-small|whisper-large-v3[:LAYERS]. The folder gets
 * config.json, for Whisper generation_config.json, and model.safetensors: f16 but for GPT-2 and the
 * smaller Whispers, whose published weights are f32. LAYERS: of encoder and decoder each. */
#include <nibble/io.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MOST = 2048 };

static nib_tensor_info plan[MOST];
static char names[MOST][96];
static int count;

static void add(int64_t rows, int64_t cols, const char *format, int layer) {
    snprintf(names[count], sizeof names[count], format, layer);
    plan[count] = (nib_tensor_info){.name = names[count], .shape = {cols ? 2 : 1, {rows, cols}}};
    count++;
}

static void add_filter(int64_t out, int64_t in, int64_t width, const char *name) {
    add(out, in, name, 0);
    plan[count - 1].shape = (nib_shape){3, {out, in, width}};
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

static const char *whisper(int D, int layers, int heads, int bands, int V, const char *dtype) {
    static char text[1024];
#define AT "model.encoder.layers.%d."
    add_filter(D, bands, 3, "model.encoder.conv1.weight");
    add(D, 0, "model.encoder.conv1.bias", 0);
    add_filter(D, D, 3, "model.encoder.conv2.weight");
    add(D, 0, "model.encoder.conv2.bias", 0);
    add(1500, D, "model.encoder.embed_positions.weight", 0);
    for (int l = 0; l < layers; l++) {
        add(D, D, AT "self_attn.k_proj.weight", l);
        LINEAR(D, D, AT "self_attn.v_proj", l);
        LINEAR(D, D, AT "self_attn.q_proj", l);
        LINEAR(D, D, AT "self_attn.out_proj", l);
        NORM(D, AT "self_attn_layer_norm", l);
        LINEAR(4 * D, D, AT "fc1", l);
        LINEAR(D, 4 * D, AT "fc2", l);
        NORM(D, AT "final_layer_norm", l);
    }
    NORM(D, "model.encoder.layer_norm", 0);
#undef AT
#define AT "model.decoder.layers.%d."
    add(V, D, "model.decoder.embed_tokens.weight", 0);
    add(448, D, "model.decoder.embed_positions.weight", 0);
    for (int l = 0; l < layers; l++) {
        add(D, D, AT "self_attn.k_proj.weight", l);
        LINEAR(D, D, AT "self_attn.v_proj", l);
        LINEAR(D, D, AT "self_attn.q_proj", l);
        LINEAR(D, D, AT "self_attn.out_proj", l);
        NORM(D, AT "self_attn_layer_norm", l);
        add(D, D, AT "encoder_attn.k_proj.weight", l);
        LINEAR(D, D, AT "encoder_attn.v_proj", l);
        LINEAR(D, D, AT "encoder_attn.q_proj", l);
        LINEAR(D, D, AT "encoder_attn.out_proj", l);
        NORM(D, AT "encoder_attn_layer_norm", l);
        LINEAR(4 * D, D, AT "fc1", l);
        LINEAR(D, 4 * D, AT "fc2", l);
        NORM(D, AT "final_layer_norm", l);
    }
    NORM(D, "model.decoder.layer_norm", 0);
#undef AT
    snprintf(text, sizeof text,
             "{\"model_type\": \"whisper\", \"vocab_size\": %d, \"d_model\": %d, "
             "\"num_mel_bins\": %d, \"encoder_layers\": %d, \"decoder_layers\": %d, "
             "\"encoder_attention_heads\": %d, \"decoder_attention_heads\": %d, "
             "\"encoder_ffn_dim\": %d, \"decoder_ffn_dim\": %d, \"max_source_positions\": 1500, "
             "\"max_target_positions\": 448, \"activation_function\": \"gelu\", "
             "\"bos_token_id\": 50257, \"eos_token_id\": 50257, \"pad_token_id\": 50257, "
             "\"decoder_start_token_id\": 50258, \"torch_dtype\": \"%s\"}\n",
             V, D, bands, layers, layers, heads, heads, 4 * D, 4 * D, dtype);
    return text;
}

/* Special tokens where the published models have them; large-v3 has one language more. */
static const char *whisper_generation(int V) {
    static char text[512];
    const int more = V - 51865;
    snprintf(text, sizeof text,
             "{\"bos_token_id\": 50257, \"eos_token_id\": 50257, \"pad_token_id\": 50257, "
             "\"decoder_start_token_id\": 50258, \"begin_suppress_tokens\": [220, 50257], "
             "\"lang_to_id\": {\"<|en|>\": 50259, \"<|de|>\": 50261}, "
             "\"task_to_id\": {\"transcribe\": %d, \"translate\": %d}, "
             "\"no_timestamps_token_id\": %d, \"max_initial_timestamp_index\": 50, "
             "\"is_multilingual\": true, \"max_length\": 448}\n",
             50359 + more, 50358 + more, 50363 + more);
    return text;
}

static int fail(void) {
    fprintf(stderr, "make_models: %s (%s)\n", nib_last_error()->what, nib_last_error()->path);
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
        size_t n = 1;
        for (int d = 0; d < shape->ndim; d++) n *= (size_t)shape->dim[d];
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

static bool write_text(const char *folder, const char *name, const char *text) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    if (f && fputs(text, f) >= 0 && fclose(f) == 0) return true;
    perror(path);
    return false;
}

int main(int argc, char **argv) {
    const char *name = argc == 3 ? argv[2] : "", *config = NULL;
    const char *colon = strchr(name, ':');
    const size_t length = colon ? (size_t)(colon - name) : strlen(name);
    const int layers = colon ? atoi(colon + 1) : 0;
    nib_dtype dtype = NIB_F32;
    int V = 0;
#define IS(text) (length == strlen(text) && memcmp(name, text, length) == 0)
    if (layers < 0 || layers > 32) return 2;
    if (IS("opt-125m")) config = opt(), dtype = NIB_F16;
    if (IS("bloom-560m")) config = bloom(), dtype = NIB_F16;
    if (IS("gpt2")) config = gpt2();
    if (IS("whisper-tiny")) config = whisper(384, layers ? layers : 4, 6, 80, V = 51865, "float32");
    if (IS("whisper-small"))
        config = whisper(768, layers ? layers : 12, 12, 80, V = 51865, "float32");
    if (IS("whisper-large-v3")) {
        config = whisper(1280, layers ? layers : 32, 20, 128, V = 51866, "float16");
        dtype = NIB_F16;
    }
#undef IS
    if (!config) {
        fprintf(stderr,
                "usage: make_models OUT opt-125m|bloom-560m|gpt2|whisper-tiny|whisper-small|"
                "whisper-large-v3[:LAYERS]\n");
        return 2;
    }
    for (int i = 0; i < count; i++) plan[i].dtype = dtype;
    char path[1024];
    mkdir(argv[1], 0777);
    if (!write_text(argv[1], "config.json", config)) return 1;
    if (V && !write_text(argv[1], "generation_config.json", whisper_generation(V))) return 1;
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
    snprintf(path, sizeof path, "%s/model.safetensors", argv[1]);
    if (!ctx || write_weights(ctx, path, dtype) < NIB_OK) return fail();
    nib_ctx_free(ctx);
    return 0;
}
