#include "output.h"

#include <stdint.h>
#include <stdlib.h>

#include "buffer.h"

struct fl_output {
    uv_write_t write;
    fl_buffer data;   /* of the write under way */
    fl_buffer queued; /* of the next one */
};

/* How many bytes of the pieces the socket took, or a negative uv code. */
static int try_write(uv_stream_t *socket, const fl_slice *pieces, unsigned count)
{
    uv_buf_t buffers[FL_OUTPUT_PIECES];
    unsigned used = 0;
    for (unsigned i = 0; i < count; i++) {
        if (pieces[i].size == 0) continue;
        buffers[used++] = uv_buf_init((char *)(uintptr_t)pieces[i].data, (unsigned)pieces[i].size);
    }
    int written = uv_try_write(socket, buffers, used);
    return written == UV_EAGAIN ? 0 : written;
}

/* Keeps what follows the first `skip` bytes of the pieces. */
static int keep(fl_output **output, const fl_slice *pieces, unsigned count, size_t skip)
{
    bool fresh = *output == NULL;
    if (fresh) *output = calloc(1, sizeof(**output));
    if (!*output) return UV_ENOMEM;
    fl_buffer *buffer = fresh ? &(*output)->data : &(*output)->queued;
    for (unsigned i = 0; i < count; i++) {
        if (pieces[i].size == 0) continue;
        size_t taken = skip < pieces[i].size ? skip : pieces[i].size;
        fl_buffer_append(buffer, pieces[i].data + taken, pieces[i].size - taken);
        skip -= taken;
    }
    return buffer->failed ? UV_ENOMEM : 0;
}

int fl_output_write(fl_output **output, uv_stream_t *socket, const fl_slice *pieces, unsigned count)
{
    size_t total = 0;
    for (unsigned i = 0; i < count; i++) total += pieces[i].size;
    int written = 0;
    if (!*output) written = try_write(socket, pieces, count);
    if (written < 0) return written;
    return (size_t)written == total ? 0 : keep(output, pieces, count, (size_t)written);
}

int fl_output_start(fl_output *output, uv_stream_t *socket, uv_write_cb wrote, void *owner)
{
    uv_buf_t buffer = uv_buf_init(output->data.data, (unsigned)output->data.size);
    output->write.data = owner;
    return uv_write(&output->write, socket, &buffer, 1, wrote);
}

bool fl_output_next(fl_output *output)
{
    if (output->queued.size == 0) return false;
    fl_buffer_close(&output->data);
    output->data = output->queued;
    output->queued = (fl_buffer){0};
    return true;
}

fl_output *fl_output_anew(const fl_output *old, size_t left)
{
    fl_output *output = calloc(1, sizeof(*output));
    if (!output) return NULL;
    output->data = old->data;
    output->queued = old->queued;
    fl_buffer_consume(&output->data, output->data.size - left);
    return output;
}

size_t fl_output_size(const fl_output *output)
{
    return output ? output->data.size + output->queued.size : 0;
}

void fl_output_free(fl_output *output)
{
    if (!output) return;
    fl_buffer_close(&output->data);
    fl_buffer_close(&output->queued);
    free(output);
}
