/* cmd_verify.c: is a quantized checkpoint what its source gives? */
#include <math.h>

#include "cli.h"

static struct { const char *source; } o;

static const cli_option options[] = {
    {"source", 's', "MODEL", CLI_TEXT, &o.source, "the float checkpoint it was made from", 0, 0,
     true},
    {0},
};

static int run(cli *c) {
    nib_ctx *ctx = cli_context(c);
    if (!ctx) return cli_fail(c);
    nib_report report = {0};
    const nib_status status = nib_verify_file(ctx, c->arguments[0], o.source, &report);
    cli_progress_end();
    if (status < NIB_OK && !(c->json && status == NIB_E_DIFFERS)) return cli_fail(c);
    if (c->json) {
        const nib_error *e = nib_last_error();
        const bool same = status >= NIB_OK;
        json_t *document = json_pack("{s:b, s:i, s:i}", "same", same, "quantized", report.quantized,
                                     "float", report.left);
        if (document && !same)
            json_object_set_new(document, "difference",
                                json_pack("{s:s, s:s, s:s, s:I}", "what", e->what, "path", e->path,
                                          "tensor", e->tensor, "offset", (json_int_t)e->offset));
        const int code = cli_print_json(c, document);
        return code != CLI_OK ? code : same ? CLI_OK : CLI_DIFFERS;
    }
    printf("Every byte is what the source gives: %d quantized weights, %d float tensors.\n",
           report.quantized, report.left);
    return CLI_OK;
}

const cli_verb verb_verify = {
    .name = "verify",
    .summary = "derive every quantized tensor again and compare bytes",
    .synopsis = "OUT --source MODEL",
    .example = "llama-int4/ --source llama/",
    .options = options,
    .common = CLI_THREADS | CLI_JSON,
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run,
};
