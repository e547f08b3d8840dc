/* Saving and requantizing trees against optimum-quanto's own state: make_workflow.py. */
#include <nibble/nn.h>

#include "counted_memory.h"
#include "golden_file.h"
#include "nn/quantized.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "quanto_golden.h"
#include "tensor/context.h"
#include "test.h"
#include "test_files.h"

GOLDEN_FILE("tests/golden/quanto/mlp.safetensors")

/* The network with weights of zero: all that counts is its shapes. */
static nib_module *empty(nib_dtype dtype) {
    static const int64_t sizes[] = {32, 48, 40, 10};
    nib_module *root = golden_mlp_new(ctx);
    for (int i = 1; i <= 3; i++) {
        char name[8];
        snprintf(name, sizeof name, "fc%d", i);
        nib_tensor *w = nib_tensor_new(ctx, dtype, (nib_shape){2, {sizes[i], sizes[i - 1]}});
        nib_tensor *b = i == 2 ? NIB_NONE : nib_tensor_new(ctx, dtype, (nib_shape){1, {sizes[i]}});
        memset(nib_tensor_data_mut(w), 0, nib_tensor_bytes(w));
        if (b != NIB_NONE) memset(nib_tensor_data_mut(b), 0, nib_tensor_bytes(b));
        nib_module_add(root, name, nib_linear_new(ctx, w, b));
    }
    return root;
}

typedef struct state {
    nib_named_tensor tensors[64];
    size_t count;
    char names[64][96];
    char map[1024];
} state;

/* What the golden file has under "qint8.qint8.off.". */
static void read_state(state *s, const char *weights, const char *activations) {
    char prefix[80];
    *s = (state){0};
    snprintf(prefix, sizeof prefix, "%s.%s.off.", weights, activations);
    for (size_t i = 0; i < file->count; i++) {
        const char *name = file->entries[i].name;
        if (strncmp(name, prefix, strlen(prefix)) != 0 || strcmp(name + strlen(prefix), "y") == 0)
            continue;
        snprintf(s->names[s->count], sizeof s->names[0], "%s", name + strlen(prefix));
        s->tensors[s->count] =
            (nib_named_tensor){s->names[s->count], golden_copy(ctx, file, &file->entries[i])};
        s->count++;
    }
    size_t at = 0;
    for (int i = 1; i <= 3; i++)
        at += (size_t)snprintf(s->map + at, sizeof s->map - at,
                               "%s\"fc%d\": {\"weights\": \"%s\", \"activations\": \"%s\"}",
                               i == 1 ? "{" : ", ", i, weights, activations);
    snprintf(s->map + at, sizeof s->map - at, "}");
}

static void free_state(state *s) {
    for (size_t i = 0; i < s->count; i++) nib_tensor_free(s->tensors[i].tensor);
}

typedef struct seen {
    const state *want;
    size_t count;
    char wrong[160];
} seen;
static nib_status see(void *user, const char *dotted, nib_module *owner, const char *name,
                      nib_tensor *t) {
    seen *s = user;
    (void)owner, (void)name;
    s->count++;
    for (size_t i = 0; i < s->want->count; i++) {
        const nib_tensor *w = s->want->tensors[i].tensor;
        if (strcmp(s->want->tensors[i].name, dotted) != 0) continue;
        if (t->dtype == w->dtype && nib_shape_equal(&t->shape, &w->shape) &&
            !memcmp(nib_tensor_data(t), nib_tensor_data(w), nib_tensor_bytes(w)))
            return NIB_OK;
    }
    snprintf(s->wrong, sizeof s->wrong, "%s", dotted);
    return NIB_OK;
}
static void check_saved(void **state_, nib_module *root, const state *want) {
    seen s = {.want = want};
    CHECK_OK(nib_module_walk_saved(root, see, &s));
    CHECK_TEXT(s.wrong, "");
    CHECK_INT(s.count, want->count);
}

static nib_tensor *run_floats(void **state_, nib_module *root) {
    nib_tensor *x = golden_tensor(ctx, file, "x");
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *y = nib_module_forward(root, x);
    CHECK_MADE(y);
    if (nib_act8_is(y)) y = nib_dequantize(y);
    nib_keep(y);
    nib_scope_end(ctx, mark);
    nib_tensor_free(x);
    return y;
}

TEST(upstreams_state_comes_onto_an_empty_tree_and_goes_out_the_same_to_the_byte) {
    NEEDS_SCHEME("qint8");
    static const char *const weights[] = {"qint8", "qint4", "qint2", "qfloat8_e4m3fn"};
    static const char *const activations[] = {"qint8", "qfloat8_e4m3fn"};
    TEST_FOLDER(folder);
    for (int i = 0; i < 8; i++) {
        state s;
        read_state(&s, weights[i / 2], activations[i % 2]);
        nib_module *root = empty(NIB_F32), *again = empty(NIB_F32);
        CHECK_OK(nib_requantize(root, s.tensors, s.count, s.map, NULL));
        check_saved(state_, root, &s);
        char name[96];
        snprintf(name, sizeof name, "%s.%s.off.y", weights[i / 2], activations[i % 2]);
        nib_tensor *y = run_floats(state_, root), *want = golden_tensor(ctx, file, "%s", name);
        const float *got = nib_tensor_data(y), *w = nib_tensor_data(want);
        double square = 0;
        for (int k = 0; k < 40; k++) square += (double)w[k] * (double)w[k];
        for (int k = 0; k < 40; k++) CHECK_NEAR(got[k], w[k], 0.02 * sqrt(square / 40));
        /* and through files, prepared for the kernels on the way */
        CHECK_OK(nib_prepare(root));
        CHECK_OK(nib_module_save(root, IN(folder, "model.safetensors")));
        CHECK_OK(nib_requantize_file(again, folder, "cpu"));
        check_saved(state_, again, &s);
        nib_tensor *z = run_floats(state_, again);
        CHECK_BYTES(nib_tensor_data(z), nib_tensor_data(y), nib_tensor_bytes(y));
        nib_tensor_free(y);
        nib_tensor_free(z);
        nib_tensor_free(want);
        nib_module_free(root);
        nib_module_free(again);
        free_state(&s);
    }
    test_folder_remove(folder);
}

TEST(what_does_not_fit_is_one_clear_error_and_the_tree_is_as_it_was) {
    NEEDS_SCHEME("qint8");
    static const struct {
        const char *map, *message, *at;
        nib_status status;
    } cases[] = {
        {"{\"fc9\": {\"weights\": \"qint8\", \"activations\": \"none\"}}", "does not have", "fc9",
         NIB_E_FORMAT},
        {"{\"fc1\": {\"weights\": \"qint3\", \"activations\": \"none\"}}", "qint3", "fc1",
         NIB_E_FORMAT},
        {"{\"fc1\": {\"weights\": \"qint8\", \"activations\": \"qint4\"}}", "qint4", "fc1",
         NIB_E_FORMAT},
        {"{\"fc1\": {\"weights\": \"qint4\", \"activations\": \"qint8\"}}", "_data._data", "",
         NIB_E_FORMAT},
        {"{\"\": {\"weights\": \"qint8\", \"activations\": \"none\"}}", "none to quantize", "",
         NIB_E_FORMAT},
        {"{\"fc1\": 8}", "not an object", "fc1", NIB_E_FORMAT},
        {"[1]", "not an object", "", NIB_E_FORMAT},
        {"{", "", "", NIB_E_FORMAT},
    };
    state s;
    read_state(&s, "qint8", "qint8");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nib_module *root = empty(NIB_F32);
        CHECK_FAILS(nib_requantize(root, s.tensors, s.count, cases[i].map, NULL), cases[i].status,
                    cases[i].message);
        if (*cases[i].at) CHECK_TEXT(nib_last_error()->tensor, cases[i].at);
        CHECK(!nib_module_quantized(nib_module_child(root, "fc1")));
        CHECK_TEXT(nib_tensor_layout(nib_module_parameter(nib_module_child(root, "fc1"), "weight")),
                   "dense");
        nib_module_free(root);
    }
    for (size_t i = 0; i < s.count; i++) { /* any tensor that lacks is named */
        nib_module *root = empty(NIB_F32);
        const nib_named_tensor kept = s.tensors[i];
        s.tensors[i].name = "other";
        const nib_status status = nib_requantize(root, s.tensors, s.count, s.map, NULL);
        if (status != NIB_E_FORMAT) FAIL_AT("without %s: status %d", kept.name, (int)status);
        CHECK(!nib_module_quantized(nib_module_child(root, "fc1")));
        s.tensors[i] = kept;
        nib_module_free(root);
    }
    for (size_t i = 0; i < s.count; i++) { /* and any that has another shape */
        nib_module *root = empty(NIB_F32);
        const nib_named_tensor kept = s.tensors[i];
        s.tensors[i].tensor = nib_tensor_new(ctx, kept.tensor->dtype, (nib_shape){3, {2, 3, 5}});
        const nib_status status = nib_requantize(root, s.tensors, s.count, s.map, NULL);
        if (status != NIB_E_FORMAT && status != NIB_E_SHAPE)
            FAIL_AT("%s as [2, 3, 5]: status %d", kept.name, (int)status);
        CHECK(!nib_module_quantized(nib_module_child(root, "fc1")));
        nib_tensor_free(s.tensors[i].tensor);
        s.tensors[i] = kept;
        nib_module_free(root);
    }
    free_state(&s);
}

TEST(streamlined_outputs_are_remembered_by_the_map) {
    NEEDS_SCHEME("qint8");
    state s;
    read_state(&s, "qint8", "qint8");
    nib_module *root = empty(NIB_F32), *again = empty(NIB_F32);
    CHECK_OK(nib_requantize(root, s.tensors, s.count, s.map, NULL));
    nib_module_quantized(nib_module_child(root, "fc3"))->output = (nib_dtype)0;
    char *map = nib_quantization_map(root);
    CHECK_MADE(map);
    CHECK(strstr(map, "\"outputs\": false"));
    CHECK_OK(nib_requantize(again, s.tensors, s.count, map, NULL));
    CHECK_INT(nib_module_quantized(nib_module_child(again, "fc3"))->output, 0);
    CHECK_INT(nib_module_quantized(nib_module_child(again, "fc2"))->output, NIB_I8);
    nib_text_release(map);
    nib_module_free(root);
    nib_module_free(again);
    free_state(&s);
}

TEST(the_dtype_of_a_quantized_tree_changes_and_its_codes_stay) {
    NEEDS_SCHEME("qint8");
    static const char *const weights[] = {"qint8", "qint4", "qint2", "qfloat8_e4m3fn"};
    for (int i = 0; i < 4; i++) {
        state s;
        read_state(&s, weights[i], "qint8");
        nib_module *root = empty(NIB_F32);
        CHECK_OK(nib_requantize(root, s.tensors, s.count, s.map, NULL));
        nib_tensor *before = run_floats(state_, root);
        CHECK_OK(nib_module_to_dtype(root, NIB_F16));
        nib_module *fc1 = nib_module_child(root, "fc1");
        CHECK_INT(nib_tensor_dtype(nib_module_parameter(fc1, "weight")), NIB_F16);
        CHECK_INT(nib_tensor_dtype(nib_module_buffer(fc1, "input_scale")), NIB_F16);
        nib_tensor *after = run_floats(state_, root);
        const float *a = nib_tensor_data(after), *b = nib_tensor_data(before);
        double square = 0;
        for (int k = 0; k < 40; k++) square += (double)b[k] * (double)b[k];
        for (int k = 0; k < 40; k++) CHECK_NEAR(a[k], b[k], 0.03 * sqrt(square / 40));
        nib_tensor_free(before);
        nib_tensor_free(after);
        nib_module_free(root);
        free_state(&s);
    }
}

static nib_tensor *twice_forward(nib_module *m, nib_tensor *x) {
    x = nib_module_forward(nib_module_child(m, "a"), x);
    return nib_module_forward(nib_module_child(m, "b"), x);
}
static const nib_module_kind twice_kind = {.name = "Twice", .forward = twice_forward};

TEST(a_module_under_two_names_is_quantized_once_and_both_names_run) {
    NEEDS_SCHEME("qint8");
    uint64_t seed = test_seed();
    nib_tensor *w = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {16, 16}});
    float *data = nib_tensor_data_mut(w);
    for (int i = 0; i < 256; i++) data[i] = test_uniform(&seed);
    nib_module *root = nib_module_new(ctx, &twice_kind, NULL),
               *shared = nib_linear_new(ctx, w, NIB_NONE);
    CHECK_OK(nib_module_add(root, "a", shared));
    CHECK_OK(nib_module_add(root, "b", nib_module_share(shared)));
    nib_config *config = nib_config_parse("quanto:weights=qint8,activations=qint8");
    nib_tensor *x = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {4, 16}});
    float *in = nib_tensor_data_mut(x);
    for (int i = 0; i < 64; i++) in[i] = test_uniform(&seed);
    CHECK_OK(nib_calibrate_begin(root, config, NULL));
    const size_t mark = nib_scope_begin(ctx);
    CHECK_MADE(nib_module_forward(root, x));
    nib_calibration report = {0};
    CHECK_OK(nib_calibrate_end(root, &report));
    CHECK_INT(report.modules, 1);
    CHECK_OK(nib_freeze(root));
    CHECK_MADE(nib_module_forward(root, x));
    nib_scope_end(ctx, mark);
    CHECK(nib_module_child(root, "a") == nib_module_child(root, "b"));
    nib_tensor_free(x);
    nib_config_free(config);
    nib_module_free(root);
}

/* ---- every allocation of the whole way may fail ---- */

static nib_status whole_way(void) {
    nib_ctx *mine =
        nib_ctx_new(&(nib_ctx_options){.threads = 1, .alloc = counted, .dealloc = given_back});
    nib_config *config = nib_config_parse("quanto:weights=qint4,activations=qint8,algo=gptq");
    nib_status status = mine && config ? NIB_OK : NIB_E_MEMORY;
    nib_module *root = NULL;
    nib_tensor *x = NULL;
    if (status >= NIB_OK) {
        nib_tensor *w = nib_tensor_new(mine, NIB_F32, (nib_shape){2, {8, 32}});
        for (int i = 0; w && i < 256; i++)
            ((float *)nib_tensor_data_mut(w))[i] = (float)(i % 7) - 3;
        root = nib_linear_new(mine, w, NIB_NONE);
        x = nib_tensor_new(mine, NIB_F32, (nib_shape){2, {3, 32}});
        for (int i = 0; x && i < 96; i++) ((float *)nib_tensor_data_mut(x))[i] = (float)(i % 5);
        status = root && x ? NIB_OK : NIB_E_MEMORY;
    }
    bool begun = false;
    if (status >= NIB_OK) status = nib_calibrate_begin(root, config, NULL);
    begun = status >= NIB_OK;
    const size_t mark = nib_scope_begin(mine);
    if (status >= NIB_OK && !nib_module_forward(root, x)) status = NIB_E_MEMORY;
    nib_scope_end(mine, mark);
    if (begun && nib_calibrate_end(root, NULL) < NIB_OK) status = NIB_E_MEMORY;
    if (status >= NIB_OK) status = nib_freeze(root);
    const size_t again = nib_scope_begin(mine);
    if (status >= NIB_OK && !nib_module_forward(root, x)) status = NIB_E_MEMORY;
    nib_scope_end(mine, again);
    if (status >= NIB_OK) status = nib_module_to_dtype(root, NIB_F16);
    char *map = status >= NIB_OK ? nib_quantization_map(root) : NULL;
    nib_text_release(map);
    nib_tensor_free(x);
    nib_module_free(root);
    nib_config_free(config);
    nib_ctx_free(mine);
    return status;
}

TEST(any_allocation_that_fails_leaves_nothing_behind) {
    NEEDS_SCHEME("qint4:algo=gptq");
    long n = 0;
    nib_status status = NIB_E_MEMORY;
    for (; status < NIB_OK && n < 2000; n++) {
        left = n;
        live = 0;
        status = whole_way();
        if (live != 0) FAIL_AT("allocation %ld failed, and %ld blocks were left", n, live);
    }
    CHECK_OK(status);
    print_message("%ld allocations\n", n - 1);
    CHECK(n > 30);
}

GOLDEN_TESTS(RUNS(any_allocation_that_fails_leaves_nothing_behind),
             RUNS(upstreams_state_comes_onto_an_empty_tree_and_goes_out_the_same_to_the_byte),
             RUNS(what_does_not_fit_is_one_clear_error_and_the_tree_is_as_it_was),
             RUNS(streamlined_outputs_are_remembered_by_the_map),
             RUNS(the_dtype_of_a_quantized_tree_changes_and_its_codes_stay),
             RUNS(a_module_under_two_names_is_quantized_once_and_both_names_run))
