#include "proxy.h"

#include <arpa/inet.h>
#include <stdlib.h>

#include "connection.h"
#include "head.h"
#include "web.h"

#define ID_BYTES 128

static bool prefix_equal(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    if (memcmp(a, b, bits / 8) != 0) return false;
    if (bits % 8 == 0) return true;
    uint8_t mask = (uint8_t)(0xff << (8 - bits % 8));
    return ((a[bits / 8] ^ b[bits / 8]) & mask) == 0;
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
    unsigned long bits = slash ? strtoul(slash, NULL, 10) : width;
    return bits <= width && prefix_equal(network, address, (unsigned)bits);
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
    const fl_settings *settings = request->web->settings;
    const fl_connection *connection = request->connection;
    return settings->proxy_headers && connection &&
           fl_proxy_trusts(settings->forwarded_allow_ips, connection->peer_family,
                           connection->peer_address);
}

static fl_slice last_entry(fl_slice list)
{
    size_t at = list.size;
    while (at > 0 && list.data[at - 1] != ',') at--;
    while (at < list.size && list.data[at] == ' ') at++;
    return fl_slice_of(list.data + at, list.size - at);
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
    fl_connection_peer(request->connection, address);
    fl_slice client = fl_slice_from_string(address);
    if (!is_trusted(request)) return client;
    fl_slice list = fl_request_header(request, FL_SLICE("x-forwarded-for"));
    const char *trusted = request->web->settings->forwarded_allow_ips;
    while (list.size) {
        fl_slice entry = last_entry(list);
        uint8_t bytes[16];
        int family;
        if (!parse_address(entry, &family, bytes)) return client;
        client = entry;
        if (strcmp(trusted, "*") != 0 && !fl_proxy_trusts(trusted, family, bytes)) return client;
        list.size = (size_t)(entry.data - list.data);
        while (list.size && (list.data[list.size - 1] == ',' || list.data[list.size - 1] == ' '))
            list.size--;
    }
    return client;
}

fl_slice fl_proxy_scheme(const fl_request *request)
{
    if (!is_trusted(request)) return FL_SLICE("http");
    fl_slice scheme = last_entry(fl_request_header(request, FL_SLICE("x-forwarded-proto")));
    return fl_slice_equal_nocase(scheme, FL_SLICE("https")) ? FL_SLICE("https") : FL_SLICE("http");
}

fl_slice fl_proxy_host(const fl_request *request)
{
    if (!is_trusted(request)) return request->host;
    fl_slice host = last_entry(fl_request_header(request, FL_SLICE("x-forwarded-host")));
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
