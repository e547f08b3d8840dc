#include "flow/candidate.h"

#include <string.h>

#include "base/error.h"
#include "base/text_util.h"

/* Last components of module names that mark tables looked up by index, as the model families call
 * them: Llama, OPT, BLOOM, GPT-2, BERT, T5, ViT. */
static const char *const embeddings[] = {"*embed*",
                                         "wte",
                                         "wpe",
                                         "shared",
                                         "*token_embd*",
                                         "*pos_emb*",
                                         "*relative_attention_bias",
                                         "*position_ids",
                                         NULL};
static const char *const norms[] = {"*norm*", "ln_*", "*layernorm*", "*_ln", NULL};
static const char *const heads[] = {"lm_head", "embed_out", NULL};

static bool among(const char *name, const char *const *globs) {
    for (; *globs; globs++)
        if (nib_glob_match(*globs, name)) return true;
    return false;
}

nib_status nib_tensor_candidate_of(const char *tensor, nib_dtype dtype, const nib_shape *shape,
                                   nib_tensor_candidate *out) {
    const size_t length = strlen(tensor);
    if (length >= sizeof out->name)
        return NIB_RAISE(NIB_E_FORMAT, "a tensor's name is %zu bytes long, over %d", length,
                         NIB_MAX_TENSOR_NAME - 1);
    *out = (nib_tensor_candidate){.kind = "linear"};
    memcpy(out->name, tensor, length + 1);
    const bool is_weight = nib_text_ends(tensor, ".weight");
    if (is_weight) out->name[length - strlen(".weight")] = '\0';
    nib_candidate *c = &out->candidate;
    c->name = out->name;
    const bool wide = dtype == NIB_F32 || dtype == NIB_F16 || dtype == NIB_BF16;
    out->matrix = wide && shape->ndim >= 2;
    const char *dot = strrchr(out->name, '.'), *last = dot ? dot + 1 : out->name;
    if (!wide)
        c->why_not = "not f32, f16 or bf16";
    else if (shape->ndim < 2)
        c->why_not = "a vector";
    else if (among(last, embeddings) && strcmp(last, "embed_out") != 0)
        c->why_not = "an embedding";
    else if (among(last, norms))
        c->why_not = "a norm";
    else if (shape->ndim == 2 && is_weight)
        c->linear = true;
    else if (shape->ndim == 3 && strstr(out->name, "experts"))
        c->linear = true;
    else
        c->why_not = shape->ndim == 2 ? "not named like a linear weight"
                                      : "not a linear weight by its shape";
    if (shape->ndim == 3) out->kind = "experts";
    if (shape->ndim >= 4) out->kind = "conv2d";
    /* A bare "output" is the head of the first Llama files; inside a block it is a projection;
     * a bare "proj_out" is Whisper's. */
    c->head = c->linear && shape->ndim == 2 &&
              (among(last, heads) || strcmp(out->name, "output") == 0 ||
               strcmp(out->name, "proj_out") == 0);
    return NIB_OK;
}
