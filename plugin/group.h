/* Calls between slimGroupStart and slimGroupEnd: kept, and run together at the end. */
#ifndef SLIM_GROUP_H_
#define SLIM_GROUP_H_

#include "collectives/operation.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Runs operation (of size bytes, which may be moved) at once, or keeps it for the end of this thread's group. */
slimResult_t slimSubmit(slimOperation* operation, size_t size);
bool slimGroupIsOpen(void);

#ifdef __cplusplus
}
#endif
#endif
