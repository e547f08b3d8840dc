/* tune.c: how each node runs fastest, measured while the graph is used: on all threads of the
 * context, or on the caller's alone, which spares small nodes the round trip between cores. Either
 * way gives the same bits, so the first runs of a graph serve two ends: they do their work, in
 * blocks of one way and the other, and are timed node by node, with caches as they really are. The
 * least time counts, summed over nodes of one key (op, shapes, layouts), of which each layer has
 * one.
 *
 * What was found may be kept in a file, a line a key:
 *     machine TAB instruction set TAB threads TAB key TAB choice TAB ns on all TAB ns alone
 * It is a cache: lines that are damaged or of another machine are passed over, it is written whole
 * or not at all, and a run does not fail because of it. */
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/error.h"
#include "base/file.h"
#include "base/text_util.h"
#include "graph/node.h"
#include "tensor/context.h"

static const char heading[] = "nibble tune 1\n";
enum {
    MOST_BYTES = 1 << 20, /* of a file: more is not ours, or not worth keeping */
    GAIN_PERCENT = 5,     /* that running alone must bring */
};

/* ---- keys ---- */

static void add_kind(nib_text *text, const nib_graph *g, int value) {
    char shape[96];
    if (value == NIB_ABSENT) {
        nib_text_add(text, " none");
        return;
    }
    const nib_value *v = &g->values[value];
    const nib_layout *layout = v->kind == NIB_VALUE_CONSTANT ? v->tensor->layout : NULL;
    nib_text_format(text, " %s%s", nib_shape_text(&v->shape, shape, sizeof shape),
                    layout ? layout->name : nib_dtype_name(v->dtype));
}

/* "linear_add [1, 256]f32 [256, 256]w4_lane16 none [1, 256]f32" */
static void add_key(nib_text *text, const nib_graph *g, const nib_node *n) {
    nib_text_add(text, n->args.op->name);
    for (int k = 0; k < n->args.nin; k++) add_kind(text, g, n->in[k]);
}

static void add_machine(nib_text *text, const nib_graph *g) {
    char name[64];
    nib_cpu_name(name, sizeof name);
    nib_text_format(text, "%s\t%s\t%d\t", name, nib_cpu_level(g->ctx->features),
                    nib_pool_threads(g->ctx->pool));
}

static bool same_kind(const nib_graph *g, int a, int b) {
    if (a == NIB_ABSENT || b == NIB_ABSENT) return a == b;
    const nib_value *v = &g->values[a], *w = &g->values[b];
    const bool constant = v->kind == NIB_VALUE_CONSTANT;
    if (constant != (w->kind == NIB_VALUE_CONSTANT) || v->dtype != w->dtype ||
        !nib_shape_equal(&v->shape, &w->shape))
        return false;
    return !constant || v->tensor->layout == w->tensor->layout;
}

static bool same_key(const nib_graph *g, const nib_node *a, const nib_node *b) {
    if (a->args.op != b->args.op || a->args.nin != b->args.nin) return false;
    for (int k = 0; k < a->args.nin; k++)
        if (!same_kind(g, a->in[k], b->in[k])) return false;
    return true;
}

/* ---- the file ---- */

/* The next line of a file that was read, without its end; NULL after the last whole one. */
static char *next_line(char **at) {
    char *line = *at, *end = line ? strchr(line, '\n') : NULL;
    if (!end) return NULL;
    *end = '\0';
    *at = end + 1;
    return line;
}

/* The choice of a line that begins with `key` and is whole; -1: another line. */
static int choice_of(const char *line, const char *key, size_t length) {
    if (strncmp(line, key, length) != 0 || line[length] != '\t') return -1;
    const char *rest = line + length + 1;
    if ((rest[0] != '0' && rest[0] != '1') || rest[1] != '\t') return -1;
    int tabs = 0;
    for (const char *p = rest + 2; *p; p++) {
        if (*p != '\t' && (*p < '0' || *p > '9')) return -1;
        tabs += *p == '\t';
    }
    return tabs == 1 ? rest[0] - '0' : -1;
}

/* The lines after the heading; NULL when there is no such file, or none of ours. */
static char *read_lines(nib_mem *mem, const char *path, char **whole, size_t *size) {
    *whole = nib_file_read_whole(mem, path, MOST_BYTES, size);
    if (!*whole || *size < sizeof heading - 1 || strlen(*whole) != *size) return NULL;
    return memcmp(*whole, heading, sizeof heading - 1) == 0 ? *whole + sizeof heading - 1 : NULL;
}

/* Take choices over; true when all nodes that want one have it. */
static bool choose_from_file(nib_graph *g, const char *path) {
    nib_mem *mem = &g->ctx->mem;
    size_t size = 0;
    char *whole, *lines = read_lines(mem, path, &whole, &size);
    bool all = lines != NULL;
    for (int i = 0; lines && i < g->nnodes; i++) {
        nib_node *n = &g->nodes[i];
        if (!n->tuned) continue;
        nib_text key = {.mem = mem};
        add_machine(&key, g);
        add_key(&key, g, n);
        int choice = -1;
        for (char *line = lines; !key.failed && *line && choice < 0;) {
            char *end = strchr(line, '\n');
            if (!end) break;
            *end = '\0';
            choice = choice_of(line, key.data, key.length);
            *end = '\n';
            line = end + 1;
        }
        nib_text_free(&key);
        n->alone = choice == 1;
        all &= choice >= 0;
    }
    nib_mem_free(mem, whole, size + 1);
    return all;
}

static bool is_first_of_key(const nib_graph *g, int node) {
    for (int i = 0; i < node; i++)
        if (g->nodes[i].tuned && same_key(g, &g->nodes[i], &g->nodes[node])) return false;
    return true;
}

static void sum_of_key(const nib_graph *g, const nib_node *of, int64_t sum[2]) {
    sum[0] = sum[1] = 0;
    for (int i = 0; i < g->nnodes; i++) {
        const nib_node *n = &g->nodes[i];
        if (!n->tuned || !same_key(g, n, of)) continue;
        for (int way = 0; way < 2; way++) sum[way] += n->best_ns[way];
    }
}

/* Our lines, then those of the file that are about other machines or keys. */
static nib_status write_lines(const nib_graph *g, const char *path) {
    nib_mem *mem = &g->ctx->mem;
    nib_text text = {.mem = mem};
    nib_text_add(&text, heading);
    for (int i = 0; i < g->nnodes; i++) {
        const nib_node *n = &g->nodes[i];
        if (!n->tuned || !is_first_of_key(g, i)) continue;
        int64_t sum[2];
        sum_of_key(g, n, sum);
        add_machine(&text, g);
        add_key(&text, g, n);
        nib_text_format(&text, "\t%d\t%lld\t%lld\n", (int)n->alone, (long long)sum[0],
                        (long long)sum[1]);
    }
    const size_t ours = text.length;
    size_t size = 0;
    char *whole, *lines = read_lines(mem, path, &whole, &size);
    for (char *line; lines && !text.failed && (line = next_line(&lines));) {
        /* The key ends before the last three tabs. */
        size_t length = strlen(line);
        for (int tabs = 0; length && tabs < 3;) tabs += line[--length] == '\t';
        if (!length || choice_of(line, line, length) < 0) continue;
        line[length] = '\0';
        const char *known = strstr(text.data, line);
        const bool replaced = known && (size_t)(known - text.data) < ours &&
                              known[length] == '\t' && known > text.data && known[-1] == '\n';
        line[length] = '\t';
        if (replaced || text.length + strlen(line) + 1 > MOST_BYTES) continue;
        nib_text_add(&text, line);
        nib_text_add(&text, "\n");
    }
    nib_mem_free(mem, whole, size + 1);
    const nib_status status = text.failed ? nib_last_error()->status
                                          : nib_file_write_whole(mem, path, text.data, text.length);
    nib_text_free(&text);
    return status;
}

/* ---- measuring ---- */

nib_status nib_graph_tune(nib_graph *g, const char *path) {
    g->tune_runs = NIB_TUNE_RUNS;
    if (nib_pool_threads(g->ctx->pool) == 1) return NIB_OK;
    for (int i = 0; i < g->nnodes; i++) {
        nib_node *n = &g->nodes[i];
        n->tuned = true;
        n->best_ns[0] = n->best_ns[1] = INT64_MAX;
    }
    /* What follows a symbol grows and shrinks with it: no measurement holds. */
    for (int k = 0; k < g->nfollows; k++) g->nodes[g->follows[k].node].tuned = false;
    if (path) {
        if (choose_from_file(g, path)) return NIB_OK;
        g->tune_path = nib_mem_strdup(&g->ctx->mem, path);
        if (!g->tune_path) return nib_last_error()->status;
    }
    g->tune_runs = 0;
    return NIB_OK;
}

void nib_graph_tuned_run(nib_graph *g) {
    if (++g->tune_runs < NIB_TUNE_RUNS) return;
    for (int i = 0; i < g->nnodes; i++) {
        nib_node *n = &g->nodes[i];
        if (!n->tuned) continue;
        int64_t sum[2];
        sum_of_key(g, n, sum);
        n->alone = sum[1] < sum[0] - sum[0] / 100 * GAIN_PERCENT;
    }
    if (g->tune_path && write_lines(g, g->tune_path) < NIB_OK && g->ctx->log)
        g->ctx->log(g->ctx->user, 0, nib_last_error()->what);
}
