/* memory_file: memory that processes share: a file without a name, whose size is sealed, so that
 * none of them can shrink it under another one's feet.
 *
 * Owner: the caller closes `fd`. Pure; *any* thread. */
#ifndef FL_MEMORY_FILE_H
#define FL_MEMORY_FILE_H

#include <stddef.h>

/* Of zeros; `name` shows in /proc. 0 or a negative uv code. */
int fl_memory_file_create(int *fd, const char *name, size_t size);

#endif
