/* results.json and the answer of a dry run, for people. */
#ifndef NIBBLE_CLI_QUANTIZE_PRINT_H
#define NIBBLE_CLI_QUANTIZE_PRINT_H

#include "cli.h"

/* `folder`: const char *, where the files are; NULL allowed. */
void print_quantize(const json_t *root, const void *folder);
void print_dry_run(const json_t *root, const void *folder);
/* The same behind every decision about the network. */
void print_decisions(const json_t *root, const void *folder);

#endif
