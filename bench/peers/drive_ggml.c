/* drive_ggml.c: GGML_OP_MUL_MAT of a ggml that is installed, by its shared libraries; no header of
 * it is needed. TYPE is ggml's name of a type, "+q4_0" the same in the buffer that interleaves
 * rows. drive_ggml N K MOST_M TYPE LIBRARY... */
#include <dlfcn.h>

#include "drive.h"

typedef struct tensor tensor;
typedef struct handle handle; /* contexts, graphs, backends, buffers, devices */
typedef struct params {
    size_t size;
    void *memory;
    _Bool no_alloc;
} params;

static handle *(*init)(params);
static handle *(*backend_init)(void), *(*backend_device)(handle *), *(*device_reg)(handle *);
static void *(*reg_address)(handle *, const char *);
static const char *(*buffer_type_name)(handle *), *(*type_name)(int);
static tensor *(*new_2d)(handle *, int, int64_t, int64_t),
    *(*mul_mat)(handle *, tensor *, tensor *);
static handle *(*new_graph)(handle *, size_t, _Bool);
static void (*expand)(handle *, tensor *), (*set)(tensor *, const void *, size_t, size_t);
static handle *(*alloc)(handle *, handle *), *(*alloc_of)(handle *, handle *);
static size_t (*row_size)(int, int64_t);
static size_t (*quantize)(int, const float *, void *, int64_t, int64_t, int64_t, const float *);
static int (*compute)(handle *, handle *);
static void (*set_threads)(handle *, int);

/* ISO C has no cast from an object pointer to a function pointer; POSIX says the bits are fine. */
static void find(void *function, const char *name, int needed) {
    void *address = dlsym(RTLD_DEFAULT, name);
    if (!address && needed) drive_fail(name);
    memcpy(function, &address, sizeof address);
}

static handle *backend;
/* Graphs: every copy for up to 8 rows, one copy for more. */
static handle *graph_many, *graph_few[DRIVE_ROTATED + 1];
static tensor **weight;

static void open_libraries(drive *d) {
    for (char **lib = d->more; *lib; lib++)
        if (!dlopen(*lib, RTLD_LAZY | RTLD_GLOBAL)) drive_fail(dlerror());
    find(&init, "ggml_init", 1);
    find(&backend_init, "ggml_backend_cpu_init", 1);
    find(&backend_device, "ggml_backend_get_device", 0);
    find(&device_reg, "ggml_backend_dev_backend_reg", 0);
    find(&reg_address, "ggml_backend_reg_get_proc_address", 0);
    find(&buffer_type_name, "ggml_backend_buft_name", 1);
    find(&type_name, "ggml_type_name", 1);
    find(&new_2d, "ggml_new_tensor_2d", 1);
    find(&mul_mat, "ggml_mul_mat", 1);
    find(&new_graph, "ggml_new_graph_custom", 1);
    find(&expand, "ggml_build_forward_expand", 1);
    find(&set, "ggml_backend_tensor_set", 1);
    find(&alloc, "ggml_backend_alloc_ctx_tensors", 1);
    find(&alloc_of, "ggml_backend_alloc_ctx_tensors_from_buft", 1);
    find(&row_size, "ggml_row_size", 1);
    find(&quantize, "ggml_quantize_chunk", 1);
    find(&compute, "ggml_backend_graph_compute", 1);
    find(&set_threads, "ggml_backend_cpu_set_n_threads", 1);
}

static handle *repack_buffers(void) {
    if (!backend_device || !device_reg || !reg_address) return NULL;
    handle *device = backend_device(backend), **(*list)(handle *) = NULL;
    void *address = reg_address(device_reg(device), "ggml_backend_dev_get_extra_bufts");
    memcpy(&list, &address, sizeof address);
    for (handle **b = list ? list(device) : NULL; b && *b; b++)
        if (strcmp(buffer_type_name(*b), "CPU_REPACK") == 0) return *b;
    return NULL;
}

/* A graph that multiplies M rows with the first `copies` weights. */
static handle *graph(const drive *d, int64_t M, int64_t copies) {
    const size_t room = (size_t)(2 * copies + 16);
    handle *ctx = init((params){room * 1024 + 65536 + 1000 * room, NULL, 1});
    float *x = drive_alloc((size_t)(M * d->K) * 4, 0);
    tensor *input = new_2d(ctx, 0, d->K, M);
    handle *g = new_graph(ctx, room, 0);
    for (int64_t i = 0; i < copies; i++) expand(g, mul_mat(ctx, weight[i], input));
    if (!alloc(ctx, backend)) drive_fail("no memory for a graph");
    drive_fill(x, (size_t)(M * d->K), 1);
    set(input, x, 0, (size_t)(M * d->K) * 4);
    free(x);
    return g;
}

static void drive_start(drive *d) {
    enum { ROWS = 64 };
    open_libraries(d);
    backend = backend_init();
    const int repack = d->type[0] == '+';
    int type = -1;
    for (int i = 0; i < 512 && type < 0; i++) {
        const char *name = i == 3 ? NULL : type_name(i);
        if (name && strcmp(name, d->type + repack) == 0) type = i;
    }
    if (type < 0) drive_fail("no such type");
    const size_t row = row_size(type, d->K);
    d->bytes = (int64_t)row * d->N;
    d->copies = drive_copies(d);
    weight = calloc((size_t)d->copies, sizeof *weight);
    handle *ctx = init((params){(size_t)d->copies * 1024 + 65536, NULL, 1});
    for (int64_t i = 0; i < d->copies; i++) weight[i] = new_2d(ctx, type, d->K, d->N);
    handle *buffers = repack ? repack_buffers() : NULL;
    if (repack && !buffers) drive_fail("no buffers that repack");
    if (!(repack ? alloc_of(ctx, buffers) : alloc(ctx, backend))) drive_fail("no memory");
    /* Some rows again and again: some types take minutes to quantize. */
    float *w = drive_alloc(ROWS * (size_t)d->K * 4, 0);
    float *importance = drive_alloc((size_t)d->K * 4, 0);
    char *q = drive_alloc((size_t)d->bytes, 0);
    drive_fill(w, ROWS * (size_t)d->K, 0.02f);
    for (int64_t k = 0; k < d->K; k++) importance[k] = 1;
    if (type == 0)
        memcpy(q, w, ROWS * row);
    else
        quantize(type, w, q, 0, ROWS, d->K, importance);
    for (int64_t n = ROWS; n < d->N; n += ROWS)
        memcpy(q + (size_t)n * row, q, row * (size_t)(d->N - n < ROWS ? d->N - n : ROWS));
    for (int64_t i = 0; i < d->copies; i++) set(weight[i], q, 0, (size_t)d->bytes);
    free(w), free(importance), free(q);
}

static void drive_threads(int threads) { set_threads(backend, threads); }

static int64_t drive_batch(drive *d, int64_t M) {
    if (M <= DRIVE_ROTATED) {
        if (!graph_few[M]) graph_few[M] = graph(d, M, d->copies);
        if (compute(backend, graph_few[M])) drive_fail("ggml failed");
        return d->copies;
    }
    static int64_t many_rows;
    if (many_rows != M) graph_many = graph(d, M, 1), many_rows = M;
    if (compute(backend, graph_many)) drive_fail("ggml failed");
    return 1;
}
