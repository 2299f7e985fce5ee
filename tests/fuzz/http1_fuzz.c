/* Input: what a client sends. It is read whole, byte by byte and in pieces whose sizes follow from
 * the input; each time the messages, and how they end, must be the same, and be what was sent. */
#include "bare_web.h"
#include "fuzz.h"

typedef struct fl_reading {
    fl_bare_web bare;
    fl_slice input;
    fl_buffer record; /* every message, in the form of `note_message` */
    int status;       /* of the refusal; 0: none */
    bool over;        /* refused, or the last message that may come on this connection */
} fl_reading;

/* Small enough to be reached by small inputs. */
static void set_limits(fl_settings *settings)
{
    settings->request_line = 64;
    settings->header_block = 160;
    settings->header_fields = 6;
    settings->chunk_extensions = 24;
    settings->trailer_block = 64;
    settings->trailer_fields = 3;
    settings->max_body = 48;
}

static void note(fl_buffer *record, const char *title, fl_slice text)
{
    fl_buffer_printf(record, "%s %zu ", title, text.size);
    fl_buffer_slice(record, text);
    fl_buffer_byte(record, '\n');
}

/* An offset in the head names the same bytes of the input. */
static fl_slice sent(const fl_reading *reading, uint16_t at, uint16_t size)
{
    const fl_request *request = reading->bare.connection.request;
    size_t target = (size_t)reading->bare.connection.http.target_at - 1; /* positions begin at 1 */
    fl_slice text = fl_request_text(request, at, size);
    demand(target + at + size <= reading->input.size);
    demand(fl_slice_equal(text, fl_slice_of(reading->input.data + target + at, size)));
    return text;
}

static void note_head(fl_reading *reading)
{
    const fl_request *request = reading->bare.connection.request;
    fl_buffer *record = &reading->record;
    note(record, "method", fl_slice_from_string(fl_request_method(request)));
    note(record, "target", sent(reading, 0, request->target_size));
    note(record, "path", sent(reading, request->path, request->path_size));
    note(record, "query", sent(reading, request->query, request->query_size));
    note(record, "host", request->host);
    for (unsigned i = 0; i < request->header_count; i++) {
        const fl_header *header = &request->headers[i];
        note(record, "name", sent(reading, header->name, header->name_size));
        note(record, "value", sent(reading, header->value, header->value_size));
    }
    fl_buffer_printf(record, "1.%d keep %d chunked %d length %d %llu expects %d refused %d\n",
                     request->minor, request->keep_alive, request->chunked, request->has_length,
                     (unsigned long long)request->content_length, request->expects_continue,
                     request->refused);
}

static void note_message(fl_reading *reading)
{
    const fl_request *request = reading->bare.connection.request;
    const fl_settings *settings = &reading->bare.settings;
    fl_slice body = fl_request_body(request);
    demand(body.size == request->body_size && body.size <= settings->max_body);
    demand(request->trailers.size <= settings->trailer_block);
    demand(request->target_size <= settings->request_line);
    demand(request->header_count <= settings->header_fields);
    if (request->complete && request->has_length) demand(body.size == request->content_length);
    note_head(reading);
    note(&reading->record, "body", body);
    note(&reading->record, "trailers", fl_slice_of(request->trailers.data, request->trailers.size));
    fl_buffer_printf(&reading->record, "complete %d\n", request->complete);
}

/* Reads messages until the piece is spent, as the connection does. */
static void read_piece(fl_reading *reading, fl_slice piece)
{
    fl_connection *connection = &reading->bare.connection;
    while (piece.size && !reading->over) {
        size_t used = 0;
        reading->status = fl_http1_read(&connection->http, piece, &used);
        demand(used <= piece.size);
        if (reading->status) {
            reading->over = true;
            return;
        }
        demand(used > 0);
        piece = fl_slice_of(piece.data + used, piece.size - used);
        fl_request *request = connection->request;
        if (!request || !request->complete) continue;
        demand(connection->http.head_done);
        note_message(reading);
        reading->over = !request->keep_alive;
        bare_web_let_go(&reading->bare);
    }
    if (connection->request) demand(fl_request_keep(connection->request));
}

/* Each piece lies in memory of its own, which is gone afterwards. */
static void read_copy(fl_reading *reading, fl_slice piece)
{
    char *copy = malloc(piece.size);
    demand(copy != NULL);
    memcpy(copy, piece.data, piece.size);
    read_piece(reading, fl_slice_of(copy, piece.size));
    free(copy);
}

/* Pieces of 1 … `most` bytes, as `seed` decides; 0: in one piece. */
static void read_all(fl_reading *reading, fl_slice input, size_t most, uint32_t seed)
{
    *reading = (fl_reading){.input = input};
    bare_web_open(&reading->bare);
    set_limits(&reading->bare.settings);
    fl_slice rest = input;
    while (rest.size && !reading->over) {
        seed = seed * 1664525 + 1013904223;
        size_t size = most ? 1 + (seed >> 8) % most : rest.size;
        if (size > rest.size) size = rest.size;
        read_copy(reading, fl_slice_of(rest.data, size));
        rest = fl_slice_of(rest.data + size, rest.size - size);
    }
    if (!reading->over && reading->bare.connection.request &&
        reading->bare.connection.http.head_done)
        note_message(reading);
    demand(!reading->record.failed);
    demand(bare_web_close(&reading->bare) == 0);
}

static bool is_about_head(int status)
{
    return status == 400 || status == 414 || status == 431;
}

static bool is_about_body(int status)
{
    return status == 400 || status == 413;
}

/* Limits are looked at where spans and reads end. So, of a message with two faults, the cut may
 * decide which is met first: endless blanks in a malformed head, endless zeros of a size too large.
 * Nothing else depends on it. */
static void compare(const fl_reading *whole, const fl_reading *cut)
{
    demand(fl_slice_equal(fl_slice_of(whole->record.data, whole->record.size),
                          fl_slice_of(cut->record.data, cut->record.size)));
    if (whole->status == cut->status) return;
    demand((is_about_head(whole->status) && is_about_head(cut->status)) ||
           (is_about_body(whole->status) && is_about_body(cut->status)));
}

static uint32_t hash_of(fl_slice input)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < input.size; i++) hash = (hash ^ (uint8_t)input.data[i]) * 16777619u;
    return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fl_slice input = fl_slice_of((const char *)data, size);
    size_t most[] = {1, 8, size / 2 + 1};
    fl_reading whole, cut;
    read_all(&whole, input, 0, 0);
    for (size_t i = 0; i < sizeof(most) / sizeof(*most); i++) {
        read_all(&cut, input, most[i], hash_of(input));
        compare(&whole, &cut);
        fl_buffer_close(&cut.record);
    }
    fl_buffer_close(&whole.record);
    return 0;
}
