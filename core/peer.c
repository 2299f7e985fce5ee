#include "peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

static void take_ipv6(fl_peer *peer, const struct sockaddr_in6 *in6)
{
    peer->port = ntohs(in6->sin6_port);
    memcpy(peer->address, &in6->sin6_addr, 16);
    if (!IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) return;
    peer->family = AF_INET; /* a dual-stack socket's IPv4 */
    memcpy(peer->address, in6->sin6_addr.s6_addr + 12, 4);
}

fl_peer fl_peer_of(int fd)
{
    fl_peer peer = {0};
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    if (getpeername(fd, (struct sockaddr *)&address, &size) < 0) return peer;
    peer.family = (uint8_t)address.ss_family;
    if (address.ss_family == AF_INET) {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)&address;
        memcpy(peer.address, &in4->sin_addr, 4);
        peer.port = ntohs(in4->sin_port);
    } else if (address.ss_family == AF_INET6) {
        take_ipv6(&peer, (const struct sockaddr_in6 *)&address);
    }
    return peer;
}

void fl_peer_text(const fl_peer *peer, char text[64])
{
    text[0] = '\0';
    if (peer->family == AF_INET || peer->family == AF_INET6)
        inet_ntop(peer->family, peer->address, text, 64);
    else
        memcpy(text, "unix", 5);
}
