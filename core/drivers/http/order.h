/* order: what Lua asks of a transfer, a table that the Lua modules have checked, given to libcurl.
 *
 * The thread of L. Nothing of the table is kept. */
#ifndef FL_HTTP_ORDER_H
#define FL_HTTP_ORDER_H

#include <lua.h>

#include "transfer.h"

/* Reads the table at `index`; relative paths of files begin at `folder`.  [-0, +0, e] */
void fl_http_order_read(lua_State *L, int index, const char *folder, fl_http_transfer *transfer);

#endif
