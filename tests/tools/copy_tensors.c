/* copy_tensors FROM TO [KEY=VALUE ...]: every tensor that nibble finds in FROM, whatever kind of
 * file or folder, into a file of the kind that TO's name tells, in the order of the names, with
 * that metadata (tests/interop). */
#include <nibble/io.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b) {
    return strcmp(((const nib_tensor_info *)a)->name, ((const nib_tensor_info *)b)->name);
}

static nib_status copy(nib_ctx *ctx, const char *from, const char *to, const nib_metadata *pairs,
                       size_t npairs) {
    nib_reader *reader = nib_reader_open(ctx, from);
    if (!reader) return nib_last_error()->status;
    const size_t count = nib_reader_count(reader);
    nib_tensor_info *plan = calloc(count + 1, sizeof *plan);
    for (size_t i = 0; plan && nib_reader_next(reader, &plan[i], NULL) == NIB_OK;) i++;
    if (plan) qsort(plan, count, sizeof *plan, by_name);
    nib_writer *writer = plan ? nib_writer_open(ctx, to, plan, count, pairs, npairs) : NULL;
    nib_status status = writer ? NIB_OK : nib_last_error()->status;
    for (size_t i = 0; i < count && status >= NIB_OK; i++) {
        nib_tensor *t = nib_reader_load(reader, plan[i].name);
        status = t ? nib_writer_put(writer, plan[i].name, 0, t) : nib_last_error()->status;
        nib_tensor_free(t);
    }
    if (status >= NIB_OK)
        status = nib_writer_finish(writer);
    else
        nib_writer_cancel(writer);
    free(plan);
    nib_reader_free(reader);
    return status;
}

int main(int argc, char **argv) {
    nib_metadata pairs[8];
    size_t npairs = 0;
    if (argc < 3 || argc > 11) {
        fprintf(stderr, "copy_tensors FROM TO [KEY=VALUE ...]\n");
        return 2;
    }
    for (int i = 3; i < argc; i++) {
        char *equals = strchr(argv[i], '=');
        if (!equals) return 2;
        *equals = '\0';
        pairs[npairs++] = (nib_metadata){argv[i], equals + 1};
    }
    nib_ctx *ctx = nib_ctx_new(NULL);
    const nib_status status = copy(ctx, argv[1], argv[2], pairs, npairs);
    if (status < NIB_OK)
        fprintf(stderr, "copy_tensors: %s [%s %s at %lld]\n", nib_last_error()->what,
                nib_last_error()->path, nib_last_error()->tensor,
                (long long)nib_last_error()->offset);
    nib_ctx_free(ctx);
    return status < NIB_OK;
}
