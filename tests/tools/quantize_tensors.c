/* quantize_tensors IN OUT: every tensor of a safetensors file through a scheme, for races with
 * the libraries that define it (tests/interop).
 *
 * For a tensor N of IN, the metadata "scheme.N" is its scheme ("qint4"), "layout.N" (may be
 * absent) the layout. OUT gets the parts under "N.<suffix>" and "N.back", the dequantized weight.
 * A weight of rank 4 is a convolution's. Prints the error of the first failure and leaves with 1.
 */
#include <nibble/extend.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "io/safetensors.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum { NAME = 200 };
typedef struct output {
    nib_safetensors_planned *plan; /* NIB_MAX_PARTS + 1 at most for each tensor */
    nib_tensor **tensor;           /* whose part it is */
    int *part;                     /* or -1 for a dense one */
    char (*name)[NAME];
    size_t count;
} output;

static void put(output *out, const char *tensor, const char *suffix, nib_dtype dtype,
                nib_shape shape, nib_tensor *from, int part) {
    snprintf(out->name[out->count], NAME, "%.150s.%s", tensor, suffix);
    out->plan[out->count] = (nib_safetensors_planned){out->name[out->count], dtype, shape};
    out->tensor[out->count] = from;
    out->part[out->count++] = part;
}

static nib_status quantize(nib_ctx *ctx, nib_safetensors *in, const nib_safetensors_entry *entry,
                           output *out) {
    char key[NAME];
    snprintf(key, sizeof(key), "scheme.%.150s", entry->name);
    nib_config *config = nib_config_parse(nib_safetensors_metadata(in, key));
    nib_tensor *w = nib_tensor_wrap(ctx, entry->dtype, entry->shape,
                                    nib_safetensors_data(in, entry), NULL, NULL);
    const nib_site site = {.kind = entry->shape.ndim == 4 ? "conv2d" : "linear",
                           .name = entry->name,
                           .shape = entry->shape,
                           .dtype = entry->dtype};
    nib_codes codes = {0};
    nib_tensor *t = NULL, *back = NULL;
    if (!config || !w || nib_scheme_codes(config, &site, w, &codes) < NIB_OK) goto done;
    snprintf(key, sizeof(key), "layout.%.150s", entry->name);
    const char *name = nib_safetensors_metadata(in, key);
    const nib_layout *layout = name ? nib_layout_find(name) : nib_layout_for(&codes.desc);
    t = layout ? nib_pack_tensor(ctx, layout, &codes) : NULL;
    back = nib_dequantize_tensor(t);
    if (!back) goto done;
    nib_part parts[NIB_MAX_PARTS];
    const int count = layout->parts(&codes.desc, parts);
    for (int i = 0; i < count; i++)
        put(out, entry->name, parts[i].suffix, parts[i].dtype, parts[i].shape, t, i);
    put(out, entry->name, "back", back->dtype, back->shape, back, 0);
done:
    nib_codes_free(nib_ctx_mem(ctx), &codes);
    nib_tensor_free(w);
    nib_config_free(config);
    return back ? NIB_OK : nib_error_at(NULL, entry->name, -1);
}

static nib_status run(nib_ctx *ctx, const char *from, const char *to) {
    nib_safetensors *in = nib_safetensors_open(NULL, from);
    if (!in) return nib_last_error()->status;
    const size_t most = in->count * (NIB_MAX_PARTS + 1);
    output out = {.plan = nib_mem_alloc_array(NULL, most, sizeof(*out.plan)),
                  .tensor = nib_mem_alloc_array(NULL, most, sizeof(*out.tensor)),
                  .part = nib_mem_alloc_array(NULL, most, sizeof(*out.part)),
                  .name = nib_mem_alloc_array(NULL, most, NAME)};
    if (!out.plan || !out.tensor || !out.part || !out.name) return NIB_E_MEMORY;
    for (size_t i = 0; i < in->count; i++) NIB_TRY(quantize(ctx, in, &in->entries[i], &out));
    const nib_safetensors_plan plan = {.tensors = out.plan, .count = out.count};
    nib_safetensors_writer *writer = nib_safetensors_writer_open(NULL, to, &plan);
    if (!writer) return nib_last_error()->status;
    for (size_t i = 0; i < out.count; i++) {
        const nib_part part = {.dtype = out.plan[i].dtype, .shape = out.plan[i].shape};
        NIB_TRY(nib_safetensors_writer_put(writer, i, nib_tensor_part(out.tensor[i], out.part[i]),
                                           nib_part_bytes(&part), 0));
    }
    return nib_safetensors_writer_finish(writer); /* what is left is the process's to give back */
}

int main(int argc, char **argv) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    if (argc == 3 && ctx && run(ctx, argv[1], argv[2]) >= NIB_OK) return 0;
    if (argc != 3)
        fprintf(stderr, "usage: quantize_tensors IN.safetensors OUT.safetensors\n");
    else
        fprintf(stderr, "%s: %s\n", nib_last_error()->tensor, nib_last_error()->what);
    return 1;
}
