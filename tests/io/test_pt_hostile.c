/* Files of torch.save that lie: each is one error that names the file, the entry or tensor, and a
 * byte; nothing is executed, nothing grows beyond the file's own size, nothing is kept. */
#include "io/pt.h"
#include "io/zip.h"
#include "test_files.h"
#include "zip_bytes.h"

/* A pickle in an archive with one storage "0" of 24 bytes: what comes of it. */
static nib_tensor_file *with_pickle(const void *pickle, size_t size) {
    static zip_bytes z;
    static const unsigned char storage[24];
    const zip_part parts[] = {{.name = "x/data.pkl", .bytes = pickle, .size = size},
                              {.name = "x/data/0", .bytes = storage, .size = 24}};
    zip_make(&z, parts, 2);
    return nib_pt_parse(NULL, "bad.pt", z.data, z.size);
}

static void refused_pickle(void **state_, const void *pickle, size_t size, const char *text,
                           nib_status status) {
    nib_tensor_file *file = with_pickle(pickle, size);
    if (file) FAIL_AT("was read: \"%s\" is missing", text);
    const nib_error *why = nib_last_error();
    CHECK_FAILS(why->status, status, text);
    CHECK(strstr(why->what, "data.pkl: "));
    CHECK_TEXT(why->path, "bad.pt");
    if (why->offset < 40 || why->offset > (int64_t)(40 + size))
        FAIL_AT("byte %lld for \"%s\"", (long long)why->offset, text);
    CHECK_INT((long long)nib_mem_used(NULL), 0);
}

#define F  "ctorch._utils\n_rebuild_tensor_v2\n"
#define FS "ctorch\nFloatStorage\n"
#define S                                                                                          \
    "(X\7\0\0\0storage" FS "X\1\0\0\0"                                                             \
    "0X\3\0\0\0cpuK\6tQ"
#define ODR "ccollections\nOrderedDict\n)R"
/* {"a": tensor}: what stands between storage and hooks is given */
#define TENSOR(args) "}X\1\0\0\0a" F "(" S args "\x89" ODR "tRs."

static const struct {
    const char *pickle;
    size_t size;
    const char *text;
    nib_status status;
} pickles[] = {
#define BAD(bytes, text)                                                                           \
    { bytes, sizeof bytes - 1, text, NIB_E_FORMAT }
    BAD("cos\nsystem\n(X\2\0\0\0lstR.", "os.system is forbidden"),
    BAD("\x80\4X\2\0\0\0osX\6\0\0\0system\x93.", "os.system is forbidden"),
    BAD("c__builtin__\neval\n.", "__builtin__.eval is forbidden"),
    BAD("ctorch._utils\n_rebuild_tensor_v2x\n.", "forbidden"),
    BAD("c\xff\n\xfe\n.", "the global ?.? is forbidden"),
    BAD("(X\2\0\0\0lsios\nsystem\n.", "opcode 0x69"),
    BAD("(cos\nsystem\no.", "os.system is forbidden"),
    BAD("(No.", "opcode 0x6f"),
    BAD("\x82\1.", "opcode 0x82"),
    BAD("P1\n.", "opcode 0x50"),
    BAD("\x97.", "opcode 0x97"),
    BAD("}}(\x92.", "opcode 0x92"),
    BAD("\xff.", "opcode 0xff"),
    BAD("\x80\6N.", "protocol over 5"),
    BAD("", "cut short"),
    BAD("}", "cut short"),
    BAD("X\5\0\0\0abc.", "longer than what is left"),
    BAD("X\xff\xff\xff\xff.", "longer than what is left"),
    BAD("\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "longer than what is left"),
    BAD("\x8b\xff\xff\xff\xff.", "longer than what is left"),
    BAD("\x95\xff\xff\xff\xff\xff\xff\xff\xffN.", "frame longer"),
    BAD("J\1\2", "cut short"),
    BAD("cabc", "cut short"),
    BAD("I12x\nI3\n.", "not a number"),
    BAD("I99999999999999999999999999999999999\n.", "more than 31 digits"),
    BAD("h\0.", "nothing was put"),
    BAD("}r\xff\xff\xff\x7f.", "no pickle of this size"),
    BAD("p0\n.", "more from the stack"),
    BAD("}p-1\n.", "negative"),
    BAD(".", "not one value"),
    BAD("}}.", "not one value"),
    BAD("(}.", "not one value"),
    BAD("0.", "more from the stack"),
    BAD("(}s.", "more from the stack"),
    BAD("t.", "looks for a mark"),
    BAD("](Nu.", "not such a container"),
    BAD("}(Nu.", "a key without a value"),
    BAD("(Nd.", "a key without a value"),
    BAD("NNR.", "no global"),
    BAD(F "NR.", "arguments are no tuple"),
    BAD("]}b.", "a state for something that has none"),
    BAD("]q\0h\0a.", "contains itself"),
    BAD("}q\0X\1\0\0\0ah\0s.", "contains itself"),
    BAD("}X\2\0\0\0\xff\xfe"
        "]"
        "s.",
        "not UTF-8"),
    BAD("}X\2\0\0\0a\0]s.", "not UTF-8"),
    BAD("}N]s.", "neither texts nor numbers"),
    BAD("}X\1\0\0\0a" F ")Rs.", "too few arguments"),
    BAD("}X\1\0\0\0a" F "(NK\0K\1\x85K\1\x85tRs.", "storage is not there"),
    BAD("}X\1\0\0\0a" F "(NQK\0K\1\x85K\1\x85tRs.", "tuple of 5"),
    BAD("}X\1\0\0\0a" F "((X\6\0\0\0module" FS "X\1\0\0\0"
        "0X\3\0\0\0cpuK\6tQK\0))tRs.",
        "no storage"),
    BAD("}X\1\0\0\0a" F "((X\7\0\0\0storageNX\1\0\0\0"
        "0X\3\0\0\0cpuK\6tQK\0))tRs.",
        "no known class"),
    BAD("}X\1\0\0\0a" F "((X\7\0\0\0storage" FS "X\1\0\0\0"
        "1X\3\0\0\0cpuK\6tQK\0))tRs.",
        "the archive has no \"data/1\""),
    BAD("}X\1\0\0\0a" F "((X\7\0\0\0storage" FS "X\1\0\0\0"
        "0X\3\0\0\0cpuK\7tQK\0))tRs.",
        "a storage of 28 bytes, but \"data/0\" has 24"),
    BAD("}X\1\0\0\0a" F "((X\7\0\0\0storage" FS "X\1\0\0\0"
        "0X\3\0\0\0cpu\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7ftQK\0))tRs.",
        "overflows"),
    BAD("}X\1\0\0\0a" F "((X\7\0\0\0storage" FS "X\1\0\0\0"
        "0X\3\0\0\0cpuJ\xff\xff\xff\xfftQK\0))tRs.",
        "number of elements"),
    BAD(TENSOR("K\0K\7\x85K\1\x85"), "over the end of its storage"),
    BAD(TENSOR("K\7K\1\x85K\1\x85"), "over the end of its storage"),
    BAD(TENSOR("K\0K\2K\3\x86K\4K\1\x86"), "over the end of its storage"),
    BAD(TENSOR("J\xff\xff\xff\xffK\1\x85K\1\x85"), "no number from 0 on"),
    BAD(TENSOR("K\0J\xff\xff\xff\xff\x85K\1\x85"), "no number from 0 on"),
    BAD(TENSOR("K\0K\1\x85J\xff\xff\xff\xff\x85"), "no number from 0 on"),
    BAD(TENSOR("K\0K\2\x85K\1K\1\x86"), "size and stride differ"),
    BAD(TENSOR("K\0K\1N\x86K\1K\1\x86"), "no number from 0 on"),
    BAD(TENSOR("K\0NN"), "no tuple"),
    BAD(TENSOR("K\0J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87K\0K\0K\0\x87"),
        "overflows"),
    BAD(TENSOR("K\0K\2\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85"), "overflows"),
    BAD(TENSOR("K\0J\xff\xff\xff\x7f\x85K\0\x85"), "repeats its few bytes over 256 MiB"),
    BAD("}X\1\0\0\0actorch._utils\n_rebuild_parameter\n)Rs.", "a parameter of nothing"),
    BAD("}X\1\0\0\0actorch._utils\n_rebuild_parameter\n]\x85Rs.", "no tensor"),
    BAD("}X\1\0\0\0actorch._tensor\n_rebuild_from_type_v2\n)Rs.", "without its arguments"),
    {"}X\1\0\0\0actorch._utils\n_rebuild_qtensor\n)Rs.",
     sizeof "}X\1\0\0\0actorch._utils\n_rebuild_qtensor\n)Rs." - 1, "_rebuild_qtensor",
     NIB_E_UNSUPPORTED},
    {TENSOR("K\0(K\1K\1K\1K\1K\1K\1K\1K\1K\1t)"),
     sizeof TENSOR("K\0(K\1K\1K\1K\1K\1K\1K\1K\1K\1t)") - 1, "8 dimensions", NIB_E_UNSUPPORTED},
};

TEST(every_pickle_that_lies_is_one_error_at_its_byte) {
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++)
        refused_pickle(state_, pickles[i].pickle, pickles[i].size, pickles[i].text,
                       pickles[i].status);
    nib_tensor_file *good = with_pickle(TENSOR("K\0K\2K\3\x86K\3K\1\x86"),
                                        sizeof TENSOR("K\0K\2K\3\x86K\3K\1\x86") - 1);
    CHECK_MADE(good); /* what they are lies of */
    CHECK_INT((long long)good->entries[0].size, 24);
    nib_tensor_file_close(good);
}

TEST(nesting_is_bounded_where_it_is_walked_not_where_it_is_read) {
    static char deep[4096];
    size_t n = 0;
    for (int i = 0; i < 33; i++) deep[n++] = ']';
    for (int i = 0; i < 32; i++) deep[n++] = 'a';
    deep[n++] = '.';
    refused_pickle(state_, deep, n, "nested deeper than 32", NIB_E_FORMAT);
    n = 0; /* a tuple of a tuple of ..., a thousand times: fine as long as nobody walks it */
    deep[n++] = '}';
    deep[n++] = 'N';
    for (int i = 0; i < 1000; i++) deep[n++] = '\x85';
    deep[n++] = 'N';
    memcpy(deep + n, "s.", 2);
    refused_pickle(state_, deep, n, "cut short", NIB_E_FORMAT);
}

TEST(names_and_containers_that_multiply_are_refused) {
    static char laughs[8192];
    size_t n = 0;
    memcpy(laughs,
           "]q\0"
           "0",
           4); /* lists of ten times the list before: 10^30 of them */
    n = 4;
    for (int level = 0; level < 30; level++) {
        laughs[n++] = ']';
        laughs[n++] = '(';
        for (int i = 0; i < 10; i++) {
            laughs[n++] = 'h';
            laughs[n++] = (char)level;
        }
        memcpy(laughs + n, "eq.0", 4);
        laughs[n + 2] = (char)(level + 1);
        n += 4;
    }
    memcpy(laughs + n, "h\36.", 3);
    n += 3;
    nib_tensor_file *file = with_pickle(laughs, n);
    CHECK(!file);
    CHECK_FAILS(nib_last_error()->status, NIB_E_FORMAT, "over and over");
    n = 0; /* OrderedDict(list) copies the list each time */
    static const char start[] = "]q\0(";
    memcpy(laughs + n, start, 4);
    n += 4;
    for (int i = 0; i < 1000; i++, n += 3) memcpy(laughs + n, "NN\x86", 3);
    laughs[n++] = 'e';
    static const char again[] = "ccollections\nOrderedDict\nh\0\x85R0";
    for (int i = 0; i < 100; i++, n += sizeof again - 1)
        memcpy(laughs + n, again, sizeof again - 1);
    laughs[n++] = '.';
    refused_pickle(state_, laughs, n, "over and over", NIB_E_FORMAT);
}

/* Old writers told views of a storage apart: (key of the view, its first element, how many). */
#define VIEW(first, count, offset)                                                                 \
    "}X\1\0\0\0a" F "((X\7\0\0\0storage" FS "X\1\0\0\0"                                            \
    "0X\3\0\0\0cpuK\6X\1\0\0\0vK" first "K" count "\x87tQK" offset "K\2\x85K\1\x85\x89" ODR "tRs."
TEST(a_view_of_a_storage_counts_from_its_first_element) {
    static const char good[] = VIEW("\2", "\3", "\1"), beyond[] = VIEW("\2", "\3", "\2"),
                      outside[] = VIEW("\4", "\3", "\0");
    static const char whole[] = TENSOR("K\0K\2\x85K\1\x85");
    nib_tensor_file *file = with_pickle(whole, sizeof whole - 1);
    CHECK_MADE(file);
    const size_t begin = file->entries[0].offset - (sizeof whole - 1);
    nib_tensor_file_close(file);
    file = with_pickle(good, sizeof good - 1);
    CHECK_MADE(file);
    CHECK_INT((long long)(file->entries[0].offset - (sizeof good - 1)), (long long)begin + 12);
    nib_tensor_file_close(file);
    refused_pickle(state_, beyond, sizeof beyond - 1, "over the end of its storage", NIB_E_FORMAT);
    refused_pickle(state_, outside, sizeof outside - 1, "outside of its storage", NIB_E_FORMAT);
}

TEST(a_counter_is_a_dict) {
    static const char counter[] = "ccollections\nCounter\n}X\1\0\0\0aK\3s\x85R.";
    nib_tensor_file *file = with_pickle(counter, sizeof counter - 1);
    CHECK_MADE(file);
    CHECK_TEXT(nib_tensor_file_metadata(file, "a"), "3");
    nib_tensor_file_close(file);
}

TEST(two_tensors_of_one_name_are_an_error) {
    static const char pickle[] = "}(X\3\0\0\0a.b" F "(" S "K\0)))tR"
                                 "X\1\0\0\0a}X\1\0\0\0b" F "(" S "K\0)))tRsu.";
    CHECK(!with_pickle(pickle, sizeof pickle - 1));
    CHECK_FAILS(nib_last_error()->status, NIB_E_FORMAT, "two tensors have this name");
    CHECK_TEXT(nib_last_error()->tensor, "a.b");
    CHECK(nib_last_error()->offset > 40);
}

/* ---- archives ---- */
static const char empty[] = "}.";
#define PKL                                                                                        \
    { .name = "x/data.pkl", .bytes = empty, .size = 2 }

static void refused_zip(void **state_, const zip_part *parts, size_t count, const char *text,
                        nib_status status) {
    static zip_bytes z;
    zip_make(&z, parts, count);
    nib_tensor_file *file = nib_pt_parse(NULL, "bad.pt", z.data, z.size);
    if (file) FAIL_AT("was read: \"%s\" is missing", text);
    CHECK_FAILS(nib_last_error()->status, status, text);
    CHECK_TEXT(nib_last_error()->path, "bad.pt");
    CHECK(nib_last_error()->offset >= 0 && nib_last_error()->offset <= (int64_t)z.size);
    CHECK_INT((long long)nib_mem_used(NULL), 0);
}

TEST(headers_of_archives_that_lie_are_refused_with_the_entrys_name) {
    static const unsigned char raw[40] = {3, 0}; /* deflate: an empty last block, then rubbish */
    static const struct {
        zip_part parts[2];
        const char *text;
        nib_status status;
    } cases[] = {
        {{PKL, {.name = "a", .local_name = "b"}},
         "\"a\": the local header has another name",
         NIB_E_FORMAT},
        {{PKL, {.name = "a", .local_name = "ab"}}, "another name", NIB_E_FORMAT},
        {{PKL, {.name = "a", .bytes = "12", .size = 2, .local_size = 3}},
         "other sizes",
         NIB_E_FORMAT},
        {{PKL, {.name = "a", .offset = 1 << 20}}, "\"a\": lies outside the file", NIB_E_FORMAT},
        {{PKL, {.name = "a", .offset = 7}}, "no local header here", NIB_E_FORMAT},
        {{PKL, {.name = "a", .bytes = "1", .size = 1, .claimed = 9, .packed_claimed = 9}},
         "\"a\": its bytes reach over the end",
         NIB_E_FORMAT},
        {{PKL, {.name = "a", .bytes = "1", .size = 1, .claimed = 9}},
         "contradict each other",
         NIB_E_FORMAT},
        {{PKL, {.name = "a", .method = 99}}, "compression other than deflate", NIB_E_UNSUPPORTED},
        {{PKL, {.name = "a", .flags = 1}}, "encryption", NIB_E_UNSUPPORTED},
        {{PKL, PKL}, "two entries have this name", NIB_E_FORMAT},
        {{{.name = "data.pkl", .bytes = empty, .size = 2}, {.name = "a"}},
         "no folder with",
         NIB_E_FORMAT},
        {{{.name = "x/data.pkl",
           .bytes = "\1\2\0\xfd\xff}.x",
           .size = 8,
           .claimed = 2,
           .method = 8},
          {.name = "a"}},
         "bytes behind its compressed ones",
         NIB_E_FORMAT},
        {{{.name = "x/data.pkl", .bytes = raw, .size = 2, .claimed = 2, .method = 8},
          {.name = "a"}},
         "\"x/data.pkl\": unpacks to fewer",
         NIB_E_FORMAT},
        {{{.name = "x/data.pkl", .bytes = "\7", .size = 1, .claimed = 2, .method = 8},
          {.name = "a"}},
         "compressed bytes are damaged",
         NIB_E_FORMAT},
        {{{.name = "x/data.pkl", .bytes = raw, .size = 2, .claimed = 1u << 30, .method = 8},
          {.name = "a"}},
         "over the limit of 33554432",
         NIB_E_FORMAT},
        {{{.name = "x/data.pkl", .bytes = empty, .size = 2, .crc = 7}, {.name = "a"}},
         "CRC-32",
         NIB_E_FORMAT},
        {{PKL, {.name = "x/byteorder", .bytes = "big", .size = 3}},
         "big-endian",
         NIB_E_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused_zip(state_, cases[i].parts, 2, cases[i].text, cases[i].status);
}

TEST(entries_that_overlap_are_refused) {
    /* the second tells the place of the first: a way to make much of few bytes */
    static const zip_part parts[] = {{.name = "a", .bytes = "1234567890", .size = 10},
                                     {.name = "a", .bytes = "1234567890", .size = 10},
                                     PKL};
    static zip_bytes z;
    zip_make(&z, parts, 3);
    unsigned char *line = z.data + z.size; /* the directory's second line: its place */
    for (int seen = 0; seen < 2;) seen += memcmp(--line, "PK\1\2", 4) == 0;
    memset(line + 42, 0, 4);
    CHECK(!nib_pt_parse(NULL, "bad.pt", z.data, z.size));
    CHECK_FAILS(nib_last_error()->status, NIB_E_FORMAT, "overlaps the entry before it");
}

TEST(a_compressed_bomb_is_refused_before_memory_is_asked_for) {
    static const unsigned char raw[40];
    static const zip_part part = {
        .name = "big", .bytes = raw, .size = 40, .claimed = (size_t)1 << 31, .method = 8};
    static zip_bytes z;
    zip_make(&z, &part, 1);
    const nib_source source = {.path = "bomb", .bytes = z.data, .size = z.size};
    nib_zip zip;
    CHECK_OK(nib_zip_read(NULL, &source, &zip));
    CHECK(!nib_zip_load(&zip, &source, &zip.entries[0], SIZE_MAX));
    CHECK_FAILS(nib_last_error()->status, NIB_E_FORMAT, "\"big\": 40 bytes that unpack to");
    nib_zip_free(&zip);
    CHECK_INT((long long)nib_mem_used(NULL), 0);
}

TEST(a_file_cut_after_any_byte_is_refused) {
    static const char *const paths[] = {"tests/golden/pt/tuple.pt", "tests/fuzz/corpus/pt/old.pt"};
    for (size_t i = 0; i < 2; i++) {
        size_t whole = 0;
        char *bytes = test_read(paths[i], &whole);
        CHECK(bytes != NULL);
        for (size_t size = 0; size < whole; size++) {
            char *cut = malloc(size ? size : 1);
            memcpy(cut, bytes, size);
            if (nib_pt_parse(NULL, "cut.pt", cut, size)) FAIL_AT("%s of %zu", paths[i], size);
            CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
            CHECK_TEXT(nib_last_error()->path, "cut.pt");
            free(cut);
        }
        nib_tensor_file *file = nib_pt_parse(NULL, "m", bytes, whole);
        CHECK_MADE(file);
        nib_tensor_file_close(file);
        free(bytes);
    }
}

TEST(files_of_such_a_name_that_are_something_else_are_refused) {
    TEST_FOLDER(dir);
    test_write(IN(dir, "a.pt"), "hello", 5);
    CHECK(!nib_tensor_file_open(NULL, IN(dir, "a.pt")));
    CHECK_FAILS(nib_last_error()->status, NIB_E_FORMAT, "not a file of torch.save");
    test_write(IN(dir, "b.bin"), "", 0);
    CHECK(!nib_tensor_file_open(NULL, IN(dir, "b.bin")));
    CHECK_FAILS(nib_last_error()->status, NIB_E_FORMAT, "not a file of torch.save");
    static zip_bytes z;
    const zip_part part = {.name = "word/document.xml", .bytes = "x", .size = 1};
    zip_make(&z, &part, 1);
    test_write(IN(dir, "c.zip"), z.data, z.size);
    CHECK(!nib_tensor_file_open(NULL, IN(dir, "c.zip")));
    CHECK_FAILS(nib_last_error()->status, NIB_E_FORMAT, "none of torch.save");
    test_folder_remove(dir);
}

TESTS(RUNS(every_pickle_that_lies_is_one_error_at_its_byte),
      RUNS(nesting_is_bounded_where_it_is_walked_not_where_it_is_read),
      RUNS(names_and_containers_that_multiply_are_refused),
      RUNS(a_view_of_a_storage_counts_from_its_first_element), RUNS(a_counter_is_a_dict),
      RUNS(two_tensors_of_one_name_are_an_error),
      RUNS(headers_of_archives_that_lie_are_refused_with_the_entrys_name),
      RUNS(entries_that_overlap_are_refused),
      RUNS(a_compressed_bomb_is_refused_before_memory_is_asked_for),
      RUNS(a_file_cut_after_any_byte_is_refused),
      RUNS(files_of_such_a_name_that_are_something_else_are_refused))
