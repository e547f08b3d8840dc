#include "io/pt.h"

#include <errno.h>
#include <nibble/io.h>
#include <nibble/nn.h>

#include "base/error.h"
#include "base/sys.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "tensor/tensor.h"
#include "test_files.h"

#define GOLDEN "tests/golden/pt/"

/* Every tensor of `file` with the shape, dtype and bytes that the safetensors file has; what is
 * there and wanted. */
static void same_tensors(void **state_, const char *path, const char *prefix, size_t want) {
    nib_tensor_file *file = nib_tensor_file_open(NULL, path);
    nib_safetensors *golden = nib_safetensors_open(NULL, GOLDEN "new.safetensors");
    CHECK_MADE(file);
    CHECK_MADE(golden);
    size_t found = 0;
    for (size_t i = 0; i < golden->count; i++) {
        const nib_tensor_entry *g = &golden->entries[i];
        char name[128], bytes[256];
        snprintf(name, sizeof name, "%s%s", prefix, g->name);
        const nib_tensor_entry *t = nib_tensor_file_find(file, name);
        if (!t) continue;
        found++;
        if (t->dtype != g->dtype || t->size != g->size) FAIL_AT("%s: %s differs", path, name);
        CHECK_INT(t->shape.ndim, g->shape.ndim);
        for (int d = 0; d < t->shape.ndim; d++) CHECK_INT(t->shape.dim[d], g->shape.dim[d]);
        CHECK_OK(nib_tensor_file_read(file, t, bytes, t->size, 0));
        if (memcmp(bytes, nib_safetensors_data(golden, g), t->size) != 0)
            FAIL_AT("%s: the bytes of %s differ", path, name);
        for (size_t at = 0; at < t->size; at++) { /* any part of it, within elements too */
            unsigned char byte[3] = {0};
            const size_t n = t->size - at < 3 ? t->size - at : 3;
            CHECK_OK(nib_tensor_file_read(file, t, byte, n, at));
            CHECK_BYTES(byte, bytes + at, n);
        }
        if (nib_tensor_entry_dense(t) && t->size)
            CHECK_BYTES(nib_tensor_file_data(file, t), bytes, t->size);
    }
    CHECK_INT((long long)found, (long long)want);
    nib_safetensors_close(golden);
    nib_tensor_file_close(file);
    CHECK(nib_mem_used(NULL) == 0);
}

TEST(tensors_of_every_dtype_and_stride_are_what_torch_gives) {
    same_tensors(state_, GOLDEN "new.pt", "", 32);
    same_tensors(state_, GOLDEN "without_crc.pt", "", 32);
}

TEST(the_old_layout_is_read_too) { same_tensors(state_, GOLDEN "old.pt", "", 24); }

TEST(protocols_3_to_5_are_read) {
    same_tensors(state_, GOLDEN "protocol3.pt", "", 32);
    same_tensors(state_, GOLDEN "protocol4.pt", "", 32);
    same_tensors(state_, GOLDEN "protocol5.pt", "", 32);
}

TEST(dicts_within_dicts_get_dotted_names_and_numbers_beside_them_are_metadata) {
    same_tensors(state_, GOLDEN "nested.pt", "model.", 24);
    nib_tensor_file *file = nib_tensor_file_open(NULL, GOLDEN "nested.pt");
    CHECK_MADE(file);
    CHECK_INT((long long)file->count, 26);
    CHECK(nib_tensor_file_find(file, "optimizer.state.0.exp_avg") != NULL);
    CHECK(nib_tensor_file_find(file, "optimizer.state.1.0") != NULL);
    CHECK_TEXT(nib_tensor_file_metadata(file, "epoch"), "3");
    CHECK_TEXT(nib_tensor_file_metadata(file, "lr"), "0.5");
    CHECK_TEXT(nib_tensor_file_metadata(file, "done"), "true");
    CHECK_TEXT(nib_tensor_file_metadata(file, "by"), "me");
    CHECK_INT((long long)file->metadata_count, 4);
    nib_tensor_file_close(file);
}

TEST(tensors_that_share_a_storage_share_its_bytes_in_the_file) {
    nib_tensor_file *file = nib_tensor_file_open(NULL, GOLDEN "new.pt");
    CHECK_MADE(file);
    const nib_tensor_entry *whole = nib_tensor_file_find(file, "whole");
    const nib_tensor_entry *first = nib_tensor_file_find(file, "first_half");
    const nib_tensor_entry *second = nib_tensor_file_find(file, "second_half");
    CHECK(whole && first && second);
    CHECK(first->offset == whole->offset && second->offset == whole->offset + 20);
    CHECK(nib_tensor_entry_dense(second));
    CHECK(nib_tensor_file_find(file, "transposed")->stride != NULL);
    nib_tensor_file_close(file);
}

TEST(files_of_one_tensor_of_several_without_names_and_of_none_are_read) {
    nib_tensor_file *file = nib_tensor_file_open(NULL, GOLDEN "single.pt");
    CHECK_MADE(file);
    CHECK_TEXT(file->entries[0].name, "tensor");
    nib_tensor_file_close(file);
    file = nib_tensor_file_open(NULL, GOLDEN "tuple.pt");
    CHECK_MADE(file);
    CHECK(file->count == 2 && nib_tensor_file_find(file, "0") && nib_tensor_file_find(file, "1"));
    nib_tensor_file_close(file);
    file = nib_tensor_file_open(NULL, GOLDEN "empty.pt");
    CHECK_MADE(file);
    CHECK_INT((long long)file->count, 0);
    nib_tensor_file_close(file);
}

TEST(modules_sparse_tensors_and_archives_of_jit_are_refused_by_name) {
    static const struct {
        const char *path, *text;
        nib_status status;
    } cases[] = {
        {GOLDEN "module.pt", "torch.nn.modules.linear.Linear is forbidden", NIB_E_FORMAT},
        {GOLDEN "sparse.pt", "_rebuild_sparse_tensor", NIB_E_UNSUPPORTED},
        {GOLDEN "jit.pt", "torch.jit", NIB_E_UNSUPPORTED},
    };
    for (size_t i = 0; i < 3; i++) {
        CHECK(!nib_tensor_file_open(NULL, cases[i].path));
        CHECK_INT(nib_last_error()->status, cases[i].status);
        CHECK(strstr(nib_last_error()->what, cases[i].text));
        CHECK_TEXT(nib_last_error()->path, cases[i].path);
        CHECK(nib_last_error()->offset > 0);
    }
}

/* ---- as checkpoints ---- */
TEST(a_folder_of_pytorch_model_bin_shards_is_a_checkpoint) {
    nib_checkpoint *c = nib_checkpoint_open(NULL, GOLDEN "sharded_bin");
    nib_safetensors *golden = nib_safetensors_open(NULL, GOLDEN "sharded.safetensors");
    CHECK_MADE(c);
    CHECK_MADE(golden);
    CHECK_INT((long long)c->count, 4);
    CHECK(c->pickled && c->shard_count == 2);
    CHECK_TEXT(c->stem, "model");
    CHECK_TEXT(c->shards[1].name, "pytorch_model-00002-of-00002.bin");
    CHECK_TEXT(c->shards[1].written, "model-00002-of-00002.safetensors");
    for (size_t i = 0; i < golden->count; i++) {
        const nib_checkpoint_tensor *t = nib_checkpoint_find(c, golden->entries[i].name);
        CHECK(t && t->entry->size == golden->entries[i].size);
        CHECK_BYTES(nib_checkpoint_data(c, t), nib_safetensors_data(golden, &golden->entries[i]),
                    t->entry->size);
    }
    nib_safetensors_close(golden);
    nib_checkpoint_close(c);
}

static nib_tensor *pass(nib_module *m, nib_tensor *x) {
    (void)m;
    return x;
}
static nib_tensor *zeros(nib_ctx *ctx, int64_t rows, int64_t columns) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, (nib_shape){columns ? 2 : 1, {rows, columns}});
    if (t) memset(nib_tensor_data_mut(t), 0, nib_tensor_bytes(t));
    return t;
}

TEST(a_pickled_state_of_quanto_with_its_map_beside_is_read_as_quantos) {
    NEEDS_SCHEME("qint4");
    static const nib_module_kind kind = {.name = "Net", .forward = pass};
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_reader *r = nib_reader_open(ctx, GOLDEN "quanto/state.pt");
    CHECK_MADE(r);
    CHECK_TEXT(nib_reader_format(r), "quanto");
    nib_weight_info info;
    bool found = false;
    while (nib_reader_next_weight(r, &info) == NIB_OK)
        found |= strcmp(info.name, "fc.weight") == 0 && strstr(info.scheme, "qint4") != NULL;
    CHECK(found);
    nib_reader_free(r);
    nib_module *root = nib_module_new(ctx, &kind, NULL);
    CHECK_OK(nib_module_add(root, "fc", nib_linear_new(ctx, zeros(ctx, 8, 64), zeros(ctx, 8, 0))));
    CHECK_OK(nib_module_add(root, "norm",
                            nib_layer_norm_new(ctx, zeros(ctx, 8, 0), zeros(ctx, 8, 0), 1, 1e-5)));
    CHECK_OK(nib_module_add(root, "head", nib_linear_new(ctx, zeros(ctx, 4, 8), zeros(ctx, 4, 0))));
    CHECK_OK(nib_requantize_file(root, GOLDEN "quanto/state.pt", "cpu"));
    const nib_tensor *weight = nib_module_parameter(nib_module_child(root, "fc"), "weight");
    CHECK_MADE(weight);
    CHECK_TEXT(nib_tensor_layout(weight), "quanto_bits");
    nib_module_free(root);
    nib_ctx_free(ctx);
}

static void copy(const char *from, const char *to) {
    size_t size;
    char *bytes = test_read(from, &size);
    if (!bytes) abort();
    test_write(to, bytes, size);
    free(bytes);
}

TEST(safetensors_go_before_pytorch_model_bin_when_a_folder_holds_both) {
    TEST_FOLDER(dir);
    copy(GOLDEN "single.pt", IN(dir, "pytorch_model.bin"));
    nib_checkpoint *c = nib_checkpoint_open(NULL, dir);
    CHECK_MADE(c);
    CHECK(nib_checkpoint_find(c, "tensor") && c->pickled);
    CHECK_TEXT(c->shards[0].written, "model.safetensors");
    nib_checkpoint_close(c);
    copy(GOLDEN "sharded.safetensors", IN(dir, "model.safetensors"));
    c = nib_checkpoint_open(NULL, dir);
    CHECK_MADE(c);
    CHECK(nib_checkpoint_find(c, "a.weight") && !c->pickled);
    nib_checkpoint_close(c);
    CHECK(unlink(IN(dir, "model.safetensors")) == 0);
    copy(GOLDEN "sharded_bin/pytorch_model.bin.index.json",
         IN(dir, "pytorch_model.bin.index.json"));
    CHECK(!nib_checkpoint_open(NULL, dir));
    CHECK(strstr(nib_last_error()->what, "both pytorch_model.bin and"));
    test_folder_remove(dir);
}

TEST(a_shard_that_lacks_a_tensor_of_the_index_is_an_error) {
    TEST_FOLDER(dir);
    const char *const names[] = {"pytorch_model.bin.index.json",
                                 "pytorch_model-00001-of-00002.bin"};
    for (size_t i = 0; i < 2; i++) {
        char from[128];
        snprintf(from, sizeof from, GOLDEN "sharded_bin/%s", names[i]);
        copy(from, IN(dir, names[i]));
    }
    copy(GOLDEN "single.pt", IN(dir, "pytorch_model-00002-of-00002.bin"));
    CHECK(!nib_checkpoint_open(NULL, dir));
    CHECK(strstr(nib_last_error()->what, "not in pytorch_model.bin.index.json"));
    CHECK_TEXT(nib_last_error()->tensor, "tensor");
    test_folder_remove(dir);
}

TEST(every_allocation_of_opening_may_fail) {
    static const char *const paths[] = {GOLDEN "nested.pt", GOLDEN "old.pt", GOLDEN "sharded_bin"};
    for (size_t i = 0; i < 3; i++) {
        for (long n = 0, reached = 1; reached > 0; n++) {
            nib_mem_fail_after(n, false);
            nib_checkpoint *c = nib_checkpoint_open(NULL, paths[i]);
            reached = nib_mem_fail_after(-1, false) - n;
            CHECK(c || nib_last_error()->status == NIB_E_MEMORY);
            nib_checkpoint_close(c);
            CHECK(nib_mem_used(NULL) == 0);
        }
    }
}

TEST(every_system_call_of_opening_may_fail) {
    static const char *const paths[] = {GOLDEN "nested.pt", GOLDEN "old.pt", GOLDEN "sharded_bin"};
    for (size_t i = 0; i < 3; i++) {
        for (long n = 0, reached = 1; reached > 0; n++) {
            nib_sys_fail_after(n, EIO);
            nib_checkpoint *c = nib_checkpoint_open(NULL, paths[i]);
            reached = nib_sys_fail_after(-1, 0) - n;
            if (!c) CHECK_INT(nib_last_error()->status, NIB_E_IO);
            nib_checkpoint_close(c);
            CHECK(nib_mem_used(NULL) == 0);
        }
    }
}

TESTS(RUNS(tensors_of_every_dtype_and_stride_are_what_torch_gives),
      RUNS(the_old_layout_is_read_too), RUNS(protocols_3_to_5_are_read),
      RUNS(dicts_within_dicts_get_dotted_names_and_numbers_beside_them_are_metadata),
      RUNS(tensors_that_share_a_storage_share_its_bytes_in_the_file),
      RUNS(files_of_one_tensor_of_several_without_names_and_of_none_are_read),
      RUNS(modules_sparse_tensors_and_archives_of_jit_are_refused_by_name),
      RUNS(a_folder_of_pytorch_model_bin_shards_is_a_checkpoint),
      RUNS(a_pickled_state_of_quanto_with_its_map_beside_is_read_as_quantos),
      RUNS(safetensors_go_before_pytorch_model_bin_when_a_folder_holds_both),
      RUNS(a_shard_that_lacks_a_tensor_of_the_index_is_an_error),
      RUNS(every_allocation_of_opening_may_fail), RUNS(every_system_call_of_opening_may_fail))
