/* A language model loaded, quantized in memory, and asked to go on.
 *     model [FOLDER [PROMPT]] */
#include <nibble/io.h>
#include <stdio.h>
#include <string.h>

/* Print the prompt and the 40 tokens that follow it, as they come. */
static nib_status speak(nib_session *session, const nib_tokenizer *tokenizer, const char *prompt) {
    nib_ids ids = {0};
    nib_string text = {0};
    nib_detokenizer *stream = nib_detokenizer_new(tokenizer, true);
    nib_status status = nib_tokenizer_encode(tokenizer, prompt, strlen(prompt), true, &ids);
    if (status == NIB_OK) status = nib_session_feed(session, ids.data, ids.count);
    printf("%s", prompt);
    for (int i = 0; status == NIB_OK && i < 40; i++) {
        int32_t token;
        status = nib_session_next(session, &token); /* NIB_END: there is no more to say */
        if (status == NIB_OK) status = nib_detokenizer_next(stream, token, &text);
        if (status == NIB_OK) printf("%s", text.data);
        text.length = 0;
    }
    printf("\n");
    nib_detokenizer_free(stream);
    nib_string_free(&text);
    nib_ids_free(&ids);
    return status;
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "models/kjv-llama";
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tokenizer *tokenizer = nib_tokenizer_load(ctx, folder);
    nib_model *model = tokenizer ? nib_model_load(ctx, folder, NULL) : NULL;
    nib_report report = {.size = sizeof report};
    nib_status status = nib_quantize(nib_model_root(model), NIB_INT4_WEIGHT_ONLY(.group_size = 32),
                                     &(nib_select){.exclude = "*.down_proj", .report = &report});
    if (status == NIB_OK)
        printf("%d weights: %zu -> %zu bytes\n", report.quantized, report.bytes_before,
               report.bytes_after);
    nib_session *session = status == NIB_OK ? nib_session_new(ctx, model, NULL) : NULL;
    if (session) status = speak(session, tokenizer, argc > 2 ? argv[2] : "And God said,");
    const bool failed = !session || status < NIB_OK; /* NULL in, NULL out: the cause is on record */
    if (failed) fprintf(stderr, "%s: %s\n", nib_last_error()->path, nib_last_error()->what);
    nib_session_free(session);
    nib_model_free(model);
    nib_tokenizer_free(tokenizer);
    nib_ctx_free(ctx);
    return failed;
}
