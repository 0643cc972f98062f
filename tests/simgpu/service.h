/* What the stand-in's libcuda offers its libcudart and libnccl, beside the driver API: operations of a stream that are
 * code of the host and see device memory, checked like any other. */
#ifndef SLIM_SIMGPU_SERVICE_H_
#define SLIM_SIMGPU_SERVICE_H_

#include <cuda.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Runs run(operation, data) when the stream gets there, and at each replay where the stream is captured; drop(data)
 * when it cannot run any more. Operations of the same `order` follow each other, whatever streams and graphs they are
 * in. */
CUresult simgpuEnqueue(CUstream stream, const char* name, const void* order, void (*run)(void* operation, void* data),
                       void (*drop)(void*), void* data);
/* Waits for what was enqueued with that order; then it may be used for something else. */
void simgpuDrain(const void* order);
/* From inside run: copies from or to device memory, or page-locked memory of the host. False: the memory is not there,
 * and that has been reported. Bytes that nobody has written are read without complaint. */
bool simgpuRead(void* operation, void* to, CUdeviceptr from, size_t bytes);
bool simgpuWrite(void* operation, CUdeviceptr to, const void* from, size_t bytes);
/* For an allocation that nobody has written to yet: to read it as it is will be reported, and goes on, as on a device.
 */
CUresult simgpuTolerate(CUdeviceptr p);
/* What was enqueued on the stream comes before all that is enqueued on its device from now on. */
CUresult simgpuSettle(CUstream stream);
/* The stream's device; -1 if there is no such stream. */
int simgpuDeviceOf(CUstream stream);

/* Of the address sanitizer, if the program has it. */
void __lsan_ignore_object(const void* p) __attribute__((weak));

#ifdef __cplusplus
}

/* What a thread keeps to the end of the process, though the thread may end before: no leak. */
template <typename T>
T& simgpuKept(T* p) {
  if (__lsan_ignore_object) __lsan_ignore_object(p);
  return *p;
}
#endif
#endif
