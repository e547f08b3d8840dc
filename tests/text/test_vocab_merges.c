/* GPT-2's tokenizer from vocab.json and merges.txt: ids of transformers, one error for each way in
 * which the files can be wrong. */
#include <jansson.h>
#include <nibble/io.h>

#include "test.h"
#include "test_files.h"

#define GOLDEN "tests/golden/tokenizer/"

/* The files of a folder that has no tokenizer.json, from one that is whole. */
static void take_apart(const char *folder, const char *family, const json_t *config) {
    json_t *whole = json_load_file(IN(GOLDEN, family), 0, NULL);
    const json_t *model = json_object_get(whole, "model"), *merge;
    FILE *f = fopen(IN(folder, "merges.txt"), "w");
    if (!model || !f) abort();
    fputs("#version: 0.2\n", f);
    size_t i;
    json_array_foreach(json_object_get(model, "merges"), i, merge) {
        if (json_is_array(merge))
            fprintf(f, "%s %s\n", json_string_value(json_array_get(merge, 0)),
                    json_string_value(json_array_get(merge, 1)));
        else
            fprintf(f, "%s\n", json_string_value(merge));
    }
    if (fclose(f) || json_dump_file(json_object_get(model, "vocab"), IN(folder, "vocab.json"), 0) ||
        (config && json_dump_file(config, IN(folder, "tokenizer_config.json"), 0)))
        abort();
    json_decref(whole);
}

TEST(ids_from_vocabulary_and_merges_are_those_of_transformers) {
    json_t *golden = json_load_file(GOLDEN "vocab_merges.json", 0, NULL), *family;
    CHECK(golden);
    const char *name;
    int compared = 0;
    json_object_foreach(golden, name, family) {
        TEST_FOLDER(folder);
        take_apart(folder, strncmp(name, "opt", 3) == 0 ? "opt.json" : "gpt2.json",
                   json_object_get(family, "config"));
        nib_tokenizer *t = nib_tokenizer_load(NULL, folder);
        CHECK_MADE(t);
        CHECK_INT(nib_tokenizer_special(t, "eos") >= 0, strncmp(name, "opt", 3) == 0);
        size_t i;
        json_t *one;
        json_array_foreach(json_object_get(family, "cases"), i, one) {
            const json_t *text = json_array_get(one, 0), *want = json_array_get(one, 1);
            nib_ids ids = {0};
            CHECK_OK(nib_tokenizer_encode(t, json_string_value(text), json_string_length(text),
                                          true, &ids));
            if (ids.count != json_array_size(want))
                FAIL_AT("%s: \"%s\" has %zu ids, want %zu", name, json_string_value(text),
                        ids.count, json_array_size(want));
            for (size_t k = 0; k < ids.count; k++, compared++)
                if (ids.data[k] != json_integer_value(json_array_get(want, k)))
                    FAIL_AT("%s: \"%s\": id %zu is %d", name, json_string_value(text), k,
                            (int)ids.data[k]);
            nib_ids_free(&ids);
        }
        nib_tokenizer_free(t);
        test_folder_remove(folder);
    }
    CHECK(compared > 100);
    json_decref(golden);
}

TEST(files_that_cannot_be_put_together_are_one_error_each) {
    static const struct {
        const char *name, *text;
        nib_status status;
        const char *what;
    } cases[] = {
        {"tokenizer_config.json", "{\"tokenizer_class\": \"Qwen2Tokenizer\"}", NIB_E_UNSUPPORTED,
         "there is no tokenizer.json, and of vocab.json and merges.txt nibble makes a "
         "GPT2Tokenizer, not a Qwen2Tokenizer"},
        {"tokenizer_config.json", "{", NIB_E_FORMAT, ""},
        {"vocab.json", "[1, 2]", NIB_E_FORMAT, "not a JSON object"},
        {"vocab.json", "{\"a\": \"b\"}", NIB_E_FORMAT, ""},
        {"merges.txt", "#version: 0.2\none\n", NIB_E_FORMAT, "merges: entry 0"},
        {"merges.txt", "no such\n", NIB_E_FORMAT, "not in the vocab"},
        {"merges.txt", "\xff\xfe x\n", NIB_E_FORMAT, "merges.txt is not UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        TEST_FOLDER(folder);
        take_apart(folder, "gpt2.json", NULL);
        test_write(IN(folder, cases[i].name), cases[i].text, strlen(cases[i].text));
        CHECK(!nib_tokenizer_load(NULL, folder));
        const nib_error *e = nib_last_error();
        if (e->status != cases[i].status || !strstr(e->what, cases[i].what))
            FAIL_AT("%s: status %d \"%s\", want %d \"%s\"", cases[i].text, e->status, e->what,
                    cases[i].status, cases[i].what);
        CHECK(strncmp(e->path, folder, strlen(folder)) == 0);
        test_folder_remove(folder);
    }
    TEST_FOLDER(folder); /* nothing there: the file that is wanted first */
    CHECK(!nib_tokenizer_load(NULL, folder));
    CHECK_TEXT(nib_last_error()->path, IN(folder, "tokenizer.json"));
    take_apart(folder, "gpt2.json", NULL);
    CHECK(unlink(IN(folder, "merges.txt")) == 0);
    CHECK(!nib_tokenizer_load(NULL, folder));
    CHECK_TEXT(nib_last_error()->path, IN(folder, "tokenizer.json"));
    test_folder_remove(folder);
}

TESTS(RUNS(ids_from_vocabulary_and_merges_are_those_of_transformers),
      RUNS(files_that_cannot_be_put_together_are_one_error_each))
