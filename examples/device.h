/* CUDA memory for an example that also runs where there is no CUDA: libcuda.so.1 is opened when it is wanted. */
#ifndef SLIMCCL_EXAMPLES_DEVICE_H_
#define SLIMCCL_EXAMPLES_DEVICE_H_

#include <stddef.h>

/* How many devices there are, at least 1; or 0, and *why says what is missing. */
int devicesOpen(const char** why);

/* A thread's buffer on a device, and a stream for work on it. */
typedef struct {
  void *data, *stream;
} DeviceBuffer;

/* The functions below answer NULL, or what the driver refused. */

/* Makes device the thread's, with a buffer on it. */
const char* deviceOpen(DeviceBuffer* buffer, int device, size_t bytes);
const char* deviceClose(DeviceBuffer* buffer);
/* From the host (not from pinned memory) to the buffer: the stream's next work sees it, and host may be changed. */
const char* deviceWrite(const DeviceBuffer* buffer, const void* host, size_t bytes);
/* Waits for the stream, and brings the buffer to the host. */
const char* deviceRead(const DeviceBuffer* buffer, void* host, size_t bytes);

#endif
