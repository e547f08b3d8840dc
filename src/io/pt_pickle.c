#include "io/pt_pickle.h"

#include <string.h>

#include "io/pt_globals.h"
#include "tensor/dtype.h"

enum { GLOBALS = sizeof nib_pt_globals / sizeof *nib_pt_globals };

static void put_text(nib_text *t, const char *text) {
    nib_text_append(t, "X", 1);
    nib_text_little(t, strlen(text), 4);
    nib_text_add(t, text);
}

static void put_int(nib_text *t, int64_t value) { /* from 0 on */
    const int width = value < 256 ? 1 : value < 65536 ? 2 : value <= INT32_MAX ? 4 : 8;
    nib_text_add(t, width == 1 ? "K" : width == 2 ? "M" : width == 4 ? "J" : "\x8a\x08");
    nib_text_little(t, (uint64_t)value, width);
}

static void put_tuple(nib_text *t, const int64_t *values, int n) {
    static const char *const ends[] = {")", "\x85", "\x86", "\x87", "t"};
    if (n > 3) nib_text_add(t, "(");
    for (int i = 0; i < n; i++) put_int(t, values[i]);
    nib_text_add(t, ends[n > 3 ? 4 : n]);
}

/* The global of this place in the table: spelled once, then fetched from the memo. */
static void put_global(nib_text *t, bool *known, int index) {
    if (known[index]) {
        nib_text_add(t, "h");
        nib_text_little(t, (uint64_t)index, 1);
        return;
    }
    const char *name = nib_pt_globals[index].name, *dot = strrchr(name, '.');
    nib_text_add(t, "c");
    nib_text_append(t, name, (size_t)(dot - name));
    nib_text_add(t, "\n");
    nib_text_add(t, dot + 1);
    nib_text_add(t, "\nq");
    nib_text_little(t, (uint64_t)index, 1);
    known[index] = true;
}
_Static_assert(GLOBALS <= 256, "places of the memo fit one byte");

static int global_named(const char *name) {
    int i = 0;
    while (strcmp(nib_pt_globals[i].name, name) != 0) i++;
    return i;
}

/* The storage's class of a dtype, or the dtype itself where storages of bytes hold it; -1. */
static int global_of(nib_dtype dtype, int what) {
    for (int i = 0; i < GLOBALS; i++)
        if (nib_pt_globals[i].what == what && nib_pt_globals[i].about == (int)dtype) return i;
    return -1;
}

static void put_tensor(nib_text *t, bool *known, const nib_safetensors_planned *p, size_t key) {
    char digits[24];
    const int storage = global_of(p->dtype, NIB_PT_STORAGE);
    const bool v3 = storage < 0;
    int64_t stride[NIB_MAX_DIMS] = {0}, count = 1;
    for (int d = p->shape.ndim - 1; d >= 0; d--) {
        stride[d] = count;
        count *= p->shape.dim[d] ? p->shape.dim[d] : 1;
    }
    for (int d = 0; d < p->shape.ndim; d++)
        if (!p->shape.dim[d]) count = 0;
    put_text(t, p->name);
    put_global(
        t, known,
        global_named(v3 ? "torch._utils._rebuild_tensor_v3" : "torch._utils._rebuild_tensor_v2"));
    nib_text_add(t, "((");
    put_text(t, "storage");
    put_global(t, known, v3 ? global_named("torch.storage.UntypedStorage") : storage);
    nib_text key_text = {.mem = t->mem};
    nib_text_format(&key_text, "%zu", key);
    memcpy(digits, key_text.failed ? "" : key_text.data, key_text.failed ? 1 : key_text.length + 1);
    t->failed |= key_text.failed;
    nib_text_free(&key_text);
    put_text(t, digits);
    put_text(t, "cpu");
    put_int(t, v3 ? count * (nib_dtype_bits(p->dtype) / 8) : count);
    nib_text_add(t, "tQ");
    put_int(t, 0);
    put_tuple(t, p->shape.dim, p->shape.ndim);
    put_tuple(t, stride, p->shape.ndim);
    nib_text_add(t, "\x89"); /* requires no gradient; no hooks */
    put_global(t, known, global_named("collections.OrderedDict"));
    nib_text_add(t, ")R");
    if (v3) put_global(t, known, global_of(p->dtype, NIB_PT_DTYPE));
    nib_text_add(t, "tR");
}

bool nib_pt_holds(nib_dtype dtype) { return global_of(dtype, NIB_PT_DTYPE) >= 0; }

void nib_pt_put_pickle(nib_text *t, const nib_safetensors_plan *plan) {
    bool known[GLOBALS] = {false};
    nib_text_add(t, "\x80\x02");
    put_global(t, known, global_named("collections.OrderedDict"));
    nib_text_add(t, ")R(");
    for (size_t i = 0; i < plan->count; i++) put_tensor(t, known, &plan->tensors[i], i);
    nib_text_add(t, "u");
    if (plan->metadata_count) {
        nib_text_add(t, "}");
        put_text(t, "metadata");
        nib_text_add(t, "}(");
        for (size_t i = 0; i < plan->metadata_count; i++) {
            put_text(t, plan->metadata[i].key);
            put_text(t, plan->metadata[i].value);
        }
        nib_text_add(t, "usb");
    }
    nib_text_add(t, ".");
}
