/* A team of threads: rank 0 is the caller's, the others serve a scorer each. */
#ifndef TEAM_THREADS_H
#define TEAM_THREADS_H

#include "runtime/scorer.h"

#include <pthread.h>
#include <string.h>

#define MOST_MEMBERS 3

typedef struct threads_hub {
    pthread_barrier_t barrier;
    bool failed[MOST_MEMBERS];
    char *data[MOST_MEMBERS];
} threads_hub;

typedef struct member {
    nbi_team team; /* first */
    threads_hub *hub;
    nb_ctx *ctx;
    nbi_qnet *net;
    nbi_scorer *scorer;
    pthread_t thread;
    nb_status st;
} member;

static void member_meet(const member *m) {
    pthread_barrier_wait(&m->hub->barrier);
}

static int member_agree(nbi_team *t, bool failed) {
    member *m = (member *)(void *)t;
    int first = 0;
    m->hub->failed[t->rank] = failed;
    member_meet(m);
    while (first < t->size && !m->hub->failed[first]) first++;
    member_meet(m);
    return first;
}

static void member_tell(nbi_team *t, int from, void *data, size_t bytes) {
    member *m = (member *)(void *)t;
    m->hub->data[t->rank] = data;
    member_meet(m);
    if (t->rank != from) memcpy(data, m->hub->data[from], bytes);
    member_meet(m);
}

static void member_share(nbi_team *t, void *data, size_t rows, size_t row_bytes) {
    member *m = (member *)(void *)t;
    m->hub->data[t->rank] = data;
    member_meet(m);
    for (int r = 0; r < t->size; r++) {
        size_t begin = nbi_team_first(t, rows, r) * row_bytes;
        size_t end = nbi_team_first(t, rows, r + 1) * row_bytes;
        if (r != t->rank && end > begin)
            memcpy((char *)data + begin, m->hub->data[r] + begin, end - begin);
    }
    member_meet(m);
}

static void *member_serve(void *user) {
    member *m = user;
    m->st = nbi_scorer_serve(m->ctx, m->scorer);
    return NULL;
}

/* all[k].ctx, .net and .scorer are set, and the caller's. */
static void team_start(threads_hub *hub, member *all, int size) {
    pthread_barrier_init(&hub->barrier, NULL, (unsigned)size);
    for (int r = 0; r < size; r++) {
        all[r].hub = hub;
        all[r].team = (nbi_team){.rank = r,
                                 .size = size,
                                 .agree = member_agree,
                                 .tell = member_tell,
                                 .share = member_share};
        assert_int_equal(nbi_scorer_set_team(all[r].ctx, all[r].scorer, &all[r].team, all[r].net),
                         NB_OK);
    }
    for (int r = 1; r < size; r++)
        assert_int_equal(pthread_create(&all[r].thread, NULL, member_serve, &all[r]), 0);
}

static void team_stop(threads_hub *hub, member *all, int size) {
    nbi_scorer_dismiss(all[0].ctx, all[0].scorer);
    for (int r = 1; r < size; r++) {
        pthread_join(all[r].thread, NULL);
        assert_int_equal(all[r].st, NB_OK);
    }
    pthread_barrier_destroy(&hub->barrier);
}

#endif
