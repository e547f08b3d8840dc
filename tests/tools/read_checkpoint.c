/* read_checkpoint MODEL OUT.safetensors [ID,ID,...]: what this library makes of a checkpoint, for
 * comparison with the libraries that wrote it (tests/interop).
 *
 * OUT gets every parameter of the model as a dense tensor under its own name, quantized ones
 * dequantized in the dtype that their codes stand for, and with IDs "logits" [IDs, vocabulary] f32,
 * those after each id. Float weights are loaded as f32, so all arithmetic of the forward pass is.
 */
#include <nibble/nn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/safetensors.h"
#include "quant/layouts.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

enum { MOST = 4096, NAME = 200, IDS = 256 };
typedef struct output {
    nib_safetensors_planned plan[MOST + 1];
    char name[MOST][NAME];
    nib_tensor *tensor[MOST];
    size_t count;
} output;

static nib_status add(void *user, const char *dotted, nib_module *owner, const char *name,
                      nib_tensor *parameter) {
    output *out = user;
    (void)owner;
    (void)name;
    if (out->count == MOST) return NIB_RAISE(NIB_E_ARGUMENT, "more than %d parameters", MOST);
    nib_tensor *dense = parameter->layout ? nib_dequantize_tensor(parameter) : parameter;
    if (!dense) return nib_error_at(NULL, dotted, -1);
    snprintf(out->name[out->count], NAME, "%s", dotted);
    out->plan[out->count] =
        (nib_safetensors_planned){out->name[out->count], dense->dtype, dense->shape};
    out->tensor[out->count++] = dense;
    return NIB_OK;
}

/* The last of a row of logits, as many rows as ids; *vocabulary is set. Not given back: the process
 * ends. */
static float *logits_of(nib_ctx *ctx, const nib_model *model, const int32_t *ids, size_t n,
                        size_t *vocabulary) {
    nib_session *session = nib_session_new(ctx, model, NULL);
    float *all = NULL;
    for (size_t i = 0; i < n; i++) {
        if (nib_session_feed(session, &ids[i], 1) < NIB_OK) return NULL;
        const float *row = nib_session_logits(session, vocabulary);
        if (!row || !(all = realloc(all, (i + 1) * *vocabulary * sizeof(*all)))) return NULL;
        memcpy(all + i * *vocabulary, row, *vocabulary * sizeof(*all));
    }
    return all;
}

static nib_status run(nib_ctx *ctx, const char *from, const char *to, const int32_t *ids,
                      size_t n) {
    static output out;
    nib_model *model = nib_model_load(ctx, from, &(nib_load_options){.dtype = NIB_F32});
    if (!model) return nib_last_error()->status;
    NIB_TRY(nib_module_walk_parameters(nib_model_root(model), add, &out));
    size_t vocabulary = 0;
    float *logits = n ? logits_of(ctx, model, ids, n, &vocabulary) : NULL;
    if (n && !logits) return nib_last_error()->status;
    if (n)
        out.plan[out.count] =
            (nib_safetensors_planned){"logits", NIB_F32, {2, {(int64_t)n, (int64_t)vocabulary}}};
    const nib_safetensors_plan plan = {.tensors = out.plan, .count = out.count + (n > 0)};
    nib_safetensors_writer *writer = nib_safetensors_writer_open(NULL, to, &plan);
    if (!writer) return nib_last_error()->status;
    for (size_t i = 0; i < out.count; i++) {
        size_t size;
        if (nib_dtype_bytes(out.plan[i].dtype, nib_tensor_count(out.tensor[i]), &size))
            return NIB_E_MEMORY;
        NIB_TRY(nib_safetensors_writer_put(writer, i, nib_tensor_data(out.tensor[i]), size, 0));
    }
    if (n)
        NIB_TRY(nib_safetensors_writer_put(writer, out.count, logits,
                                           n * vocabulary * sizeof(*logits), 0));
    return nib_safetensors_writer_finish(writer);
}

int main(int argc, char **argv) {
    int32_t ids[IDS];
    size_t n = 0;
    for (char *at = argc == 4 ? argv[3] : NULL; at && *at && n < IDS; at += *at == ',')
        ids[n++] = (int32_t)strtol(at, &at, 10);
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
    const bool asked = argc == 3 || argc == 4;
    if (asked && ctx && run(ctx, argv[1], argv[2], ids, n) >= NIB_OK) return 0;
    if (!asked)
        fprintf(stderr, "usage: read_checkpoint MODEL OUT.safetensors [ID,ID,...]\n");
    else
        fprintf(stderr, "%s: %s: %s\n", nib_last_error()->path, nib_last_error()->tensor,
                nib_last_error()->what);
    return 1;
}
