/* tune.c: how each node runs fastest, measured while the graph is used. All ways give the same
 * bits: on all threads of the context, or on the caller's alone, which spares small nodes the round
 * trip between cores; and where an implementation has variants, each of these on all threads. So
 * the first runs of a graph serve two ends: they do their work, in blocks of one way after another,
 * and are timed node by node, with caches as they really are. The least time counts, summed over
 * nodes of one key (op, shapes, layouts), of which each layer has one.
 *
 * What was found may be kept in a file, a line a key:
 *     version, machine, instruction set TAB threads TAB key TAB way TAB ns of way 0 SPACE of way 1
 * ..., 0 where it was not tried. It is a cache: lines of another machine or version, for nodes that
 * have other ways now, and damaged ones are passed over, it is written whole or not at all, and a
 * run does not fail because of it. A file that is something else is left as it is, and the log is
 * told. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/error.h"
#include "base/file.h"
#include "base/path.h"
#include "base/text_util.h"
#include "graph/node.h"
#include "tensor/context.h"

static const char family[] = "nibble tune ", heading[] = "nibble tune 2\n";
enum {
    MOST_BYTES = 1 << 20, /* of a file: more is not ours, or not worth keeping */
    GAIN_PERCENT = 5,     /* that another way than the first must bring */
    LONG_NS = 1000000000, /* for one turn */
};

nib_way nib_graph_way(const nib_graph *g, int way) {
    if (nib_pool_threads(g->ctx->pool) == 1) return (nib_way){.variant = way};
    return way == 1 ? (nib_way){.alone = true} : (nib_way){.variant = way ? way - 1 : 0};
}

static int ways_of(const nib_graph *g, const nib_op *op) {
    const int ways = nib_op_variants(op) + (nib_pool_threads(g->ctx->pool) > 1);
    return ways < NIB_MAX_WAYS ? ways : NIB_MAX_WAYS;
}

/* What a file that was asked for does not do. */
static void tell(const nib_graph *g, const char *path, const char *what) {
    if (!g->ctx->log) return;
    nib_text text = {.mem = &g->ctx->mem};
    nib_text_format(&text, "%s: %s", path, what);
    if (!text.failed) g->ctx->log(g->ctx->user, 1, text.data);
    nib_text_free(&text);
}

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
                    layout ? layout->name : nib_dtype_name(v->code ? v->code : v->dtype));
}

/* "linear_add [1, 256]f32 [256, 256]w4_lane16 none [1, 256]f32" */
static void add_key(nib_text *text, const nib_graph *g, const nib_node *n) {
    nib_text_add(text, n->args.op->name);
    for (int k = 0; k < n->args.nin; k++) add_kind(text, g, n->in[k]);
}

static void add_machine(nib_text *text, const nib_graph *g) {
    char name[64];
    nib_cpu_name(name, sizeof name);
    nib_text_format(text, "%s, %s, %s\t%d\t", nib_version(), name, nib_cpu_level(g->ctx->features),
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

/* The first node of the same key, which may be itself. */
static int first_of_key(const nib_graph *g, int node) {
    for (int i = 0; i < node; i++)
        if (g->nodes[i].ways > 1 && same_key(g, &g->nodes[i], &g->nodes[node])) return i;
    return node;
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

/* A line without its end. Its first `length` bytes say which machine and node it is about. */
typedef struct entry {
    size_t length;
    int way, ways;
} entry;

/* False: damaged. */
static bool read_entry(const char *line, entry *out) {
    const char *key = line;
    for (int tabs = 0; tabs < 3; tabs++) {
        key = strchr(key, '\t');
        if (!key) return false;
        if (tabs < 2) key++;
    }
    *out = (entry){.length = (size_t)(key - line), .way = key[1] - '0', .ways = 1};
    if (out->way < 0 || out->way >= NIB_MAX_WAYS || key[2] != '\t') return false;
    const char *ns = key + 3;
    for (bool digit = false; *ns; ns++) {
        if (*ns == ' ' ? !digit : *ns < '0' || *ns > '9') return false;
        digit = *ns != ' ';
        out->ways += *ns == ' ';
        if (!digit && !ns[1]) return false;
    }
    return ns > key + 3 && out->way < out->ways;
}

typedef enum owner { NOBODYS, OURS, FOREIGN } owner;

/* The lines after the heading, or NULL. Of another version of ours none is taken. */
static char *read_lines(nib_mem *mem, const char *path, char **whole, size_t *size, owner *whose) {
    *whole = nib_file_read_whole(mem, path, MOST_BYTES, size);
    *whose = *whole && *size ? FOREIGN : NOBODYS;
    if (!*whole) { /* one that is there, but cannot be read or is too long, is not ours either */
        nib_path_kind kind = NIB_PATH_NONE;
        if (nib_path_look(path, true, &kind) >= NIB_OK && kind != NIB_PATH_NONE) *whose = FOREIGN;
        return NULL;
    }
    if (!*size) return NULL;
    const size_t common = *size < sizeof family - 1 ? *size : sizeof family - 1;
    if (memcmp(*whole, family, common) != 0 || strlen(*whole) != *size) return NULL;
    *whose = OURS;
    if (*size < sizeof heading - 1 || memcmp(*whole, heading, sizeof heading - 1) != 0) return NULL;
    return *whole + sizeof heading - 1;
}

/* The way that a file has for node `n`; -1: none that is known today. */
static int way_in(const nib_graph *g, const nib_node *n, char *lines) {
    nib_text key = {.mem = &g->ctx->mem};
    add_machine(&key, g);
    add_key(&key, g, n);
    int way = -1;
    for (char *line = lines, *end; !key.failed && way < 0 && (end = strchr(line, '\n'));) {
        entry e;
        *end = '\0';
        if (read_entry(line, &e) && e.length == key.length && e.ways == n->ways &&
            memcmp(line, key.data, key.length) == 0)
            way = e.way;
        *end = '\n';
        line = end + 1;
    }
    nib_text_free(&key);
    return way;
}

static bool is_whole(char *lines) {
    bool whole = true;
    char *line = lines;
    for (char *end; (end = strchr(line, '\n')); line = end + 1) {
        entry e;
        *end = '\0';
        whole &= read_entry(line, &e);
        *end = '\n';
    }
    return whole && !*line;
}

/* Take choices over; true when all nodes that want one have it. *whose: is there a file? */
static bool choose_from_file(nib_graph *g, const char *path, owner *whose) {
    size_t size = 0;
    char *whole, *lines = read_lines(&g->ctx->mem, path, &whole, &size, whose);
    bool all = lines != NULL;
    if (*whose == FOREIGN)
        tell(g, path, "is not a file of measured choices; it is left as it is");
    else if (*whose == OURS && (!lines || !is_whole(lines)))
        tell(g, path, "is damaged or of another version; what it lacks is measured again");
    for (int i = 0; lines && i < g->nnodes; i++) {
        nib_node *n = &g->nodes[i];
        if (n->ways == 1) continue;
        const int first = first_of_key(g, i);
        const int way = first < i ? g->nodes[first].way : way_in(g, n, lines);
        n->way = way < 0 ? 0 : way;
        all &= way >= 0;
    }
    nib_mem_free(&g->ctx->mem, whole, size + 1);
    return all;
}

/* Of a way that some node did not try: INT64_MAX. */
static void sum_of_key(const nib_graph *g, const nib_node *of, int64_t sum[NIB_MAX_WAYS]) {
    for (int way = 0; way < NIB_MAX_WAYS; way++) sum[way] = 0;
    for (int i = 0; i < g->nnodes; i++) {
        const nib_node *n = &g->nodes[i];
        if (n->ways == 1 || !same_key(g, n, of)) continue;
        for (int way = 0; way < n->ways; way++) {
            const bool tried = n->best_ns[way] < INT64_MAX && sum[way] < INT64_MAX;
            sum[way] = tried ? sum[way] + n->best_ns[way] : INT64_MAX;
        }
    }
}

/* Does `text` have a line about the same as the first `length` bytes of `line`? */
static bool has_entry(const nib_text *text, const char *line, size_t length) {
    for (const char *at = text->data; at; at = strchr(at, '\n')) {
        if (*at == '\n') at++;
        if (strncmp(at, line, length) == 0 && at[length] == '\t') return true;
    }
    return false;
}

/* Our lines, then those of the file that are about other machines or keys. */
static nib_status write_lines(const nib_graph *g, const char *path) {
    nib_mem *mem = &g->ctx->mem;
    nib_text text = {.mem = mem};
    nib_text_add(&text, heading);
    for (int i = 0; i < g->nnodes; i++) {
        const nib_node *n = &g->nodes[i];
        if (n->ways == 1 || first_of_key(g, i) != i) continue;
        int64_t sum[NIB_MAX_WAYS];
        sum_of_key(g, n, sum);
        add_machine(&text, g);
        add_key(&text, g, n);
        nib_text_format(&text, "\t%d", n->way);
        for (int way = 0; way < n->ways; way++)
            nib_text_format(&text, "%c%lld", way ? ' ' : '\t',
                            sum[way] < INT64_MAX ? (long long)sum[way] : 0);
        nib_text_add(&text, "\n");
    }
    size_t size = 0;
    owner whose;
    entry e;
    char *whole, *lines = read_lines(mem, path, &whole, &size, &whose);
    for (char *line; lines && !text.failed && (line = next_line(&lines));) {
        if (!read_entry(line, &e) || has_entry(&text, line, e.length) ||
            text.length + strlen(line) + 1 > MOST_BYTES)
            continue;
        nib_text_add(&text, line);
        nib_text_add(&text, "\n");
    }
    nib_mem_free(mem, whole, size + 1);
    nib_status status = text.failed ? nib_last_error()->status : NIB_OK;
    if (status >= NIB_OK && whose != FOREIGN)
        status = nib_file_write_whole(mem, path, text.data, text.length);
    nib_text_free(&text);
    return status;
}

/* ---- measuring ---- */

nib_status nib_graph_tune(nib_graph *g, const char *path) {
    int most = 1;
    owner whose = NOBODYS;
    for (int i = 0; i < g->nnodes; i++) {
        nib_node *n = &g->nodes[i];
        n->ways = ways_of(g, n->args.op);
    }
    /* What follows a symbol grows and shrinks with it: no measurement holds. */
    for (int k = 0; k < g->nfollows; k++) g->nodes[g->follows[k].node].ways = 1;
    for (int i = 0; i < g->nnodes; i++) {
        nib_node *n = &g->nodes[i];
        if (n->ways > most) most = n->ways;
        for (int way = 0; way < n->ways; way++) n->best_ns[way] = INT64_MAX;
    }
    if (most == 1 || (path && choose_from_file(g, path, &whose))) return NIB_OK;
    if (path && whose != FOREIGN) {
        g->tune_path = nib_mem_strdup(&g->ctx->mem, path);
        if (!g->tune_path) return nib_last_error()->status;
    }
    g->tune_wanted = most * NIB_TUNE_BLOCK * NIB_TUNE_TURNS;
    return NIB_OK;
}

/* Nodes that take long tell within the first turn, and there is no second one for them. */
static bool is_enough(const nib_graph *g) {
    const int turn = g->tune_wanted / NIB_TUNE_TURNS;
    return g->tune_runs >= g->tune_wanted || (g->tune_runs >= turn && g->tune_ns > LONG_NS);
}

void nib_graph_tuned_run(nib_graph *g) {
    g->tune_runs++;
    if (!is_enough(g)) return;
    g->tune_wanted = g->tune_runs;
    for (int i = 0; i < g->nnodes; i++) {
        nib_node *n = &g->nodes[i];
        if (n->ways == 1) continue;
        int64_t sum[NIB_MAX_WAYS];
        sum_of_key(g, n, sum);
        n->way = 0;
        for (int way = 1; way < n->ways; way++)
            if (sum[way] < sum[n->way] && sum[way] < sum[0] - sum[0] / 100 * GAIN_PERCENT)
                n->way = way;
    }
    if (g->ctx->log) {
        char line[96];
        snprintf(line, sizeof line, "measured how its nodes run fastest in %d runs, %.1f ms",
                 g->tune_runs, (double)g->tune_ns * 1e-6);
        g->ctx->log(g->ctx->user, 0, line);
    }
    if (g->tune_path && write_lines(g, g->tune_path) < NIB_OK)
        tell(g, g->tune_path, nib_last_error()->what);
}
