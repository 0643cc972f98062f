/* How bytes move between ranks. One operation carries every collective: an exchange, in which each rank sends one
 * stretch of bytes to each other rank and receives one from each; all-to-all, all-gather, gather and broadcast are
 * exchanges with some of the stretches equal or empty. Sizes are known on both sides beforehand (slimAgree sees to it).
 */
#ifndef SLIM_TRANSPORT_H_
#define SLIM_TRANSPORT_H_

#include "compress/compress.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef slimLane_t slimLane;

enum { slimExchanges = 6 }; /* that may be under way at once */

/* Where bytes lie on devices, a transport does not move them: it enqueues copies on the stream of the call under way,
 * in order with what made the bytes. */
typedef struct slimCopier slimCopier;
struct slimCopier {
  slimResult_t (*mark)(slimCopier* copier, int mark); /* mark: the point that the stream has reached */
  slimResult_t (*await)(slimCopier* copier, const slimCopier* other,
                        int mark); /* what follows waits for other's mark */
  slimResult_t (*copy)(slimCopier* copier, void* to, const void* from, size_t bytes);
  void* stream; /* of the call under way: a CUstream */
  /* Before a thread sleeps until others have enqueued something (false), and after (true). */
  void (*turn)(slimCopier* copier, bool take);

  /* A second stream, so that exchanges run beside passes: apart says that the call under way wants it. It waits for
   * stream at fork; stream waits at join(batch) for what came before land(batch); the last two batches count. */
  bool apart;
  void* side;
  slimResult_t (*fork)(slimCopier* copier);
  slimResult_t (*land)(slimCopier* copier, unsigned batch);
  slimResult_t (*join)(slimCopier* copier, unsigned batch);
};
enum { slimMarks = 2 * slimExchanges };

typedef struct slimTransport slimTransport;
struct slimTransport {
  int rank, ranks;
  int neighbours;     /* ranks that share this machine's cores, this one included */
  bool holdsBuffers;  /* after a failure: messages may still be read from buffers, so they must not be freed */
  slimCopier* copier; /* NULL: buffers are host memory */
  bool oneGraph;      /* ranks' streams wait for each other's, so what they capture is one graph */

  /* Starts exchange id (0 … slimExchanges − 1, not under way): lanes[p] for rank p; the own rank's is ignored, but a
   * copier serves it too. The buffers must stay until wait. All ranks begin the same exchanges in the same order. */
  slimResult_t (*begin)(slimTransport* transport, int id, const slimLane* lanes);

  /* Between open and close exchanges need not leave: they do so at close, together with those that transports of the
   * same kind began in between on this thread. NULL: they leave at once. */
  slimResult_t (*batch)(slimTransport* transport, bool open);
  /* Of each transport with something in the batch: before its close, and after it. With batch. */
  slimResult_t (*depart)(slimTransport* transport);
  slimResult_t (*departed)(slimTransport* transport);

  /* Until all lanes of exchange id have been sent and received. After timeout seconds: slimRemoteError, naming the
   * ranks not heard from. An error is for good: the transport is broken from then on. */
  slimResult_t (*wait)(slimTransport* transport, int id, double timeout);

  /* The collective uncompressed, for any type and op, by the library under the transport. NULL: there is none. */
  slimResult_t (*plain)(slimTransport* transport, int collective, const void* x, void* y, size_t count,
                        slimDataType_t type, slimRedOp_t op, int root);

  /* Between open and close of a batch: makes a transport of the ranks that give the same colour, this one's being rank
   * of ranks; *made (which may be destroyed at once) works after the close. The parent must be idle, and lives at least
   * as long. NULL: cannot be. */
  slimResult_t (*split)(slimTransport* transport, int colour, int rank, int ranks, slimTransport** made);
  /* Of those that split made, from any thread: an error was found since; end what is under way. */
  bool (*alarmed)(const slimTransport* transport);
  void (*abort)(slimTransport* transport);

  /* Lets exchanges under way advance; called between passes. May be NULL. */
  void (*poll)(slimTransport* transport);

  /* Breaks the transport: ranks that wait for this one learn why (over MPI: they time out). */
  void (*fail)(slimTransport* transport, const char* why);

  void (*destroy)(slimTransport* transport);
};

/* ranks virtual ranks inside this process; each is used by one thread at a time, and destroyed by itself. */
slimResult_t slimLocalTransports(slimTransport** transports, int ranks);

/* Exchanges by the caller's functions (slimCallbacks_t of slimccl.h): begin and wait answer 0 for success. */
slimResult_t slimCallbackTransport(slimTransport** transport, int rank, int ranks, int neighbours, void* context,
                                   int (*begin)(void* context, int id, const slimLane* lanes),
                                   int (*wait)(void* context, int id, double timeout));

#ifdef __cplusplus
}
#endif
#endif
