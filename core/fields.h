/* fields: query strings, urlencoded forms and Cookie fields into Lua tables.
 *
 * Pure; the thread of L. One linear pass, no patterns. Names and values are percent-decoded, "+" is
 * a space (not in cookies); a "%" that begins no escape stays. Only "&" separates. More names than
 * the limit raise an HttpError. */
#ifndef FL_FIELDS_H
#define FL_FIELDS_H

#include <lua.h>

#include "slice.h"

/* Pushes name -> value; of repeated names the last counts. With `name` given, pushes the list of
 * its values instead.  [-0, +1, e] */
void fl_fields_form(lua_State *L, fl_slice text, size_t most, const fl_slice *name);

/* Adds the pairs of one Cookie field to the table on top; the first of a name counts (RFC 6265
 * section 4.2).  Returns how many pairs there were.  [-0, +0, e] */
size_t fl_fields_cookies(lua_State *L, fl_slice text);

/* Raises { status, detail } as an HttpError.  [-0, +0, e] */
int fl_fields_refuse(lua_State *L, int status, const char *detail);

#endif
