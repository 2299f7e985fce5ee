#include "guard.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct network4 {
    uint32_t address;
    unsigned bits;
} network4;

typedef struct network6 {
    uint8_t address[16];
    unsigned bits;
} network6;

#define IP4(a, b, c, d)                                                                            \
    ((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))

/* The IANA special-purpose registry (RFC 6890), multicast and what is reserved. */
static const network4 closed4[] = {
    {IP4(0, 0, 0, 0), 8},      {IP4(10, 0, 0, 0), 8},     {IP4(100, 64, 0, 0), 10},
    {IP4(127, 0, 0, 0), 8},    {IP4(169, 254, 0, 0), 16}, {IP4(172, 16, 0, 0), 12},
    {IP4(192, 0, 0, 0), 24},   {IP4(192, 0, 2, 0), 24},   {IP4(192, 88, 99, 0), 24},
    {IP4(192, 168, 0, 0), 16}, {IP4(198, 18, 0, 0), 15},  {IP4(198, 51, 100, 0), 24},
    {IP4(203, 0, 113, 0), 24}, {IP4(224, 0, 0, 0), 4},    {IP4(240, 0, 0, 0), 4},
};

/* Only 2000::/3 is global unicast; these of it are not. 6to4 may lead anywhere. */
static const network6 closed6[] = {
    {{0x20, 0x01}, 23},             /* protocols of the IETF, Teredo among them */
    {{0x20, 0x01, 0x0d, 0xb8}, 32}, /* documentation */
    {{0x20, 0x02}, 16},             /* 6to4 */
    {{0x3f, 0xff}, 20},             /* documentation */
};

static const network6 global6 = {{0x20}, 3};
static const network6 mapped = {{[10] = 0xff, 0xff}, 96};
static const network6 translated = {{0x00, 0x64, 0xff, 0x9b}, 96}; /* RFC 6052 */

static bool is_public4(uint32_t address)
{
    for (size_t i = 0; i < sizeof(closed4) / sizeof(*closed4); i++)
        if ((address ^ closed4[i].address) >> (32 - closed4[i].bits) == 0) return false;
    return true;
}

static bool is_in(const uint8_t address[16], const network6 *network)
{
    unsigned whole = network->bits / 8, rest = network->bits % 8;
    if (memcmp(address, network->address, whole) != 0) return false;
    return rest == 0 || (address[whole] ^ network->address[whole]) >> (8 - rest) == 0;
}

static bool is_public6(const uint8_t address[16])
{
    if (is_in(address, &mapped) || is_in(address, &translated))
        return is_public4(IP4(address[12], address[13], address[14], address[15]));
    if (!is_in(address, &global6)) return false;
    for (size_t i = 0; i < sizeof(closed6) / sizeof(*closed6); i++)
        if (is_in(address, &closed6[i])) return false;
    return true;
}

bool fl_guard_is_public(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        struct sockaddr_in four;
        memcpy(&four, address, sizeof(four));
        return is_public4(ntohl(four.sin_addr.s_addr));
    }
    if (address->sa_family != AF_INET6) return false;
    struct sockaddr_in6 six;
    memcpy(&six, address, sizeof(six));
    return is_public6(six.sin6_addr.s6_addr);
}

bool fl_guard_is_public_text(const char *address)
{
    struct in_addr four;
    struct in6_addr six;
    if (inet_pton(AF_INET, address, &four) == 1) return is_public4(ntohl(four.s_addr));
    return inet_pton(AF_INET6, address, &six) == 1 && is_public6(six.s6_addr);
}
