/* Sampling against the probabilities that transformers' logits processors leave. */
#include "io/safetensors.h"
#include "op/calls.h"
#include "test.h"

static int32_t one(nib_ctx *ctx, const float *logits, int64_t V, const int32_t *seen, int64_t nseen,
                   const nib_sampling *how, uint64_t seed, int64_t step) {
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *row = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){1, {V}}, logits, NULL, NULL);
    nib_tensor *said =
        seen ? nib_tensor_wrap(ctx, NIB_I32, (nib_shape){1, {nseen}}, seen, NULL, NULL) : NIB_NONE;
    const nib_tensor *id = nib_sample(row, said, how, seed, step);
    const int32_t out = id ? *(const int32_t *)nib_tensor_data(id) : -1;
    nib_tensor_free(row);
    nib_tensor_free(said);
    nib_scope_end(ctx, mark);
    return out;
}

TEST(greedy_takes_the_largest_logit_and_the_lowest_id_among_equals) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    const float logits[] = {-1, 3, 2, 3, -INFINITY};
    CHECK_INT(one(ctx, logits, 5, NULL, 0, &(nib_sampling){0}, 1, 0), 1);
    CHECK_INT(one(ctx, logits, 1, NULL, 0, &(nib_sampling){0}, 1, 0), 0);
    const int32_t seen[] = {1}; /* 3 / 2 is under the other 3 */
    CHECK_INT(one(ctx, logits, 5, seen, 1, &(nib_sampling){.repetition_penalty = 2}, 1, 0), 3);
    nib_ctx_free(ctx);
}

TEST(draws_follow_the_probabilities_of_transformers) {
    enum { DRAWS = 20000 };
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_safetensors *file = nib_safetensors_open(NULL, "tests/golden/op/sample.safetensors");
    CHECK_MADE(file);
    const nib_safetensors_entry *entry = nib_safetensors_find(file, "logits");
    const int64_t cases = entry->shape.dim[0], V = entry->shape.dim[1];
    const float *logits = nib_safetensors_data(file, entry);
    const float *p = nib_safetensors_data(file, nib_safetensors_find(file, "probabilities"));
    const float *settings = nib_safetensors_data(file, nib_safetensors_find(file, "settings"));
    entry = nib_safetensors_find(file, "seen");
    const int32_t *seen = nib_safetensors_data(file, entry);
    int *drawn = calloc((size_t)V, sizeof *drawn);
    for (int64_t c = 0; c < cases; c++) {
        const float *s = settings + c * 5;
        const nib_sampling how = {.temperature = s[0],
                                  .top_k = (int)s[1],
                                  .top_p = s[2],
                                  .min_p = s[3],
                                  .repetition_penalty = s[4]};
        memset(drawn, 0, (size_t)V * sizeof *drawn);
        for (int k = 0; k < DRAWS; k++) {
            const int32_t id =
                one(ctx, logits + c * V, V, seen, entry->shape.dim[0], &how, 7 + (uint64_t)c, k);
            CHECK(id >= 0 && id < V);
            drawn[id]++;
        }
        for (int64_t i = 0; i < V; i++) {
            const double want = (double)p[c * V + i];
            /* Six standard deviations of a binomial share: one case in 10^8 by chance. */
            const double slack = 6 * sqrt(want * (1 - want) / DRAWS) + (want > 0 ? 1.0 / DRAWS : 0);
            if (!(fabs((double)drawn[i] / DRAWS - want) <= slack))
                FAIL_AT("case %lld: token %lld came %d of %d times, want a share of %g",
                        (long long)c, (long long)i, drawn[i], DRAWS, want);
        }
    }
    free(drawn);
    nib_safetensors_close(file);
    nib_ctx_free(ctx);
}

TEST(a_draw_is_a_function_of_seed_and_step) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    float logits[64];
    uint64_t state = test_seed();
    for (int i = 0; i < 64; i++) logits[i] = test_uniform(&state);
    const nib_sampling how = {.temperature = 1};
    int same_step = 0, same_seed = 0;
    for (int k = 0; k < 200; k++) {
        const int32_t id = one(ctx, logits, 64, NULL, 0, &how, 9, k);
        CHECK_INT(one(ctx, logits, 64, NULL, 0, &how, 9, k), id);
        same_step += one(ctx, logits, 64, NULL, 0, &how, 9, k + 1) == id;
        same_seed += one(ctx, logits, 64, NULL, 0, &how, 10, k) == id;
    }
    CHECK(same_step < 30 && same_seed < 30); /* about 200 / 64 by chance */
    nib_ctx_free(ctx);
}

TEST(logits_that_are_no_numbers_are_an_error_that_names_the_token) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    const float logits[] = {1, 2, NAN};
    CHECK_INT(one(ctx, logits, 3, NULL, 0, &(nib_sampling){0}, 1, 0), -1);
    CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
    CHECK(strstr(nib_last_error()->what, "token 2 is NaN"));
    CHECK_INT(one(ctx, logits, 3, NULL, 0, &(nib_sampling){.temperature = 1}, 1, 0), -1);
    nib_ctx_free(ctx);
}

TEST(infinite_logits_still_give_a_token) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    const float some[] = {1, INFINITY, -INFINITY, 2}, none[] = {-INFINITY, -INFINITY};
    for (int k = 0; k < 50; k++) {
        CHECK_INT(one(ctx, some, 4, NULL, 0, &(nib_sampling){.temperature = 1}, 1, k), 1);
        CHECK_INT(
            one(ctx, some, 4, NULL, 0, &(nib_sampling){.temperature = 1, .top_p = 0.5f}, 1, k), 1);
        CHECK(one(ctx, none, 2, NULL, 0, &(nib_sampling){.temperature = 1, .top_k = 1}, 1, k) >= 0);
    }
    nib_ctx_free(ctx);
}

TEST(settings_out_of_range_are_named) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    const float logits[] = {1, 2};
    const struct {
        nib_sampling how;
        const char *name;
    } bad[] = {
        {{.temperature = -1}, "temperature"},
        {{.temperature = NAN}, "temperature"},
        {{.top_p = 1.5f}, "top_p"},
        {{.min_p = -0.1f}, "min_p"},
        {{.top_k = -1}, "top_k"},
        {{.repetition_penalty = -2}, "repetition_penalty"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(one(ctx, logits, 2, NULL, 0, &bad[i].how, 1, 0), -1);
        CHECK_INT(nib_last_error()->status, NIB_E_ARGUMENT);
        CHECK(strstr(nib_last_error()->what, bad[i].name));
    }
    nib_ctx_free(ctx);
}

TESTS(RUNS(greedy_takes_the_largest_logit_and_the_lowest_id_among_equals),
      RUNS(draws_follow_the_probabilities_of_transformers),
      RUNS(a_draw_is_a_function_of_seed_and_step),
      RUNS(logits_that_are_no_numbers_are_an_error_that_names_the_token),
      RUNS(infinite_logits_still_give_a_token), RUNS(settings_out_of_range_are_named))
