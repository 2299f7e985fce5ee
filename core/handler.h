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

/* Answers with a status decided by the server, through the app's middleware when it has some. */
void fl_handler_refuse(fl_request *request, int status);

#endif
