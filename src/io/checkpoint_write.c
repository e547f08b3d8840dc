#include "io/checkpoint_write.h"

#include <string.h>

#include "base/error.h"
#include "base/path.h"
#include "base/text_util.h"
#include "io/output_place.h"
#include "io/tensor_writer.h"

#define NOTE ".nibble-resume" /* hidden, so that no tool takes it for the model's */

typedef struct written { /* a tensor, for the index */
    char *tensor;
    size_t shard;
} written;

struct nib_checkpoint_writer {
    nib_mem *mem;
    nib_output_place to;
    char *stem;
    bool failed;
    nib_safetensors_writer *shard; /* begun and not ended */
    nib_tensor_writer *single;     /* the same of one file alone */
    nib_safetensors *done;         /* instead: found finished */
    bool *kept;                    /* of its tensors */
    size_t *place;                 /* plan index -> index into done->entries */
    size_t kept_count;
    char **files; /* names of all that this run made, shards included */
    size_t file_count, file_room;
    char **shards; /* names, in the order of their beginning */
    size_t shard_count, shard_room;
    written *tensors;
    size_t count, room, payload;
};

static void *grown(nib_mem *mem, void *array, size_t count, size_t *room, size_t size) {
    if (count < *room) return array;
    const size_t more = *room ? 2 * *room : 16;
    void *moved = nib_mem_realloc(mem, array, *room * size, more * size);
    if (moved) *room = more;
    return moved;
}

static void drop_done(nib_checkpoint_writer *w) {
    nib_safetensors_close(w->done);
    nib_mem_free(w->mem, w->kept, w->kept_count * sizeof *w->kept);
    nib_mem_free(w->mem, w->place, w->kept_count * sizeof *w->place);
    w->done = NULL;
    w->kept = NULL;
    w->place = NULL;
    w->kept_count = 0;
}

static void writer_free(nib_checkpoint_writer *w) {
    nib_mem *mem = w->mem;
    drop_done(w);
    nib_output_place_free(&w->to);
    for (size_t i = 0; i < w->file_count; i++) nib_mem_strfree(mem, w->files[i]);
    nib_mem_free(mem, w->files, w->file_room * sizeof *w->files);
    for (size_t i = 0; i < w->count; i++) nib_mem_strfree(mem, w->tensors[i].tensor);
    nib_mem_free(mem, w->shards, w->shard_room * sizeof *w->shards);
    nib_mem_free(mem, w->tensors, w->room * sizeof *w->tensors);
    nib_mem_strfree(mem, w->stem);
    nib_mem_free(mem, w, sizeof *w);
}

nib_checkpoint_writer *nib_checkpoint_writer_open(nib_mem *mem,
                                                  const nib_checkpoint_output *output) {
    nib_checkpoint_writer *w = nib_mem_alloc_zero(mem, sizeof *w);
    if (!w) return NULL;
    w->mem = mem;
    NIB_TRY_GOTO(nib_output_place_open(mem, output, &w->to), fail);
    w->stem = nib_mem_strdup(mem, output->stem ? output->stem : "model");
    if (w->stem) return w;
fail:
    nib_error_at(output->path, NULL, -1);
    if (w->to.made) nib_dir_remove_empty(w->to.partial);
    writer_free(w);
    return NULL;
}

/* ---- notes ---- */
nib_status nib_checkpoint_writer_note(nib_checkpoint_writer *w, const void *bytes, size_t size) {
    if (w->to.is_file) return NIB_OK; /* nothing to continue */
    char *path = nib_path_join(w->mem, w->to.partial, NOTE);
    const nib_status status = path ? nib_file_write_whole(w->mem, path, bytes, size) : NIB_E_MEMORY;
    nib_mem_strfree(w->mem, path);
    return status;
}

char *nib_checkpoint_writer_noted(nib_checkpoint_writer *w, size_t *size, nib_status *status) {
    enum { MOST = 256 << 20 };
    nib_path_kind kind = NIB_PATH_NONE;
    *status = NIB_OK;
    if (!w->to.resume) return NULL;
    char *bytes = NULL, *path = nib_path_join(w->mem, w->to.partial, NOTE);
    *status = path ? nib_path_look(path, false, &kind) : NIB_E_MEMORY;
    if (kind == NIB_PATH_FILE) {
        bytes = nib_file_read_whole(w->mem, path, MOST, size);
        if (!bytes) *status = nib_last_error()->status;
    }
    nib_mem_strfree(w->mem, path);
    return bytes;
}

/* ---- shards ---- */

static char *find_file(const nib_checkpoint_writer *w, const char *name) {
    for (size_t i = 0; i < w->file_count; i++)
        if (strcmp(w->files[i], name) == 0) return w->files[i];
    return NULL;
}

/* Remember that this file is of this run; its name, or NULL for lack of memory. */
static char *note_file(nib_checkpoint_writer *w, const char *name) {
    char *known = find_file(w, name);
    if (known) return known;
    char **files = grown(w->mem, w->files, w->file_count, &w->file_room, sizeof *files);
    if (!files) return NULL;
    w->files = files;
    files[w->file_count] = nib_mem_strdup(w->mem, name);
    return files[w->file_count] ? files[w->file_count++] : NULL;
}

/* Remember the shard and its tensors for the index. */
static nib_status enlist(nib_checkpoint_writer *w, const char *name,
                         const nib_safetensors_plan *plan) {
    char **shards = grown(w->mem, w->shards, w->shard_count, &w->shard_room, sizeof *shards);
    if (!shards) return NIB_E_MEMORY;
    w->shards = shards;
    shards[w->shard_count] = note_file(w, name);
    if (!shards[w->shard_count]) return NIB_E_MEMORY;
    w->shard_count++;
    for (size_t i = 0; i < plan->count; i++) {
        written *tensors = grown(w->mem, w->tensors, w->count, &w->room, sizeof *tensors);
        if (!tensors) return NIB_E_MEMORY;
        w->tensors = tensors;
        tensors[w->count].shard = w->shard_count - 1;
        tensors[w->count].tensor = nib_mem_strdup(w->mem, plan->tensors[i].name);
        if (!tensors[w->count].tensor) return NIB_E_MEMORY;
        w->count++;
    }
    return NIB_OK;
}

/* Does the file begin with exactly the header of this plan? */
static nib_status same_header(nib_mem *mem, const nib_safetensors *file,
                              const nib_safetensors_plan *plan, bool *same) {
    size_t size = 0;
    char *want = nib_safetensors_plan_header(mem, plan, &size);
    char *got = want ? nib_mem_alloc(mem, size) : NULL;
    nib_status status = got ? NIB_OK : nib_last_error()->status;
    *same = file->data_offset == size;
    if (status == NIB_OK && *same) status = nib_file_read(&file->file, got, size, 0);
    if (status == NIB_OK && *same) *same = memcmp(got, want, size) == 0;
    nib_mem_free(mem, want, size);
    nib_mem_free(mem, got, size);
    return status;
}

/* Take over a finished shard, when it is one of this plan; else it is written anew. */
static nib_status take_done(nib_checkpoint_writer *w, const char *path,
                            const nib_safetensors_plan *plan) {
    nib_path_kind kind;
    bool same;
    NIB_TRY(nib_path_look(path, false, &kind));
    if (kind != NIB_PATH_FILE) return NIB_OK;
    nib_safetensors *file = nib_safetensors_open(w->mem, path);
    if (!file) return nib_last_error()->status == NIB_E_FORMAT ? NIB_OK : nib_last_error()->status;
    w->done = file;
    NIB_TRY(same_header(w->mem, file, plan, &same));
    if (!same) {
        drop_done(w);
        return NIB_OK;
    }
    w->kept_count = plan->count;
    w->kept = nib_mem_alloc_array(w->mem, plan->count, sizeof *w->kept);
    w->place = w->kept ? nib_mem_alloc_array(w->mem, plan->count, sizeof *w->place) : NULL;
    if (!w->place) return NIB_E_MEMORY;
    for (size_t i = 0; i < plan->count; i++) {
        const nib_safetensors_entry *entry = nib_safetensors_find(file, plan->tensors[i].name);
        w->place[i] = (size_t)(entry - file->entries);
        w->payload += entry->size;
    }
    return NIB_OK;
}

static nib_status begin(nib_checkpoint_writer *w, const char *name,
                        const nib_safetensors_plan *plan, nib_shard_state *state) {
    if (w->shard || w->single || w->done)
        return NIB_RAISE(NIB_E_ARGUMENT, "the shard before is not ended");
    if (w->to.is_file && w->shard_count) {
        NIB_RAISE(NIB_E_ARGUMENT, "one file holds no shards; give a folder as output");
        return nib_error_at(w->to.path, NULL, -1);
    }
    if (!nib_path_is_plain(name) || !nib_text_ends(name, ".safetensors"))
        return NIB_RAISE(NIB_E_ARGUMENT, "\"%.100s\" is no name of a shard", name);
    for (size_t i = 0; i < w->shard_count; i++)
        if (strcmp(w->shards[i], name) == 0)
            return NIB_RAISE(NIB_E_ARGUMENT, "the shard \"%.100s\" was written already", name);
    NIB_TRY(enlist(w, name, plan));
    size_t size, payload;
    if (w->to.is_file) {
        w->single = nib_tensor_writer_open(w->mem, w->to.path, plan);
        if (!w->single) return nib_last_error()->status;
        nib_tensor_writer_size(w->single, &size, &payload);
    } else {
        bool continued = false;
        char *path = nib_path_join(w->mem, w->to.partial, name);
        nib_status status = path ? NIB_OK : NIB_E_MEMORY;
        if (status == NIB_OK && w->to.resume) status = take_done(w, path, plan);
        if (status == NIB_OK && !w->done)
            w->shard = nib_safetensors_writer_reopen(w->mem, path, plan, &continued);
        nib_mem_strfree(w->mem, path);
        NIB_TRY(status);
        *state = w->done ? NIB_SHARD_DONE : continued ? NIB_SHARD_BEGUN : NIB_SHARD_NEW;
        if (w->done) return NIB_OK;
        if (!w->shard) return nib_last_error()->status;
        nib_safetensors_writer_size(w->shard, &size, &payload);
    }
    w->payload += payload;
    return NIB_OK;
}

/* A step that failed leaves a hole that finishing must not publish. */
static nib_status step(nib_checkpoint_writer *w, nib_status status) {
    w->failed |= status < NIB_OK;
    return status;
}

nib_status nib_checkpoint_writer_begin(nib_checkpoint_writer *w, const char *name,
                                       const nib_safetensors_plan *plan, nib_shard_state *state) {
    *state = NIB_SHARD_NEW;
    return step(w, begin(w, name, plan, state));
}

static nib_status nothing_begun(void) { return NIB_RAISE(NIB_E_ARGUMENT, "no shard was begun"); }

nib_status nib_checkpoint_writer_put(nib_checkpoint_writer *w, size_t index, const void *from,
                                     size_t size, size_t offset) {
    if (w->done) return NIB_RAISE(NIB_E_ARGUMENT, "this shard was finished by earlier work");
    if (w->single) return nib_tensor_writer_put(w->single, index, from, size, offset);
    return w->shard ? nib_safetensors_writer_put(w->shard, index, from, size, offset)
                    : nothing_begun();
}

nib_status nib_checkpoint_writer_get(const nib_checkpoint_writer *w, size_t index, void *to,
                                     size_t size, size_t offset) {
    if (w->done && index < w->kept_count)
        return nib_safetensors_read(w->done, &w->done->entries[w->place[index]], to, size, offset);
    return w->shard ? nib_safetensors_writer_get(w->shard, index, to, size, offset)
                    : nothing_begun();
}

nib_status nib_checkpoint_writer_keep(nib_checkpoint_writer *w, size_t index) {
    if (w->done && index < w->kept_count) {
        w->kept[index] = true;
        return NIB_OK;
    }
    return w->shard ? nib_safetensors_writer_keep(w->shard, index) : nothing_begun();
}

static nib_status end(nib_checkpoint_writer *w) {
    if (w->done) {
        for (size_t i = 0; i < w->kept_count; i++)
            if (!w->kept[i]) {
                NIB_RAISE(NIB_E_ARGUMENT, "was finished by earlier work but not kept");
                return nib_error_at(w->done->file.path, w->done->entries[w->place[i]].name, -1);
            }
        drop_done(w);
        return NIB_OK;
    }
    if (w->single) return NIB_OK; /* it takes its name when all is finished */
    if (!w->shard) return nothing_begun();
    nib_safetensors_writer *shard = w->shard;
    w->shard = NULL;
    return nib_safetensors_writer_finish(shard);
}

nib_status nib_checkpoint_writer_end(nib_checkpoint_writer *w) { return step(w, end(w)); }

/* ---- other files ---- */
static nib_status put_file(nib_checkpoint_writer *w, const char *name, const void *bytes,
                           size_t size) {
    if (!nib_path_is_plain(name) || name[0] == '.')
        return NIB_RAISE(NIB_E_ARGUMENT, "\"%.100s\" is no plain name of a file", name);
    if (w->to.is_file) {
        NIB_RAISE(NIB_E_ARGUMENT, "one file holds nothing else; give a folder as output");
        return nib_error_at(w->to.path, NULL, -1);
    }
    if (!note_file(w, name)) return NIB_E_MEMORY;
    char *path = nib_path_join(w->mem, w->to.partial, name);
    const nib_status status = path ? nib_file_write_whole(w->mem, path, bytes, size) : NIB_E_MEMORY;
    nib_mem_strfree(w->mem, path);
    return status;
}

nib_status nib_checkpoint_writer_file(nib_checkpoint_writer *w, const char *name, const void *bytes,
                                      size_t size) {
    return step(w, put_file(w, name, bytes, size));
}

static nib_status carry_one(nib_checkpoint_writer *w, const nib_checkpoint *from,
                            const char *name) {
    if (find_file(w, name)) return NIB_OK; /* written here, so it says something new */
    if (!note_file(w, name)) return NIB_E_MEMORY;
    char *source = nib_checkpoint_path(from, name);
    char *target = nib_path_join(w->mem, w->to.partial, name);
    const nib_status status =
        source && target ? nib_file_copy(w->mem, source, target) : NIB_E_MEMORY;
    nib_mem_strfree(from->mem, source);
    nib_mem_strfree(w->mem, target);
    return status;
}

nib_status nib_checkpoint_writer_carry(nib_checkpoint_writer *w, const nib_checkpoint *from) {
    nib_status status = NIB_OK;
    for (size_t i = 0; !w->to.is_file && status == NIB_OK && i < from->carried_count; i++)
        status = step(w, carry_one(w, from, from->carried[i]));
    return status;
}

/* ---- the end ---- */
static nib_status write_index(nib_checkpoint_writer *w) {
    char *single = nib_path_with_suffix(w->mem, w->stem, ".safetensors");
    char *name = nib_path_with_suffix(w->mem, w->stem, ".safetensors.index.json");
    const char **tensors = nib_mem_alloc_array(w->mem, w->count, sizeof *tensors);
    const char **files = nib_mem_alloc_array(w->mem, w->count, sizeof *files);
    char *text = NULL;
    nib_status status = single && name && tensors && files ? NIB_OK : NIB_E_MEMORY;
    if (status == NIB_OK && !(w->shard_count == 1 && strcmp(w->shards[0], single) == 0)) {
        for (size_t i = 0; i < w->count; i++) {
            tensors[i] = w->tensors[i].tensor;
            files[i] = w->shards[w->tensors[i].shard];
        }
        text = nib_shard_index_text(w->mem, tensors, files, w->count, w->payload);
        status = text ? nib_checkpoint_writer_file(w, name, text, strlen(text)) : NIB_E_MEMORY;
    }
    nib_mem_strfree(w->mem, text);
    nib_mem_free(w->mem, tensors, w->count * sizeof *tensors);
    nib_mem_free(w->mem, files, w->count * sizeof *files);
    nib_mem_strfree(w->mem, single);
    nib_mem_strfree(w->mem, name);
    return status;
}

/* The note, and what interrupted work of another plan left. */
static nib_status remove_others(nib_checkpoint_writer *w) {
    nib_dir_list list;
    NIB_TRY(nib_dir_read(w->mem, w->to.partial, &list));
    nib_status status = NIB_OK;
    for (size_t i = 0; status == NIB_OK && i < list.count; i++) {
        if (find_file(w, list.entries[i].name)) continue;
        char *path = nib_path_join(w->mem, w->to.partial, list.entries[i].name);
        status = path ? nib_path_unlink(path) : NIB_E_MEMORY;
        nib_mem_strfree(w->mem, path);
    }
    nib_dir_list_free(&list);
    return status;
}

nib_status nib_checkpoint_writer_finish(nib_checkpoint_writer *w) {
    bool taken = false;
    nib_status status = NIB_OK;
    if (w->failed) {
        status = NIB_RAISE(NIB_E_ARGUMENT, "an earlier step failed, so there is nothing to finish");
    } else if (w->to.is_file) {
        status = w->single ? nib_tensor_writer_finish(w->single) : nothing_begun();
        w->single = NULL;
    } else {
        if (w->shard || w->done)
            status = NIB_RAISE(NIB_E_ARGUMENT, "the last shard is not ended");
        else if (!w->shard_count)
            status = nothing_begun();
        if (status == NIB_OK) status = write_index(w);
        if (status == NIB_OK) status = remove_others(w);
        if (status == NIB_OK) status = nib_dir_sync(w->to.partial);
        if (status == NIB_OK) status = nib_output_place_take_name(&w->to, &taken);
    }
    if (status < NIB_OK) nib_error_at(w->to.path, NULL, -1);
    if (taken)
        writer_free(w);
    else
        nib_checkpoint_writer_abort(w);
    return status;
}

void nib_checkpoint_writer_abort(nib_checkpoint_writer *w) {
    if (!w) return;
    const nib_error why = *nib_last_error(); /* clearing away may fail; what led here counts */
    nib_safetensors_writer_abort(w->shard);
    nib_tensor_writer_abort(w->single);
    if (!w->to.is_file) nib_dir_remove(w->mem, w->to.partial);
    nib_error_restore(&why);
    writer_free(w);
}

void nib_checkpoint_writer_leave(nib_checkpoint_writer *w) {
    if (!w) return;
    nib_tensor_writer_abort(w->single);
    nib_safetensors_writer_leave(w->shard);
    writer_free(w);
}
