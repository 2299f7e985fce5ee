#include "proxy.h"

#include <arpa/inet.h>
#include <stdlib.h>

#include "connection.h"
#include "head.h"
#include "thread.h"

#define ID_BYTES 128

static bool prefix_equal(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    if (memcmp(a, b, bits / 8) != 0) return false;
    if (bits % 8 == 0) return true;
    uint8_t mask = (uint8_t)(0xff << (8 - bits % 8));
    return ((a[bits / 8] ^ b[bits / 8]) & mask) == 0;
}

/* Decimal digits and nothing else: a slip in a network must not widen it. */
static bool parse_bits(const char *text, unsigned width, unsigned *bits)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 3 || text[digits] != '\0') return false;
    *bits = (unsigned)strtoul(text, NULL, 10);
    return *bits <= width;
}

static bool entry_holds(char *entry, int family, const uint8_t address[16])
{
    uint8_t network[16];
    if (strcmp(entry, "*") == 0) return true;
    if (family == AF_UNIX) return strcmp(entry, "unix") == 0;
    char *slash = strchr(entry, '/');
    if (slash) *slash++ = '\0';
    if (inet_pton(family, entry, network) != 1) return false;
    unsigned width = family == AF_INET ? 32 : 128;
    unsigned bits = width;
    if (slash && !parse_bits(slash, width, &bits)) return false;
    return prefix_equal(network, address, bits);
}

bool fl_proxy_trusts(const char *list, int family, const uint8_t address[16])
{
    char entry[80];
    while (*list) {
        size_t size = strcspn(list, ", ");
        if (size > 0 && size < sizeof(entry)) {
            memcpy(entry, list, size);
            entry[size] = '\0';
            if (entry_holds(entry, family, address)) return true;
        }
        list += size;
        list += strspn(list, ", ");
    }
    return false;
}

static bool is_trusted(const fl_request *request)
{
    const fl_settings *settings = request->thread->settings;
    const fl_peer *peer = &request->peer;
    return settings->proxy_headers && peer->family &&
           fl_proxy_trusts(settings->forwarded_allow_ips, peer->family, peer->address);
}

/* The value of the last field of that name above `*line`, which it moves there; data NULL: none.
 * Several fields are one list (RFC 9110 section 5.3), and a proxy may add its own field below. */
static fl_slice field_above(const fl_request *request, fl_slice name, unsigned *line)
{
    while (*line > 0) {
        const fl_header *field = &request->headers[--*line];
        if (fl_slice_equal_nocase(fl_request_text(request, field->name, field->name_size), name))
            return fl_request_text(request, field->value, field->value_size);
    }
    return (fl_slice){0};
}

/* Takes the last entry off a comma-separated list. */
static fl_slice cut_last(fl_slice *list)
{
    size_t end = list->size;
    while (end > 0 && (list->data[end - 1] == ' ' || list->data[end - 1] == '\t')) end--;
    size_t at = end;
    while (at > 0 && list->data[at - 1] != ',') at--;
    list->size = at > 0 ? at - 1 : 0;
    while (at < end && (list->data[at] == ' ' || list->data[at] == '\t')) at++;
    return at < end ? fl_slice_of(list->data + at, end - at) : (fl_slice){0};
}

static fl_slice last_entry(const fl_request *request, fl_slice name)
{
    unsigned line = request->header_count;
    fl_slice list = field_above(request, name, &line);
    return cut_last(&list);
}

static bool parse_address(fl_slice text, int *family, uint8_t address[16])
{
    char copy[64];
    if (text.size == 0 || text.size >= sizeof(copy)) return false;
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    for (int i = 0; i < 2; i++) {
        *family = i ? AF_INET6 : AF_INET;
        if (inet_pton(*family, copy, address) == 1) return true;
    }
    return false;
}

/* From the right, the first address that is not a trusted proxy itself: what stands left of it
 * anybody may have written. */
fl_slice fl_proxy_client(const fl_request *request, char address[64])
{
    fl_peer_text(&request->peer, address);
    fl_slice client = fl_slice_from_string(address);
    if (!is_trusted(request)) return client;
    const char *trusted = request->thread->settings->forwarded_allow_ips;
    unsigned line = request->header_count;
    fl_slice list = field_above(request, FL_SLICE("x-forwarded-for"), &line);
    while (list.data) {
        uint8_t bytes[16];
        int family;
        fl_slice entry = cut_last(&list);
        if (list.size == 0) list = field_above(request, FL_SLICE("x-forwarded-for"), &line);
        if (entry.size == 0) continue; /* RFC 9110 section 5.6.1.2 */
        if (!parse_address(entry, &family, bytes)) return client;
        client = entry;
        if (strcmp(trusted, "*") != 0 && !fl_proxy_trusts(trusted, family, bytes)) return client;
    }
    return client;
}

fl_slice fl_proxy_scheme(const fl_request *request)
{
    if (!is_trusted(request)) return FL_SLICE("http");
    fl_slice scheme = last_entry(request, FL_SLICE("x-forwarded-proto"));
    return fl_slice_equal_nocase(scheme, FL_SLICE("https")) ? FL_SLICE("https") : FL_SLICE("http");
}

fl_slice fl_proxy_host(const fl_request *request)
{
    if (!is_trusted(request)) return request->host;
    fl_slice host = last_entry(request, FL_SLICE("x-forwarded-host"));
    return host.size && fl_head_is_host(host) ? host : request->host;
}

static bool is_plain_id(fl_slice id)
{
    if (id.size == 0 || id.size > ID_BYTES) return false;
    for (size_t i = 0; i < id.size; i++) {
        char c = id.data[i];
        bool word = (fl_lower(c) >= 'a' && fl_lower(c) <= 'z') || (c >= '0' && c <= '9');
        if (!word && !memchr("-_.:+/=", c, 7)) return false;
    }
    return true;
}

fl_slice fl_proxy_request_id(const fl_request *request)
{
    if (!is_trusted(request)) return (fl_slice){0};
    fl_slice id = fl_request_header(request, FL_SLICE("x-request-id"));
    return is_plain_id(id) ? id : (fl_slice){0};
}
