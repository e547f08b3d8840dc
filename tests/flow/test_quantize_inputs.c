/* nib_quantize_inputs: what it changes, what it leaves, what it refuses. */
#include <nibble/nn.h>

#include "quant/scheme.h"
#include "tensor/tensor.h"
#include "test.h"

static const nib_module_kind pair_kind = {.name = "Pair"};

/* Two linears, 32 -> 32, quantized by `schemes`; NULL leaves one float. */
static nib_module *pair_of(void **state_, nib_ctx *ctx, const char *const schemes[2]) {
    static const char *const names[] = {"first", "second"};
    nib_module *root = nib_module_new(ctx, &pair_kind, NULL);
    for (int i = 0; i < 2; i++) {
        uint64_t seed = test_seed() + (uint64_t)i;
        nib_tensor *w = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {32, 32}});
        CHECK_MADE(w);
        float *data = nib_tensor_data_mut(w);
        for (int k = 0; k < 32 * 32; k++) data[k] = test_uniform(&seed);
        CHECK_OK(nib_module_add(root, names[i], nib_linear_new(ctx, w, NIB_NONE)));
        if (!schemes[i]) continue;
        nib_config *config = nib_config_parse(schemes[i]);
        CHECK_MADE(config);
        CHECK_OK(nib_quantize(root, config, &(nib_select){.include = names[i]}));
        nib_config_free(config);
    }
    return root;
}

static bool known(const char *scheme) {
    char name[64];
    if (!scheme) return true;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(scheme, ":"), scheme);
    return nib_scheme_find(name);
}

TEST(a_tree_says_what_its_linears_multiply_with) {
    static const struct {
        const char *schemes[2], *before, *after, *refused;
    } cases[] = {
        {{"int8_weight_only", "qint4"}, "float", "int8", NULL},
        {{"intx_weight_only:bits=3", NULL}, "float", "int8", NULL},
        {{"int8_dynamic_activation_int8_weight", "qint2"}, "int8 and float", "int8", NULL},
        {{"int8_dynamic_activation_int8_weight", NULL}, "int8", "int8", NULL},
        {{NULL, NULL}, "float", NULL, "no Linear has any"},
        {{"int8_weight_only", "qfloat8"}, "float", NULL, "second has weights of f8_e4m3fn"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!known(cases[i].schemes[0]) || !known(cases[i].schemes[1])) continue;
        nib_ctx *ctx = nib_ctx_new(NULL);
        nib_module *root = pair_of(state_, ctx, cases[i].schemes);
        CHECK_TEXT(nib_inputs_name(root), cases[i].before);
        const nib_status status = nib_quantize_inputs(root, "int8");
        if (cases[i].refused) {
            CHECK(status < NIB_OK);
            if (!strstr(nib_last_error()->what, cases[i].refused))
                FAIL_AT("case %zu: \"%s\"", i, nib_last_error()->what);
        } else {
            CHECK_OK(status);
        }
        /* all or nothing */
        CHECK_TEXT(nib_inputs_name(root), cases[i].after ? cases[i].after : cases[i].before);
        CHECK_FAILS(nib_quantize_inputs(root, "int4"), NIB_E_ARGUMENT, "not \"int4\"");
        nib_module_free(root);
        nib_ctx_free(ctx);
    }
}

TEST(a_scheme_that_quantizes_inputs_keeps_its_own_way) {
    const char *const schemes[2] = {
        "int8_dynamic_activation_int8_weight:act_mapping_type=asymmetric,reduce_range=true",
        "int8_weight_only"};
    if (!known(schemes[0]) || !known(schemes[1])) return;
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = pair_of(state_, ctx, schemes);
    CHECK_OK(nib_quantize_inputs(root, "int8"));
    const nib_act *own = &nib_module_parameter(nib_module_child(root, "first"), "weight")->act;
    const nib_act *asked = &nib_module_parameter(nib_module_child(root, "second"), "weight")->act;
    CHECK(own->when == NIB_ACT_DYNAMIC && !own->symmetric && own->dtype == NIB_I7);
    CHECK(asked->when == NIB_ACT_DYNAMIC && asked->symmetric && asked->dtype == NIB_I8);
    CHECK_INT(asked->block.dim[0], 1);
    nib_module_free(root);
    nib_ctx_free(ctx);
}

TEST(weights_that_meet_codes_give_what_the_dynamic_scheme_gives) {
    const char *const asked[2] = {"int8_weight_only", NULL};
    const char *const said[2] = {"int8_dynamic_activation_int8_weight", NULL};
    if (!known(asked[0]) || !known(said[0])) return;
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *a = pair_of(state_, ctx, asked), *b = pair_of(state_, ctx, said);
    CHECK_OK(nib_quantize_inputs(a, "int8"));
    const size_t mark = nib_scope_begin(ctx);
    uint64_t seed = 5;
    float data[3 * 32];
    for (int i = 0; i < 3 * 32; i++) data[i] = test_uniform(&seed);
    nib_tensor *x = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {3, 32}}, data, NULL, NULL);
    nib_tensor *y = nib_module_forward(nib_module_child(a, "first"), x);
    nib_tensor *z = nib_module_forward(nib_module_child(b, "first"), x);
    CHECK_MADE(y);
    CHECK_MADE(z);
    CHECK_BYTES(nib_tensor_data(y), nib_tensor_data(z), 3 * 32 * sizeof(float));
    nib_tensor_free(x);
    nib_scope_end(ctx, mark);
    nib_module_free(a);
    nib_module_free(b);
    nib_ctx_free(ctx);
}

TESTS(RUNS(a_tree_says_what_its_linears_multiply_with),
      RUNS(a_scheme_that_quantizes_inputs_keeps_its_own_way),
      RUNS(weights_that_meet_codes_give_what_the_dynamic_scheme_gives))
