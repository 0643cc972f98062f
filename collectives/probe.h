/* How long sums take on devices, measured by their clocks. */
#ifndef SLIM_PROBE_H_
#define SLIM_PROBE_H_

#include "collectives/step.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A few sums of count fp32 values, x into y, one after the other on the communicator's own stream. The first is for
 * connections and buffers, and not timed. */
typedef struct {
  slimOperation base;
  slimComm* home;
  slimTensor* tensor; /* NULL: plain */
  const void* x;
  void* y;
  uint64_t count;
  int timed, made; /* sums */
  bool running;
  slimCall step;
  double seconds; /* of a sum, on the slowest rank: the same on all ranks */
} slimProbe;

/* tensor: unused, or of the same count. Where its buffers do not fit into the device's memory, or the tensor cannot be
 * summed, all ranks hear so alike. */
slimResult_t slimProbePrepare(slimProbe* probe, slimComm* home, slimTensor* tensor, const void* x, void* y,
                              uint64_t count, int timed);

/* Runs n probes side by side, of different communicators; all ranks of each do the same. What became of each is its
 * base.result; its words are lost. */
void slimProbeRun(slimProbe* probes, int n);

#ifdef __cplusplus
}
#endif
#endif
