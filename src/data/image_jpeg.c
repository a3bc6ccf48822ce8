/* JPEG through libjpeg (turbo). The library jumps on errors; whatever must survive the jump lives
 * in `job`, outside the jumping frame. A stream that ends early is an error here, not a picture
 * with a grey half. */
#include "data/image.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

enum { SCANS_MAX = 500 }; /* a progressive file of endless scans costs time, not memory */

typedef struct job {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    char message[JMSG_LENGTH_MAX];
    nbi_image image;
    nb_status st;
} job;

static void on_error(j_common_ptr c) {
    job *j = c->client_data;
    c->err->format_message(c, j->message);
    longjmp(j->jump, 1);
}

static void on_message(j_common_ptr c, int level) {
    int code = c->err->msg_code;
    if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER)) on_error(c);
}

static void on_progress(j_common_ptr c) {
    job *j = c->client_data;
    if (j->jpeg.input_scan_number <= SCANS_MAX) return;
    snprintf(j->message, sizeof j->message, "more than %d scans", SCANS_MAX);
    longjmp(j->jump, 1);
}

/* Runs under setjmp: returns false after a jump. */
static bool read_jpeg(nb_ctx *ctx, const char *path, const uint8_t *file, size_t size, job *j) {
    struct jpeg_decompress_struct *jpeg = &j->jpeg;
    if (setjmp(j->jump)) return false;
    jpeg_create_decompress(jpeg);
    jpeg->progress = &j->progress;
    jpeg_mem_src(jpeg, file, (unsigned long)size);
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->num_components != 1 && jpeg->num_components != 3) {
        j->st = nb_fail(ctx, NB_EUNSUPPORTED, "'%s' is a JPEG of %d components, want grey or RGB",
                        path, jpeg->num_components);
        return true;
    }
    jpeg->out_color_space = jpeg->num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg->dct_method = JDCT_ISLOW;
    j->st = nbi_image_new(ctx, path, jpeg->image_height, jpeg->image_width, jpeg->num_components,
                          &j->image);
    if (j->st != NB_OK) return true;
    jpeg_start_decompress(jpeg);
    size_t row = (size_t)j->image.width * (size_t)j->image.channels;
    while (jpeg->output_scanline < jpeg->output_height) {
        JSAMPROW line = j->image.data + jpeg->output_scanline * row;
        jpeg_read_scanlines(jpeg, &line, 1);
    }
    jpeg_finish_decompress(jpeg);
    return true;
}

nb_status nbi_jpeg_decode(nb_ctx *ctx, const char *path, const uint8_t *file, size_t size,
                          nbi_image *out) {
    job j;
    memset(&j, 0, sizeof j);
    j.jpeg.err = jpeg_std_error(&j.errors);
    j.jpeg.client_data = &j;
    j.errors.error_exit = on_error;
    j.errors.emit_message = on_message;
    j.progress.progress_monitor = on_progress;
    if (!read_jpeg(ctx, path, file, size, &j))
        j.st = nb_fail(ctx, NB_EFORMAT, "'%s' is not a readable JPEG: %s", path, j.message);
    jpeg_destroy_decompress(&j.jpeg);
    if (j.st == NB_OK)
        *out = j.image;
    else
        nbi_image_free(&j.image);
    return j.st;
}
