/* A folder of its own for tests that run whole jobs: a model to read, a folder to write to. */
#ifndef NIBBLE_TEST_WORK_FOLDER_H
#define NIBBLE_TEST_WORK_FOLDER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64], path[96], output[96];

static int setup(void **state) {
    (void)state;
    strcpy(folder, "/tmp/nibble-test-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/model.onnx", folder);
    snprintf(output, sizeof output, "%s/out", folder);
    return 0;
}

static int teardown(void **state) {
    char command[96];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

#endif
