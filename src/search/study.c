/* study.db by SQLite: one transaction per record, in a write-ahead log: no sync per trial, and what
 * was recorded survives kill -9 (SQLite keeps its rollback journal where a log is impossible). Scores and costs are REAL; infinity is stored as NULL, because SQLite's
 * text tools print it in ways that do not read back. */
#include "search/study.h"

#include <math.h>
#include <string.h>
#include <sqlite3.h>

#define SCHEMA_VERSION 1
#define APPLICATION_ID 0x6e62626c /* "nbbl" */

enum { LOOKUP, RECORD, LIST, OTHERS, PUT, GET, N_STATEMENTS };
static const char *const texts[N_STATEMENTS] = {
    [LOOKUP] = "SELECT score FROM trials WHERE run = ?1 AND policy = ?2",
    [RECORD] = ("INSERT OR IGNORE INTO trials(run, ordinal, policy, score, costs, seconds) VALUES("
                "?1, (SELECT coalesce(max(ordinal) + 1, 0) FROM trials WHERE run = ?1), ?2, ?3, "
                "?4, ?5)"),
    [LIST] = "SELECT ordinal, policy, score, costs, seconds FROM trials WHERE run = ?1 ORDER BY 1",
    [OTHERS] = ("SELECT ordinal, policy, score, costs, seconds FROM trials WHERE run <> ?1 AND "
                "length(policy) = ?2 ORDER BY run, ordinal"),
    [PUT] = "INSERT OR REPLACE INTO state(run, key, value) VALUES(?1, ?2, ?3)",
    [GET] = "SELECT value FROM state WHERE run = ?1 AND key = ?2",
};
static const char schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE IF NOT EXISTS runs(id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE);"
    "CREATE TABLE IF NOT EXISTS trials(run INTEGER NOT NULL REFERENCES runs(id),"
    " ordinal INTEGER NOT NULL, policy BLOB NOT NULL, score REAL, costs BLOB NOT NULL,"
    " seconds REAL NOT NULL, PRIMARY KEY(run, ordinal), UNIQUE(run, policy));"
    "CREATE TABLE IF NOT EXISTS state(run INTEGER NOT NULL REFERENCES runs(id),"
    " key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY(run, key));"
    "PRAGMA application_id = 1851941484;"
    "PRAGMA user_version = 1;"
    "COMMIT;";

struct nbi_study {
    sqlite3 *db;
    sqlite3_stmt *statement[N_STATEMENTS];
    int64_t run; /* 0: none begun */
    char *path;
};

static nb_status fail(nb_ctx *ctx, const nbi_study *s, const char *doing) {
    int code = sqlite3_errcode(s->db) & 0xff;
    const char *why = sqlite3_errmsg(s->db);
    if (sqlite3_extended_errcode(s->db) == SQLITE_IOERR_NOMEM) code = SQLITE_NOMEM;
    switch (code) {
    case SQLITE_NOMEM: return nb_fail_memory(ctx, 0);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_MISMATCH:
        return nb_fail(ctx, NB_EFORMAT, "'%s' is damaged or not a study (%s: %s); move it away to "
                       "start afresh", s->path, doing, why);
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
        return nb_fail(ctx, NB_EIO, "'%s' cannot be written (%s: %s)", s->path, doing, why);
    case SQLITE_FULL: return nb_fail(ctx, NB_EIO, "no room to write '%s' (%s)", s->path, doing);
    case SQLITE_BUSY: return nb_fail(ctx, NB_EIO, "'%s' is in use by another process", s->path);
    default: return nb_fail(ctx, NB_EIO, "'%s': %s: %s", s->path, doing, why);
    }
}

static nb_status execute(nb_ctx *ctx, nbi_study *s, const char *sql, const char *doing) {
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? NB_OK : fail(ctx, s, doing);
}

static nb_status read_number(nb_ctx *ctx, nbi_study *s, const char *sql, int64_t *out) {
    sqlite3_stmt *q = NULL;
    nb_status st = NB_OK;
    if (sqlite3_prepare_v2(s->db, sql, -1, &q, NULL) != SQLITE_OK ||
        sqlite3_step(q) != SQLITE_ROW)
        st = fail(ctx, s, "reading");
    else *out = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    return st;
}

/* An empty file becomes a study; another program's database or a newer study is refused. */
static nb_status check_identity(nb_ctx *ctx, nbi_study *s, bool *fresh) {
    int64_t id = 0, version = 0, tables = 0;
    NB_TRY(read_number(ctx, s, "SELECT count(*) FROM sqlite_master", &tables));
    NB_TRY(read_number(ctx, s, "PRAGMA application_id", &id));
    NB_TRY(read_number(ctx, s, "PRAGMA user_version", &version));
    *fresh = tables == 0;
    if (!*fresh && id != APPLICATION_ID)
        return nb_fail(ctx, NB_EFORMAT, "'%s' is a database of another program", s->path);
    if (!*fresh && version != SCHEMA_VERSION)
        return nb_fail(ctx, NB_EFORMAT, "'%s' has study version %lld, this build knows %d", s->path,
                       (long long)version, SCHEMA_VERSION);
    return NB_OK;
}

/* Finds damage now and not in the middle of a search. */
static nb_status check_pages(nb_ctx *ctx, nbi_study *s) {
    sqlite3_stmt *q = NULL;
    nb_status st = NB_OK;
    if (sqlite3_prepare_v2(s->db, "PRAGMA quick_check(1)", -1, &q, NULL) != SQLITE_OK ||
        sqlite3_step(q) != SQLITE_ROW) {
        st = fail(ctx, s, "checking");
    } else {
        const char *text = (const char *)sqlite3_column_text(q, 0);
        if (!text || strcmp(text, "ok") != 0)
            st = nb_fail(ctx, NB_EFORMAT, "'%s' is damaged (%s); move it away to start afresh",
                         s->path, text ? text : "no answer");
    }
    sqlite3_finalize(q);
    return st;
}

nb_status nbi_study_open(nb_ctx *ctx, const char *path, nbi_study **out) {
    nbi_study *s = NULL;
    bool fresh;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *s, &s));
    nb_status st = nbi_alloc(ctx, strlen(path) + 1, 1, &s->path);
    if (st != NB_OK) goto done;
    memcpy(s->path, path, strlen(path));
    if (sqlite3_open_v2(path, &s->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX,
                        NULL) != SQLITE_OK) {
        st = fail(ctx, s, "opening");
        goto done;
    }
    sqlite3_busy_timeout(s->db, 10000);
    NB_TRYG(execute(ctx, s, "PRAGMA foreign_keys = ON; PRAGMA synchronous = NORMAL;", "opening"));
    NB_TRYG(check_identity(ctx, s, &fresh));
    if (!fresh) NB_TRYG(check_pages(ctx, s));
    NB_TRYG(execute(ctx, s, "PRAGMA journal_mode = WAL", "opening"));
    NB_TRYG(execute(ctx, s, schema, "making tables"));
    for (int i = 0; i < N_STATEMENTS; i++)
        if (sqlite3_prepare_v2(s->db, texts[i], -1, &s->statement[i], NULL) != SQLITE_OK) {
            st = fail(ctx, s, "preparing");
            goto done;
        }
    *out = s;
    s = NULL;
done:
    nbi_study_close(s);
    return st;
}

void nbi_study_close(nbi_study *s) {
    if (!s) return;
    for (int i = 0; i < N_STATEMENTS; i++) sqlite3_finalize(s->statement[i]);
    sqlite3_close(s->db);
    nbi_free(s->path);
    nbi_free(s);
}

static nb_status empty_run(nb_ctx *ctx, nbi_study *s) {
    char sql[200];
    sqlite3_snprintf(sizeof sql, sql,
                     "BEGIN IMMEDIATE; DELETE FROM trials WHERE run = %lld;"
                     "DELETE FROM state WHERE run = %lld; COMMIT;",
                     (long long)s->run, (long long)s->run);
    return execute(ctx, s, sql, "emptying a run");
}

nb_status nbi_study_begin(nb_ctx *ctx, nbi_study *s, const char *fingerprint, bool resume,
                          long *known) {
    static const char *const steps[] = {
        "INSERT OR IGNORE INTO runs(fingerprint) VALUES(?1)",
        "SELECT id, (SELECT count(*) FROM trials WHERE run = id) FROM runs WHERE fingerprint = ?1",
    };
    int64_t id = 0, count = 0;
    for (size_t i = 0; i < NBI_COUNT(steps); i++) {
        sqlite3_stmt *q = NULL;
        bool ok = sqlite3_prepare_v2(s->db, steps[i], -1, &q, NULL) == SQLITE_OK &&
                  sqlite3_bind_text(q, 1, fingerprint, -1, SQLITE_STATIC) == SQLITE_OK &&
                  sqlite3_step(q) == (i ? SQLITE_ROW : SQLITE_DONE);
        nb_status st = ok ? NB_OK : fail(ctx, s, "beginning a run");
        if (ok && i) {
            id = sqlite3_column_int64(q, 0);
            count = sqlite3_column_int64(q, 1);
        }
        sqlite3_finalize(q);
        NB_TRY(st);
    }
    s->run = id;
    if (!resume) {
        NB_TRY(empty_run(ctx, s));
        count = 0;
    }
    if (known) *known = (long)count;
    return NB_OK;
}

/* The statement, reset, with the run bound. */
static nb_status ready(nb_ctx *ctx, nbi_study *s, int which, sqlite3_stmt **q) {
    if (!s->run) return nb_fail(ctx, NB_EINVAL, "'%s': no run has begun", s->path);
    *q = s->statement[which];
    sqlite3_reset(*q);
    sqlite3_clear_bindings(*q);
    return sqlite3_bind_int64(*q, 1, s->run) == SQLITE_OK ? NB_OK : fail(ctx, s, "binding");
}

static bool bind_real(sqlite3_stmt *q, int at, double x) {
    return (isfinite(x) ? sqlite3_bind_double(q, at, x) : sqlite3_bind_null(q, at)) == SQLITE_OK;
}

static double read_real(sqlite3_stmt *q, int at) {
    return sqlite3_column_type(q, at) == SQLITE_NULL ? INFINITY : sqlite3_column_double(q, at);
}

nb_status nbi_study_lookup(nb_ctx *ctx, nbi_study *s, const uint8_t *policy, size_t n, bool *found,
                           double *score) {
    sqlite3_stmt *q = NULL;
    NB_TRY(ready(ctx, s, LOOKUP, &q));
    int code = sqlite3_bind_blob64(q, 2, policy, n, SQLITE_STATIC);
    if (code == SQLITE_OK) code = sqlite3_step(q);
    nb_status st = NB_OK;
    if (code != SQLITE_ROW && code != SQLITE_DONE) st = fail(ctx, s, "looking up a trial");
    else *found = code == SQLITE_ROW;
    if (code == SQLITE_ROW) *score = read_real(q, 0);
    sqlite3_reset(q);
    return st;
}

nb_status nbi_study_record(nb_ctx *ctx, nbi_study *s, const nbi_study_trial *trial) {
    sqlite3_stmt *q = NULL;
    if (isnan(trial->score))
        return nb_fail(ctx, NB_ENUMERIC, "'%s': the score of a trial is NaN", s->path);
    NB_TRY(ready(ctx, s, RECORD, &q));
    nb_status st = NB_OK;
    if (sqlite3_bind_blob64(q, 2, trial->policy, trial->n_policy, SQLITE_STATIC) != SQLITE_OK ||
        !bind_real(q, 3, trial->score) ||
        sqlite3_bind_blob(q, 4, trial->cost, sizeof trial->cost, SQLITE_STATIC) != SQLITE_OK ||
        sqlite3_bind_double(q, 5, isfinite(trial->seconds) ? trial->seconds : 0) != SQLITE_OK ||
        sqlite3_step(q) != SQLITE_DONE)
        st = fail(ctx, s, "recording a trial");
    sqlite3_reset(q);
    return st;
}

static nb_status read_trial(nb_ctx *ctx, const nbi_study *s, sqlite3_stmt *q, nbi_study_trial *t) {
    t->ordinal = (long)sqlite3_column_int64(q, 0);
    t->policy = sqlite3_column_blob(q, 1);
    t->n_policy = (size_t)sqlite3_column_bytes(q, 1);
    t->score = read_real(q, 2);
    const void *costs = sqlite3_column_blob(q, 3);
    const int bytes = sqlite3_column_bytes(q, 3);
    /* a study of an earlier version may know fewer costs */
    if (!costs || bytes > (int)sizeof t->cost || bytes % (int)sizeof t->cost[0] != 0)
        return nb_fail(ctx, NB_EFORMAT, "'%s': trial %ld has %d bytes of costs, want %zu", s->path,
                       t->ordinal, bytes, sizeof t->cost);
    memset(t->cost, 0, sizeof t->cost);
    memcpy(t->cost, costs, (size_t)bytes);
    t->seconds = sqlite3_column_double(q, 4);
    return NB_OK;
}

static nb_status each_trial(nb_ctx *ctx, nbi_study *s, sqlite3_stmt *q, nbi_study_fn fn,
                            void *user) {
    nb_status st;
    int code;
    while ((code = sqlite3_step(q)) == SQLITE_ROW) {
        nbi_study_trial t;
        NB_TRYG(read_trial(ctx, s, q, &t));
        NB_TRYG(fn(user, &t));
    }
    st = code == SQLITE_DONE ? NB_OK : fail(ctx, s, "listing trials");
done:
    sqlite3_reset(q);
    return st;
}

nb_status nbi_study_list(nb_ctx *ctx, nbi_study *s, nbi_study_fn fn, void *user) {
    sqlite3_stmt *q = NULL;
    NB_TRY(ready(ctx, s, LIST, &q));
    return each_trial(ctx, s, q, fn, user);
}

nb_status nbi_study_others(nb_ctx *ctx, nbi_study *s, size_t n_policy, nbi_study_fn fn,
                           void *user) {
    sqlite3_stmt *q = NULL;
    NB_TRY(ready(ctx, s, OTHERS, &q));
    if (sqlite3_bind_int64(q, 2, (sqlite3_int64)n_policy) != SQLITE_OK)
        return fail(ctx, s, "binding");
    return each_trial(ctx, s, q, fn, user);
}

nb_status nbi_study_put(nb_ctx *ctx, nbi_study *s, const char *key, const void *data, size_t size) {
    sqlite3_stmt *q = NULL;
    NB_TRY(ready(ctx, s, PUT, &q));
    nb_status st = NB_OK;
    if (sqlite3_bind_text(q, 2, key, -1, SQLITE_STATIC) != SQLITE_OK ||
        (size ? sqlite3_bind_blob64(q, 3, data, size, SQLITE_STATIC)
              : sqlite3_bind_zeroblob(q, 3, 0)) != SQLITE_OK ||
        sqlite3_step(q) != SQLITE_DONE)
        st = fail(ctx, s, "storing state");
    sqlite3_reset(q);
    return st;
}

nb_status nbi_study_get(nb_ctx *ctx, nbi_study *s, const char *key, void **data, size_t *size) {
    sqlite3_stmt *q = NULL;
    NB_TRY(ready(ctx, s, GET, &q));
    int code = sqlite3_bind_text(q, 2, key, -1, SQLITE_STATIC);
    if (code == SQLITE_OK) code = sqlite3_step(q);
    nb_status st = NB_OK;
    if (code == SQLITE_ROW) {
        const void *blob = sqlite3_column_blob(q, 0);
        size_t n = (size_t)sqlite3_column_bytes(q, 0);
        char *copy = NULL;
        st = nbi_alloc(ctx, n + 1, 1, &copy);
        if (st == NB_OK) {
            if (n) memcpy(copy, blob, n);
            *data = copy;
            *size = n;
        }
    } else if (code == SQLITE_DONE) {
        *data = NULL;
        *size = 0;
    } else {
        st = fail(ctx, s, "reading state");
    }
    sqlite3_reset(q);
    return st;
}
