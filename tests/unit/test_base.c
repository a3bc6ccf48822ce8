/* The base room: memory, buffers, files, random numbers, threads, options, data types, messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define ASSERT_OK(expr) assert_int_equal(expr, NB_OK)

static int setup(void **state) {
    *state = nb_ctx_new();
    return *state ? 0 : -1;
}

static int teardown(void **state) {
    nbi_alloc_fail_after(0);
    nb_ctx_free(*state);
    return 0;
}

static void assert_message(const nb_ctx *ctx, const char *part) {
    if (!strstr(nb_ctx_message(ctx), part))
        fail_msg("the message '%s' lacks '%s'", nb_ctx_message(ctx), part);
}

/* ---- context ------------------------------------------------------------------------------- */

static void test_messages(void **state) {
    nb_ctx *ctx = *state;
    assert_string_equal(nb_ctx_message(ctx), "");
    assert_int_equal(nb_fail(ctx, NB_EFORMAT, "node '%s'", "conv1"), NB_EFORMAT);
    assert_string_equal(nb_ctx_message(ctx), "node 'conv1'");
    assert_int_equal(nb_fail_prefix(ctx, NB_EFORMAT, "model '%s'", "a.onnx"), NB_EFORMAT);
    assert_string_equal(nb_ctx_message(ctx), "model 'a.onnx': node 'conv1'");
    assert_int_equal(nb_fail(NULL, NB_EIO, "nobody listens"), NB_EIO);
    for (int s = 0; s <= NB_ENUMERIC; s++) assert_true(*nb_status_text((nb_status)s));
    assert_string_equal(nb_status_text((nb_status)999), "unknown status");
    assert_string_equal(nb_status_text(NB_ENUMERIC), "not a finite number");
}

static void test_settings(void **state) {
    nb_ctx *ctx = *state;
    assert_true(nb_ctx_threads(ctx) >= 1);
    nb_ctx_set_threads(ctx, 3);
    assert_int_equal(nb_ctx_threads(ctx), 3);
    nb_ctx_set_threads(ctx, 100000);
    assert_int_equal(nb_ctx_threads(ctx), 256);
    nb_ctx_set_seed(ctx, 7);
    assert_int_equal(nb_ctx_seed(ctx), 7);
    assert_false(nb_cancelled(ctx));
    ASSERT_OK(nb_progress(ctx, "x", 0, 1));
    nbi_cancel_hold(ctx, true);
    nb_ctx_cancel(ctx);
    assert_false(nb_cancelled(ctx));
    assert_int_equal(nb_progress(ctx, "held", 1, 2), NB_OK);
    nbi_cancel_hold(ctx, false);
    assert_true(nb_cancelled(ctx));
    assert_int_equal(nb_progress(ctx, "x", 0, 1), NB_ECANCELLED);
}

/* ---- memory -------------------------------------------------------------------------------- */

static void test_alloc(void **state) {
    nb_ctx *ctx = *state;
    unsigned char *p = NULL;
    ASSERT_OK(nbi_alloc(ctx, 100, 3, &p));
    assert_int_equal((uintptr_t)p % 64, 0);
    for (int i = 0; i < 300; i++) assert_int_equal(p[i], 0);
    p[9] = 5;
    ASSERT_OK(nbi_grow(ctx, &p, 10, 5000, 1));
    assert_int_equal(p[9], 5);
    assert_int_equal(p[10], 0);
    assert_int_equal(p[4999], 0);
    nbi_free(p);
    p = (unsigned char *)1;
    ASSERT_OK(nbi_alloc(ctx, 0, 8, &p));
    assert_null(p);
    p = (unsigned char *)1;
    assert_int_equal(nbi_alloc(ctx, SIZE_MAX / 2, 3, &p), NB_ENOMEM);
    assert_int_equal(nbi_alloc(ctx, SIZE_MAX - 8, 1, &p), NB_ENOMEM);
    assert_ptr_equal(p, (unsigned char *)1);
    size_t product = 0;
    assert_true(nbi_mul_size(SIZE_MAX, 1, &product));
    assert_true(product == SIZE_MAX);
    assert_true(nbi_mul_size(SIZE_MAX, 0, &product));
    assert_false(nbi_mul_size(SIZE_MAX / 2 + 1, 2, &product));
}

static void test_arena(void **state) {
    (void)state;
    nbi_arena arena = {0};
    size_t total = 0;
    unsigned char *blocks[200];
    for (size_t i = 0; i < 200; i++) { /* small, odd and larger than a block */
        size_t size = i % 50 == 49 ? 100000 : 1 + i * 7;
        blocks[i] = nbi_arena_alloc(&arena, size, 1);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % (size >= 64 ? 64 : 16), 0);
        for (size_t k = 0; k < size; k++) assert_int_equal(blocks[i][k], 0);
        memset(blocks[i], (int)i + 1, size);
        total += size;
    }
    for (size_t i = 0; i < 200; i++) { /* nothing overlaps */
        size_t size = i % 50 == 49 ? 100000 : 1 + i * 7;
        assert_int_equal(blocks[i][0], (unsigned char)(i + 1));
        assert_int_equal(blocks[i][size - 1], (unsigned char)(i + 1));
    }
    assert_int_equal(arena.total, total);
    assert_string_equal(nbi_arena_text(&arena, "abcdef", 3), "abc");
    assert_string_equal(nbi_arena_format(&arena, "%s_%d", "conv", 12), "conv_12");
    assert_null(nbi_arena_alloc(&arena, SIZE_MAX / 2, 4));
    assert_null(nbi_arena_alloc(&arena, SIZE_MAX, 1));
    nbi_arena_free(&arena);
    assert_null(arena.head);
    nbi_arena_free(&arena); /* twice, and of an empty one */
}

static void test_buf(void **state) {
    nb_ctx *ctx = *state;
    nbi_buf buf = {0};
    ASSERT_OK(nbi_buf_append(ctx, &buf, "", 0));
    assert_string_equal(buf.data, "");
    for (int i = 0; i < 1000; i++) ASSERT_OK(nbi_buf_printf(ctx, &buf, "%d,", i));
    ASSERT_OK(nbi_buf_append(ctx, &buf, "end\0tail", 8));
    assert_memory_equal(buf.data, "0,1,2,", 6);
    assert_int_equal(buf.size, 3890 + 8); /* 10·2 + 90·3 + 900·4 bytes of numbers */
    assert_memory_equal(buf.data + buf.size - 8, "end\0tail", 9); /* and the NUL */
    assert_int_equal(nbi_buf_append(ctx, &buf, "x", SIZE_MAX - 5), NB_ENOMEM);
    assert_int_equal(buf.size, 3898);
    nbi_buf_free(&buf);
    assert_null(buf.data);
}

/* Every allocation of the steps below fails once; each failure is reported and leaks nothing (the
 * sanitizer preset sees to the latter). */
static nb_status allocate_much(nb_ctx *ctx, const char *path) {
    nbi_buf buf = {0};
    void *data = NULL, *file = NULL;
    size_t size = 0;
    nb_status st;
    NB_TRYG(nbi_alloc(ctx, 10, 10, &data));
    NB_TRYG(nbi_grow(ctx, &data, 10, 200, 10));
    for (int i = 0; i < 300; i++) NB_TRYG(nbi_buf_printf(ctx, &buf, "%d ", i));
    NB_TRYG(nbi_make_folder(ctx, "/"));
    NB_TRYG(nbi_file_write(ctx, path, buf.data, buf.size));
    NB_TRYG(nbi_file_read(ctx, path, 1 << 20, &file, &size));
    if (size != buf.size) st = NB_EMISMATCH;
done:
    nbi_free(file);
    nbi_free(data);
    nbi_buf_free(&buf);
    return st;
}

static char folder[] = "/tmp/nibble-test-XXXXXX";

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void test_allocation_failures(void **state) {
    nb_ctx *ctx = *state;
    long k = 1;
    for (;; k++) {
        nbi_alloc_fail_after(k);
        nb_status st = allocate_much(ctx, in_folder("walk"));
        nbi_alloc_fail_after(0);
        if (st == NB_OK) break;
        assert_int_equal(st, NB_ENOMEM);
        assert_message(ctx, "no memory");
    }
    assert_true(k > 6); /* the walk met every call above */
    nbi_arena arena = {0};
    nbi_alloc_fail_after(1);
    assert_null(nbi_arena_alloc(&arena, 1, 1));
    assert_non_null(nbi_arena_alloc(&arena, 1, 1));
    nbi_arena_free(&arena);
    unlink(in_folder("walk"));
}

/* ---- files --------------------------------------------------------------------------------- */

static void assert_content(nb_ctx *ctx, const char *path, const char *want) {
    void *data = NULL;
    size_t size = 0;
    ASSERT_OK(nbi_file_read(ctx, path, 1000, &data, &size));
    assert_int_equal(size, strlen(want));
    assert_memory_equal(data, want, size);
    assert_int_equal(((char *)data)[size], 0);
    nbi_free(data);
}

static int entries_in_folder(void) {
    char command[300];
    int n = -1;
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", folder);
    FILE *pipe = popen(command, "r");
    if (pipe && fscanf(pipe, "%d", &n) != 1) n = -1;
    if (pipe) pclose(pipe);
    return n;
}

static void test_files(void **state) {
    nb_ctx *ctx = *state;
    void *data = NULL;
    size_t size = 0;
    const char *path = in_folder("a");
    ASSERT_OK(nbi_file_write(ctx, path, "one", 3));
    assert_content(ctx, path, "one");
    ASSERT_OK(nbi_file_write(ctx, path, "", 0));
    assert_content(ctx, path, "");
    assert_int_equal(entries_in_folder(), 1); /* no temporary file stays behind */
    ASSERT_OK(nbi_file_write(ctx, path, "0123456789", 10));
    assert_int_equal(nbi_file_read(ctx, path, 9, &data, &size), NB_EFORMAT);
    assert_message(ctx, "10 bytes");
    assert_int_equal(nbi_file_read(ctx, in_folder("none"), 9, &data, &size), NB_EIO);
    assert_message(ctx, "none");
    assert_int_equal(nbi_file_read(ctx, folder, 9, &data, &size), NB_EIO);
    assert_message(ctx, "not a regular file");
    assert_null(data);
    unlink(in_folder("a"));
    ASSERT_OK(nbi_make_folder(ctx, in_folder("x/y//z")));
    ASSERT_OK(nbi_make_folder(ctx, in_folder("x/y/z/")));
    assert_true(nbi_is_folder(in_folder("x/y/z")));
    assert_false(nbi_file_exists(in_folder("x/q")));
    ASSERT_OK(nbi_file_write(ctx, in_folder("x/f"), "1", 1));
    assert_true(nbi_file_exists(in_folder("x/f")));
    assert_false(nbi_is_folder(in_folder("x/f")));
    assert_int_equal(nbi_make_folder(ctx, in_folder("x/f")), NB_EIO);
    assert_int_equal(nbi_make_folder(ctx, in_folder("x/f/g")), NB_EIO);
    unlink(in_folder("x/f"));
    rmdir(in_folder("x/y/z"));
    rmdir(in_folder("x/y"));
    rmdir(in_folder("x"));
}

/* A failed write leaves the old content and no temporary file. */
static void test_failed_writes(void **state) {
    nb_ctx *ctx = *state;
    char big[5000];
    memset(big, 'x', sizeof big);
    ASSERT_OK(nbi_file_write(ctx, in_folder("keep"), "old", 3));

    /* a full disk, played by a limit on the file size */
    struct rlimit old_limit, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
    small = old_limit;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    nb_status st = nbi_file_write(ctx, in_folder("keep"), big, sizeof big);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(st, NB_EIO);
    assert_message(ctx, "byte 4096 of 5000");
    assert_content(ctx, in_folder("keep"), "old");
    assert_int_equal(entries_in_folder(), 1);

    /* a read-only folder; root may write anywhere, so it steps down for a moment */
    uid_t user = geteuid();
    assert_int_equal(chmod(folder, 0555), 0);
    if (user == 0) assert_int_equal(seteuid(65534), 0);
    st = nbi_file_write(ctx, in_folder("keep"), "new", 3);
    if (user == 0) assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(folder, 0755), 0);
    assert_int_equal(st, NB_EIO);
    assert_message(ctx, "keep");
    assert_content(ctx, in_folder("keep"), "old");

    /* devices and folders are never replaced */
    struct stat info;
    assert_int_equal(nbi_file_write(ctx, "/dev/full", "x", 1), NB_EIO);
    assert_message(ctx, "/dev/full");
    assert_int_equal(stat("/dev/full", &info), 0);
    assert_true(S_ISCHR(info.st_mode));
    assert_int_equal(nbi_file_write(ctx, folder, "x", 1), NB_EIO);
    assert_int_equal(nbi_file_write(ctx, in_folder("no/such/folder"), "x", 1), NB_EIO);
    unlink(in_folder("keep"));
    assert_int_equal(entries_in_folder(), 0);
}

/* ---- random numbers ------------------------------------------------------------------------ */

/* Golden: the demonstration of O'Neill's pcg32 (seed 42, stream 54), and the FNV-1a test vectors of
 * Fowler, Noll and Vo. */
static void test_rng(void **state) {
    (void)state;
    static const uint32_t want[] = {0xa15c02b7, 0x7b47f409, 0xba1d3330,
                                    0x83d2f293, 0xbfa4784b, 0xcbed606e};
    nbi_rng rng, other;
    nbi_rng_seed(&rng, 42, 54);
    for (size_t i = 0; i < NBI_COUNT(want); i++) assert_true(nbi_rng_u32(&rng) == want[i]);
    assert_true(nbi_hash(NBI_HASH_START, "", 0) == 0xcbf29ce484222325ull);
    assert_true(nbi_hash(NBI_HASH_START, "a", 1) == 0xaf63dc4c8601ec8cull);
    assert_true(nbi_hash(NBI_HASH_START, "foobar", 6) == 0x85944171f73967e8ull);

    nbi_rng_seed(&rng, 1, 2);
    nbi_rng_seed(&other, 1, 3);
    int same = 0;
    for (int i = 0; i < 100; i++) same += nbi_rng_u32(&rng) == nbi_rng_u32(&other);
    assert_true(same < 2);

    int count[7] = {0};
    for (int i = 0; i < 70000; i++) count[nbi_rng_below(&rng, 7)]++;
    for (int i = 0; i < 7; i++) /* five standard deviations of a binomial: 5·√(10000·6/7) = 463 */
        assert_in_range(count[i], 10000 - 463, 10000 + 463);
    assert_int_equal(nbi_rng_below(&rng, 1), 0);

    double sum = 0, squares = 0, mean = 0;
    enum { N = 100000 };
    for (int i = 0; i < N; i++) {
        float u = nbi_rng_uniform(&rng);
        assert_true(u >= 0 && u < 1);
        mean += (double)u / N;
        double z = nbi_rng_normal(&rng);
        assert_true(isfinite(z));
        sum += z / N;
        squares += z * z / N;
    }
    /* five standard errors: 5·√(1/12/N) = 0.0046, 5/√N = 0.016, 5·√(2/N) = 0.022 */
    assert_true(fabs(mean - 0.5) < 0.0046);
    assert_true(fabs(sum) < 0.016 && fabs(squares - 1) < 0.022);

    uint32_t items[50];
    int seen[50] = {0};
    for (uint32_t i = 0; i < 50; i++) items[i] = i;
    nbi_rng_shuffle(&rng, items, 50);
    int fixed = 0;
    for (uint32_t i = 0; i < 50; i++) {
        seen[items[i]]++;
        fixed += items[i] == i;
    }
    for (int i = 0; i < 50; i++) assert_int_equal(seen[i], 1);
    assert_true(fixed < 15);
}

/* ---- threads ------------------------------------------------------------------------------- */

typedef struct work {
    nb_ctx *ctx;
    double part[64];
    unsigned char visits[1000];
    int workers;
    size_t fail_at;
    bool nested;
} work;

static nb_status count_visit(void *user, size_t begin, size_t end, int worker) {
    if (worker != 0) return NB_EMISMATCH; /* nested: on the calling thread */
    for (size_t i = begin; i < end; i++) ((unsigned char *)user)[i]++;
    return NB_OK;
}

static nb_status sum_chunk(void *user, size_t begin, size_t end, int worker) {
    work *w = user;
    if (worker < 0 || worker >= w->workers) return NB_EINVAL;
    if (begin <= w->fail_at && w->fail_at < end) return NB_ENUMERIC;
    if (w->nested) {
        unsigned char inner[10] = {0};
        NB_TRY(nbi_parallel(w->ctx, 10, 3, count_visit, inner));
        for (int i = 0; i < 10; i++)
            if (inner[i] != 1) return NB_EMISMATCH;
    }
    float sum = 0;
    for (size_t i = begin; i < end; i++) {
        sum += 1.0f / (float)(i + 1);
        w->visits[i]++;
    }
    w->part[begin / 17] = (double)sum;
    return NB_OK;
}

static void test_parallel(void **state) {
    nb_ctx *ctx = *state;
    static const int threads[] = {1, 2, 4};
    double first = 0;
    for (size_t t = 0; t < NBI_COUNT(threads); t++) {
        work w = {.ctx = ctx, .workers = threads[t], .fail_at = SIZE_MAX, .nested = t == 2};
        nb_ctx_set_threads(ctx, threads[t]);
        ASSERT_OK(nbi_parallel(ctx, 1000, 17, sum_chunk, &w));
        for (int i = 0; i < 1000; i++) assert_int_equal(w.visits[i], 1);
        double total = 0;
        for (size_t i = 0; i < (1000 + 16) / 17; i++) total += w.part[i];
        if (t == 0) first = total;
        assert_memory_equal(&total, &first, sizeof total); /* the same bits */
        w.fail_at = 500;
        assert_int_equal(nbi_parallel(ctx, 1000, 17, sum_chunk, &w), NB_ENUMERIC);
        ASSERT_OK(nbi_parallel(ctx, 0, 17, sum_chunk, &w)); /* nothing to do: never called */
    }
    unsigned char one[5] = {0};
    ASSERT_OK(nbi_parallel(NULL, 5, 0, count_visit, one)); /* chunk 0 = 1; no context: 1 thread */
    for (int i = 0; i < 5; i++) assert_int_equal(one[i], 1);
}

/* ---- messages of several threads ----------------------------------------------------------- */

static nb_status fail_and_log(void *user, size_t begin, size_t end, int worker) {
    nb_ctx *ctx = user;
    char word[64];
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        memset(word, 'a' + (int)(i % 26), sizeof word - 1);
        word[sizeof word - 1] = 0;
        nb_fail(ctx, NB_EIO, "%s", word);
        nb_log(ctx, NB_LOG_INFO, "%s", word);
        nb_progress(ctx, "words", (double)i, 0);
    }
    return NB_OK;
}

typedef struct heard {
    int lines, inside;
    bool mixed;
} heard;

static bool one_letter(const char *text) {
    return strlen(text) == 63 && strspn(text, (char[]){text[0], 0}) == 63;
}

static void hear(void *user, nb_log_level level, const char *text) {
    heard *h = user;
    (void)level;
    h->mixed |= ++h->inside != 1 || !one_letter(text);
    h->lines++;
    h->inside--;
}

/* Messages stay whole and callbacks come one at a time. */
static void test_many_threads(void **state) {
    nb_ctx *ctx = *state;
    heard h = {0};
    nb_ctx_set_threads(ctx, 4);
    nb_ctx_set_log(ctx, hear, &h);
    ASSERT_OK(nbi_parallel(ctx, 4000, 10, fail_and_log, ctx));
    assert_int_equal(h.lines, 4000);
    assert_false(h.mixed);
    assert_true(one_letter(nb_ctx_message(ctx)));
}

/* ---- options and data types ---------------------------------------------------------------- */

static void test_options(void **state) {
    nb_ctx *ctx = *state;
    static const nbi_option table[] = {
        {"population", NBI_OPT_INT, 25, 2, 1000, NULL, "policies per generation"},
        {"rate", NBI_OPT_REAL, 0.5, 0, 1, NULL, "mutation"},
        {"elite", NBI_OPT_BOOL, 1, 0, 1, NULL, "keep the best"},
        {"mode", NBI_OPT_CHOICE, 0, 0, 2, "min|mean|max", "what to compare"},
    };
    double v[4];
    ASSERT_OK(nbi_options_parse(ctx, "genetic", table, 4, NULL, v));
    assert_true(v[0] == 25 && v[1] == 0.5 && v[2] == 1 && v[3] == 0);
    ASSERT_OK(nbi_options_parse(ctx, "genetic", table, 4, "", v));
    ASSERT_OK(nbi_options_parse(ctx, "genetic", table, 4,
                                "mode=max,population=2,elite=no,rate=1e-3", v));
    assert_true(v[0] == 2 && v[1] == 1e-3 && v[2] == 0 && v[3] == 2);
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"size=3", "no option 'size'"},
        {"rate", "'rate' is not key=value"},
        {"rate=", "not a number"},
        {"rate=0.5x", "not a number"},
        {"rate=nan", "not a number"},
        {"rate=inf", "not a number"},
        {"rate=1.5", "outside 0..1"},
        {"population=1", "outside 2..1000"},
        {"population=2.5", "not a whole number"},
        {"elite=perhaps", "not a number"},
        {"elite=2", "outside 0..1"},
        {"mode=median", "not one of min|mean|max"},
        {"mode=mi", "not one of"},
        {"mode=", "not one of"},
        {"rate=0.5,,elite=1", "not key=value"},
    };
    for (size_t i = 0; i < NBI_COUNT(bad); i++) {
        assert_int_equal(nbi_options_parse(ctx, "genetic", table, 4, bad[i].text, v), NB_EINVAL);
        assert_message(ctx, bad[i].message);
        assert_message(ctx, "genetic");
    }
    char overlong[400];
    memset(overlong, 'a', sizeof overlong - 1);
    overlong[sizeof overlong - 1] = 0;
    assert_int_equal(nbi_options_parse(ctx, "genetic", table, 4, overlong, v), NB_EINVAL);
}

static void test_dtypes(void **state) {
    (void)state;
    assert_int_equal(nbi_dtype_bytes(NB_DTYPE_F32, 3), 12);
    assert_int_equal(nbi_dtype_bytes(NB_DTYPE_S64, 2), 16);
    assert_int_equal(nbi_dtype_bytes(NB_DTYPE_S4, 3), 2);
    assert_int_equal(nbi_dtype_bytes(NB_DTYPE_U2, 5), 2);
    assert_int_equal(nbi_dtype_bytes(NB_DTYPE_U2, 4), 1);
    assert_int_equal(nbi_dtype_bytes(NB_DTYPE_BOOL, 4), 4);
    assert_int_equal(nbi_dtype_bytes(NB_DTYPE_STRING, 4), 0);
    assert_int_equal(nbi_dtype_bits(NB_DTYPE_NONE), 0);
    assert_int_equal(nbi_dtype_bits((nb_dtype)1000), 0);
    assert_string_equal(nbi_dtype_name((nb_dtype)1000), "none");
    for (int a = 0; a <= NB_DTYPE_STRING; a++) /* every type has a name of its own */
        for (int b = 0; b < a; b++)
            assert_string_not_equal(nbi_dtype_name((nb_dtype)a), nbi_dtype_name((nb_dtype)b));
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state) {
    (void)state;
    return rmdir(folder);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_messages),  TEST(test_settings),
        TEST(test_alloc),     TEST(test_arena),
        TEST(test_buf),       TEST(test_allocation_failures),
        TEST(test_files),     TEST(test_failed_writes),
        TEST(test_rng),       TEST(test_parallel),
        TEST(test_options),   TEST(test_dtypes),
        TEST(test_many_threads),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
