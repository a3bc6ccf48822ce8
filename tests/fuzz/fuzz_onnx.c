/* libFuzzer target: whatever the importer accepts can be exported and read again. Built with clang
 * and -DNIBBLE_FUZZ=ON:  ./fuzz_onnx -max_len=65536 corpus/  (start with small .onnx files). */
#include "onnx/onnx.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nb_ctx *ctx = nb_ctx_new();
    nbi_graph *first = NULL, *second = NULL;
    nbi_buf bytes = {0};
    if (ctx && nbi_onnx_parse(ctx, data, size, &first) == NB_OK &&
        nbi_onnx_serialize(ctx, first, &bytes) == NB_OK &&
        nbi_onnx_parse(ctx, bytes.data, bytes.size, &second) != NB_OK)
        abort();
    nbi_buf_free(&bytes);
    nbi_graph_free(first);
    nbi_graph_free(second);
    nb_ctx_free(ctx);
    return 0;
}
