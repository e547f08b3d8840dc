#include "io/checkpoint.h"

#include <errno.h>

#include "base/error.h"
#include "base/sys.h"
#include "test_files.h"

/* A shard of u8 tensors; tensor "name" holds strlen(name) + 1 bytes, its own name. */
static void put_shard(const char *path, const char *const *names) {
    nib_safetensors_planned planned[8];
    size_t n = 0;
    for (; names[n]; n++)
        planned[n] =
            (nib_safetensors_planned){names[n], NIB_U8, {1, {(int64_t)strlen(names[n]) + 1}}};
    const nib_safetensors_pair format = {"format", "pt"};
    const nib_safetensors_plan plan = {planned, n, &format, 1};
    nib_safetensors_writer *w = nib_safetensors_writer_open(NULL, path, &plan);
    if (!w) abort();
    for (size_t i = 0; i < n; i++)
        if (nib_safetensors_writer_put(w, i, names[i], strlen(names[i]) + 1, 0) < NIB_OK) abort();
    if (nib_safetensors_writer_finish(w) < NIB_OK) abort();
}
#define SHARD(path, ...) put_shard(path, (const char *const[]){__VA_ARGS__, NULL})

#define S1       "model-00001-of-00002.safetensors"
#define S2       "model-00002-of-00002.safetensors"
#define MAP(...) "{\"metadata\": {\"total_size\": 13}, \"weight_map\": {" __VA_ARGS__ "}}"
#define GOOD     MAP("\"emb\": \"" S1 "\", \"l.0\": \"" S2 "\", \"l.10\": \"" S1 "\"")

static void put_text(const char *path, const char *text) { test_write(path, text, strlen(text)); }

/* emb (4 bytes) and l.10 (5) in the first shard, l.0 (4) in the second. */
static void put_model(const char *dir) {
    SHARD(IN(dir, S1), "emb", "l.10");
    SHARD(IN(dir, S2), "l.0");
    put_text(IN(dir, "model.safetensors.index.json"), GOOD);
    put_text(IN(dir, "config.json"), "{}");
}

TEST(shards_are_one_table_read_in_the_order_of_the_files) {
    TEST_FOLDER(dir);
    put_model(dir);
    static const char *const along[] = {"LICENSE",
                                        "README.md",
                                        "chat_template.jinja",
                                        "generation_config.json",
                                        "merges.txt",
                                        "special_tokens_map.json",
                                        "tokenizer.json",
                                        "tokenizer.model"};
    static const char *const behind[] = {
        "consolidated.safetensors",     "pytorch_model.bin", "x.pt",           "x.gguf",
        "pytorch_model.bin.index.json", "quant_report.json", ".gitattributes", "x.onnx"};
    for (size_t i = 0; i < 8; i++) {
        put_text(IN(dir, along[i]), "x");
        put_text(IN(dir, behind[i]), "x");
    }
    CHECK(mkdir(IN(dir, "folder.json"), 0700) == 0);
    nib_checkpoint *c = nib_checkpoint_open(NULL, dir);
    CHECK_MADE(c);
    CHECK_INT(c->count, 3);
    CHECK_INT(c->payload, 13);
    CHECK_INT(c->shard_count, 2);
    CHECK_TEXT(c->stem, "model");
    static const char *const order[] = {"emb", "l.10", "l.0"};
    for (size_t i = 0; i < 3; i++) {
        char bytes[8];
        const nib_checkpoint_tensor *t = nib_checkpoint_find(c, order[i]);
        CHECK(t == &c->tensors[i]);
        CHECK_OK(nib_checkpoint_read(c, t, bytes, t->entry->size, 0));
        CHECK_TEXT(bytes, order[i]);
        CHECK_TEXT((const char *)nib_checkpoint_data(c, t), order[i]);
    }
    CHECK(!nib_checkpoint_find(c, "l.1"));
    CHECK_TEXT(nib_checkpoint_metadata(c, "format"), "pt");
    CHECK(!nib_checkpoint_metadata(c, "nibble"));
    CHECK_INT(c->carried_count, 8);
    for (size_t i = 0; i < 8; i++) CHECK_TEXT(c->carried[i], along[i]);
    char *path = nib_checkpoint_path(c, "config.json");
    CHECK_TEXT(path, IN(dir, "config.json"));
    nib_mem_strfree(NULL, path);
    nib_checkpoint_close(c);
    test_folder_remove(dir);
}

TEST(one_file_is_a_checkpoint_in_a_folder_or_alone) {
    TEST_FOLDER(dir);
    SHARD(IN(dir, "diffusion_pytorch_model.safetensors"), "a", "b");
    nib_checkpoint *c = nib_checkpoint_open(NULL, dir);
    CHECK_MADE(c);
    CHECK_TEXT(c->stem, "diffusion_pytorch_model");
    CHECK(c->count == 2 && !c->index_path && !c->is_file);
    nib_checkpoint_close(c);
    c = nib_checkpoint_open(NULL, IN(dir, "diffusion_pytorch_model.safetensors"));
    CHECK_MADE(c);
    CHECK(c->count == 2 && c->is_file && c->carried_count == 0);
    CHECK_TEXT(c->folder, dir);
    nib_checkpoint_close(c);
    test_folder_remove(dir);
}

TEST(a_total_size_may_be_absent_or_spelled_as_a_float) {
    TEST_FOLDER(dir);
    put_model(dir);
    static const char nested[] = "\"metadata\": {\"x\": [1, {\"y\": null}], \"total_size\": 1.3e1, "
                                 "\"z\": \"}\"}, \"more\": [[]], ";
    static const char *const heads[] = {"", "\"metadata\": {}, ",
                                        "\"metadata\": {\"total_size\": 13.0}, ", nested};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        char text[512];
        snprintf(text, sizeof text, "{%s%s", heads[i], strstr(GOOD, "\"weight_map"));
        put_text(IN(dir, "model.safetensors.index.json"), text);
        nib_checkpoint *c = nib_checkpoint_open(NULL, dir);
        CHECK_MADE(c);
        nib_checkpoint_close(c);
    }
    test_folder_remove(dir);
}

/* Opening must fail with one error at a file, a tensor and a byte, and change nothing. */
static void refused(void **state_, const char *dir, nib_status status, const char *text,
                    const char *file, const char *tensor, int64_t offset) {
    char *before = test_picture(dir);
    const size_t used = nib_mem_used(NULL);
    nib_checkpoint *c = nib_checkpoint_open(NULL, dir);
    char *after = test_picture(dir);
    CHECK(!c);
    CHECK_INT(nib_mem_used(NULL), used);
    CHECK_FAILS(nib_last_error()->status, status, text);
    CHECK_TEXT(nib_last_error()->path, file[0] ? IN(dir, file) : dir);
    CHECK_TEXT(nib_last_error()->tensor, tensor);
    CHECK_INT(nib_last_error()->offset, offset);
    CHECK_TEXT(after, before);
    free(before);
    free(after);
}

/* A caret marks the byte that the error must name; none: no byte. */
static const struct {
    const char *index, *text, *tensor;
} lies[] = {
    {"^", "'{'", ""},
    {"{^", "a string", ""},
    {"{}", "\"weight_map\" is missing", ""},
    {"{\"weight_map\": {}}", "\"weight_map\" is empty", ""},
    {"{\"weight_map\": ^[]}", "'{'", ""},
    {"{\"weight_map\": {\"emb\": ^1}}", "a string", "emb"},
    {"{\"weight_map\": {^\"emb\": \"../x.safetensors\"}}", "\"../x.safetensors\" is no plain name",
     "emb"},
    {"{\"weight_map\": {^\"emb\": \"/x.safetensors\"}}", "no plain name", "emb"},
    {"{\"weight_map\": {^\"emb\": \"a/x.safetensors\"}}", "no plain name", "emb"},
    {"{\"weight_map\": {^\"emb\": \"..\"}}", "no plain name", "emb"},
    {"{\"weight_map\": {^\"emb\": \"\"}}", "no plain name", "emb"},
    {"{\"weight_map\": {^\"emb\": \"pytorch_model.bin\"}}", "no plain name of a .safetensors",
     "emb"},
    {"{\"weight_map\": {\"emb\": \"" S1 "\"}, ^\"weight_map\": {}}", "twice", ""},
    {"{\"metadata\": {\"total_size\": ^-1}}", "no number of bytes", ""},
    {"{\"metadata\": {\"total_size\": ^\"13\"}}", "no number of bytes", ""},
    {"{\"metadata\": {\"total_size\": ^13.5}}", "no number of bytes", ""},
    {"{\"metadata\": {\"total_size\": ^9223372036854775808}}", "no number of bytes", ""},
    {"{\"metadata\": {\"total_size\": 1, ^\"total_size\": 1}}", "twice", ""},
    {GOOD " ^x", "nothing behind", ""},
    {MAP("\"emb\": \"" S1 "\", \"l.0\": \"" S2 "\", \"l.10\": \"" S1 "\", ^\"emb\": \"" S1 "\""),
     "twice", "emb"},
    {MAP("\"emb\": \"" S1 "\", \"l.0\": \"" S2 "\", \"l.10\": \"" S1 "\", ^\"l.0\": \"" S1 "\""),
     "twice", "l.0"},
    {MAP("\"emb\": \"" S1 "\", ^\"l.0\": \"gone.safetensors\", \"l.10\": \"" S1 "\""),
     "\"gone.safetensors\" is named here but is not in the folder", "l.0"},
    {MAP("\"emb\": \"" S1 "\", \"l.0\": \"" S2 "\", \"l.10\": \"" S1 "\", ^\"l.1\": \"" S1 "\""),
     "should be in " S1, "l.1"},
    {"{\"metadata\": {\"total_size\": ^14}, \"weight_map\": {\"emb\": \"" S1 "\", \"l.0\": \"" S2
     "\", \"l.10\": \"" S1 "\"}}",
     "total_size is 14, but the tensors have 13", ""},
};

TEST(every_lie_of_an_index_is_refused_at_its_byte) {
    TEST_FOLDER(dir);
    put_model(dir);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        char text[512], *caret;
        snprintf(text, sizeof text, "%s", lies[i].index);
        caret = strchr(text, '^');
        if (caret) memmove(caret, caret + 1, strlen(caret));
        put_text(IN(dir, "model.safetensors.index.json"), text);
        refused(state_, dir, NIB_E_FORMAT, lies[i].text, "model.safetensors.index.json",
                lies[i].tensor, caret ? caret - text : -1);
    }
    test_folder_remove(dir);
}

TEST(an_index_cut_after_any_byte_is_refused) {
    TEST_FOLDER_IN_MEMORY(dir);
    put_model(dir);
    const size_t size = strlen(GOOD);
    for (size_t cut = 0; cut < size; cut++) {
        test_write(IN(dir, "model.safetensors.index.json"), GOOD, cut);
        refused(state_, dir, NIB_E_FORMAT, "", "model.safetensors.index.json",
                nib_checkpoint_open(NULL, dir) ? "" : nib_last_error()->tensor, (int64_t)cut);
    }
    test_folder_remove(dir);
}

/* Where the quoted name stands in a file: past the eight bytes of length, which hold a zero. */
static int64_t byte_of(const char *path, const char *quoted) {
    char *text = test_read(path, NULL);
    const char *at = text ? strstr(text + 8, quoted) : NULL;
    const int64_t byte = at ? at - text : -3;
    free(text);
    return byte;
}

TEST(a_tensor_in_two_shards_or_in_none_is_refused) {
    TEST_FOLDER(dir);
    put_model(dir);
    SHARD(IN(dir, S2), "l.0", "emb"); /* emb is in both files, the index says the first */
    refused(state_, dir, NIB_E_FORMAT, "the index says that it is in " S1, S2, "emb",
            byte_of(IN(dir, S2), "\"emb\""));
    SHARD(IN(dir, S2), "l.0", "stray");
    refused(state_, dir, NIB_E_FORMAT, "not in model.safetensors.index.json", S2, "stray",
            byte_of(IN(dir, S2), "\"stray\""));
    SHARD(IN(dir, S2), "other");
    refused(state_, dir, NIB_E_FORMAT, "not in model.safetensors.index.json", S2, "other",
            byte_of(IN(dir, S2), "\"other\""));
    test_folder_remove(dir);
}

TEST(a_cut_shard_is_refused_by_its_own_name) {
    TEST_FOLDER(dir);
    put_model(dir);
    struct stat about;
    CHECK(stat(IN(dir, S2), &about) == 0);
    CHECK(truncate(IN(dir, S2), about.st_size - 3) == 0);
    refused(state_, dir, NIB_E_FORMAT, "3 bytes short", S2, "l.0", about.st_size - 3);
    test_folder_remove(dir);
}

TEST(a_folder_of_no_or_two_models_is_refused) {
    TEST_FOLDER(dir);
    refused(state_, dir, NIB_E_FORMAT, "holds no weights", "", "", -1);
    SHARD(IN(dir, "adapter.safetensors"), "a");
    refused(state_, dir, NIB_E_FORMAT, "to read adapter.safetensors, give that file", "", "", -1);
    put_model(dir);
    SHARD(IN(dir, "model.safetensors"), "a");
    refused(state_, dir, NIB_E_FORMAT, "both model.safetensors and model.safetensors.index.json",
            "", "", -1);
    CHECK(!nib_checkpoint_open(NULL, IN(dir, "none")));
    CHECK_FAILS(nib_last_error()->status, NIB_E_IO, "no such file or folder");
    CHECK_TEXT(nib_last_error()->path, IN(dir, "none"));
    test_folder_remove(dir);
}

TEST(opening_survives_any_failing_call_or_allocation) {
    TEST_FOLDER_IN_MEMORY(dir);
    put_model(dir);
    put_text(IN(dir, "tokenizer.json"), "{}");
    const size_t used = nib_mem_used(NULL);
    for (int what = 0; what < 2; what++) {
        for (long n = 0;; n++) {
            if (what)
                nib_mem_fail_after(n, false);
            else
                nib_sys_fail_after(n, EIO);
            nib_checkpoint *c = nib_checkpoint_open(NULL, dir);
            const bool opened = c != NULL;
            nib_checkpoint_close(c);
            const long made = what ? nib_mem_fail_after(-1, false) : nib_sys_fail_after(-1, 0);
            CHECK_INT(nib_mem_used(NULL), used);
            if (!opened) {
                CHECK_INT(nib_last_error()->status, what ? NIB_E_MEMORY : NIB_E_IO);
                CHECK(nib_last_error()->path[0]);
            }
            if (made <= n) {
                CHECK(opened && n > 20);
                break;
            }
        }
    }
    test_folder_remove(dir);
}

TEST(an_index_is_written_as_transformers_writes_it) {
    const char *const tensors[] = {"b\"", "a.weight", "\xc3\xa9", "\xf0\x9f\x98\x80"};
    const char *const files[] = {S2, S1, S1, S2};
    char *text = nib_shard_index_text(NULL, tensors, files, 4, 12345678901234);
    CHECK_MADE(text);
    size_t size;
    char *want = test_read("tests/golden/io/index.json", &size);
    CHECK(want != NULL);
    CHECK_TEXT(text, want);
    nib_shard_index *index = nib_shard_index_parse(NULL, NULL, text, strlen(text));
    CHECK_MADE(index);
    CHECK_INT(index->total_size, 12345678901234);
    for (size_t i = 0; i < 4; i++) {
        const nib_shard_entry *entry = nib_shard_index_find(index, tensors[i]);
        CHECK(entry != NULL);
        CHECK_TEXT(entry->file, files[i]);
        CHECK_TEXT(index->shards[entry->shard], files[i]);
    }
    nib_shard_index_free(index);
    nib_mem_strfree(NULL, text);
    free(want);
}

TESTS(RUNS(shards_are_one_table_read_in_the_order_of_the_files),
      RUNS(one_file_is_a_checkpoint_in_a_folder_or_alone),
      RUNS(a_total_size_may_be_absent_or_spelled_as_a_float),
      RUNS(every_lie_of_an_index_is_refused_at_its_byte),
      RUNS(an_index_cut_after_any_byte_is_refused),
      RUNS(a_tensor_in_two_shards_or_in_none_is_refused),
      RUNS(a_cut_shard_is_refused_by_its_own_name), RUNS(a_folder_of_no_or_two_models_is_refused),
      RUNS(opening_survives_any_failing_call_or_allocation),
      RUNS(an_index_is_written_as_transformers_writes_it))
