/* notify: tells the service manager how the start, a reload and the stop go (the datagrams of
 * sd_notify(3), without its library).
 *
 * Stateless, any thread, never blocks. `address` is NOTIFY_SOCKET's value: a path, or "@name" in
 * the abstract namespace; NULL or "" is none, and no error. 0 or a negative uv code. */
#ifndef FL_NOTIFY_H
#define FL_NOTIFY_H

/* state: lines such as "READY=1\nSTATUS=serving". */
int fl_notify_send(const char *address, const char *state);

/* RELOADING=1, with the time by which the service manager tells reloads apart; READY=1 ends it. */
int fl_notify_reloading(const char *address);

#endif
