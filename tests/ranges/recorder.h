// An NVTX tool that counts ranges; NVTX and the test open the same library.
#ifndef SLIM_TESTS_RANGES_RECORDER_H_
#define SLIM_TESTS_RANGES_RECORDER_H_

#include <cstdint>

extern "C" {
// Ranges so far: of a "domain/name"; of all.
uint64_t recorderCount(const char* name);
uint64_t recorderTotal();
// Ranges that the calling thread has open; below 0: it closed more than it opened.
long recorderDepth();
}

#endif
