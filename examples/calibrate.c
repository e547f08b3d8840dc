/* A language model through quanto's workflow: quantized, calibrated on a text, frozen, saved,
 * loaded again and evaluated beside the float one. calibrate [FOLDER [TEXT]] */
#include <dirent.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void remove_folder(const char *path) { /* of plain files */
    char name[4096];
    DIR *folder = opendir(path);
    for (const struct dirent *entry; folder && (entry = readdir(folder)) != NULL;) {
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        unlink(name); /* leaves "." and ".." */
    }
    if (folder) closedir(folder);
    rmdir(path);
}

static void show(void *user, const nib_calibrated *row) {
    int *shown = user;
    if ((*shown)++ < 4)
        printf("  %-34s inputs %.5f, outputs %s\n", row->name, (double)row->input_scale,
               row->outputs ? "quantized" : "float");
}

static nib_status work(nib_ctx *ctx, const char *from, const char *text, const char *to) {
    nib_model *model = nib_model_load(ctx, from, NULL), *reference = NULL, *again = NULL;
    nib_module *root = nib_model_root(model);
    nib_data data = {.file = text, .samples = 4, .context = 64};
    int shown = 0;
    nib_calibration report = {.row = show, .user = &shown};
    nib_eval eval = {.context = 64};
    nib_status status = nib_calibrate_begin(
        root, NIB_QUANTO(.weights = "qint8", .activations = "qint8", .momentum = 0.9f), NULL);
    if (status == NIB_OK) status = nib_model_feed(ctx, model, &data);
    if (status == NIB_OK) status = nib_calibrate_end(root, &report);
    if (status == NIB_OK)
        printf("%d modules, %lld tokens\n", report.modules, (long long)data.tokens);
    if (status == NIB_OK) status = nib_freeze(root);
    if (status == NIB_OK) status = nib_model_save(model, to, NULL);
    if (status == NIB_OK) {
        reference = nib_model_load(ctx, from, NULL);
        again = nib_model_load(ctx, to, NULL); /* with the scales and the map of the folder */
        eval.reference = reference;
        status = reference && again ? nib_eval_file(ctx, again, "perplexity", text, &eval)
                                    : nib_last_error()->status;
    }
    if (status == NIB_OK)
        printf("divergence from float %.4f, same next token %.1f %%\n", eval.kl_mean,
               100 * eval.same_top);
    nib_model_free(again);
    nib_model_free(reference);
    nib_model_free(model);
    return status;
}

int main(int argc, char **argv) {
    const char *from = argc > 1 ? argv[1] : "models/kjv-llama";
    const char *text = argc > 2 ? argv[2] : "tests/golden/eval/text.txt", *room = getenv("TMPDIR");
    char parent[1024], to[1100];
    snprintf(parent, sizeof parent, "%s/nibble-calibrate-XXXXXX", room ? room : "/tmp");
    if (!mkdtemp(parent)) {
        perror(parent);
        return 1;
    }
    snprintf(to, sizeof to, "%s/w8a8", parent);
    nib_ctx *ctx = nib_ctx_new(NULL);
    const nib_status status = work(ctx, from, text, to);
    if (status != NIB_OK)
        fprintf(stderr, "%s %s: %s\n", nib_last_error()->path, nib_last_error()->tensor,
                nib_last_error()->what);
    nib_ctx_free(ctx);
    remove_folder(to);
    rmdir(parent);
    return status != NIB_OK;
}
