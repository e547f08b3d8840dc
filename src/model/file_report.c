/* file_report.c: quant_report.json, which stands beside the weights and says what was done to each
 * tensor of which source. */
#include "model/file_report.h"

#include <math.h>

#include "base/error.h"
#include "base/json.h"
#include "quant/scheme.h"
#include "tensor/dtype.h"

static void hex(const unsigned char sha256[32], char text[65]) {
    static const char digit[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) {
        text[2 * i] = digit[sha256[i] >> 4];
        text[2 * i + 1] = digit[sha256[i] & 15];
    }
    text[64] = '\0';
}

static json_t *row_of(const nib_file_plan *plan, size_t i) {
    const nib_stored *stored = &plan->manifest.items[i];
    const nib_file_item *item = &plan->items[i];
    char digest[65];
    hex(item->sha256, digest);
    json_t *row = json_pack("{s:s, s:s, s:I, s:I, s:s}", "name", stored->name, "dtype",
                            nib_dtype_torch_name(stored->dtype), "bytes_before",
                            (json_int_t)item->source->entry->size, "bytes_after",
                            (json_int_t)nib_stored_bytes(stored), "source_sha256", digest);
    if (!row) return NULL;
    int failed = 0;
    if (stored->layout) {
        char *scheme = nib_config_text(plan->mem, stored->config);
        failed |= !scheme || json_object_set_new(row, "scheme", json_string(scheme));
        nib_mem_strfree(plan->mem, scheme);
        failed |= json_object_set_new(row, "layout", json_string(stored->layout->name));
        /* JSON has no infinity: a weight that came through exactly has no noise to tell of. */
        failed |= json_object_set_new(
            row, "sqnr_db", isfinite(item->sqnr_db) ? json_real(item->sqnr_db) : json_null());
        failed |= json_object_set_new(row, "max_error", json_real(item->max_error));
    } else if (item->matrix && item->why_left) {
        failed |= json_object_set_new(row, "why_left", json_string(item->why_left));
    }
    if (item->nonfinite)
        failed |= json_object_set_new(row, "nonfinite", json_integer(item->nonfinite));
    if (!failed) return row;
    json_decref(row);
    return NULL;
}

static json_t *rules_of(const nib_file_plan *plan) {
    json_t *rules = json_array();
    bool ok = rules != NULL;
    for (size_t i = 0; i < plan->selection.nrules && ok; i++) {
        const nib_rule *rule = &plan->selection.rules[i];
        char *scheme = nib_config_text(plan->mem, rule->config);
        ok = scheme && json_array_append_new(rules, json_pack("{s:s, s:s}", "glob",
                                                              rule->glob ? rule->glob : "*",
                                                              "scheme", scheme)) == 0;
        nib_mem_strfree(plan->mem, scheme);
    }
    if (ok) return rules;
    json_decref(rules);
    return NULL;
}

nib_status nib_file_report_text(const nib_file_plan *plan, nib_text *out) {
    static const char *const nonfinite[] = {"error", "keep", "zero"};
    size_t before = 0, after = 0, weights = 0, bits = 0;
    int quantized = 0, left = 0;
    json_t *tensors = json_array();
    bool ok = tensors != NULL;
    for (size_t i = 0; i < plan->manifest.count && ok; i++) {
        const nib_stored *stored = &plan->manifest.items[i];
        before += i < plan->source->count ? plan->items[i].source->entry->size : 0;
        after += nib_stored_bytes(stored);
        if (stored->layout) {
            quantized++;
            weights += (size_t)(stored->desc.rows * stored->desc.cols);
            bits += nib_stored_bytes(stored) * 8;
        } else if (plan->items[i].matrix) {
            left++;
        }
        ok = json_array_append_new(tensors, row_of(plan, i)) == 0;
    }
    const nib_select *s = &plan->selection.select;
    json_t *root = json_pack(
        "{s:i, s:s, s:s, s:s, s:o, s:{s:s?, s:s?, s:b, s:b, s:s}, "
        "s:{s:i, s:i, s:I, s:I, s:f}, s:o}",
        "version", 1, "nibble", nib_version(), "source", plan->source->path, "format",
        plan->manifest.format->name, "rules", rules_of(plan), "options", "include", s->include,
        "exclude", s->exclude, "head", s->head, "leave_unfit", s->leave_unfit, "nonfinite",
        nonfinite[plan->nonfinite], "totals", "quantized", quantized, "left", left, "bytes_before",
        (json_int_t)before, "bytes_after", (json_int_t)after, "bits_per_weight",
        weights ? (double)bits / (double)weights : 0.0, "tensors", tensors);
    ok = ok && root;
    const nib_status status = ok ? nib_json_text(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9), out)
                                 : NIB_RAISE(NIB_E_MEMORY, "no memory for quant_report.json");
    if (status >= NIB_OK) nib_text_add(out, "\n");
    if (root) json_decref(root);
    return status;
}
