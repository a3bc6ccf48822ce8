/* Name lookup for import (open addressing, linear probing) and the rules that names must obey. */
#include "onnx/proto.h"

#include <string.h>

#define MAX_NAME 4096

static size_t probe(const nbi_names *names, const char *key, uint64_t hash) {
    size_t mask = names->capacity - 1, i = (size_t)hash & mask;
    while (names->slot[i].key &&
           (names->slot[i].hash != hash || strcmp(names->slot[i].key, key) != 0))
        i = (i + 1) & mask;
    return i;
}

int nbi_names_find(const nbi_names *names, const char *key) {
    if (!names->n) return -1;
    const struct nbi_name_slot *s =
        &names->slot[probe(names, key, nbi_hash(NBI_HASH_START, key, strlen(key)))];
    return s->key ? s->value : -1;
}

/* Doubles the table at a load of one half. */
static nb_status make_room(nb_ctx *ctx, nbi_names *names) {
    if (names->n * 2 < names->capacity) return NB_OK;
    nbi_names bigger = {.n = names->n, .capacity = names->capacity ? names->capacity * 2 : 64};
    NB_TRY(nbi_alloc(ctx, bigger.capacity, sizeof *bigger.slot, &bigger.slot));
    for (size_t i = 0; i < names->capacity; i++) {
        const struct nbi_name_slot *s = &names->slot[i];
        if (s->key) bigger.slot[probe(&bigger, s->key, s->hash)] = *s;
    }
    nbi_free(names->slot);
    *names = bigger;
    return NB_OK;
}

nb_status nbi_names_add(nb_ctx *ctx, nbi_names *names, const char *key, int value, int *out_found) {
    NB_TRY(make_room(ctx, names));
    uint64_t hash = nbi_hash(NBI_HASH_START, key, strlen(key));
    struct nbi_name_slot *s = &names->slot[probe(names, key, hash)];
    *out_found = s->key ? s->value : -1;
    if (s->key) return NB_OK;
    *s = (struct nbi_name_slot){key, hash, value};
    names->n++;
    return NB_OK;
}

nb_status nbi_names_make(nb_ctx *ctx, nbi_names *names, nbi_arena *arena, const char *wanted,
                         int *number, const char **out) {
    const char *name = wanted;
    for (int before;;) {
        if (!name) return nb_fail_memory(ctx, strlen(wanted) + 12);
        NB_TRY(nbi_names_add(ctx, names, name, 0, &before));
        if (before < 0) break;
        name = nbi_arena_format(arena, "%s_%d", wanted, (*number)++);
    }
    *out = name;
    return NB_OK;
}

void nbi_names_free(nbi_names *names) {
    nbi_free(names->slot);
    *names = (nbi_names){0};
}

/* ---- text ---------------------------------------------------------------------------------- */

/* Decodes one code point (RFC 3629: shortest form, no surrogates, at most U+10FFFF); returns its
 * length, 0 if malformed. */
static int utf8_next(const unsigned char *s, uint32_t *out) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    int n = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0xc2 ? 2 : 0;
    if (n == 0 || s[0] > 0xf4) return 0;
    uint32_t c = n == 1 ? s[0] : s[0] & (0xffu >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0; /* stops at the NUL, too */
        c = c << 6 | (s[i] & 0x3fu);
    }
    if (c < smallest[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
    *out = c;
    return n;
}

bool nbi_utf8_valid(const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    uint32_t c;
    for (int n; *s; s += n)
        if (!(n = utf8_next(s, &c))) return false;
    return true;
}

nb_status nbi_name_check(nb_ctx *ctx, const char *what, const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    for (int n; *s; s += n) {
        uint32_t c = 0;
        size_t at = (size_t)(s - (const unsigned char *)text);
        n = utf8_next(s, &c);
        if (!n) return nb_fail(ctx, NB_EFORMAT, "%s is not valid UTF-8 at byte %zu", what, at);
        if (c < 0x20 || (c >= 0x7f && c < 0xa0))
            return nb_fail(ctx, NB_EFORMAT, "%s holds the control character 0x%02x", what,
                           (unsigned)c);
        if (at >= MAX_NAME)
            return nb_fail(ctx, NB_EFORMAT, "%s is longer than %d bytes", what, MAX_NAME);
    }
    return NB_OK;
}
