/* A checkpoint quantized from file to file in bounded memory, and the proof of the result.
 *     stream [FOLDER [NEW FOLDER]]      without a new folder the result is removed again */
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

int main(int argc, char **argv) {
    const char *from = argc > 1 ? argv[1] : "models/kjv-llama", *room = getenv("TMPDIR");
    char parent[1024], to[1100];
    snprintf(parent, sizeof parent, "%s/nibble-stream-XXXXXX", room ? room : "/tmp");
    if (argc < 3 && !mkdtemp(parent)) {
        perror(parent);
        return 1;
    }
    snprintf(to, sizeof to, "%s", argc > 2 ? argv[2] : parent);
    if (argc < 3) snprintf(to, sizeof to, "%s/int4", parent);

    /* The first rule whose glob fits decides; the output head stays float unless select.head. */
    const nib_rule rules[] = {
        {"*.down_proj", NIB_INT8_WEIGHT_ONLY(.granularity = "row")},
        {"*", NIB_INT4_WEIGHT_ONLY(.group_size = 32)},
    };
    nib_report report = {.size = sizeof report};
    const nib_select select = {.report = &report};
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_status status = nib_quantize_file(ctx, from, to, rules, 2, &select, NULL);
    if (status == NIB_OK) {
        printf("%d weights: %zu -> %zu bytes\n", report.quantized, report.bytes_before,
               report.bytes_after);
        status = nib_verify_file(ctx, to, from, &report); /* derives it all again */
    }
    if (status == NIB_OK)
        printf("verified: %d weights are what their source gives\n", report.quantized);
    else
        fprintf(stderr, "%s %s: %s\n", nib_last_error()->path, nib_last_error()->tensor,
                nib_last_error()->what);
    nib_ctx_free(ctx);
    if (argc < 3) {
        remove_folder(to);
        rmdir(parent);
    }
    return status != NIB_OK;
}
