#include "io/pickle.h"

#include <string.h>

#include "base/error.h"
#include "base/text_util.h"

_Static_assert(NIB_PICKLE_MAX < UINT32_MAX / 64, "places and counts of a pickle fit 32 bits");

/* The machine reads from bytes[at] on. Every opcode makes at most one value and puts at most one
 * index on the stack, and items are what was popped, with room to grow; so all tables are bounded
 * by a small multiple of the pickle's size. Only a dict made of a list copies items: extend says
 * how often that may be. */
typedef struct machine {
    nib_pickle *p;
    size_t at, opcode; /* next byte; byte of the opcode at work */
} machine;

static nib_status wrong_at(const nib_pickle *p, nib_status status, size_t at, const char *what) {
    if (p->entry)
        NIB_RAISE(status, "%s: %s", p->entry, what);
    else
        NIB_RAISE(status, "%s", what);
    return nib_error_at(p->path, NULL, (int64_t)(p->base + at));
}

nib_status nib_pickle_wrong(const nib_pickle *p, nib_status status, const nib_pickle_value *v,
                            const char *what) {
    return wrong_at(p, status, v->at, what);
}

static nib_status wrong(const machine *m, const char *what) {
    return wrong_at(m->p, NIB_E_FORMAT, m->opcode, what);
}

/* Room for `more` further 32-bit indices. */
static nib_status reserve(nib_mem *mem, uint32_t **array, size_t count, size_t *room, size_t more) {
    if (count + more <= *room) return NIB_OK;
    size_t wanted = *room ? 2 * *room : 64;
    while (wanted < count + more) wanted *= 2;
    uint32_t *moved = nib_mem_realloc(mem, *array, *room * sizeof **array, wanted * sizeof **array);
    if (!moved) return NIB_E_MEMORY;
    *array = moved;
    *room = wanted;
    return NIB_OK;
}

/* ---- the stack ---- */
static nib_status push(const machine *m, uint32_t index) {
    nib_pickle *p = m->p;
    NIB_TRY(reserve(p->mem, &p->stack, p->height, &p->stack_room, 1));
    p->stack[p->height++] = index;
    return NIB_OK;
}

/* The lowest height that may be popped: a mark fences off what lies below it. */
static size_t fence(const nib_pickle *p) { return p->mark_count ? p->marks[p->mark_count - 1] : 0; }

static nib_status need(const machine *m, size_t count) {
    if (m->p->height - fence(m->p) >= count) return NIB_OK;
    return wrong(m, "an opcode takes more from the stack than there is");
}

static nib_status make(const machine *m, nib_pickle_value value, uint32_t *index) {
    nib_pickle *p = m->p;
    if (p->count == p->room) {
        const size_t room = p->room ? 2 * p->room : 64;
        nib_pickle_value *moved =
            nib_mem_realloc(p->mem, p->values, p->room * sizeof *moved, room * sizeof *moved);
        if (!moved) return NIB_E_MEMORY;
        p->values = moved;
        p->room = room;
    }
    value.at = (uint32_t)m->opcode;
    *index = (uint32_t)p->count;
    p->values[p->count++] = value;
    return NIB_OK;
}

static nib_status push_new(const machine *m, nib_pickle_value value) {
    uint32_t index = 0;
    NIB_TRY(make(m, value, &index));
    return push(m, index);
}

/* ---- what follows an opcode ---- */
static nib_status cut(const machine *m) {
    return wrong_at(m->p, NIB_E_FORMAT, m->p->size, "the pickle is cut short");
}

static nib_status take_number(machine *m, int width, uint64_t *value) {
    if (m->p->size - m->at < (size_t)width) return cut(m);
    *value = 0;
    for (int i = width - 1; i >= 0; i--) *value = *value << 8 | m->p->bytes[m->at + (size_t)i];
    m->at += (size_t)width;
    return NIB_OK;
}

/* A length of `width` bytes, then that many bytes. */
static nib_status take_counted(machine *m, int width, uint32_t *begin, uint32_t *length) {
    uint64_t count = 0;
    NIB_TRY(take_number(m, width, &count));
    if (count > m->p->size - m->at) return wrong(m, "says it is longer than what is left");
    *begin = (uint32_t)m->at;
    *length = (uint32_t)count;
    m->at += (size_t)count;
    return NIB_OK;
}

/* The rest of the line, without its end. */
static nib_status take_line(machine *m, uint32_t *begin, uint32_t *length) {
    const unsigned char *from = m->p->bytes + m->at;
    const unsigned char *end = memchr(from, '\n', m->p->size - m->at);
    if (!end) return cut(m);
    *begin = (uint32_t)m->at;
    *length = (uint32_t)(end - from);
    m->at += *length + 1;
    return NIB_OK;
}

static nib_status take_decimal(machine *m, nib_pickle_value *value) {
    char digits[32];
    uint32_t begin = 0, length = 0;
    NIB_TRY(take_line(m, &begin, &length));
    if (length && m->p->bytes[begin + length - 1] == 'L') length--;
    if (length >= sizeof digits) return wrong(m, "a number of more than 31 digits");
    memcpy(digits, m->p->bytes + begin, length);
    digits[length] = '\0';
    if (strcmp(digits, "00") == 0 || strcmp(digits, "01") == 0) {
        *value = (nib_pickle_value){.kind = NIB_PICKLE_BOOL, .as.integer = digits[1] - '0'};
        return NIB_OK;
    }
    *value = (nib_pickle_value){.kind = NIB_PICKLE_INT};
    return nib_text_to_int(digits, &value->as.integer) ? NIB_OK : wrong(m, "not a number");
}

static nib_status push_int(machine *m, int width, bool is_signed) {
    uint64_t bits = 0;
    NIB_TRY(take_number(m, width, &bits));
    if (is_signed && width == 4) bits = (uint64_t)(int64_t)(int32_t)(uint32_t)bits;
    return push_new(m, (nib_pickle_value){.kind = NIB_PICKLE_INT, .as.integer = (int64_t)bits});
}

/* Little-endian two's complement. */
static nib_status push_long(machine *m, int width) {
    nib_pickle_value value = {.kind = NIB_PICKLE_INT};
    uint32_t begin = 0, length = 0;
    NIB_TRY(take_counted(m, width, &begin, &length));
    const unsigned char *b = m->p->bytes + begin;
    if (length > 8) {
        value.kind = NIB_PICKLE_LONG;
        value.as.text.begin = begin;
        value.as.text.length = length;
        return push_new(m, value);
    }
    uint64_t bits = length && b[length - 1] & 0x80 ? UINT64_MAX : 0;
    for (uint32_t i = length; i-- > 0;) bits = bits << 8 | b[i];
    value.as.integer = (int64_t)bits;
    return push_new(m, value);
}

static nib_status push_binfloat(machine *m) {
    nib_pickle_value value = {.kind = NIB_PICKLE_FLOAT};
    uint64_t little = 0, bits = 0;
    NIB_TRY(take_number(m, 8, &little));
    for (int i = 0; i < 8; i++) bits = bits << 8 | (little >> 8 * i & 255); /* big-endian there */
    memcpy(&value.as.number, &bits, sizeof bits);
    return push_new(m, value);
}

static nib_status push_float_line(machine *m) {
    char digits[64];
    nib_pickle_value value = {.kind = NIB_PICKLE_FLOAT};
    uint32_t begin = 0, length = 0;
    NIB_TRY(take_line(m, &begin, &length));
    if (length >= sizeof digits) return wrong(m, "a number of more than 63 digits");
    memcpy(digits, m->p->bytes + begin, length);
    digits[length] = '\0';
    return nib_text_to_double(digits, &value.as.number) ? push_new(m, value)
                                                        : wrong(m, "not a number");
}

static nib_status push_text(machine *m, nib_pickle_kind kind, int width) {
    nib_pickle_value value = {.kind = kind};
    NIB_TRY(take_counted(m, width, &value.as.text.begin, &value.as.text.length));
    return push_new(m, value);
}

/* Protocol 0: bare, or in quotes as repr writes it. Escapes are left to who needs them. */
static nib_status push_text_line(machine *m, bool quoted) {
    nib_pickle_value value = {.kind = NIB_PICKLE_TEXT};
    uint32_t begin = 0, length = 0;
    NIB_TRY(take_line(m, &begin, &length));
    const unsigned char *b = m->p->bytes + begin;
    if (memchr(b, '\\', length)) return wrong(m, "a string with escapes, in the oldest protocol");
    if (quoted) {
        if (length < 2 || (b[0] != '\'' && b[0] != '"') || b[length - 1] != b[0])
            return wrong(m, "a string without its quotes");
        begin++;
        length -= 2;
    }
    value.as.text.begin = begin;
    value.as.text.length = length;
    return push_new(m, value);
}

/* ---- globals ---- */
static bool same_text(const char *name, const char *a, size_t n) {
    return strncmp(name, a, n) == 0;
}

static nib_status push_global(const machine *m, uint32_t module, uint32_t module_length,
                              uint32_t name, uint32_t length) {
    const nib_pickle *p = m->p;
    const char *first = (const char *)p->bytes + module, *second = (const char *)p->bytes + name;
    for (size_t i = 0; i < p->global_count; i++) {
        const char *known = p->globals[i].name;
        if (strlen(known) != (size_t)module_length + 1 + length) continue;
        if (!same_text(known, first, module_length) || known[module_length] != '.') continue;
        if (!same_text(known + module_length + 1, second, length)) continue;
        return push_new(m, (nib_pickle_value){.kind = NIB_PICKLE_GLOBAL, .as.integer = (int64_t)i});
    }
    char what[224];
    const bool plain = nib_utf8_valid(first, module_length) == module_length &&
                       nib_utf8_valid(second, length) == length;
    nib_text text = {.mem = p->mem};
    nib_text_format(&text,
                    "the global %.*s.%.*s is forbidden: only tensors in dicts, lists and tuples "
                    "are read (save model.state_dict(), not the model)",
                    plain ? (int)(module_length < 60 ? module_length : 60) : 1, plain ? first : "?",
                    plain ? (int)(length < 60 ? length : 60) : 1, plain ? second : "?");
    const size_t n = text.length < sizeof what ? text.length : sizeof what - 1;
    if (text.data) memcpy(what, text.data, n);
    what[text.data ? n : 0] = '\0';
    const bool failed = text.failed;
    nib_text_free(&text);
    return failed ? NIB_E_MEMORY : wrong(m, what);
}

static nib_status global_lines(machine *m) {
    uint32_t module = 0, module_length = 0, name = 0, length = 0;
    NIB_TRY(take_line(m, &module, &module_length));
    NIB_TRY(take_line(m, &name, &length));
    return push_global(m, module, module_length, name, length);
}

static nib_status global_from_stack(const machine *m) {
    nib_pickle *p = m->p;
    NIB_TRY(need(m, 2));
    const nib_pickle_value *module = &p->values[p->stack[p->height - 2]];
    const nib_pickle_value *name = &p->values[p->stack[p->height - 1]];
    if (module->kind != NIB_PICKLE_TEXT || name->kind != NIB_PICKLE_TEXT)
        return wrong(m, "a global whose name is no text");
    p->height -= 2;
    return push_global(m, module->as.text.begin, module->as.text.length, name->as.text.begin,
                       name->as.text.length);
}

/* ---- containers ---- */
/* Add the `count` top indices of the stack, from `from` on, to a container's items. */
static nib_status extend(const machine *m, uint32_t container, const uint32_t *from, size_t count) {
    nib_pickle *p = m->p;
    nib_pickle_value *v = &p->values[container];
    const size_t wanted = v->as.many.count + count;
    if (wanted > v->as.many.room) { /* move it to the end of all items, with room to grow */
        const size_t room = v->as.many.room ? 2 * wanted : wanted;
        if (p->item_count + room > 8 * p->size + 64)
            return wrong(m, "the same items are there over and over");
        NIB_TRY(reserve(p->mem, &p->items, p->item_count, &p->item_room, room));
        if (v->as.many.count)
            memcpy(p->items + p->item_count, p->items + v->as.many.first,
                   v->as.many.count * sizeof *p->items);
        v->as.many.first = (uint32_t)p->item_count;
        v->as.many.room = (uint32_t)room;
        p->item_count += room;
    }
    if (count) memcpy(p->items + v->as.many.first + v->as.many.count, from, count * sizeof *from);
    v->as.many.count = (uint32_t)wanted;
    return NIB_OK;
}

/* The `count` top values become one of `kind`. */
static nib_status gather(const machine *m, nib_pickle_kind kind, size_t count) {
    nib_pickle *p = m->p;
    uint32_t made = 0;
    NIB_TRY(need(m, count));
    if (kind == NIB_PICKLE_DICT && count % 2) return wrong(m, "a key without a value");
    NIB_TRY(make(m, (nib_pickle_value){.kind = kind}, &made));
    NIB_TRY(extend(m, made, p->stack + p->height - count, count));
    p->height -= count;
    return push(m, made);
}

static nib_status to_mark(const machine *m, size_t *count) {
    nib_pickle *p = m->p;
    if (!p->mark_count) return wrong(m, "an opcode looks for a mark that is not there");
    *count = p->height - p->marks[--p->mark_count];
    return NIB_OK;
}

/* `count` top values go into the container below them. */
static nib_status fill(const machine *m, nib_pickle_kind kind, size_t count) {
    nib_pickle *p = m->p;
    NIB_TRY(need(m, count + 1));
    const uint32_t container = p->stack[p->height - count - 1];
    if (p->values[container].kind != (uint32_t)kind)
        return wrong(m, "items for something that is not such a container");
    if (kind == NIB_PICKLE_DICT && count % 2) return wrong(m, "a key without a value");
    NIB_TRY(extend(m, container, p->stack + p->height - count, count));
    p->height -= count;
    return NIB_OK;
}

/* A dict out of a list of pairs, as OrderedDict of Python 2 was written, or of a dict, as a Counter
 * is. */
static nib_status fill_from_pairs(const machine *m, uint32_t dict, uint32_t arguments) {
    nib_pickle *p = m->p;
    const nib_pickle_value *tuple = &p->values[arguments];
    if (tuple->as.many.count == 0) return NIB_OK;
    const nib_pickle_value list = *nib_pickle_item(p, tuple, 0);
    if (tuple->as.many.count == 1 && list.kind == NIB_PICKLE_DICT) {
        for (uint32_t i = 0; i < list.as.many.count; i++) {
            const uint32_t item = p->items[list.as.many.first + i];
            NIB_TRY(extend(m, dict, &item, 1));
        }
        return NIB_OK;
    }
    if (tuple->as.many.count > 1 || list.kind != NIB_PICKLE_LIST)
        return wrong(m, "a dict made of something else than a list of pairs");
    for (uint32_t i = 0; i < list.as.many.count; i++) {
        const nib_pickle_value *pair = nib_pickle_item(p, &list, i);
        if ((pair->kind != NIB_PICKLE_TUPLE && pair->kind != NIB_PICKLE_LIST) ||
            pair->as.many.count != 2)
            return wrong(m, "a dict made of something else than a list of pairs");
        const uint32_t both[2] = {p->items[pair->as.many.first], p->items[pair->as.many.first + 1]};
        NIB_TRY(extend(m, dict, both, 2));
    }
    return NIB_OK;
}

/* callee, arguments -> a note of the call */
static nib_status call(const machine *m) {
    nib_pickle *p = m->p;
    NIB_TRY(need(m, 2));
    const uint32_t both[2] = {p->stack[p->height - 2], p->stack[p->height - 1]};
    const nib_pickle_value *callee = &p->values[both[0]], *arguments = &p->values[both[1]];
    if (callee->kind != NIB_PICKLE_GLOBAL) return wrong(m, "a call of something that is no global");
    if (arguments->kind != NIB_PICKLE_TUPLE) return wrong(m, "a call whose arguments are no tuple");
    p->height -= 2;
    uint32_t made = 0;
    const bool dict = p->globals[callee->as.integer].makes_dict;
    NIB_TRY(make(m, (nib_pickle_value){.kind = dict ? NIB_PICKLE_DICT : NIB_PICKLE_CALL}, &made));
    NIB_TRY(dict ? fill_from_pairs(m, made, both[1]) : extend(m, made, both, 2));
    return push(m, made);
}

/* The state of an OrderedDict is attributes, such as the versions of a state dict's modules. That
 * of the value built last is kept: the root is. */
static nib_status build(const machine *m) {
    nib_pickle *p = m->p;
    NIB_TRY(need(m, 2));
    const uint32_t kind = p->values[p->stack[p->height - 2]].kind;
    if (kind != NIB_PICKLE_DICT && kind != NIB_PICKLE_CALL)
        return wrong(m, "a state for something that has none");
    p->has_state = true;
    p->state_of = p->stack[p->height - 2];
    p->state = p->stack[p->height - 1];
    p->height--;
    return NIB_OK;
}

static nib_status persistent(const machine *m) {
    NIB_TRY(need(m, 1));
    return gather(m, NIB_PICKLE_PERSISTENT, 1);
}

/* ---- the memo ---- */
static nib_status put(const machine *m, uint64_t index) {
    nib_pickle *p = m->p;
    NIB_TRY(need(m, 1));
    /* A pickler counts: no index reaches the number of bytes that it wrote. */
    if (index > m->at) return wrong(m, "a place in the memo that no pickle of this size has");
    const size_t old = p->memo_room;
    NIB_TRY(reserve(p->mem, &p->memo, 0, &p->memo_room, (size_t)index + 1));
    if (p->memo_room > old) memset(p->memo + old, 0, (p->memo_room - old) * sizeof *p->memo);
    p->memo_count += !p->memo[index];
    p->memo[index] = p->stack[p->height - 1] + 1;
    return NIB_OK;
}

static nib_status get(const machine *m, uint64_t index) {
    const nib_pickle *p = m->p;
    if (index >= p->memo_room || !p->memo[index])
        return wrong(m, "a place in the memo where nothing was put");
    return push(m, p->memo[index] - 1);
}

static nib_status memo_op(machine *m, int width, nib_status (*act)(const machine *, uint64_t)) {
    uint64_t index = 0;
    NIB_TRY(take_number(m, width, &index));
    return act(m, index);
}

static nib_status memo_line(machine *m, nib_status (*act)(const machine *, uint64_t)) {
    nib_pickle_value value = {0};
    NIB_TRY(take_decimal(m, &value));
    if (value.as.integer < 0) return wrong(m, "a negative place in the memo");
    return act(m, (uint64_t)value.as.integer);
}

/* The next free place, as the pickler counted: one for each that was filled. */
static nib_status memoize(const machine *m) { return put(m, m->p->memo_count); }

static nib_status refused(const machine *m, unsigned char opcode) {
    char what[96];
    static const char hex[] = "0123456789abcdef";
    memcpy(what, "opcode 0x.. is forbidden or unknown", 36);
    what[9] = hex[opcode >> 4];
    what[10] = hex[opcode & 15];
    return wrong(m, what);
}

static nib_status mark(const machine *m) {
    nib_pickle *p = m->p;
    NIB_TRY(reserve(p->mem, &p->marks, p->mark_count, &p->mark_room, 1));
    p->marks[p->mark_count++] = (uint32_t)p->height;
    return NIB_OK;
}

static nib_status pop(const machine *m) {
    nib_pickle *p = m->p;
    if (p->mark_count && p->marks[p->mark_count - 1] == p->height) {
        p->mark_count--; /* a mark counts as something on the stack */
        return NIB_OK;
    }
    NIB_TRY(need(m, 1));
    p->height--;
    return NIB_OK;
}

static nib_status marked(const machine *m, nib_pickle_kind kind, bool into_container) {
    size_t count = 0;
    NIB_TRY(to_mark(m, &count));
    return into_container ? fill(m, kind, count) : gather(m, kind, count);
}

static nib_status constant(const machine *m, nib_pickle_kind kind, int64_t value) {
    return push_new(m, (nib_pickle_value){.kind = kind, .as.integer = value});
}

static nib_status protocol(machine *m) {
    uint64_t version = 0;
    NIB_TRY(take_number(m, 1, &version));
    return version <= 5 ? NIB_OK : wrong(m, "a protocol over 5");
}

static nib_status frame(machine *m) {
    uint64_t length = 0;
    NIB_TRY(take_number(m, 8, &length));
    return length <= m->p->size - m->at ? NIB_OK : wrong(m, "a frame longer than what is left");
}

static nib_status step(machine *m, unsigned char opcode) {
    nib_pickle_value value = {0};
    size_t count = 0;
    switch (opcode) {
    case 0x80:
        return protocol(m);
    case 0x95:
        return frame(m);
    case '(':
        return mark(m);
    case '0':
        return pop(m);
    case '1':
        NIB_TRY(to_mark(m, &count));
        m->p->height -= count;
        return NIB_OK;
    case '2':
        NIB_TRY(need(m, 1));
        return push(m, m->p->stack[m->p->height - 1]);
    case 'N':
        return constant(m, NIB_PICKLE_NONE, 0);
    case 0x88:
        return constant(m, NIB_PICKLE_BOOL, 1);
    case 0x89:
        return constant(m, NIB_PICKLE_BOOL, 0);
    case 'I':
    case 'L':
        NIB_TRY(take_decimal(m, &value));
        return push_new(m, value);
    case 'K':
        return push_int(m, 1, false);
    case 'M':
        return push_int(m, 2, false);
    case 'J':
        return push_int(m, 4, true);
    case 0x8a:
        return push_long(m, 1);
    case 0x8b:
        return push_long(m, 4);
    case 'F':
        return push_float_line(m);
    case 'G':
        return push_binfloat(m);
    case 'S':
        return push_text_line(m, true);
    case 'V':
        return push_text_line(m, false);
    case 'U':
        return push_text(m, NIB_PICKLE_TEXT, 1);
    case 'T':
    case 'X':
        return push_text(m, NIB_PICKLE_TEXT, 4);
    case 0x8c:
        return push_text(m, NIB_PICKLE_TEXT, 1);
    case 0x8d:
        return push_text(m, NIB_PICKLE_TEXT, 8);
    case 'C':
        return push_text(m, NIB_PICKLE_BYTES, 1);
    case 'B':
        return push_text(m, NIB_PICKLE_BYTES, 4);
    case 0x8e:
    case 0x96:
        return push_text(m, NIB_PICKLE_BYTES, 8);
    case ')':
        return gather(m, NIB_PICKLE_TUPLE, 0);
    case ']':
        return gather(m, NIB_PICKLE_LIST, 0);
    case '}':
        return gather(m, NIB_PICKLE_DICT, 0);
    case 0x8f:
        return gather(m, NIB_PICKLE_SET, 0);
    case 't':
        return marked(m, NIB_PICKLE_TUPLE, false);
    case 'l':
        return marked(m, NIB_PICKLE_LIST, false);
    case 'd':
        return marked(m, NIB_PICKLE_DICT, false);
    case 0x91:
        return marked(m, NIB_PICKLE_SET, false);
    case 0x85:
        return gather(m, NIB_PICKLE_TUPLE, 1);
    case 0x86:
        return gather(m, NIB_PICKLE_TUPLE, 2);
    case 0x87:
        return gather(m, NIB_PICKLE_TUPLE, 3);
    case 'a':
        return fill(m, NIB_PICKLE_LIST, 1);
    case 'e':
        return marked(m, NIB_PICKLE_LIST, true);
    case 's':
        return fill(m, NIB_PICKLE_DICT, 2);
    case 'u':
        return marked(m, NIB_PICKLE_DICT, true);
    case 0x90:
        return marked(m, NIB_PICKLE_SET, true);
    case 'p':
        return memo_line(m, put);
    case 'q':
        return memo_op(m, 1, put);
    case 'r':
        return memo_op(m, 4, put);
    case 0x94:
        return memoize(m);
    case 'g':
        return memo_line(m, get);
    case 'h':
        return memo_op(m, 1, get);
    case 'j':
        return memo_op(m, 4, get);
    case 'c':
        return global_lines(m);
    case 0x93:
        return global_from_stack(m);
    case 'R':
    case 0x81:
        return call(m);
    case 'b':
        return build(m);
    case 'Q':
        return persistent(m);
    default:
        return refused(m, opcode);
    }
}

nib_status nib_pickle_read(nib_pickle *p) {
    machine m = {.p = p};
    if (p->size > NIB_PICKLE_MAX) p->size = NIB_PICKLE_MAX;
    NIB_TRY(reserve(p->mem, &p->stack, 0, &p->stack_room, 1)); /* there is one, even when empty */
    while (m.at < p->size) {
        m.opcode = m.at;
        const unsigned char opcode = p->bytes[m.at++];
        if (opcode != '.') {
            NIB_TRY(step(&m, opcode));
            continue;
        }
        if (p->height != 1 || p->mark_count) return wrong(&m, "ends with not one value");
        p->root = p->stack[0];
        p->used = m.at;
        return NIB_OK;
    }
    m.opcode = p->size;
    return p->size == NIB_PICKLE_MAX ? wrong(&m, "a pickle over the limit of 32 MiB") : cut(&m);
}

void nib_pickle_free(nib_pickle *p) {
    nib_mem_free(p->mem, p->values, p->room * sizeof *p->values);
    nib_mem_free(p->mem, p->items, p->item_room * sizeof *p->items);
    nib_mem_free(p->mem, p->stack, p->stack_room * sizeof *p->stack);
    nib_mem_free(p->mem, p->marks, p->mark_room * sizeof *p->marks);
    nib_mem_free(p->mem, p->memo, p->memo_room * sizeof *p->memo);
    p->values = NULL;
    p->items = p->stack = p->marks = p->memo = NULL;
    p->count = p->room = p->item_count = p->item_room = p->height = p->stack_room = 0;
    p->mark_count = p->mark_room = p->memo_room = 0;
}
