/* Input: a list of trusted peers, a line feed, the X-Forwarded-For, -Proto and -Host fields' value.
 * What is taken of it must be a trusted proxy's word, and lie in the field. */
#include "bare_web.h"
#include "fuzz.h"
#include "proxy.h"

static bool is_address(fl_slice text, int *family, uint8_t bytes[16])
{
    char copy[64] = "";
    if (text.size >= sizeof(copy)) return false;
    memcpy(copy, text.data, text.size);
    *family = memchr(copy, ':', text.size) ? AF_INET6 : AF_INET;
    return inet_pton(*family, copy, bytes) == 1;
}

static void check(const fl_request *request, const char *list)
{
    char peer[64];
    uint8_t bytes[16];
    int family;
    fl_slice client = fl_proxy_client(request, peer);
    demand(is_address(client, &family, bytes));
    bool trusted = fl_proxy_trusts(list, AF_INET, request->peer.address);
    demand(trusted || client.data == peer);
    demand(fl_proxy_scheme(request).size >= 4);
    demand(trusted || fl_slice_equal(fl_proxy_host(request), request->host));
    demand(fl_proxy_request_id(request).size <= 128);
    if (strcmp(list, "0.0.0.0/0") == 0) demand(trusted);
}

/* Put in place, as the parser would: it takes no NUL in a value. */
static void give_field(fl_request *request, fl_buffer *head, const char *name, fl_slice value)
{
    fl_header *header = &request->headers[request->header_count++];
    header->name = (uint16_t)head->size;
    header->name_size = (uint16_t)strlen(name);
    fl_buffer_slice(head, fl_slice_from_string(name));
    header->value = (uint16_t)head->size;
    header->value_size = (uint16_t)value.size;
    fl_buffer_slice(head, value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"x-forwarded-for", "X-Forwarded-Proto", "x-forwarded-host",
                                        "X-Forwarded-For", "x-request-id"};
    const uint8_t *mark = size && size < 4096 ? memchr(data, '\n', size) : NULL;
    if (!mark) return 0;
    fl_slice value = {(const char *)mark + 1, size - (size_t)(mark - data) - 1};
    if (memchr(value.data, '\0', value.size)) return 0;
    char *list = strndup((const char *)data, (size_t)(mark - data));
    fl_bare_web bare;
    bare_web_open(&bare);
    bare.settings.proxy_headers = true;
    bare.settings.forwarded_allow_ips = list;
    bare.connection.peer.family = AF_INET;
    memcpy(bare.connection.peer.address, "\x7f\0\0\1", 4);
    fl_request *request = fl_request_new(&bare.web.thread, &bare.connection);
    demand(request && list);
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        give_field(request, &request->head, names[i], value);
    request->base = request->head.data;
    check(request, list);
    fl_request_release(request);
    demand(bare_web_close(&bare) == 0);
    free(list);
    return 0;
}
