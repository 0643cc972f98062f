/* NVTX ranges in a domain of their own, "SlimCCL": what a call's time goes to, for Nsight Systems and other tools.
 * Where no tool is attached a range is a call and a branch; without the toolkit's headers at build time it is nothing.
 */
#ifndef SLIM_RANGES_H_
#define SLIM_RANGES_H_

#ifdef SLIM_WITH_NVTX
/* SLIM_RANGE("encode"); from here to the end of the block, however it is left. */
#define SLIM_RANGE(name) __attribute__((cleanup(slimRangeEnd), unused)) const int slimRange_ = slimRangeBegin(name)

#ifdef __cplusplus
extern "C" {
#endif
int slimRangeBegin(const char* name);
void slimRangeEnd(const int* range);
#ifdef __cplusplus
}
#endif
#else
#define SLIM_RANGE(name)
#endif

#endif
