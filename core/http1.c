/* The callbacks only record where things lie and count bytes; what the head means is decided once,
 * in check_head, when all of it is there. Left out on purpose: lenient modes. */
#include "http1.h"

#include <assert.h>

#include "connection.h"
#include "head.h"
#include "web.h"

#define BLANK_BYTES 4     /* two empty lines before a request line (RFC 9112 section 2.2) */
#define EXTENSION_FRAME 2 /* what an extension costs beside its text: ";" and "=" */
#define FRAME_BYTES 24    /* between two texts behind the head: two line ends and a chunk's size */

static fl_http1 *http_of(llhttp_t *parser)
{
    return (fl_http1 *)((char *)parser - offsetof(fl_http1, parser));
}

static fl_connection *connection_of(llhttp_t *parser)
{
    return parser->data;
}

static fl_request *request_of(llhttp_t *parser)
{
    return connection_of(parser)->request;
}

static int refuse(fl_http1 *http, int status)
{
    http->refused = status;
    return HPE_USER;
}

static uint64_t position_of(const fl_http1 *http, const char *at)
{
    return http->position + (uint64_t)(at - http->chunk);
}

static int message_begins(llhttp_t *parser)
{
    fl_http1 *http = http_of(parser);
    fl_connection *connection = connection_of(parser);
    assert(!connection->request);
    connection->request = fl_request_new(&connection->web->thread, connection);
    if (!connection->request) return refuse(http, 503);
    http->head_done = false;
    http->in_value = false;
    http->blank = 0;
    http->extensions = 0;
    http->trailer_count = 0;
    http->target_at = 0;
    return 0;
}

static int target_read(llhttp_t *parser, const char *at, size_t size)
{
    fl_http1 *http = http_of(parser);
    fl_request *request = request_of(parser);
    uint64_t position = position_of(http, at);
    if (http->target_at == 0) {
        http->target_at = position;
        request->base = at;
    }
    uint64_t end = position + size - http->target_at;
    uint64_t line = end + (http->target_at - http->message_at) + sizeof(" HTTP/1.1") - 1;
    if (line > request->thread->settings->request_line) return refuse(http, 414);
    request->target_size = (uint16_t)end;
    return 0;
}

/* Offset in the head, or 0 when the header block has become too large. */
static uint32_t head_offset(fl_http1 *http, fl_request *request, const char *at, size_t size)
{
    uint64_t offset = position_of(http, at) - http->target_at;
    uint64_t limit = request->target_size + request->thread->settings->header_block;
    if (offset + size > limit || offset + size > UINT16_MAX) return 0;
    return (uint32_t)offset;
}

static int trailer_bytes(fl_http1 *http, fl_request *request, const char *at, size_t size)
{
    const fl_settings *settings = request->thread->settings;
    if (request->trailers.size + size + 1 > settings->trailer_block) return refuse(http, 431);
    fl_buffer_append(&request->trailers, at, size);
    return request->trailers.failed ? refuse(http, 503) : 0;
}

/* Notes a body's, an extension's or a trailer's text. llhttp takes endless zeros before a chunk's
 * size and endless blanks around a trailer's value: false, when so much lies before this text. */
static bool next_span(fl_http1 *http, const char *at, size_t size)
{
    uint64_t position = position_of(http, at);
    bool fits = position <= http->span_end + FRAME_BYTES;
    http->span_end = position + size;
    return fits;
}

static void trim_trailer(const fl_http1 *http, fl_request *request)
{
    fl_buffer *trailers = &request->trailers;
    if (!http->in_value) return;
    while (trailers->size && (trailers->data[trailers->size - 1] == ' ' ||
                              trailers->data[trailers->size - 1] == '\t'))
        trailers->size--;
}

static int trailer_begins(fl_http1 *http, fl_request *request)
{
    if (http->trailer_count++ >= request->thread->settings->trailer_fields)
        return refuse(http, 431);
    trim_trailer(http, request);
    if (http->trailer_count > 1) fl_buffer_byte(&request->trailers, '\0');
    if (http->trailer_count > 1 && !http->in_value) fl_buffer_byte(&request->trailers, '\0');
    http->in_value = false;
    return 0;
}

/* A span goes on where the last one ended: llhttp cuts spans at the end of a read. */
static int trailer_name(fl_http1 *http, fl_request *request, const char *at, size_t size)
{
    bool goes_on =
        http->trailer_count > 0 && !http->in_value && position_of(http, at) == http->span_end;
    if (!next_span(http, at, size)) return refuse(http, 400);
    int error = goes_on ? 0 : trailer_begins(http, request);
    return error ? error : trailer_bytes(http, request, at, size);
}

static int trailer_value(fl_http1 *http, fl_request *request, const char *at, size_t size)
{
    bool goes_on = position_of(http, at) == http->span_end;
    if (http->trailer_count == 0) return refuse(http, 400); /* a value without a name */
    if (!next_span(http, at, size)) return refuse(http, 400);
    if (http->in_value && !goes_on) return refuse(http, 400); /* folded, RFC 9112 section 5.2 */
    if (!http->in_value) fl_buffer_byte(&request->trailers, '\0');
    http->in_value = true;
    return trailer_bytes(http, request, at, size);
}

static int field_name(llhttp_t *parser, const char *at, size_t size)
{
    fl_http1 *http = http_of(parser);
    fl_request *request = request_of(parser);
    if (http->head_done) return trailer_name(http, request, at, size);
    uint32_t offset = head_offset(http, request, at, size);
    if (!offset) return refuse(http, 431);
    fl_header *last = &request->headers[request->header_count ? request->header_count - 1 : 0];
    bool goes_on = request->header_count > 0 && !http->in_value &&
                   offset == (uint32_t)(last->name + last->name_size);
    if (!goes_on) {
        http->in_value = false;
        if (request->header_count >= request->thread->settings->header_fields)
            return refuse(http, 431);
        request->headers[request->header_count++] =
            (fl_header){.name = (uint16_t)offset, .name_size = (uint16_t)size};
    } else {
        last->name_size = (uint16_t)(last->name_size + size);
    }
    return 0;
}

static int field_value(llhttp_t *parser, const char *at, size_t size)
{
    fl_http1 *http = http_of(parser);
    fl_request *request = request_of(parser);
    if (http->head_done) return trailer_value(http, request, at, size);
    uint32_t offset = head_offset(http, request, at, size);
    if (!offset) return refuse(http, 431);
    if (request->header_count == 0) return refuse(http, 400); /* a value without a name */
    fl_header *header = &request->headers[request->header_count - 1];
    if (!http->in_value) {
        http->in_value = true;
        header->value = (uint16_t)offset;
        header->value_size = (uint16_t)size;
    } else if (offset != (uint32_t)(header->value + header->value_size)) {
        return refuse(http, 400); /* folded line, RFC 9112 section 5.2 */
    } else {
        header->value_size = (uint16_t)(header->value_size + size);
    }
    return 0;
}

/* What follows the last value up to the empty line is looked at too: keep that much of it. */
#define HEAD_TAIL 256

/* Makes the head's bytes lie in one piece, up to a little behind the last field, which ends at the
 * stream position `end`. */
static bool gather_head(fl_http1 *http, fl_request *request, uint64_t end)
{
    size_t here = end > http->position ? (size_t)(end - http->position) : 0;
    size_t left = http->size - here;
    size_t tail = left < HEAD_TAIL ? left : HEAD_TAIL;
    request->head_size = (uint32_t)(http->position + here - http->target_at);
    if (http->target_at >= http->position) { /* all of it in this chunk */
        request->head_available = request->head_size + (uint32_t)tail;
        return true;
    }
    fl_buffer_append(&request->head, http->chunk, here + tail);
    request->base = request->head.data;
    request->head_available = (uint32_t)request->head.size;
    return !request->head.failed;
}

/* Where the last value (or the target, without fields) ends. */
static uint64_t last_end(const fl_http1 *http, const fl_request *request)
{
    if (!request->header_count) return http->target_at + request->target_size;
    const fl_header *last = &request->headers[request->header_count - 1];
    if (last->value_size) return http->target_at + last->value + last->value_size;
    return http->target_at + last->name + last->name_size;
}

static int headers_complete(llhttp_t *parser)
{
    fl_http1 *http = http_of(parser);
    fl_request *request = request_of(parser);
    uint64_t end = last_end(http, request);
    if (!gather_head(http, request, end)) return refuse(http, 503);
    http->head_done = true;
    http->in_value = false;
    http->span_end = end + HEAD_TAIL; /* blanks and the empty line lie between */
    parser->upgrade = 0; /* no protocol to upgrade to: RFC 9110 section 7.8 lets us ignore it */
    request->method = parser->method;
    request->minor = parser->http_minor;
    request->chunked = (parser->flags & F_CHUNKED) != 0;
    request->has_length = (parser->flags & F_CONTENT_LENGTH) != 0;
    request->content_length = request->has_length ? parser->content_length : 0;
    request->keep_alive =
        llhttp_should_keep_alive(parser) != 0 && !(parser->flags & F_CONNECTION_CLOSE);
    request->is_head = parser->method == HTTP_HEAD;
    request->method_gap = (uint32_t)(http->target_at - http->message_at);
    int status = fl_head_check(request, parser);
    if (status) return refuse(http, status);
    fl_request_route(request);
    return request->refused == 413 ? refuse(http, 413) : 0;
}

static int body_read(llhttp_t *parser, const char *at, size_t size)
{
    fl_http1 *http = http_of(parser);
    fl_request *request = request_of(parser);
    if (!next_span(http, at, size)) return refuse(http, 400);
    request->body_size += size;
    if (request->body_use == FL_BODY_DISCARD) return 0;
    if (request->body_size > request->max_body) return refuse(http, 413);
    if (request->body.size == 0 && request->body_kept.size == 0) {
        request->body = fl_slice_of(at, size);
        return 0;
    }
    fl_buffer_slice(&request->body_kept, request->body);
    request->body.size = 0;
    fl_buffer_append(&request->body_kept, at, size);
    return request->body_kept.failed ? refuse(http, 503) : 0;
}

/* The size of a chunk that cannot fit any more is enough to refuse the body. */
static int chunk_begins(llhttp_t *parser)
{
    fl_http1 *http = http_of(parser);
    fl_request *request = request_of(parser);
    if (request->body_use == FL_BODY_DISCARD) return 0;
    bool fits = parser->content_length <= request->max_body - request->body_size;
    return fits ? 0 : refuse(http, 413);
}

static int extension_bytes(llhttp_t *parser, size_t size)
{
    fl_http1 *http = http_of(parser);
    uint64_t most = request_of(parser)->thread->settings->chunk_extensions;
    if (size > most - http->extensions) return refuse(http, 413);
    http->extensions += (uint32_t)size;
    return 0;
}

static int extension_read(llhttp_t *parser, const char *at, size_t size)
{
    fl_http1 *http = http_of(parser);
    if (!next_span(http, at, size)) return refuse(http, 400);
    return extension_bytes(parser, size);
}

static int extension_named(llhttp_t *parser)
{
    return extension_bytes(parser, EXTENSION_FRAME);
}

static int message_complete(llhttp_t *parser)
{
    fl_request *request = request_of(parser);
    request->complete = true;
    trim_trailer(http_of(parser), request);
    if (request->trailers.size && !fl_head_check_trailers(request))
        return refuse(http_of(parser), 400);
    return HPE_PAUSED;
}

const llhttp_settings_t fl_http1_settings = {
    .on_message_begin = message_begins,
    .on_url = target_read,
    .on_header_field = field_name,
    .on_header_value = field_value,
    .on_headers_complete = headers_complete,
    .on_body = body_read,
    .on_chunk_header = chunk_begins,
    .on_chunk_extension_name = extension_read,
    .on_chunk_extension_name_complete = extension_named,
    .on_chunk_extension_value = extension_read,
    .on_message_complete = message_complete,
};

void fl_http1_init(fl_http1 *http, fl_connection *connection)
{
    *http = (fl_http1){.position = 1}; /* so that no offset of a target is 0 */
    llhttp_init(&http->parser, HTTP_REQUEST, &fl_http1_settings);
    http->parser.data = connection;
}

/* Decided by what llhttp met and where, never by what lies behind: that may not have come yet. */
static int status_of(const fl_http1 *http, enum llhttp_errno error, const char *at)
{
    if (http->refused) return http->refused;
    if (error == HPE_INVALID_METHOD && fl_head_is_token(*at)) return 501;
    bool is_version = /* one that we do not speak, or HTTP/2's preface */
        error == HPE_PAUSED_H2_UPGRADE ||
        (error == HPE_INVALID_VERSION &&
         strcmp(llhttp_get_error_reason(&http->parser), "Invalid HTTP version") == 0);
    if (!is_version) return 400;
    uint64_t line = position_of(http, at) - http->message_at;
    const fl_connection *connection = http->parser.data;
    return line > connection->web->thread.settings->request_line ? 414 : 505;
}

/* Empty lines before a request line: CR LF pairs, a few. 0 or 400. */
static int skip_blank(fl_http1 *http, fl_slice *data)
{
    while (data->size && (*data->data == '\r' || *data->data == '\n')) {
        if ((http->blank & 1) != (*data->data == '\n')) return 400; /* bare CR or LF */
        if (++http->blank > BLANK_BYTES) return 400;
        data->data++;
        data->size--;
        http->position++;
    }
    return data->size && (http->blank & 1) ? 400 : 0;
}

/* A head that goes on in the next read: its bytes so far are ours to keep. */
static int keep_partial(fl_http1 *http, fl_request *request)
{
    if (!request || http->head_done) return 0;
    const fl_settings *settings = request->thread->settings;
    if (http->target_at == 0) /* blanks without end behind the method */
        return http->position + http->size - http->message_at > settings->request_line ? 414 : 0;
    size_t from = http->target_at > http->position ? http->target_at - http->position : 0;
    fl_buffer_append(&request->head, http->chunk + from, http->size - from);
    request->base = request->head.data;
    if (request->head.size > settings->request_line + settings->header_block + HEAD_TAIL)
        return request->header_count ? 431 : 414;
    return request->head.failed ? 503 : 0;
}

/* Chunked framing that llhttp is lenient about and that no text has followed yet, and a last line
 * end that is not CR LF (RFC 9112 section 7.1). Looks at what was read last; 0 or 400. */
static int check_chunking(fl_http1 *http, const fl_request *request, fl_slice read)
{
    if (http->position + read.size > http->span_end + FRAME_BYTES) return 400;
    char last = read.data[read.size - 1];
    char before = read.size > 1 ? read.data[read.size - 2] : http->last_byte;
    http->last_byte = last;
    return request->complete && (before != '\r' || last != '\n') ? 400 : 0;
}

int fl_http1_read(fl_http1 *http, fl_slice data, size_t *consumed)
{
    fl_connection *connection = http->parser.data;
    size_t offered = data.size;
    *consumed = offered;
    if (!connection->request) {
        int status = skip_blank(http, &data);
        if (status || data.size == 0) return status;
    }
    if (!connection->request) http->message_at = http->position;
    http->chunk = data.data;
    http->size = data.size;
    enum llhttp_errno error = llhttp_execute(&http->parser, data.data, data.size);
    if (error != HPE_OK && error != HPE_PAUSED)
        return status_of(http, error, llhttp_get_error_pos(&http->parser));
    size_t used = data.size;
    if (error == HPE_PAUSED) {
        used = (size_t)(llhttp_get_error_pos(&http->parser) - data.data);
        llhttp_resume(&http->parser);
    }
    fl_request *request = connection->request;
    int status = keep_partial(http, request);
    if (!status && request && http->head_done && request->chunked && used > 0)
        status = check_chunking(http, request, fl_slice_of(data.data, used));
    http->position += used;
    *consumed = offered - data.size + used;
    return status;
}
