/* peer: who is at the other end of a connection, as plain bytes that may be copied. */
#ifndef FL_PEER_H
#define FL_PEER_H

#include <stdint.h>

typedef struct fl_peer {
    uint16_t port;
    uint8_t family; /* AF_INET, AF_INET6, AF_UNIX; 0: nobody */
    uint8_t address[16];
} fl_peer;

fl_peer fl_peer_of(int fd);
void fl_peer_text(const fl_peer *peer, char text[64]); /* the address, or "unix" */

#endif
