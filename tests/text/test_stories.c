/* The tokenizer of a published model, against the ids that came with it. */
#include <nibble/io.h>

#include "base/file.h"
#include "base/json.h"
#include "test.h"

TEST(stories260k_gives_the_prompt_ids_of_its_reference) {
    char path[1024], reference[1024];
    if (!test_model("stories260K/tokenizer.json", path)) return;
    if (!test_model("stories260K/reference.json", reference)) return;
    size_t size = 0;
    char *bytes = nib_file_read_whole(NULL, reference, NIB_JSON_MAX_BYTES, &size);
    CHECK_MADE(bytes);
    json_t *root = nib_json_parse(bytes, size, reference, 0);
    CHECK_MADE(root);
    const char *prompt = NULL;
    json_t *want = NULL;
    CHECK_OK(nib_json_string(root, "prompt", true, &prompt));
    CHECK_OK(nib_json_array(root, "prompt_ids", true, &want));
    nib_tokenizer *t = nib_tokenizer_load(NULL, path);
    CHECK_MADE(t);
    CHECK_INT(nib_tokenizer_special(t, "bos"), 1);
    CHECK_INT(nib_tokenizer_special(t, "eos"), 2);
    nib_ids ids = {0};
    nib_string text = {0};
    CHECK_OK(nib_tokenizer_encode(t, prompt, strlen(prompt), true, &ids));
    CHECK_INT(ids.count, json_array_size(want));
    for (size_t i = 0; i < ids.count; i++)
        CHECK_INT(ids.data[i], json_integer_value(json_array_get(want, i)));
    CHECK_OK(nib_tokenizer_decode(t, ids.data, ids.count, true, &text));
    CHECK_TEXT(text.data, prompt);
    json_decref(root);
    nib_mem_free(NULL, bytes, size + 1);
    nib_string_free(&text);
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
    CHECK_INT(nib_mem_used(NULL), 0);
}

TESTS(RUNS(stories260k_gives_the_prompt_ids_of_its_reference))
