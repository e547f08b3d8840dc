#include <nibble/nn.h>

#include "base/mem.h"
#include "flow/candidate.h"
#include "quant/layouts.h"
#include "quant/codes.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test.h"

static const nib_module_kind container = {.name = "Block"};

/* Two linears, a small one whose columns no group of 32 divides, and a head. */
static nib_module *model(nib_ctx *ctx) {
    static const struct {
        const char *name;
        int64_t N, K;
    } layer[] = {
        {"q_proj", 48, 64}, {"odd_proj", 8, 20}, {"up_proj", 33, 128}, {"lm_head", 16, 64}};
    uint64_t seed = test_seed();
    nib_module *root = nib_module_new(ctx, &container, NULL);
    for (int i = 0; i < 4; i++) {
        nib_tensor *w = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {layer[i].N, layer[i].K}});
        float *data = w ? nib_tensor_data_mut(w) : NULL;
        for (int64_t k = 0; data && k < layer[i].N * layer[i].K; k++) data[k] = test_uniform(&seed);
        nib_module *linear = nib_linear_new(ctx, w, NIB_NONE);
        if (linear) nib_module_set_head(linear, i == 3);
        if (nib_module_add(root, layer[i].name, linear) < NIB_OK) {
            nib_module_free(root);
            return NULL;
        }
    }
    return root;
}

static const char *layout_of(nib_module *root, const char *name) {
    return nib_tensor_layout(nib_module_parameter(nib_module_child(root, name), "weight"));
}

typedef struct seen {
    int rows, left;
    double worst_db;
} seen;
static void see(void *user, const nib_report_row *row) {
    seen *s = user;
    s->rows++;
    if (row->why_left)
        s->left++;
    else if (row->sqnr_db < s->worst_db)
        s->worst_db = row->sqnr_db;
}

TEST(every_linear_but_the_head_is_quantized_and_the_report_adds_up) {
    NEEDS_SCHEME("int8_weight_only");
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = model(ctx);
    CHECK_MADE(root);
    nib_config *config = nib_config_parse("int8_weight_only");
    seen s = {.worst_db = 1e9};
    nib_report report = {.row = see, .user = &s};
    CHECK_OK(nib_quantize(root, config, &(nib_select){.report = &report}));
    CHECK_TEXT(layout_of(root, "lm_head"), "dense");
    CHECK(strcmp(layout_of(root, "q_proj"), "dense") != 0);
    CHECK_INT(report.quantized, 3);
    CHECK_INT(report.left, 1);
    CHECK_INT(s.rows, 4);
    CHECK(s.worst_db > 35 && s.worst_db < 60); /* uniform weights in 8 bits: 20 log10(255) = 48 */
    CHECK(report.bytes_after < report.bytes_before / 2);
    nib_config_free(config);
    nib_module_free(root);
    nib_ctx_free(ctx);
}

TEST(a_layer_that_does_not_fit_fails_all_and_is_named_unless_left) {
    NEEDS_SCHEME("int4_weight_only");
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = model(ctx);
    nib_config *config = nib_config_parse("int4_weight_only:group_size=32");
    CHECK_FAILS(nib_quantize(root, config, NULL), NIB_E_SHAPE, "20");
    CHECK_TEXT(nib_last_error()->tensor, "odd_proj");
    CHECK_TEXT(layout_of(root, "q_proj"), "dense");
    seen s = {.worst_db = 1e9};
    nib_report report = {.row = see, .user = &s};
    CHECK_OK(nib_quantize(root, config, &(nib_select){.leave_unfit = true, .report = &report}));
    CHECK_INT(report.quantized, 2);
    CHECK_INT(s.left, 2);
    nib_config_free(config);
    nib_module_free(root);
    nib_ctx_free(ctx);
}

TEST(the_first_rule_that_matches_wins_and_leave_keeps_float) {
    NEEDS_SCHEME("int4_weight_only");
    NEEDS_SCHEME("int8_weight_only");
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = model(ctx);
    nib_config *four = nib_config_parse("int4_weight_only:group_size=32"),
               *eight = nib_config_parse("int8_weight_only");
    const nib_rule rules[] = {{"odd*", NIB_LEAVE}, {"up*", four}, {"*", eight}};
    CHECK_OK(nib_quantize_rules(root, rules, 3, &(nib_select){.head = true}));
    CHECK_TEXT(layout_of(root, "odd_proj"), "dense");
    CHECK_TEXT(layout_of(root, "up_proj"), "int4_plain");
    CHECK_TEXT(layout_of(root, "lm_head"), layout_of(root, "q_proj"));
    CHECK_FAILS(nib_quantize(root, eight, &(nib_select){.include = "q_proj"}), NIB_E_ARGUMENT,
                "already");
    CHECK_FAILS(nib_quantize(root, eight, &(nib_select){.include = "nothing*"}), NIB_E_ARGUMENT,
                "no Linear");
    nib_config_free(four);
    nib_config_free(eight);
    nib_module_free(root);
    nib_ctx_free(ctx);
}

TEST(an_f32_weight_quantized_to_8_bits_is_to_the_bit_the_product_with_its_dequantized_self) {
    for (size_t i = 0; nib_scheme_at(i); i++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
        nib_module *root = model(ctx);
        nib_config *config = nib_config_parse(nib_scheme_at(i)->name);
        CHECK_MADE(config);
        CHECK_OK(nib_quantize(root, config, &(nib_select){.leave_unfit = true, .head = true}));
        nib_tensor *x = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {3, 128}});
        float *data = nib_tensor_data_mut(x);
        uint64_t seed = 3;
        for (int k = 0; k < 3 * 128; k++) data[k] = test_uniform(&seed);
        nib_module *up = nib_module_child(root, "up_proj");
        const bool integer = nib_module_parameter(up, "weight")->act.when != NIB_ACT_NONE;
        nib_tensor *y = nib_module_forward(up, x);
        nib_tensor *w = nib_dequantize(nib_module_parameter(up, "weight")),
                   *z = nib_linear(x, w, NIB_NONE);
        CHECK_MADE(y);
        CHECK_MADE(z);
        /* Inputs that become codes first are another product: tests/op/test_linear_inputs.c. */
        if (!integer && nib_qdesc_bits(&nib_module_parameter(up, "weight")->desc) == 8)
            CHECK_BYTES(nib_tensor_data(y), nib_tensor_data(z), nib_tensor_bytes(y));
        for (int64_t k = 0; !integer && k < nib_tensor_count(y); k++)
            CHECK(fabsf(((const float *)nib_tensor_data(y))[k] -
                        ((const float *)nib_tensor_data(z))[k]) < 1e-4f);
        nib_tensor_free(x);
        nib_config_free(config);
        nib_module_free(root);
        nib_ctx_free(ctx);
    }
}

TEST(every_failed_allocation_leaves_the_model_as_it_was) {
    NEEDS_SCHEME("int8_weight_only");
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
    nib_module *root = model(ctx);
    nib_config *config = nib_config_parse("int8_weight_only");
    const size_t before = nib_mem_used(nib_ctx_mem(ctx));
    nib_status status = NIB_E_MEMORY;
    for (long n = 0; status < NIB_OK; n++) {
        nib_mem_fail_after(n, false);
        status = nib_quantize(root, config, NULL);
        nib_mem_fail_after(-1, false);
        if (status >= NIB_OK) break;
        CHECK_INT(status, NIB_E_MEMORY);
        CHECK_INT(nib_mem_used(nib_ctx_mem(ctx)), before);
        CHECK_TEXT(layout_of(root, "q_proj"), "dense");
    }
    nib_config_free(config);
    nib_module_free(root);
    nib_ctx_free(ctx);
}

TEST(candidates_are_told_by_name_and_shape) {
    static const struct {
        const char *name;
        nib_shape shape;
        bool linear, head;
        const char *why;
    } table[] = {
        {"model.layers.0.mlp.up_proj.weight", {2, {8, 8}}, true, false, NULL},
        {"model.embed_tokens.weight", {2, {8, 8}}, false, false, "an embedding"},
        {"transformer.wte.weight", {2, {8, 8}}, false, false, "an embedding"},
        {"lm_head.weight", {2, {8, 8}}, true, true, NULL},
        {"output.weight", {2, {8, 8}}, true, true, NULL},
        {"encoder.attention.output.weight", {2, {8, 8}}, true, false, NULL},
        {"model.layers.0.mlp.experts.gate_up_proj", {3, {4, 8, 8}}, true, false, NULL},
        {"model.norm.weight", {1, {8}}, false, false, "a vector"},
        {"conv1.weight", {4, {8, 3, 3, 3}}, false, false, "shape"},
        {"attn.in_proj_weight", {2, {8, 8}}, false, false, "not named"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        nib_tensor_candidate c;
        CHECK_OK(nib_tensor_candidate_of(table[i].name, NIB_BF16, &table[i].shape, &c));
        CHECK_INT(c.candidate.linear, table[i].linear);
        CHECK_INT(c.candidate.head, table[i].head);
        CHECK(!table[i].why == !c.candidate.why_not &&
              (!table[i].why || strstr(c.candidate.why_not, table[i].why)));
    }
}

TESTS(RUNS(every_linear_but_the_head_is_quantized_and_the_report_adds_up),
      RUNS(a_layer_that_does_not_fit_fails_all_and_is_named_unless_left),
      RUNS(the_first_rule_that_matches_wins_and_leave_keeps_float),
      RUNS(an_f32_weight_quantized_to_8_bits_is_to_the_bit_the_product_with_its_dequantized_self),
      RUNS(every_failed_allocation_leaves_the_model_as_it_was),
      RUNS(candidates_are_told_by_name_and_shape))
