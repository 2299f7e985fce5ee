#include "transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#define KEEPALIVE_IDLE 60 /* s */

static int fail(fl_transport *self, int status)
{
    (void)snprintf(self->problem, sizeof(self->problem), "%s", uv_strerror(status));
    return status;
}

/* TLS */

static void take_tls_error(char *problem, size_t size, const char *otherwise)
{
    unsigned long code = ERR_get_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    (void)snprintf(problem, size, "%s", reason ? reason : otherwise);
    ERR_clear_error();
}

static int fail_tls(fl_transport *self)
{
    long verified = SSL_get_verify_result(self->tls);
    if (verified != X509_V_OK && !SSL_is_init_finished(self->tls)) {
        ERR_clear_error();
        (void)snprintf(self->problem, sizeof(self->problem), "TLS: the certificate: %s",
                       X509_verify_cert_error_string(verified));
    } else {
        char reason[200];
        take_tls_error(reason, sizeof(reason), "the connection was closed");
        (void)snprintf(self->problem, sizeof(self->problem), "TLS: %s", reason);
    }
    return UV_EPROTO;
}

/* What a call of OpenSSL that did not succeed means: 0 for not now. */
static int judge_tls(fl_transport *self, int result)
{
    int error = errno;
    switch (SSL_get_error(self->tls, result)) {
    case SSL_ERROR_WANT_READ: self->want |= UV_READABLE; return 0;
    case SSL_ERROR_WANT_WRITE: self->want |= UV_WRITABLE; return 0;
    case SSL_ERROR_ZERO_RETURN: return fail(self, UV_EOF);
    case SSL_ERROR_SYSCALL: ERR_clear_error(); return fail(self, error ? -error : UV_EOF);
    default: return fail_tls(self);
    }
}

static bool is_number(const char *name)
{
    unsigned char address[16];
    return inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1;
}

static int secure(fl_transport *self, SSL_CTX *context, const char *name)
{
    self->tls = SSL_new(context);
    if (!self->tls) return UV_ENOMEM;
    bool named = is_number(name)
                     ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(self->tls), name) == 1
                     : SSL_set1_host(self->tls, name) == 1 &&
                           SSL_set_tlsext_host_name(self->tls, (char *)name) == 1;
    if (!named || SSL_set_fd(self->tls, self->fd) != 1) return UV_ENOMEM;
    SSL_set_connect_state(self->tls);
    return 0;
}

SSL_CTX *fl_transport_context(const char *ca, char *problem, size_t size)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    bool is_good = context && SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1;
    if (is_good)
        is_good = (ca ? SSL_CTX_load_verify_file(context, ca)
                      : SSL_CTX_set_default_verify_paths(context)) == 1;
    if (!is_good) {
        take_tls_error(problem, size, "not enough memory");
        SSL_CTX_free(context);
        return NULL;
    }
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return context;
}

/* the socket */

static void set_options(int fd, int family)
{
    const int yes = 1, idle = KEEPALIVE_IDLE;
    if (family == AF_UNIX) return;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
}

int fl_transport_open(fl_transport *self, const struct sockaddr *address, socklen_t size,
                      SSL_CTX *context, const char *name)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *self = (fl_transport){.fd = fd, .want = UV_WRITABLE};
    if (fd < 0) return fail(self, -errno);
    set_options(fd, address->sa_family);
    if (connect(fd, address, size) < 0 && errno != EINPROGRESS) {
        int status = fail(self, -errno);
        fl_transport_close(self);
        return status;
    }
    int status = context ? secure(self, context, name) : 0;
    if (status < 0) {
        (void)fail(self, status);
        fl_transport_close(self);
    }
    return status;
}

int fl_transport_connect(fl_transport *self)
{
    int error = 0;
    socklen_t size = sizeof(error);
    self->want = 0;
    if (!self->connected && getsockopt(self->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    if (error) return fail(self, -error);
    self->connected = true;
    if (!self->tls) return 1;
    ERR_clear_error();
    errno = 0;
    int result = SSL_do_handshake(self->tls);
    return result == 1 ? 1 : judge_tls(self, result);
}

ssize_t fl_transport_read(fl_transport *self, void *to, size_t size)
{
    if (self->tls) {
        ERR_clear_error();
        errno = 0;
        int count = SSL_read(self->tls, to, (int)size);
        return count > 0 ? count : judge_tls(self, count);
    }
    ssize_t count = read(self->fd, to, size);
    if (count > 0) return count;
    if (count == 0) return fail(self, UV_EOF);
    if (errno != EAGAIN && errno != EINTR) return fail(self, -errno);
    self->want |= UV_READABLE;
    return 0;
}

ssize_t fl_transport_write(fl_transport *self, const void *data, size_t size)
{
    const size_t most = (size_t)1 << 30;
    if (size > most) size = most;
    if (self->tls) {
        ERR_clear_error();
        errno = 0;
        int count = SSL_write(self->tls, data, (int)size);
        return count > 0 ? count : judge_tls(self, count);
    }
    ssize_t count = send(self->fd, data, size, MSG_NOSIGNAL);
    if (count >= 0) return count;
    if (errno != EAGAIN && errno != EINTR) return fail(self, -errno);
    self->want |= UV_WRITABLE;
    return 0;
}

void fl_transport_close(fl_transport *self)
{
    if (self->tls) SSL_free(self->tls);
    self->tls = NULL;
    if (self->fd >= 0) (void)close(self->fd);
    self->fd = -1;
}
