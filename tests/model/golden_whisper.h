/* What the tests of Whisper share: files that make_whisper.py wrote, the sound, a pass of the
 * decoder. */
#ifndef NIB_TEST_GOLDEN_WHISPER_H
#define NIB_TEST_GOLDEN_WHISPER_H
#include <nibble/io.h>

#include "golden_model.h"
#include "model/arch.h"
#include "model/speech.h"
#include "tensor/tensor.h"
#include "test_files.h"

enum { SHORT = 12800, HEADER = 44 };

/* A tensor of a file, i64 as i32; NULL: there is none. */
static inline nib_tensor *stored(nib_ctx *ctx, const char *path, const char *tensor) {
    nib_safetensors *file = nib_safetensors_open(NULL, path);
    const nib_safetensors_entry *e = file ? nib_safetensors_find(file, tensor) : NULL;
    nib_tensor *t = NULL;
    if (e && e->dtype == NIB_F32) {
        t = nib_tensor_new(ctx, NIB_F32, e->shape);
        if (nib_safetensors_read(file, e, nib_tensor_data_mut(t), e->size, 0) < NIB_OK) abort();
    } else if (e) {
        int64_t ids[512];
        t = nib_tensor_new(ctx, NIB_I32, e->shape);
        if (e->size > sizeof ids || nib_safetensors_read(file, e, ids, e->size, 0) < NIB_OK)
            abort();
        for (size_t i = 0; i < e->size / sizeof *ids; i++)
            ((int32_t *)nib_tensor_data_mut(t))[i] = (int32_t)ids[i];
    }
    nib_safetensors_close(file);
    return t;
}

/* Of a case. */
static inline nib_tensor *reference(nib_ctx *ctx, const char *name, const char *tensor) {
    return stored(ctx, IN(GOLDEN, IN(name, "reference.safetensors")), tensor);
}

/* The first `count` samples of the sound, all for 0. */
static inline nib_tensor *sound(nib_ctx *ctx, int64_t count) {
    size_t size;
    char *bytes = test_read(GOLDEN "whisper_sound.wav", &size);
    if (!bytes) abort();
    if (!count) count = (int64_t)(size - HEADER) / 2;
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {count}});
    for (int64_t i = 0; i < count; i++) {
        int16_t sample;
        memcpy(&sample, bytes + HEADER + 2 * i, sizeof sample);
        ((float *)nib_tensor_data_mut(t))[i] = (float)sample / 32768;
    }
    free(bytes);
    return t;
}

static inline nib_model *load(nib_ctx *ctx, const char *name) {
    return nib_model_load(ctx, IN(GOLDEN, name), NULL);
}

static inline double apart(const nib_tensor *got, const nib_tensor *want) {
    const float *a = nib_tensor_data(got), *b = nib_tensor_data(want);
    double most = 0, largest = 0;
    for (int64_t i = 0; i < nib_tensor_count(want); i++) {
        const double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= most)) most = d;
        if (fabs((double)b[i]) > largest) largest = fabs((double)b[i]);
    }
    return most / largest;
}

/* Logits after each of `ids` in one pass, to what was encoded. Belongs to the open scope. */
static inline nib_tensor *logits_of(void **state_, nib_ctx *ctx, const nib_model *m,
                                    nib_tensor *encoded, const nib_tensor *ids) {
    const nib_hparams *h = &m->hparams;
    nib_kvcache cache, heard;
    const nib_kv_kind *kind = nib_kv_kind_find(NULL);
    const int64_t n = nib_tensor_count(ids);
    CHECK_OK(nib_kvcache_init(ctx, kind, h->num_hidden_layers, h->num_key_value_heads, h->head_dim,
                              &cache));
    CHECK_OK(nib_kvcache_init(ctx, kind, h->num_hidden_layers, h->num_key_value_heads, h->head_dim,
                              &heard));
    CHECK_OK(nib_kvcache_reserve(&cache, n, 0));
    CHECK_OK(nib_kvcache_reserve(&heard, h->speech.max_source_positions, 0));
    CHECK_OK(m->arch->hear(h, m->root, encoded, &heard));
    cache.heard = &heard;
    const nib_segment segment = {&cache, 0, n, n};
    const nib_batch batch = {.ctx = ctx,
                             .tokens = nib_tensor_data(ids),
                             .segments = &segment,
                             .nsegments = 1,
                             .M = n,
                             .logits = NIB_WANT_ALL};
    nib_tensor *logits = NULL;
    CHECK_OK(m->arch->forward(h, m->root, &batch, &logits));
    nib_kvcache_free(&cache);
    nib_kvcache_free(&heard);
    return logits;
}
#endif
