/* config.c: configs from text and back, by the field tables of their schemes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "quant/scheme.h"

static const nib_config leave = {0};
const nib_config *const NIB_LEAVE = &leave;

/* ---- fields in a struct ---- */

static const void *member(const nib_field *f, const void *config) {
    return (const char *)config + f->offset;
}

/* Fields with their zero resolved to what it stands for. `config` is the whole struct that
 * the field's offset counts in. */
static int64_t field_int(const nib_field *f, const void *config) {
    if (f->type == NIB_FIELD_BOOL) {
        bool value;
        memcpy(&value, member(f, config), sizeof value);
        return value;
    }
    int value;
    memcpy(&value, member(f, config), sizeof value);
    return value == 0 && f->type == NIB_FIELD_INT ? (int64_t)f->fallback : value;
}

static double field_float(const nib_field *f, const void *config) {
    float value;
    if (f->type != NIB_FIELD_FLOAT) return (double)field_int(f, config);
    memcpy(&value, member(f, config), sizeof value);
    return value == 0 ? f->fallback : (double)value;
}

static const char *field_name(const nib_field *f, const void *config) {
    if (f->type == NIB_FIELD_ENUM) {
        const int64_t index = field_int(f, config);
        for (int64_t i = 0; f->names[i]; i++)
            if (i == index) return f->names[i];
        return NULL;
    }
    const char *value;
    memcpy(&value, member(f, config), sizeof value);
    return value ? value : f->names[0];
}

static const nib_field *field_of(const nib_config *config, const char *name) {
    for (int i = 0; i < config->scheme->nfields; i++)
        if (strcmp(config->scheme->fields[i].name, name) == 0) return &config->scheme->fields[i];
    return NULL;
}

static const char *option_name(const nib_config *config, const char *field) {
    const nib_field *f = field_of(config, field);
    return f ? field_name(f, config) : "";
}

int64_t nib_config_option_int(const nib_config *config, const char *field) {
    const nib_field *f = field_of(config, field);
    return f ? field_int(f, config) : 0;
}

double nib_config_option_float(const nib_config *config, const char *field) {
    const nib_field *f = field_of(config, field);
    return f ? field_float(f, config) : 0;
}

bool nib_config_option_is(const nib_config *config, const char *field, const char *value) {
    return strcmp(option_name(config, field), value) == 0;
}

/* The table's own spelling of a name, or NULL. Empty entries are gaps of an enum. */
static const char *spelling(const nib_field *f, const char *name, int *index) {
    for (int i = 0; name && *name && f->names[i]; i++)
        if (strcmp(f->names[i], name) == 0) {
            *index = i;
            return f->names[i];
        }
    return NULL;
}

static bool is_default(const nib_field *f, const void *config) {
    switch (f->type) {
    case NIB_FIELD_INT:
        return field_int(f, config) == (int64_t)f->fallback;
    case NIB_FIELD_FLOAT:
        return (float)field_float(f, config) == (float)f->fallback;
    case NIB_FIELD_BOOL:
        return field_int(f, config) == 0;
    default:
        return strcmp(field_name(f, config), f->names[0]) == 0;
    }
}

/* ---- checking ---- */

static void choices(const nib_field *f, char *text, size_t room) {
    size_t at = 0;
    text[0] = '\0';
    for (int i = 0; i < f->namong && at + 24 < room; i++)
        at += (size_t)snprintf(text + at, room - at, at ? ", %.9g" : "%.9g", f->among[i]);
    for (int i = 0; f->names && f->names[i] && at + 24 < room; i++)
        if (f->names[i][0] && (i == 0 || strcmp(f->names[i], f->names[0]) != 0))
            at += (size_t)snprintf(text + at, room - at, at ? ", %.20s" : "%.20s", f->names[i]);
}

static nib_status number_check(const nib_scheme *s, const nib_field *f, double value) {
    char text[160];
    bool fits = value >= f->min && value <= f->max;
    if (f->namong) {
        fits = false;
        for (int i = 0; i < f->namong; i++) fits |= f->among[i] == value;
        if (fits) return NIB_OK;
        choices(f, text, sizeof text);
        return NIB_RAISE(NIB_E_ARGUMENT, "%s: %s is %.9g, but must be one of %s", s->name, f->name,
                         value, text);
    }
    if (fits) return NIB_OK;
    return NIB_RAISE(NIB_E_ARGUMENT, "%s: %s is %.9g, but must lie in %.9g to %.9g", s->name,
                     f->name, value, f->min, f->max);
}

static nib_status name_unknown(const nib_scheme *s, const nib_field *f, const char *name) {
    char text[160];
    choices(f, text, sizeof text);
    return NIB_RAISE(NIB_E_ARGUMENT, "%s: %s has no \"%.40s\", it is one of %s", s->name, f->name,
                     name, text);
}

static nib_status field_check(const nib_scheme *s, const nib_field *f, const void *config) {
    int index;
    switch (f->type) {
    case NIB_FIELD_INT:
        return number_check(s, f, (double)field_int(f, config));
    case NIB_FIELD_FLOAT:
        return number_check(s, f, field_float(f, config));
    case NIB_FIELD_BOOL:
        return NIB_OK;
    default:
        break;
    }
    const char *name = field_name(f, config);
    return spelling(f, name, &index) ? NIB_OK : name_unknown(s, f, name ? name : "");
}

nib_status nib_config_check(const nib_config *config) {
    if (!config) return NIB_E_ARGUMENT; /* a failed parse: its cause stays on record */
    if (config == NIB_LEAVE) return NIB_OK;
    const nib_scheme *s = config->scheme;
    if (!s || config->size < sizeof(nib_config))
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "a config without a scheme; make it with the scheme's macro");
    nib_config *whole = nib_config_copy(config); /* an older caller's struct may be shorter */
    if (!whole) return nib_last_error()->status;
    nib_config_free(whole);
    return NIB_OK;
}

/* ---- making ---- */

static nib_status check_whole(const nib_config *config) {
    const nib_scheme *s = config->scheme;
    for (int i = 0; i < s->nfields; i++) NIB_TRY(field_check(s, &s->fields[i], config));
    return s->check ? s->check(config) : NIB_OK;
}

nib_config *nib_config_copy(const nib_config *config) {
    if (!config) return NULL;
    if (config == NIB_LEAVE) return (nib_config *)(uintptr_t)NIB_LEAVE;
    const nib_scheme *s = config->scheme;
    nib_config *copy = nib_mem_alloc_zero(NULL, s->config_size);
    if (!copy) return NULL;
    const size_t given = config->size < s->config_size ? config->size : s->config_size;
    memcpy(copy, config, given);
    *copy = (nib_config){s, s->config_size};
    if (check_whole(copy) != NIB_OK) {
        nib_config_free(copy);
        return NULL;
    }
    for (int i = 0; i < s->nfields; i++) { /* keep no string of the caller */
        const nib_field *f = &s->fields[i];
        int index;
        if (f->type != NIB_FIELD_NAME) continue;
        const char *name = spelling(f, field_name(f, copy), &index);
        memcpy((char *)copy + f->offset, &name, sizeof name);
    }
    return copy;
}

void nib_config_free(nib_config *config) {
    if (config && config != NIB_LEAVE) nib_mem_free(NULL, config, config->scheme->config_size);
}

/* ---- parsing ---- */

static nib_status field_unknown(const nib_scheme *s, const char *key) {
    const char *names[64];
    int n = 0;
    for (; n < s->nfields && n < 63; n++) names[n] = s->fields[n].name;
    names[n] = NULL;
    const char *near = nib_text_nearest(key, names);
    if (near)
        return NIB_RAISE(NIB_E_ARGUMENT, "%s has no option \"%.40s\"; did you mean %s?", s->name,
                         key, near);
    return NIB_RAISE(NIB_E_ARGUMENT, "%s has no option \"%.40s\"", s->name, key);
}

static nib_status set_field(const nib_scheme *s, const nib_field *f, const char *value,
                            nib_config *config) {
    char *at = (char *)config + f->offset;
    int64_t integer;
    double number;
    int index;
    switch (f->type) {
    case NIB_FIELD_INT:
        if (!nib_text_to_int(value, &integer) || integer > INT32_MAX || integer < INT32_MIN)
            return NIB_RAISE(NIB_E_ARGUMENT, "%s: %s wants a whole number, not \"%.40s\"", s->name,
                             f->name, value);
        NIB_TRY(number_check(s, f, (double)integer));
        memcpy(at, &(int){(int)integer}, sizeof(int));
        return NIB_OK;
    case NIB_FIELD_FLOAT:
        if (!nib_text_to_double(value, &number) || !isfinite(number))
            return NIB_RAISE(NIB_E_ARGUMENT, "%s: %s wants a number, not \"%.40s\"", s->name,
                             f->name, value);
        NIB_TRY(number_check(s, f, number));
        memcpy(at, &(float){(float)number}, sizeof(float));
        return NIB_OK;
    case NIB_FIELD_BOOL: {
        const bool yes = strcmp(value, "true") == 0 || strcmp(value, "1") == 0;
        if (!yes && strcmp(value, "false") != 0 && strcmp(value, "0") != 0)
            return NIB_RAISE(NIB_E_ARGUMENT, "%s: %s is true or false, not \"%.40s\"", s->name,
                             f->name, value);
        memcpy(at, &yes, sizeof yes);
        return NIB_OK;
    }
    case NIB_FIELD_ENUM:
        if (!spelling(f, value, &index)) return name_unknown(s, f, value);
        memcpy(at, &index, sizeof index);
        return NIB_OK;
    default: {
        const char *name = spelling(f, value, &index);
        if (!name) return name_unknown(s, f, value);
        memcpy(at, &name, sizeof name);
        return NIB_OK;
    }
    }
}

/* "key=value" pieces, ended by commas, written into a scratch copy. */
static nib_status set_options(const nib_scheme *s, char *text, nib_config *config) {
    uint64_t set = 0; /* fields, the first 64 */
    while (text && *text) {
        char *end = strchr(text, ','), *equals = strchr(text, '=');
        if (end) *end = '\0';
        if (!equals || (end && equals > end) || equals == text)
            return NIB_RAISE(NIB_E_ARGUMENT, "%s: \"%.40s\" is not of the form option=value",
                             s->name, text);
        *equals = '\0';
        int i = 0;
        while (i < s->nfields && strcmp(s->fields[i].name, text) != 0) i++;
        if (i == s->nfields) return field_unknown(s, text);
        const nib_field *f = &s->fields[i];
        if (i < 64 && set >> i & 1)
            return NIB_RAISE(NIB_E_ARGUMENT, "%s: %s is given twice; which one counts?", s->name,
                             f->name);
        if (i < 64) set |= UINT64_C(1) << i;
        NIB_TRY(set_field(s, f, equals + 1, config));
        text = end ? end + 1 : NULL;
    }
    return NIB_OK;
}

static nib_status scheme_unknown(const char *name) {
    enum { MOST = 128 };
    const char *names[MOST + 1];
    size_t n = 0;
    for (size_t i = 0; nib_scheme_at(i); i++) {
        if (n < MOST) names[n++] = nib_scheme_at(i)->name;
        for (const char *const *a = nib_scheme_at(i)->aliases; a && *a; a += 2)
            if (n < MOST) names[n++] = a[0];
    }
    names[n] = NULL;
    const char *near = nib_text_nearest(name, names);
    if (near)
        return NIB_RAISE(NIB_E_ARGUMENT, "there is no scheme \"%.60s\"; did you mean %s?", name,
                         near);
    return NIB_RAISE(NIB_E_ARGUMENT, "there is no scheme \"%.60s\"; `nibble list` shows them",
                     name);
}

static char *copy_text(char *scratch, size_t room, const char *text) {
    const size_t length = strlen(text);
    if (length >= room) return NULL;
    return memcpy(scratch, text, length + 1);
}

nib_config *nib_config_parse(const char *text) {
    char given[512], expanded[256];
    if (!text) return NULL;
    if (!copy_text(given, sizeof given, text))
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "a scheme of %zu characters is too long",
                              strlen(text));
    if (strcmp(given, "leave") == 0) return (nib_config *)(uintptr_t)NIB_LEAVE;
    char *options = strchr(given, ':');
    if (options) *options++ = '\0';
    const nib_scheme *s = nib_scheme_find(given);
    if (!s) {
        scheme_unknown(given);
        return NULL;
    }
    nib_config *config = nib_mem_alloc_zero(NULL, s->config_size);
    if (!config) return NULL;
    *config = (nib_config){s, s->config_size};
    /* The options that an alias stands for come first, so that given ones may change them. */
    const char *alias = strcmp(given, s->name) != 0 ? nib_scheme_alias(given) : NULL;
    char *preset = alias ? copy_text(expanded, sizeof expanded, alias) : NULL;
    preset = preset ? strchr(preset, ':') : NULL;
    nib_status status = preset ? set_options(s, preset + 1, config) : NIB_OK;
    if (status == NIB_OK && options) status = set_options(s, options, config);
    if (status == NIB_OK) status = check_whole(config);
    if (status == NIB_OK) return config;
    nib_config_free(config);
    return NULL;
}

/* ---- printing ---- */

/* As in C's own locale, whatever the host's is. */
static void print_float(double value, nib_text *out) {
    char text[40];
    snprintf(text, sizeof text, "%.9g", value);
    for (char *c = text; *c; c++)
        if (*c == ',') *c = '.';
    nib_text_add(out, text);
}

static void print_value(const nib_field *f, const nib_config *config, nib_text *out) {
    if (f->type == NIB_FIELD_INT)
        nib_text_format(out, "%lld", (long long)field_int(f, config));
    else if (f->type == NIB_FIELD_FLOAT)
        print_float(field_float(f, config), out);
    else if (f->type == NIB_FIELD_BOOL)
        nib_text_add(out, field_int(f, config) ? "true" : "false");
    else
        nib_text_add(out, field_name(f, config));
}

/* The value after "name=" in "name=value,name=value", or NULL. */
static const char *option_value(const char *options, const char *name, size_t *length) {
    const size_t key = strlen(name);
    for (const char *at = options; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, key) != 0 || at[key] != '=') continue;
        *length = strcspn(at + key + 1, ",");
        return at + key + 1;
    }
    return NULL;
}

/* Fields that the options of an alias name, one bit each, if the config has all those values, or
 * else 0. *failed is set when memory ran out, so that it cannot be told. */
static uint64_t fields_of_alias(const nib_scheme *s, const char *options, const nib_config *config,
                                bool *failed) {
    uint64_t named = 0;
    for (int i = 0; i < s->nfields && i < 64; i++) {
        size_t length;
        const char *value = option_value(options, s->fields[i].name, &length);
        if (!value) continue;
        nib_text own = {0};
        print_value(&s->fields[i], config, &own);
        const bool equal = !own.failed && own.length == length && !memcmp(own.data, value, length);
        *failed |= own.failed;
        nib_text_free(&own);
        if (!equal) return 0;
        named |= UINT64_C(1) << i;
    }
    return named;
}

void nib_config_print(const nib_config *config, nib_text *out) {
    if (config == NIB_LEAVE) {
        nib_text_add(out, "leave");
        return;
    }
    const nib_scheme *s = config->scheme;
    nib_config *whole = nib_config_copy(config);
    if (!whole) {
        out->failed = true;
        return;
    }
    const char *name = s->name; /* or the first alias that says more: "qint4" */
    uint64_t said = 0;
    for (const char *const *a = s->aliases; a && *a && !said; a += 2) {
        const char *options = strchr(a[1], ':');
        said = options ? fields_of_alias(s, options + 1, whole, &out->failed) : 0;
        if (said) name = a[0];
    }
    nib_text_add(out, name);
    char before = ':';
    for (int i = 0; i < s->nfields; i++) {
        const nib_field *f = &s->fields[i];
        if (is_default(f, whole) || (i < 64 && said >> i & 1)) continue;
        nib_text_format(out, "%c%s=", before, f->name);
        before = ',';
        print_value(f, whole, out);
    }
    nib_config_free(whole);
}

char *nib_config_text(nib_mem *mem, const nib_config *config) {
    nib_text text = {.mem = mem};
    if (config) nib_config_print(config, &text);
    return nib_text_take(&text);
}

bool nib_config_same(const nib_config *a, const nib_config *b) {
    if (a->scheme != b->scheme) return false;
    for (int i = 0; i < a->scheme->nfields; i++) {
        const nib_field *f = &a->scheme->fields[i];
        const bool same = f->names ? strcmp(field_name(f, a), field_name(f, b)) == 0
                                   : field_float(f, a) == field_float(f, b);
        if (!same) return false;
    }
    return true;
}
