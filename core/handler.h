/* handler: runs a route's function for a request and answers with what it returns or raises.
 *
 * *loop*, from C only. One crossing into Lua for a handler that does not wait. */
#ifndef FL_HANDLER_H
#define FL_HANDLER_H

#include "request.h"

/* The head is complete: refuses, redirects or runs the handler. The request may be answered and
 * gone when it returns: hold it. */
void fl_handler_dispatch(fl_request *request);

/* The client has left: tasks that may be cancelled are, the answer will be dropped. */
void fl_handler_client_left(fl_request *request);

/* The same as at first, of a request whose state had to be given up; in the loop's next turn. */
void fl_handler_run_again(fl_request *request);

/* Runs the handler in a task of this thread: of a web thread, or of a pool's (remote.h). */
void fl_handler_run(fl_request *request);

/* The whole body is there: what waited for it to run in a pool is sent there. */
void fl_handler_body_complete(fl_request *request);

/* The response is complete: in thread->out, queued, or given up. */
void fl_handler_end(fl_request *request);

/* Answers with an error status, without the app. */
void fl_handler_fail(fl_request *request, int status);

/* Its handler runs in a pool, from which the answer is due within so many milliseconds. */
void fl_handler_hurry(fl_request *request, uint64_t milliseconds);

/* The client has left and nothing of the connection is needed any more: ends a request that nothing
 * works for. */
void fl_handler_detached(fl_request *request);

/* Answers with a status decided by the server, through the app's middleware when it has some. */
void fl_handler_refuse(fl_request *request, int status);

#endif
