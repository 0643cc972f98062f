/* One rank's communicator: a transport, the settings that all ranks share, and the buffers that calls reuse. */
#ifndef SLIM_COMM_H_
#define SLIM_COMM_H_

#include "collectives/device.h"
#include "collectives/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Values are slimAlgo_t's. */
typedef enum { slimAlgorithmAuto, slimAlgorithmTwoShot, slimAlgorithmOneShot, slimAlgorithmLinear } slimAlgorithm;
/* "two-shot", … */
const char* slimAlgorithmName(slimAlgorithm algorithm);

typedef enum {
  slimCollectiveAllReduce = 1,
  slimCollectiveBroadcast,
  slimCollectiveReduce,
  slimCollectiveReduceScatter,
  slimCollectiveAllGather
} slimCollective;
const char* slimCollectiveName(int collective);

typedef struct {
  uint64_t seed;
  slimAlgorithm algorithm;
  size_t sliceBytes;
  size_t deviceBytes; /* of device memory, for all state and buffers */
  bool modest;        /* less of it, where a device is short of memory: ranks compare what they have */
  bool hierarchy;     /* where domains are layered, allreduce is plain inside and compressed across */
  uint64_t domain;    /* this rank's; 0: as the device sees it */
  double timeout;
  int threads;
  /* Under preload: */
  uint64_t rules; /* what else all ranks must have alike: a hash */
  bool mirrored;  /* statistics can be read without the device: at the process's end it may be gone */
} slimSettings;

/* What every rank tells every other one before a call moves data. All but result and finite must be equal. */
typedef struct {
  uint32_t magic, version;
  uint32_t collective, type, op, slot;
  int32_t root;
  int32_t result;     /* not slimSuccess: this rank cannot make the call */
  uint32_t algorithm; /* 0: plain */
  uint32_t shifts;    /* slimTensorSetShift calls so far */
  uint64_t count, hash, step, slice, seed;
  double lambda;      /* slimTensorSetLambda's, or 0 */
  uint32_t finite;    /* dense steps that set state: x holds no NaN or Inf */
  uint32_t hierarchy; /* of settings */
} slimCallRecord;

/* Ranks that fast links join are a domain. */
typedef struct {
  enum {
    slimDomainsApart,   /* each rank is its own */
    slimDomainsLayered, /* several of the same size */
    slimDomainsUneven,
    slimDomainsOne /* of all ranks, more than one */
  } kind;
  int count, size; /* domains, and ranks of the first */
  int own, place;  /* this rank's domain, and its number there */
} slimDomains;

struct slimTensor;

typedef struct slimComm {
  slimTransport* transport;
  const slimDevice* device;
  struct slimCudaComm* cuda; /* of collectives/cuda.c, on a CUDA device */
  int rank, ranks;
  uint64_t clique; /* a number that this process's handles of the same ranks share */
  uint64_t number; /* as the comparison finds it: the largest that a rank gave */
  slimDomains domains;
  /* Of layered ones, where settings want it (hierarchy.h): */
  slimTransport *inside, *between; /* this rank's domain; across domains, until it is: */
  struct slimComm* across;         /* the ranks of this one's place in each domain, on the same device */
  struct slimComm* home;           /* of across: whose it is, and who has the tensors; else this one */
  struct {
    uint32_t cast; /* so far */
    bool over;     /* they will not come any more; set by any thread */
    void* there;   /* [ranks + 1][slimBallotWords] on the device: those received, and the own ones */
  } ballot;
  slimSettings settings;
  slimPool* pool;
  struct slimTensor* tensors; /* in ascending order of slots */
  slimLane* lanes;            /* [ranks], scratch */
  slimCallRecord* records;    /* [ranks + 1]: those received; the last is the own one on its way */
  const uint8_t** payloads;   /* [ranks], scratch */
  uint8_t* staging;           /* where the device works; 64-byte aligned, grown to the largest call's need */
  size_t stagingBytes;
  uint64_t sentBytes;
  double waitSeconds; /* in begin and wait */
  bool broken;
  char why[256];
} slimComm;

/* Takes the transport over, also on error. */
slimResult_t slimCommCreate(slimComm** comm, slimTransport* transport, const slimSettings* settings);
void slimCommFree(slimComm* comm);

/* transport's begin and wait, with statistics. Lanes are comm->lanes; begin clears them. */
slimResult_t slimBegin(slimComm* comm, int id);
slimResult_t slimWait(slimComm* comm, int id);
/* Broadcast of bytes from root in two exchanges, each rank passing on what it got: the lanes of the first and the
 * second. data: where they lie, or go to. */
void slimSpreadFirst(slimComm* comm, int root, uint8_t* data, size_t bytes);
void slimSpreadSecond(slimComm* comm, int root, uint8_t* data, size_t bytes);
/* Something failed on this rank in the middle of a call: the communicator cannot go on. Answers result. */
slimResult_t slimBreak(slimComm* comm, slimResult_t result);

/* Exchanges records and compares them: where ranks differ, or one cannot make the call, every rank fails with the same
 * words (a rank that cannot, with its own, reason). Nothing else has been sent or changed by then. finite: whether all
 * ranks' is set. */
slimResult_t slimAgreeBegin(slimComm* comm, const slimCallRecord* mine);
slimResult_t slimAgreeEnd(slimComm* comm, const slimCallRecord* mine, const char* reason, bool* finite);

double slimSeconds(void);
void* slimAlignedAlloc(size_t bytes); /* 64-byte aligned, zeroed; free() */
static inline size_t slimAlign64(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

#ifdef __cplusplus
}
#endif
#endif
