#include "head.h"

#include "thread.h"

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* What a byte may stand for: a token's (RFC 9110 section 5.6.2), a host name's (RFC 3986 section
 * 3.2.2). */
enum { TOKEN = 1, HOST = 2, BOTH = 3 };

static const uint8_t kinds[256] = {
    ['0' ... '9'] = BOTH, ['A' ... 'Z'] = BOTH, ['a' ... 'z'] = BOTH, ['!'] = BOTH,  ['#'] = TOKEN,
    ['$'] = BOTH,         ['%'] = BOTH,         ['&'] = BOTH,         ['\''] = BOTH, ['*'] = BOTH,
    ['+'] = BOTH,         ['-'] = BOTH,         ['.'] = BOTH,         ['^'] = TOKEN, ['_'] = BOTH,
    ['`'] = TOKEN,        ['|'] = TOKEN,        ['~'] = BOTH,         ['('] = HOST,  [')'] = HOST,
    [','] = HOST,         [';'] = HOST,         ['='] = HOST};

/* Between a name's end and its value: a colon and blanks, on one line. */
static bool colon_fits(const char *at, const char *value)
{
    if (at >= value || *at++ != ':') return false;
    while (at < value)
        if (!is_blank(*at++)) return false;
    return true;
}

static bool line_ends(const char *at, const char *next)
{
    return next - at == 2 && at[0] == '\r' && at[1] == '\n';
}

#define VERSION_BYTES 9 /* " HTTP/1.1" */

/* llhttp unfolds continued lines and skips blanks in places where the grammar has none: every byte
 * between names and values must be accounted for (RFC 9112 sections 3, 5.1 and 5.2). */
static bool lines_are_plain(const fl_request *request)
{
    const char *base = request->base;
    const char *end = base + request->head_available;
    const char *at = base + request->target_size;
    if (request->method_gap != strlen(fl_request_method(request)) + 1) return false;
    if (end - at < VERSION_BYTES || memcmp(at, " HTTP/", 6) != 0) return false; /* HTTP/0.9 */
    at += VERSION_BYTES;
    for (unsigned i = 0; i < request->header_count; i++) {
        const fl_header *header = &request->headers[i];
        const char *name = base + header->name;
        const char *colon = name + header->name_size;
        if (!line_ends(at, name) || header->name_size == 0) return false;
        if (header->value_size) {
            if (!colon_fits(colon, base + header->value)) return false;
            at = base + header->value + header->value_size;
        } else { /* an empty value */
            at = colon + 1;
            while (at < end && is_blank(*at)) at++;
            if (!colon_fits(colon, at)) return false;
        }
    }
    while (at < end && is_blank(*at)) at++;
    return end - at >= 4 && memcmp(at, "\r\n\r\n", 4) == 0;
}

static void trim_value(const fl_request *request, fl_header *header)
{
    while (header->value_size && is_blank(request->base[header->value + header->value_size - 1]))
        header->value_size--;
}

static bool is_host_byte(char c)
{
    return (kinds[(unsigned char)c] & HOST) != 0;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (fl_lower(c) >= 'a' && fl_lower(c) <= 'f');
}

static bool is_escape(fl_slice text, size_t at)
{
    return at + 2 < text.size && is_hex(text.data[at + 1]) && is_hex(text.data[at + 2]);
}

static bool is_port(fl_slice text)
{
    unsigned port = 0;
    if (text.size > 5) return false;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') return false;
        port = port * 10 + (unsigned)(text.data[i] - '0');
    }
    return text.size == 0 || (port > 0 && port <= 65535);
}

static size_t literal_size(fl_slice host)
{
    size_t i = 1;
    while (i < host.size && host.data[i] != ']') {
        char c = fl_lower(host.data[i]);
        bool allowed = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || c == ':' || c == '.';
        if (!allowed) return 0;
        i++;
    }
    return i < host.size && i > 2 ? i + 1 : 0;
}

bool fl_head_is_host(fl_slice host)
{
    size_t i = 0;
    if (host.size == 0) return true;
    if (host.data[0] == '[') {
        i = literal_size(host);
        if (!i) return false;
    } else {
        while (i < host.size && host.data[i] != ':' && host.data[i] != ',') {
            if (!is_host_byte(host.data[i])) return false;
            if (host.data[i] == '%' && !is_escape(host, i)) return false;
            i++;
        }
        if (i == 0) return false;
    }
    if (i == host.size) return true;
    return host.data[i] == ':' && is_port(fl_slice_of(host.data + i + 1, host.size - i - 1));
}

typedef struct fl_fields { /* the fields that decide about framing and routing */
    unsigned hosts, lengths, encodings, expects;
    fl_slice host, encoding, expect;
    bool empty_length;
} fl_fields;

static void note_field(const fl_request *request, const fl_header *header, fl_fields *fields)
{
    fl_slice name = fl_request_text(request, header->name, header->name_size);
    fl_slice value = fl_request_text(request, header->value, header->value_size);
    switch (name.size) {
    case 4:
        if (!fl_slice_equal_nocase(name, FL_SLICE("host"))) return;
        fields->hosts++;
        fields->host = value;
        return;
    case 6:
        if (!fl_slice_equal_nocase(name, FL_SLICE("expect"))) return;
        fields->expects++;
        fields->expect = value;
        return;
    case 14:
        if (!fl_slice_equal_nocase(name, FL_SLICE("content-length"))) return;
        fields->lengths++;
        fields->empty_length |= value.size == 0;
        return;
    case 17:
        if (!fl_slice_equal_nocase(name, FL_SLICE("transfer-encoding"))) return;
        fields->encodings++;
        fields->encoding = value;
        return;
    }
}

static int check_framing(const fl_request *request, const fl_fields *fields)
{
    if (fields->lengths > 1 || fields->empty_length) return 400;
    if (fields->encodings == 0) return 0;
    if (fields->lengths || fields->encodings > 1 || request->minor == 0) return 400;
    if (!fl_slice_equal_nocase(fields->encoding, FL_SLICE("chunked"))) return 400;
    return request->chunked ? 0 : 400;
}

static int check_expect(fl_request *request, const fl_fields *fields)
{
    if (fields->expects == 0 || request->minor == 0) return 0; /* RFC 9110 section 10.1.1 */
    if (fields->expects > 1) return 417;
    if (!fl_slice_equal_nocase(fields->expect, FL_SLICE("100-continue"))) return 417;
    request->expects_continue = request->chunked || request->content_length > 0;
    return 0;
}

/* "http://authority/path" (RFC 9112 section 3.2.2): its authority counts, not the Host field. */
static int absolute_form(fl_request *request, fl_slice target)
{
    size_t scheme = 0;
    if (target.size > 7 && fl_slice_equal_nocase(fl_slice_of(target.data, 7), FL_SLICE("http://")))
        scheme = 7;
    if (target.size > 8 && fl_slice_equal_nocase(fl_slice_of(target.data, 8), FL_SLICE("https://")))
        scheme = 8;
    if (!scheme) return 400;
    size_t at = scheme;
    while (at < target.size && target.data[at] != '/' && target.data[at] != '?') at++;
    request->host = fl_slice_of(target.data + scheme, at - scheme);
    if (request->host.size == 0 || !fl_head_is_host(request->host)) return 400;
    request->path = (uint16_t)at;
    return 0;
}

static int check_target(fl_request *request)
{
    fl_slice target = fl_request_target(request);
    if (memchr(target.data, '#', target.size)) return 400;
    bool asterisk = target.size == 1 && target.data[0] == '*';
    if (request->method == HTTP_CONNECT) return 400;
    if (asterisk && request->method != HTTP_OPTIONS) return 400;
    if (target.data[0] != '/' && !asterisk) {
        int status = absolute_form(request, target);
        if (status) return status;
    }
    const char *from = target.data + request->path;
    size_t size = target.size - request->path;
    const char *mark = memchr(from, '?', size);
    request->path_size = (uint16_t)(mark ? (size_t)(mark - from) : size);
    if (mark) {
        request->query = (uint16_t)(mark + 1 - target.data);
        request->query_size = (uint16_t)(target.size - request->query);
    }
    return 0;
}

int fl_head_check(fl_request *request, const llhttp_t *parser)
{
    fl_fields fields = {0};
    if (!lines_are_plain(request)) return 400;
    if (parser->http_major != 1 || parser->http_minor > 1) return 505;
    for (unsigned i = 0; i < request->header_count; i++) {
        trim_value(request, &request->headers[i]);
        note_field(request, &request->headers[i], &fields);
    }
    if (fields.hosts > 1 || (fields.hosts == 0 && request->minor == 1)) return 400;
    if (!fl_head_is_host(fields.host)) return 400;
    request->host = fields.host;
    int status = check_target(request);
    if (!status) status = check_framing(request, &fields);
    if (!status) status = check_expect(request, &fields);
    return status;
}

bool fl_head_check_trailers(const fl_request *request)
{
    static const char *const forbidden[] = {"content-length", "transfer-encoding", "host",
                                            "trailer",        "content-encoding",  "connection",
                                            "content-type",   "authorization",     "expect"};
    const char *at = request->trailers.data;
    const char *end = at + request->trailers.size;
    while (at < end) {
        fl_slice name = {at, strnlen(at, (size_t)(end - at))};
        if (name.size == 0) return false;
        for (size_t i = 0; i < sizeof(forbidden) / sizeof(*forbidden); i++)
            if (fl_slice_equal_nocase(name, fl_slice_from_string(forbidden[i]))) return false;
        at += name.size + 1;
        if (at < end) at += strnlen(at, (size_t)(end - at)) + 1;
    }
    return true;
}

bool fl_head_is_token(char c)
{
    return (kinds[(unsigned char)c] & TOKEN) != 0;
}
