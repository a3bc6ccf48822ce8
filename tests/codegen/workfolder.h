/* A folder of a test's own, commands in it, and the size of what they compiled. */
#ifndef NIBBLE_TESTS_WORKFOLDER_H
#define NIBBLE_TESTS_WORKFOLDER_H

#include <dirent.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

static inline bool folder_make(void) {
    snprintf(folder, sizeof folder, "/tmp/nibble_codegen_XXXXXX");
    return mkdtemp(folder) != NULL;
}

static inline void folder_empty(void) {
    char path[512];
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.') unlink(path);
    }
    if (dir) closedir(dir);
}

static inline void folder_remove(void) {
    folder_empty();
    rmdir(folder);
}

/* The exit status of a shell command in the folder. */
static inline int shell(const char *format, ...) {
    char command[2048], text[1800];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(command, sizeof command, "cd %s && %s", folder, text);
    return system(command);
}

static inline bool have(const char *program) {
    return shell("command -v %s >/dev/null 2>&1", program) == 0;
}

/* Bytes of constants in an object file, counted by `tool` (size, arm-none-eabi-size). */
static inline size_t const_sections(const char *tool, const char *object) {
    char line[256], name[128];
    size_t sum = 0, size;
    snprintf(line, sizeof line, "%s -A %s/%s", tool, folder, object);
    FILE *pipe = popen(line, "r");
    while (pipe && fgets(line, sizeof line, pipe))
        if (sscanf(line, "%127s %zu", name, &size) == 2 &&
            (!strncmp(name, ".rodata", 7) || !strncmp(name, ".data", 5)))
            sum += size;
    if (pipe) pclose(pipe);
    return sum;
}

#endif
