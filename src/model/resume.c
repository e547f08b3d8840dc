#include "model/resume.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/path.h"
#include "quant/scheme.h"

/* The kernel's name for the time since the machine started; empty where it gives none. */
static void boot_id(nib_mem *mem, char id[64]) {
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    id[0] = '\0';
    nib_path_kind kind;
    const nib_error before = *nib_last_error();
    size_t size = 0;
    char *text = nib_path_look(path, true, &kind) >= NIB_OK && kind == NIB_PATH_FILE
                     ? nib_file_read_whole(mem, path, 4096, &size)
                     : NULL;
    if (text && size < 64) memcpy(id, text, size + 1);
    if (text) nib_mem_free(mem, text, size + 1);
    id[strcspn(id, "\n")] = '\0';
    nib_error_restore(&before); /* not to know is no failure */
}

/* What must be the same for work to go on: version, options, and every tensor with its scheme. */
static json_t *fingerprint(const nib_file_plan *plan) {
    json_t *tensors = json_array();
    bool ok = tensors != NULL;
    for (size_t i = 0; i < plan->manifest.count && ok; i++) {
        const nib_stored *stored = &plan->manifest.items[i];
        nib_text text = {.mem = plan->mem};
        nib_text_format(&text, "%s %zu ", stored->name, plan->items[i].source->entry->size);
        if (stored->layout) nib_config_print(stored->config, &text);
        ok = !text.failed && json_array_append_new(tensors, json_string(text.data)) == 0;
        nib_text_free(&text);
    }
    if (!ok) {
        json_decref(tensors);
        return NULL;
    }
    return json_pack("{s:s, s:s, s:i, s:o}", "nibble", nib_version(), "format",
                     plan->manifest.format->name, "nonfinite", (int)plan->nonfinite, "tensors",
                     tensors);
}

nib_status nib_resume_text(const nib_file_plan *plan, nib_text *out) {
    char boot[64];
    boot_id(plan->mem, boot);
    json_t *done = json_object(), *made_from = fingerprint(plan);
    bool ok = done && made_from;
    for (size_t i = 0; i < plan->manifest.count && ok; i++) {
        const nib_file_item *item = &plan->items[i];
        if (!item->done) continue;
        json_t *digest = json_array();
        for (int k = 0; k < 32; k++) json_array_append_new(digest, json_integer(item->sha256[k]));
        ok = json_object_set_new(done, plan->manifest.items[i].name,
                                 json_pack("{s:o, s:f, s:f, s:I}", "sha256", digest, "sqnr_db",
                                           isfinite(item->sqnr_db) ? item->sqnr_db : -1.0,
                                           "max_error", item->max_error, "nonfinite",
                                           (json_int_t)item->nonfinite)) == 0;
    }
    json_t *root = json_pack("{s:s, s:o?, s:o?}", "boot", boot, "from", made_from, "done", done);
    nib_status status = ok && root
                            ? nib_json_text(root, JSON_COMPACT | JSON_REAL_PRECISION(17), out)
                            : NIB_RAISE(NIB_E_MEMORY, "no memory for the resume note");
    if (root) json_decref(root);
    return status;
}

static nib_status read_done(nib_file_item *item, const json_t *row) {
    json_t *digest;
    NIB_TRY(nib_json_array(row, "sha256", true, &digest));
    if (json_array_size(digest) != 32) return NIB_RAISE(NIB_E_FORMAT, "\"sha256\" is not 32 bytes");
    for (size_t k = 0; k < 32; k++)
        item->sha256[k] = (unsigned char)json_integer_value(json_array_get(digest, k));
    NIB_TRY(nib_json_double(row, "sqnr_db", true, &item->sqnr_db));
    NIB_TRY(nib_json_double(row, "max_error", true, &item->max_error));
    NIB_TRY(nib_json_int(row, "nonfinite", 0, INT64_MAX, true, &item->nonfinite));
    if (item->sqnr_db < 0) item->sqnr_db = INFINITY;
    item->done = true;
    return NIB_OK;
}

nib_status nib_resume_read(nib_file_plan *plan, const char *text, size_t size, bool *same_boot) {
    char boot[64];
    json_t *root = nib_json_parse(text, size, "the resume note", 0), *from, *done;
    const char *then = "";
    if (!root) return nib_last_error()->status;
    json_t *now = fingerprint(plan);
    nib_status status = now ? nib_json_object(root, "from", true, &from)
                            : NIB_RAISE(NIB_E_MEMORY, "no memory for the resume note");
    if (status >= NIB_OK) status = nib_json_object(root, "done", true, &done);
    if (status >= NIB_OK) status = nib_json_string(root, "boot", true, &then);
    if (status >= NIB_OK && !json_equal(from, now))
        status = NIB_RAISE(NIB_E_ARGUMENT,
                           "the unfinished work was begun with other options, another version or "
                           "another source; finish it with those, or overwrite it (--force)");
    for (size_t i = 0; i < plan->manifest.count && status >= NIB_OK; i++) {
        const json_t *row = json_object_get(done, plan->manifest.items[i].name);
        if (row) status = read_done(&plan->items[i], row);
    }
    boot_id(plan->mem, boot);
    *same_boot = boot[0] && strcmp(boot, then) == 0;
    if (now) json_decref(now);
    json_decref(root);
    return status;
}
