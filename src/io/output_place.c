#include "io/output_place.h"

#include <string.h>

#include "base/error.h"
#include "base/path.h"
#include "base/text_util.h"
#include "io/tensor_writer.h"

static nib_status refuse(const char *path, const char *why) {
    NIB_RAISE(NIB_E_ARGUMENT, "%s", why);
    return nib_error_at(path, NULL, -1);
}

static nib_status refuse_old(const nib_output_place *o) {
    return refuse(o->path,
                  o->only_new
                      ? "is there already: choose another output, or remove it first"
                      : "is there already: choose another output, or overwrite it (--force)");
}

static nib_status check_parent(const char *parent) {
    nib_path_kind kind;
    NIB_TRY(nib_path_look(parent, true, &kind));
    if (kind == NIB_PATH_FOLDER) return NIB_OK;
    NIB_RAISE(NIB_E_IO, "there is no such folder to write the output in");
    return nib_error_at(parent, NULL, -1);
}

static nib_status check_input(const char *out, const nib_checkpoint *input) {
    bool same = false;
    NIB_TRY(nib_path_same(out, input->path, &same));
    if (!same) NIB_TRY(nib_path_same(out, input->folder, &same));
    for (size_t i = 0; !same && i < input->shard_count; i++)
        NIB_TRY(nib_path_same(out, input->shards[i].file->file.path, &same));
    return same ? refuse(out, "this is the input, perhaps by another name: choose another output")
                : NIB_OK;
}

/* An old output may go only when it looks like one: files alone, and weights among them. */
static nib_status check_replaceable(nib_output_place *o, bool overwrite) {
    nib_dir_list list;
    NIB_TRY(nib_dir_read(o->mem, o->path, &list));
    bool weights = false;
    const char *folder = NULL;
    for (size_t i = 0; i < list.count; i++) {
        weights |= nib_text_ends(list.entries[i].name, ".safetensors");
        if (list.entries[i].kind == NIB_PATH_FOLDER && !folder) folder = list.entries[i].name;
    }
    nib_status status = NIB_OK;
    o->replaces = list.count > 0; /* an empty folder just makes way */
    if (list.count && !overwrite) {
        status = refuse_old(o);
    } else if (folder) {
        status = NIB_RAISE(NIB_E_ARGUMENT,
                           "not overwritten: it holds the folder \"%.100s\", which no "
                           "output of this kind does",
                           folder);
        nib_error_at(o->path, NULL, -1);
    } else if (list.count && !weights) {
        status = refuse(o->path, "not overwritten: it holds no .safetensors, so it is no model");
    }
    nib_dir_list_free(&list);
    return status;
}

static nib_status check_out(nib_output_place *o, bool overwrite) {
    nib_path_kind kind;
    NIB_TRY(nib_path_look(o->path, false, &kind));
    if (kind == NIB_PATH_NONE) return NIB_OK;
    if (kind == NIB_PATH_LINK) return refuse(o->path, "a symbolic link is not written through");
    if (o->is_file && kind == NIB_PATH_FILE) return overwrite ? NIB_OK : refuse_old(o);
    if (!o->is_file && kind == NIB_PATH_FOLDER) return check_replaceable(o, overwrite);
    return refuse(o->path, o->is_file ? "there is something else of this name"
                                      : "there is a file of this name, not a folder");
}

static nib_status check_space(nib_output_place *o, size_t need) {
    size_t spare;
    if (!need || o->resume) return NIB_OK; /* part of a resumed one is written already */
    NIB_TRY(nib_path_free_bytes(o->parent, &spare));
    if (spare >= need && spare - need >= need / 100) return NIB_OK;
    NIB_RAISE(NIB_E_FULL, "needs %zu bytes and 1 %% to spare; %zu are free", need, spare);
    return nib_error_at(o->path, NULL, -1);
}

/* Make OUT.partial, or take over what is there; hold it. */
static nib_status take_partial(nib_output_place *o, bool overwrite) {
    nib_path_kind kind;
    NIB_TRY(nib_path_look(o->partial, false, &kind));
    if (kind != NIB_PATH_NONE && kind != NIB_PATH_FOLDER)
        return refuse(o->partial, "in the way: it is no folder of interrupted work");
    if (kind == NIB_PATH_FOLDER && !o->resume && !overwrite)
        return refuse(
            o->partial,
            o->only_new ? "left by interrupted work: choose another output, or remove it first"
                        : "left by interrupted work: go on (--resume), or overwrite it (--force)");
    if (kind == NIB_PATH_NONE) {
        o->resume = false;
        NIB_TRY(nib_dir_make(o->partial));
        o->made = true;
        return nib_dir_lock(o->partial, &o->lock);
    }
    NIB_TRY(nib_dir_lock(o->partial, &o->lock));
    if (o->resume) return NIB_OK;
    NIB_TRY(nib_dir_remove(o->mem, o->partial));
    nib_dir_unlock(o->lock);
    o->lock = -1;
    NIB_TRY(nib_dir_make(o->partial));
    o->made = true;
    return nib_dir_lock(o->partial, &o->lock);
}

static nib_status name_paths(nib_output_place *o, const nib_checkpoint_output *output) {
    o->path = nib_mem_strdup(o->mem, output->path);
    if (!o->path) return NIB_E_MEMORY;
    size_t length = strlen(o->path), whole = length;
    while (length > 1 && o->path[length - 1] == '/') length--;
    if (length < whole) { /* sized frees want the very length */
        char *shorter = nib_mem_alloc(o->mem, length + 1);
        if (!shorter) return NIB_E_MEMORY;
        memcpy(shorter, o->path, length);
        shorter[length] = '\0';
        nib_mem_strfree(o->mem, o->path);
        o->path = shorter;
    }
    if (!nib_path_is_plain(nib_path_base(o->path)))
        return refuse(output->path, "does not name an output");
    o->is_file = nib_tensor_writer_is_name(o->path);
    o->partial = nib_path_with_suffix(o->mem, o->path, ".partial");
    o->spare = nib_path_with_suffix(o->mem, o->path, ".replaced");
    o->parent = nib_path_parent(o->mem, o->path);
    return o->partial && o->spare && o->parent ? NIB_OK : NIB_E_MEMORY;
}

nib_status nib_output_place_open(nib_mem *mem, const nib_checkpoint_output *output,
                                 nib_output_place *o) {
    *o = (nib_output_place){
        .mem = mem, .lock = -1, .resume = output->resume, .only_new = output->only_new};
    NIB_TRY(name_paths(o, output));
    NIB_TRY(check_parent(o->parent));
    if (output->input) NIB_TRY(check_input(o->path, output->input));
    NIB_TRY(check_out(o, output->overwrite));
    NIB_TRY(check_space(o, output->need));
    if (!o->is_file) return take_partial(o, output->overwrite);
    o->resume = false;
    return NIB_OK;
}

/* The commit: one rename, or one exchange with the old model. */
nib_status nib_output_place_take_name(nib_output_place *o, bool *taken) {
    *taken = false;
    if (!o->replaces) {
        NIB_TRY(nib_path_rename(o->partial, o->path));
        *taken = true;
        return nib_dir_sync(o->parent);
    }
    NIB_TRY(nib_path_exchange(o->partial, o->path, o->spare));
    *taken = true;
    NIB_TRY(nib_dir_sync(o->parent)); /* before that, the old one may be all there is */
    if (nib_dir_remove(o->mem, o->partial) == NIB_OK) return nib_dir_sync(o->parent);
    const nib_error why = *nib_last_error();
    NIB_RAISE(why.status,
              "the new model is in place, but the one it replaced could not be removed: "
              "%.100s",
              why.what);
    return nib_error_at(o->partial, NULL, -1);
}

void nib_output_place_free(nib_output_place *o) {
    nib_dir_unlock(o->lock);
    nib_mem_strfree(o->mem, o->path);
    nib_mem_strfree(o->mem, o->partial);
    nib_mem_strfree(o->mem, o->spare);
    nib_mem_strfree(o->mem, o->parent);
}
