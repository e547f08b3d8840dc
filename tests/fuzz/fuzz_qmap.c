/* fuzz_qmap.c: quanto_qmap.json on any bytes, beside a checkpoint that has weights of every type,
 * a norm and a float weight. Read twice: for the manifest of the files, and by nib_requantize on a
 * tree of modules of those names. What is accepted has parts as its layout says; a tree that is
 * refused is as it was. */
#include <nibble/nn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "io/safetensors.h"
#include "manifest_checks.h"

static char folder[64];
static nib_ctx *ctx;
static nib_checkpoint *checkpoint;

/* What optimum-quanto writes of Linear(32, 16) in each type; all bytes zero. */
static const nib_safetensors_planned plan[] = {
    {"i8.weight._data", NIB_I8, {2, {16, 32}}},
    {"i8.weight._scale", NIB_F32, {2, {16, 1}}},
    {"i8.input_scale", NIB_F32, {0, {0}}},
    {"i8.output_scale", NIB_F32, {0, {0}}},
    {"f8.weight._data", NIB_F8_E4M3FN, {2, {16, 32}}},
    {"f8.weight._scale", NIB_F32, {2, {16, 1}}},
    {"f8.input_scale", NIB_F32, {0, {0}}},
    {"f8.output_scale", NIB_F32, {0, {0}}},
    {"i4.weight._data._data", NIB_U8, {2, {8, 32}}},
    {"i4.weight._scale", NIB_F32, {2, {16, 1}}},
    {"i4.weight._shift", NIB_F32, {2, {16, 1}}},
    {"i4.input_scale", NIB_F32, {0, {0}}},
    {"i4.output_scale", NIB_F32, {0, {0}}},
    {"i2.weight._data._data", NIB_U8, {2, {4, 32}}},
    {"i2.weight._scale", NIB_F32, {2, {16, 1}}},
    {"i2.weight._shift", NIB_F32, {2, {16, 1}}},
    {"norm.weight", NIB_F32, {1, {16}}},
    {"norm.input_scale", NIB_F32, {0, {0}}},
    {"norm.output_scale", NIB_F32, {0, {0}}},
    {"float.weight", NIB_F32, {2, {16, 32}}},
};
enum { TENSORS = sizeof plan / sizeof *plan };

static const char *path_of(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void remove_folder(void) {
    nib_checkpoint_close(checkpoint);
    unlink(path_of("model.safetensors"));
    unlink(path_of("quanto_qmap.json"));
    rmdir(folder);
}

static void make_folder(void) {
    static const char zeros[2048];
    snprintf(folder, sizeof folder, "%s/nibble-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    MUST(mkdtemp(folder));
    atexit(remove_folder);
    nib_safetensors_writer *w = nib_safetensors_writer_open(
        NULL, path_of("model.safetensors"), &(nib_safetensors_plan){plan, TENSORS, NULL, 0});
    MUST(w);
    for (size_t i = 0; i < TENSORS; i++) {
        size_t size = 4; /* scalars */
        if (plan[i].shape.ndim) size = plan[i].dtype == NIB_F32 ? 4 : 1;
        for (int d = 0; d < plan[i].shape.ndim; d++) size *= (size_t)plan[i].shape.dim[d];
        MUST(nib_safetensors_writer_put(w, i, zeros, size, 0) >= NIB_OK);
    }
    MUST(nib_safetensors_writer_finish(w) >= NIB_OK);
    ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
    checkpoint = nib_checkpoint_open(NULL, folder);
    MUST(ctx && checkpoint);
}

static nib_tensor *zeros_of(int64_t rows, int64_t cols) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, (nib_shape){cols ? 2 : 1, {rows, cols}});
    MUST(t);
    memset(nib_tensor_data_mut(t), 0, nib_tensor_bytes(t));
    return t;
}

static nib_tensor *forward(nib_module *m, nib_tensor *x) {
    (void)m;
    return x;
}

static void requantize(const char *map) {
    static const nib_module_kind kind = {.name = "Net", .forward = forward};
    static const char *const linears[] = {"i8", "f8", "i4", "i2", "float"};
    nib_module *root = nib_module_new(ctx, &kind, NULL);
    for (size_t i = 0; i < 5; i++)
        nib_module_add(root, linears[i], nib_linear_new(ctx, zeros_of(16, 32), NIB_NONE));
    nib_module_add(root, "norm", nib_layer_norm_new(ctx, zeros_of(16, 0), NIB_NONE, 1, 1e-5));
    nib_named_tensor tensors[TENSORS];
    for (size_t i = 0; i < TENSORS; i++) {
        nib_tensor *t = nib_tensor_new(ctx, plan[i].dtype, plan[i].shape);
        MUST(t);
        memset(nib_tensor_data_mut(t), 0, nib_tensor_bytes(t));
        tensors[i] = (nib_named_tensor){plan[i].name, t};
    }
    if (nib_requantize(root, tensors, TENSORS, map, NULL) < NIB_OK) check_refused();
    for (size_t i = 0; i < TENSORS; i++) nib_tensor_free(tensors[i].tensor);
    nib_module_free(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!folder[0]) make_folder();
    FILE *f = fopen(path_of("quanto_qmap.json"), "wb");
    MUST(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
    const size_t used = nib_mem_used(NULL);
    nib_manifest m = {0};
    if (nib_manifest_read(NULL, checkpoint, NULL, &m) >= NIB_OK) {
        check_items(&m, checkpoint);
    } else {
        check_refused();
        MUST(nib_last_error()->path[0]);
    }
    nib_manifest_free(&m);
    char *map = malloc(size + 1);
    memcpy(map, data, size);
    map[size] = '\0';
    requantize(map);
    free(map);
    MUST(nib_mem_used(NULL) == used);
    return 0;
}
