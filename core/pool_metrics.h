/* pool_metrics: what /metrics says of the pools, in Prometheus' text format.
 *
 * *any* thread, until the pools are freed. */
#ifndef FL_POOL_METRICS_H
#define FL_POOL_METRICS_H

#include "buffer.h"
#include "pools.h"

void fl_pools_render(fl_pools *pools, fl_buffer *out);

#endif
