/* Hierarchical allreduce: ranks that fast links join are a domain. A domain's ranks first sum uncompressed, each a
 * shard of the tensor; the ranks that hold the same shard, one a domain, then make the compressed allreduce; at last
 * the domain gathers. Other collectives, and tensors too small to be cut, stay flat. */
#ifndef SLIM_HIERARCHY_H_
#define SLIM_HIERARCHY_H_

#include "collectives/step.h"

#ifdef __cplusplus
extern "C" {
#endif

/* domain: of each rank the number that its domain's ranks share; 0: a domain of its own. How they lie, for rank. */
slimDomains slimDomainsOf(const uint64_t* domain, int ranks, int rank);

/* Of a new communicator whose domains are layered, between opening and closing a batch: begins to make the transports
 * among this domain's ranks, then (in the next batch) across domains; after that, Join sets both up. */
slimResult_t slimHierarchySplit(slimComm* comm, bool across);
slimResult_t slimHierarchyJoin(slimComm* comm);
void slimHierarchyFree(slimComm* comm);

/* The transport has found an error on the way, since it was made. From any thread. */
bool slimHierarchyIsAlarmed(const slimComm* comm);
/* Ends what is under way, for good. From any thread. */
void slimHierarchyAbort(slimComm* comm);

/* The communicator whose ranks compress a call of home: home itself, or across. */
slimComm* slimHierarchyRoute(slimComm* home, slimCollective collective, uint64_t count);
/* Elements of a rank's shard, and how many stand before the first in draws and headers. */
uint64_t slimShardElements(const slimComm* home, uint64_t count);
uint64_t slimShardFirst(const slimComm* comm, uint64_t shard, uint32_t unit);

/* Before a step across domains: call->x, whole until then, becomes the shard of call->y. And after it: y is whole. Each
 * ends with its batch. */
slimResult_t slimHierarchySum(slimCall* call);
slimResult_t slimHierarchyGather(slimCall* call);

#ifdef __cplusplus
}
#endif
#endif
