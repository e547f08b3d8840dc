/* Decoders of all architectures against transformers: make.py and make_text.py in
 * tests/golden/model say how the cases were made. */
#include "golden_model.h"
#include "model/arch.h"
#include "tensor/tensor.h"

/* Logits of every position of the prompt, in one pass of the architecture. */
static double largest_difference(void **state_, nib_ctx *ctx, const nib_model *model,
                                 const golden *g, double *largest) {
    nib_kvcache cache;
    CHECK_OK(nib_kvcache_init(ctx, nib_kv_kind_find(NULL), model->hparams.num_hidden_layers,
                              model->hparams.num_key_value_heads, model->hparams.head_dim, &cache));
    CHECK_OK(nib_kvcache_reserve(&cache, (int64_t)g->nprompt, 0));
    const nib_segment segment = {&cache, 0, (int64_t)g->nprompt, (int64_t)g->nprompt};
    const nib_batch batch = {.ctx = ctx,
                             .tokens = g->prompt,
                             .segments = &segment,
                             .nsegments = 1,
                             .M = (int64_t)g->nprompt,
                             .logits = NIB_WANT_ALL};
    nib_tensor *logits = NULL;
    const size_t mark = nib_scope_begin(ctx);
    CHECK_OK(model->arch->forward(&model->hparams, model->root, &batch, &logits));
    const float *got = nib_tensor_data(logits);
    double most = 0;
    *largest = 0;
    for (size_t i = 0; i < g->nprompt * g->vocab; i++) {
        const double difference = fabs((double)got[i] - (double)g->logits[i]);
        if (!(difference <= most)) most = difference;
        if (fabs((double)g->logits[i]) > *largest) *largest = fabs((double)g->logits[i]);
    }
    nib_scope_end(ctx, mark);
    nib_kvcache_free(&cache);
    return most;
}

TEST(logits_of_every_case_agree_with_transformers) {
    const double tolerance = 1e-4; /* of the largest logit: f32 sums in another order */
    nib_ctx *ctx = nib_ctx_new(NULL);
    double worst = 0;
    for (int i = 0; i < GOLDEN_CASES; i++) {
        golden g;
        CHECK(golden_open(golden_cases[i], &g));
        nib_model *model = nib_model_load(ctx, g.folder, NULL);
        CHECK_MADE(model);
        double largest;
        const double most = largest_difference(state_, ctx, model, &g, &largest);
        print_message("%-28s largest difference %.2e of %.3g\n", golden_cases[i], most / largest,
                      largest);
        if (!(most <= tolerance * largest))
            FAIL_AT("%s: off by %g, want %g of %g", golden_cases[i], most, tolerance, largest);
        if (most / largest > worst) worst = most / largest;
        nib_model_free(model);
        golden_close(&g);
    }
    print_message("%d cases, largest difference %.2e of the largest logit\n", GOLDEN_CASES, worst);
    nib_ctx_free(ctx);
}

TEST(greedy_ids_of_every_case_equal_those_of_transformers) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    for (int i = 0; i < GOLDEN_CASES; i++) {
        golden g;
        CHECK(golden_open(golden_cases[i], &g));
        nib_model *model = nib_model_load(ctx, g.folder, NULL);
        nib_session *s = nib_session_new(
            ctx, model, &(nib_session_options){.ignore_eos = true, .max_tokens = 64});
        CHECK_MADE(s);
        CHECK_OK(nib_session_feed(s, g.prompt, g.nprompt));
        for (size_t k = 0; k < g.ngreedy; k++) {
            int32_t id;
            CHECK_OK(nib_session_next(s, &id));
            if (id != g.greedy[k])
                FAIL_AT("%s: token %zu is %d, want %d", golden_cases[i], k, id, g.greedy[k]);
        }
        nib_session_free(s);
        nib_model_free(model);
        golden_close(&g);
    }
    nib_ctx_free(ctx);
}

TESTS(RUNS(logits_of_every_case_agree_with_transformers),
      RUNS(greedy_ids_of_every_case_equal_those_of_transformers))
