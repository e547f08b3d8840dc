/* Tensors of a checkpoint one at a time, and a file written by a plan.
 *     tensors [MODEL [OUT.safetensors]] */
#include <nibble/io.h>
#include <stdio.h>
#include <stdlib.h>

static int failed(void) {
    const nib_error *e = nib_last_error();
    fprintf(stderr, "%s %s: %s\n", e->path, e->tensor, e->what);
    return 1;
}

/* Name, type and shape of everything; the plan of a copy. */
static nib_status list(nib_reader *reader, nib_tensor_info *plan) {
    size_t bytes = 0, n = 0;
    while (n < nib_reader_count(reader)) {
        const nib_status status = nib_reader_next(reader, &plan[n], NULL);
        if (status != NIB_OK) return status;
        bytes += plan[n++].bytes;
    }
    printf("%zu tensors, %zu bytes; the first is %s in %s\n", n, bytes, n ? plan[0].name : "none",
           n ? plan[0].file : "no file");
    return NIB_OK;
}

/* One tensor in memory at a time, whatever the size of the model. */
static nib_status copy(nib_reader *reader, nib_writer *writer) {
    nib_tensor_info info;
    nib_tensor *tensor;
    nib_status status;
    while ((status = nib_reader_next(reader, &info, &tensor)) == NIB_OK) {
        status = nib_writer_put(writer, info.name, 0, tensor);
        nib_tensor_free(tensor);
        if (status != NIB_OK) break;
    }
    return status == NIB_END ? NIB_OK : status;
}

int main(int argc, char **argv) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_reader *reader = nib_reader_open(ctx, argc > 1 ? argv[1] : "models/kjv-llama");
    nib_tensor_info *plan = calloc(nib_reader_count(reader) + 1, sizeof *plan);
    const nib_metadata metadata = {"format", "pt"};
    const size_t n = nib_reader_count(reader);
    size_t size = 0;
    int result = 1;
    if (!reader || !plan || list(reader, plan) != NIB_OK) goto done;
    if (nib_writer_predict(ctx, plan, n, &metadata, 1, &size) != NIB_OK) goto done;
    printf("as one file: %zu bytes\n", size);
    if (argc > 2) {
        nib_reader_rewind(reader);
        nib_writer *writer = nib_writer_open(ctx, argv[2], plan, n, &metadata, 1);
        if (!writer) goto done;
        if (copy(reader, writer) != NIB_OK) {
            nib_writer_cancel(writer); /* the old file, if there was one, is untouched */
            goto done;
        }
        if (nib_writer_finish(writer) != NIB_OK) goto done;
    }
    result = 0;
done:
    if (result) failed();
    free(plan);
    nib_reader_free(reader);
    nib_ctx_free(ctx);
    return result;
}
