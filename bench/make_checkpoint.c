/* make_checkpoint.c: a bf16 checkpoint with the exact shapes of Llama-3.1-8B and random weights,
 * for measuring memory and speed: make_checkpoint OUT [LAYERS [SHARDS]], 32 layers and 4 shards for
 * all 16 GB; LAYERS 0 makes one tensor of 10 GB instead. The folder has config.json and an index.
 */
#include <nibble/io.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { HIDDEN = 4096, INTERMEDIATE = 14336, KV = 1024, VOCAB = 128256, MOST = 2048, RUN = 1024 };

static nib_tensor_info plan[MOST];
static char names[MOST][96];
static int shard_of[MOST], count;

static void add(int shard, int64_t rows, int64_t cols, const char *format, int layer) {
    snprintf(names[count], sizeof names[count], format, layer);
    plan[count] = (nib_tensor_info){
        .name = names[count], .dtype = NIB_BF16, .shape = {cols ? 2 : 1, {rows, cols}}};
    shard_of[count++] = shard;
}

static int fail(void) {
    fprintf(stderr, "make_checkpoint: %s (%s)\n", nib_last_error()->what, nib_last_error()->path);
    return 1;
}

/* About normal with deviation 0.02: the sum of four bytes, scaled, cut to bf16. */
static uint16_t weight(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t r = *state >> 32;
    const float x = (float)((int)(r & 255) + (int)(r >> 8 & 255) + (int)(r >> 16 & 255) +
                            (int)(r >> 24 & 255) - 510) *
                    (0.02f / 148.0f);
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static nib_status write_shard(nib_ctx *ctx, const char *path, int shard) {
    static nib_tensor_info own[MOST];
    size_t n = 0;
    for (int i = 0; i < count; i++)
        if (shard_of[i] == shard) own[n++] = plan[i];
    nib_writer *writer = nib_writer_open(ctx, path, own, n, &(nib_metadata){"format", "pt"}, 1);
    if (!writer) return NIB_E_IO;
    uint64_t state = (uint64_t)shard + 1;
    for (size_t i = 0; i < n; i++) {
        const int64_t rows = own[i].shape.dim[0],
                      cols = own[i].shape.ndim == 2 ? own[i].shape.dim[1] : 1;
        uint16_t *data = malloc((size_t)(RUN * cols) * 2);
        for (int64_t row = 0; data && row < rows; row += RUN) {
            const int64_t r = rows - row < RUN ? rows - row : RUN;
            for (int64_t k = 0; k < r * cols; k++) data[k] = weight(&state);
            nib_shape shape = own[i].shape;
            shape.dim[0] = r;
            nib_tensor *t = nib_tensor_wrap(ctx, NIB_BF16, shape, data, NULL, NULL);
            const nib_status status =
                t ? nib_writer_put(writer, own[i].name, row, t) : NIB_E_MEMORY;
            nib_tensor_free(t);
            if (status < NIB_OK) {
                free(data);
                nib_writer_cancel(writer);
                return status;
            }
        }
        free(data);
    }
    return nib_writer_finish(writer);
}

static int write_config(const char *out, int layers) {
    char path[1024];
    snprintf(path, sizeof path, "%s/config.json", out);
    FILE *f = fopen(path, "w");
    if (!f) return 1;
    fprintf(f,
            "{\n  \"architectures\": [\"LlamaForCausalLM\"],\n  \"model_type\": \"llama\",\n  "
            "\"hidden_size\": %d,\n"
            "  \"intermediate_size\": %d,\n  \"num_attention_heads\": 32,\n  "
            "\"num_key_value_heads\": 8,\n"
            "  \"num_hidden_layers\": %d,\n  \"vocab_size\": %d,\n  \"rms_norm_eps\": 1e-05,\n"
            "  \"rope_theta\": 500000.0,\n  \"max_position_embeddings\": 131072,\n  "
            "\"torch_dtype\": \"bfloat16\",\n"
            "  \"tie_word_embeddings\": false\n}\n",
            HIDDEN, INTERMEDIATE, layers, VOCAB);
    return fclose(f);
}

static int write_index(const char *out, int shards) {
    char path[1024];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", out);
    FILE *f = fopen(path, "w");
    if (!f) return 1;
    unsigned long long total = 0;
    for (int i = 0; i < count; i++)
        total += 2ull * (unsigned long long)plan[i].shape.dim[0] *
                 (unsigned long long)(plan[i].shape.ndim == 2 ? plan[i].shape.dim[1] : 1);
    fprintf(f, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {\n",
            total);
    for (int i = 0; i < count; i++)
        fprintf(f, "    \"%s\": \"model-%05d-of-%05d.safetensors\"%s\n", names[i], shard_of[i] + 1,
                shards, i + 1 < count ? "," : "");
    fprintf(f, "  }\n}\n");
    return fclose(f);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: make_checkpoint OUT [LAYERS [SHARDS]]\n");
        return 2;
    }
    const int layers = argc > 2 ? atoi(argv[2]) : 32, shards = argc > 3 ? atoi(argv[3]) : 4;
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
    if (!ctx) return fail();
    mkdir(argv[1], 0777);
    if (!layers) {
        add(0, 1220704, HIDDEN, "model.layers.%d.mlp.up_proj.weight", 0); /* 10.0 GB */
    } else {
        add(0, VOCAB, HIDDEN, "model.embed_tokens.weight", 0);
        for (int l = 0; l < layers; l++) {
            const int s = l * shards / layers;
            add(s, HIDDEN, HIDDEN, "model.layers.%d.self_attn.q_proj.weight", l);
            add(s, KV, HIDDEN, "model.layers.%d.self_attn.k_proj.weight", l);
            add(s, KV, HIDDEN, "model.layers.%d.self_attn.v_proj.weight", l);
            add(s, HIDDEN, HIDDEN, "model.layers.%d.self_attn.o_proj.weight", l);
            add(s, INTERMEDIATE, HIDDEN, "model.layers.%d.mlp.gate_proj.weight", l);
            add(s, INTERMEDIATE, HIDDEN, "model.layers.%d.mlp.up_proj.weight", l);
            add(s, HIDDEN, INTERMEDIATE, "model.layers.%d.mlp.down_proj.weight", l);
            add(s, HIDDEN, 0, "model.layers.%d.input_layernorm.weight", l);
            add(s, HIDDEN, 0, "model.layers.%d.post_attention_layernorm.weight", l);
        }
        add(shards - 1, HIDDEN, 0, "model.norm.weight", 0);
        add(shards - 1, VOCAB, HIDDEN, "lm_head.weight", 0);
    }
    const int files = layers ? shards : 1;
    for (int s = 0; s < files; s++) {
        char path[1024];
        if (files > 1)
            snprintf(path, sizeof path, "%s/model-%05d-of-%05d.safetensors", argv[1], s + 1, files);
        else
            snprintf(path, sizeof path, "%s/model.safetensors", argv[1]);
        if (write_shard(ctx, path, s) < NIB_OK) return fail();
    }
    if (write_config(argv[1], layers) != 0 || (files > 1 && write_index(argv[1], files) != 0)) {
        perror(argv[1]);
        return 1;
    }
    nib_ctx_free(ctx);
    return 0;
}
