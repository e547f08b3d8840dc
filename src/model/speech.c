/* speech.c: special tokens of a model that hears, and the rules by which they may follow. The order
 * of the rules, and what they are, is that of transformers' Whisper. */
#include "model/speech.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/text_util.h"

/* ---- reading ---- */

static nib_status one_id(const json_t *value, const char *key, int vocabulary, int32_t *id) {
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) >= vocabulary)
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" holds what is no id below the vocabulary of %d", key,
                         vocabulary);
    *id = (int32_t)json_integer_value(value);
    return NIB_OK;
}

static nib_status read_id(const json_t *object, const char *key, int vocabulary, int32_t *id) {
    const json_t *value = object ? json_object_get(object, key) : NULL;
    return !value || json_is_null(value) ? NIB_OK : one_id(value, key, vocabulary, id);
}

static nib_status read_list(const json_t *object, const char *key, int vocabulary, int32_t *out,
                            int *count) {
    json_t *list = NULL;
    *count = 0;
    NIB_TRY(nib_json_array(object, key, false, &list));
    const size_t n = list ? json_array_size(list) : 0;
    if (n > NIB_MAX_SUPPRESSED)
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" lists %zu ids, want at most %d", key, n,
                         NIB_MAX_SUPPRESSED);
    for (size_t i = 0; i < n; i++)
        NIB_TRY(one_id(json_array_get(list, i), key, vocabulary, &out[(*count)++]));
    return NIB_OK;
}

/* [[1, null], [2, 50359]]: places from 1 on without a gap, and ids. */
static nib_status read_forced(const json_t *object, int vocabulary, nib_speech *out) {
    static const char key[] = "forced_decoder_ids";
    json_t *list = NULL;
    out->nforced = 0;
    NIB_TRY(nib_json_array(object, key, false, &list));
    const size_t n = list ? json_array_size(list) : 0;
    if (n > NIB_MAX_FORCED)
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" lists %zu ids, want at most %d", key, n,
                         NIB_MAX_FORCED);
    for (size_t i = 0; i < n; i++) {
        const json_t *pair = json_array_get(list, i), *id = json_array_get(pair, 1);
        if (json_array_size(pair) != 2 ||
            json_integer_value(json_array_get(pair, 0)) != (json_int_t)i + 1)
            return NIB_RAISE(NIB_E_FORMAT, "\"%s\" entry %zu is not [%zu, id]", key, i, i + 1);
        out->forced[i] = -1;
        if (!json_is_null(id)) NIB_TRY(one_id(id, key, vocabulary, &out->forced[i]));
        out->nforced++;
    }
    return NIB_OK;
}

/* {"<|en|>": 50259, ...} */
static nib_status read_languages(const json_t *object, int vocabulary, nib_speech *out) {
    json_t *map = NULL;
    out->nlanguages = 0;
    NIB_TRY(nib_json_object(object, "lang_to_id", false, &map));
    if (json_object_size(map) > NIB_MAX_LANGUAGES)
        return NIB_RAISE(NIB_E_FORMAT, "\"lang_to_id\" has %zu languages, want at most %d",
                         json_object_size(map), NIB_MAX_LANGUAGES);
    for (void *at = json_object_iter(map); at; at = json_object_iter_next(map, at)) {
        const char *token = json_object_iter_key(at);
        const size_t length = strlen(token);
        nib_language *l = &out->languages[out->nlanguages];
        if (length < 5 || length - 4 >= sizeof l->code || memcmp(token, "<|", 2) != 0 ||
            strcmp(token + length - 2, "|>") != 0)
            return NIB_RAISE(NIB_E_FORMAT, "\"lang_to_id\" has \"%.40s\", want such as \"<|en|>\"",
                             token);
        *l = (nib_language){0};
        memcpy(l->code, token + 2, length - 4);
        NIB_TRY(one_id(json_object_iter_value(at), "lang_to_id", vocabulary, &l->id));
        out->nlanguages++;
    }
    return NIB_OK;
}

static nib_status read_name(const json_t *object, const char *key, char out[16]) {
    const char *name = "";
    NIB_TRY(nib_json_string(object, key, false, &name));
    if (strlen(name) >= 16)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "\"%s\" \"%.40s\" is not known", key, name);
    memcpy(out, name, strlen(name) + 1);
    return NIB_OK;
}

nib_status nib_speech_read(const json_t *config, const json_t *generation, int vocabulary,
                           nib_speech *out) {
    const json_t *from = generation ? generation : config;
    json_t *tasks = NULL;
    bool multilingual = true;
    int64_t first = -1, most = 0;
    out->start = out->no_timestamps = out->transcribe = out->translate = -1;
    NIB_TRY(read_id(config, "decoder_start_token_id", vocabulary, &out->start));
    NIB_TRY(read_id(generation, "decoder_start_token_id", vocabulary, &out->start));
    if (out->start < 0)
        return NIB_RAISE(NIB_E_FORMAT, "there is no \"decoder_start_token_id\" to begin with");
    NIB_TRY(read_id(from, "no_timestamps_token_id", vocabulary, &out->no_timestamps));
    NIB_TRY(read_list(from, "suppress_tokens", vocabulary, out->suppress, &out->nsuppress));
    NIB_TRY(read_list(from, "begin_suppress_tokens", vocabulary, out->begin_suppress,
                      &out->nbegin_suppress));
    NIB_TRY(read_forced(from, vocabulary, out));
    if (!out->nforced) NIB_TRY(read_forced(config, vocabulary, out));
    NIB_TRY(read_languages(from, vocabulary, out));
    NIB_TRY(nib_json_object(from, "task_to_id", false, &tasks));
    if (tasks) {
        NIB_TRY(read_id(tasks, "transcribe", vocabulary, &out->transcribe));
        NIB_TRY(read_id(tasks, "translate", vocabulary, &out->translate));
    }
    NIB_TRY(read_name(from, "language", out->language));
    NIB_TRY(read_name(from, "task", out->task));
    if (!json_is_null(json_object_get(from, "is_multilingual")))
        NIB_TRY(nib_json_bool(from, "is_multilingual", false, &multilingual));
    out->english_only = !multilingual;
    NIB_TRY(nib_json_int(from, "max_initial_timestamp_index", 0, vocabulary, false, &first));
    out->max_initial_timestamp_index = (int)first;
    if (generation) NIB_TRY(nib_json_int(from, "max_length", 1, 1 << 24, false, &most));
    out->max_length = (int)most;
    return NIB_OK;
}

nib_status nib_speech_language(const nib_speech *s, const char *language, int32_t *id) {
    const size_t length = strlen(language);
    const bool token =
        length > 4 && memcmp(language, "<|", 2) == 0 && strcmp(language + length - 2, "|>") == 0;
    const char *code = token ? language + 2 : language;
    const size_t n = token ? length - 4 : length;
    char known[256] = "";
    size_t used = 0;
    for (int i = 0; i < s->nlanguages; i++) {
        const char *have = s->languages[i].code;
        const size_t size = strlen(have);
        if (size == n && memcmp(have, code, n) == 0) {
            *id = s->languages[i].id;
            return NIB_OK;
        }
        if (used + size + 3 > sizeof known) continue;
        if (used) known[used++] = ' ';
        memcpy(known + used, have, size + 1);
        used += size;
    }
    if (!s->nlanguages)
        return NIB_RAISE(NIB_E_ARGUMENT, "language \"%.40s\": the model has no choice of languages",
                         language);
    return NIB_RAISE(NIB_E_ARGUMENT, "language \"%.40s\" is not one of the model's: %s", language,
                     known);
}

/* ---- rules ---- */

int32_t nib_speech_first_time(const nib_speech *s) {
    return s->no_timestamps >= 0 ? s->no_timestamps + 1 : INT32_MAX;
}

static void forbid(float *logits, int64_t from, int64_t to, int64_t vocabulary) {
    for (int64_t i = from < 0 ? 0 : from; i < to && i < vocabulary; i++) logits[i] = -INFINITY;
}

/* Are times together likelier than the likeliest id of text? By logits: both sides have the same
 * sum below. */
static bool time_is_likelier(const float *logits, int64_t first, int64_t vocabulary) {
    float text = -INFINITY, time = -INFINITY;
    for (int64_t i = 0; i < first; i++) text = logits[i] > text ? logits[i] : text;
    for (int64_t i = first; i < vocabulary; i++) time = logits[i] > time ? logits[i] : time;
    if (time == -INFINITY) return false;
    double sum = 0;
    for (int64_t i = first; i < vocabulary; i++) sum += exp((double)logits[i] - (double)time);
    return (double)time + log(sum) > (double)text;
}

/* Times come in pairs, except before an end; they do not go back; the first id is one. */
static void rule_times(const nib_speech *s, const int32_t *said, int64_t count, int32_t eos,
                       float *logits, int64_t V) {
    const int32_t first = nib_speech_first_time(s);
    const bool last = count >= 1 && said[count - 1] >= first;
    const bool before = count < 2 || said[count - 2] >= first;
    logits[s->no_timestamps] = -INFINITY;
    if (last && before) forbid(logits, first, V, V);
    if (last && !before) forbid(logits, 0, eos, V);
    for (int64_t i = count; i-- > 0;) {
        if (said[i] < first) continue;
        forbid(logits, first, said[i] + (last && !before ? 0 : 1), V);
        break;
    }
    if (count == 0) {
        forbid(logits, 0, first, V);
        if (s->max_initial_timestamp_index >= 0)
            forbid(logits, (int64_t)first + s->max_initial_timestamp_index + 1, V, V);
    }
    if (time_is_likelier(logits, first, V)) forbid(logits, 0, first, V);
}

void nib_speech_rule(const nib_speech *s, bool timestamps, const int32_t *said, int64_t count,
                     int32_t eos, float *logits, int64_t vocabulary) {
    for (int i = 0; i < s->nbegin_suppress && !count; i++) logits[s->begin_suppress[i]] = -INFINITY;
    for (int i = 0; i < s->nsuppress; i++) logits[s->suppress[i]] = -INFINITY;
    if (timestamps && s->no_timestamps >= 0) rule_times(s, said, count, eos, logits, vocabulary);
}
