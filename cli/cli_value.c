/* Values of results: found by path, absent keys tolerated, shown for people. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Short texts that live until 16 others have been made: enough for the cells of a row. */
static char *buffer(size_t *size) {
    static char ring[16][96];
    static unsigned next;
    *size = sizeof ring[0];
    return ring[next++ % 16];
}

static const json_t *at_path(const json_t *root, const char *path, size_t len) {
    while (root && len) {
        char key[64];
        size_t part = 0;
        while (part < len && path[part] != '.') part++;
        if (part >= sizeof key) return NULL;
        memcpy(key, path, part);
        key[part] = 0;
        root = json_object_get(root, key);
        path += part + (part < len);
        len -= part + (part < len);
    }
    return root;
}

const json_t *json_at(const json_t *root, const char *paths) {
    while (*paths) {
        size_t len = strcspn(paths, "|");
        const json_t *found = at_path(root, paths, len);
        if (found && !json_is_null(found)) return found;
        paths += len + (paths[len] == '|');
    }
    return NULL;
}

double json_num(const json_t *root, const char *paths) {
    const json_t *value = json_at(root, paths);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

const char *json_text(const json_t *root, const char *paths) {
    return json_string_value(json_at(root, paths));
}

const char *show_bytes(double bytes) {
    size_t size;
    char *out = buffer(&size);
    if (!isfinite(bytes)) return "-";
    if (fabs(bytes) < 1024)
        snprintf(out, size, "%.0f B", bytes);
    else if (fabs(bytes) < 1048576)
        snprintf(out, size, "%.1f K", bytes / 1024);
    else if (fabs(bytes) < 1073741824)
        snprintf(out, size, "%.2f M", bytes / 1048576);
    else
        snprintf(out, size, "%.2f G", bytes / 1073741824);
    return out;
}

const char *show_whole(double n) {
    size_t size, o = 0;
    char *out = buffer(&size), digits[40];
    if (!isfinite(n)) return "-";
    if (fabs(n) >= 1e15) {
        snprintf(out, size, "%.4g", n);
        return out;
    }
    int len = snprintf(digits, sizeof digits, "%.0f", fabs(n));
    if (n < 0) out[o++] = '-';
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0) out[o++] = ',';
        out[o++] = digits[i];
    }
    out[o] = 0;
    return out;
}

const char *show_count(double n) {
    static const struct {
        double unit;
        const char *name;
    } units[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}};
    if (!isfinite(n)) return "-";
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (fabs(n) >= units[i].unit) {
            size_t size;
            char *out = buffer(&size);
            snprintf(out, size, "%.2f %s", n / units[i].unit, units[i].name);
            return out;
        }
    return show_whole(n);
}

const char *show_real(double x, int digits) {
    size_t size;
    char *out = buffer(&size);
    if (!isfinite(x)) return "-";
    if (fabs(x) < 1e15)
        snprintf(out, size, "%.*f", digits, x);
    else
        snprintf(out, size, "%.4g", x);
    if (*out == '-' && !out[strspn(out, "-0.")]) return out + 1; /* no minus before zero */
    return out;
}

const char *show_seconds(double seconds) {
    size_t size;
    char *out = buffer(&size);
    if (!isfinite(seconds)) return "-";
    if (seconds < 1e-3)
        snprintf(out, size, "%.1f us", seconds * 1e6);
    else if (seconds < 1)
        snprintf(out, size, "%.2f ms", seconds * 1e3);
    else if (seconds < 120)
        snprintf(out, size, "%.1f s", seconds);
    else
        snprintf(out, size, "%.0f min %.0f s", floor(seconds / 60), fmod(seconds, 60));
    return out;
}

static void scalar(char *out, size_t size, const json_t *value) {
    double x = json_number_value(value);
    if (json_is_integer(value))
        snprintf(out, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        snprintf(out, size, "%.6g", x);
    else if (json_is_string(value))
        snprintf(out, size, "%s", json_string_value(value));
    else if (json_is_boolean(value))
        snprintf(out, size, "%s", json_is_true(value) ? "yes" : "no");
    else if (json_is_array(value))
        snprintf(out, size, "[%zu]", json_array_size(value));
    else
        snprintf(out, size, json_is_object(value) ? "{...}" : "-");
}

static const char *joined(const json_t *list, const char *between) {
    size_t size, at = 0;
    char *out = buffer(&size);
    out[0] = 0;
    for (size_t i = 0; i < json_array_size(list) && at + 1 < size; i++) {
        char item[64];
        scalar(item, sizeof item, json_array_get(list, i));
        int n = snprintf(out + at, size - at, "%s%s", i ? between : "", item);
        at += n > 0 ? (size_t)n : 0;
    }
    return out;
}

const char *show_shape(const json_t *shape) {
    if (json_is_string(shape)) return json_string_value(shape);
    if (json_is_null(shape)) return "?"; /* not known */
    if (!json_is_array(shape)) return "-";
    return json_array_size(shape) ? joined(shape, "x") : "scalar";
}

const char *show_value(const json_t *value) {
    if (!value || json_is_null(value)) return "-";
    if (json_is_string(value)) return json_string_value(value);
    if (json_is_array(value)) return json_array_size(value) ? joined(value, ", ") : "-";
    size_t size;
    char *out = buffer(&size);
    scalar(out, size, value);
    return out;
}
