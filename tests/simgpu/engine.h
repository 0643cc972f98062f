/* Between the stand-in's libcuda and a kernel library: how a block is run, and the shadow of device memory that both
 * keep.
 *
 * Device memory of all devices lies in one window of addresses. Programs see `kDevice + offset`, which nobody can
 * touch; `kHost + offset` is the same memory for kernels and copies; `kState + offset` is one byte a byte (is it
 * allocated, was it written); `kCells` is 16 bytes for each 4 (who wrote and who read them last). Pages come into being
 * when touched. */
#ifndef SLIM_SIMGPU_ENGINE_H_
#define SLIM_SIMGPU_ENGINE_H_

#include <stddef.h>
#include <stdint.h>
#include <vector_types.h>

namespace simgpu {

constexpr uintptr_t kSpan = uintptr_t{1} << 40, kDeviceSpan = uintptr_t{1} << 37; /* all devices; one */
constexpr int kMaxDevices = kSpan / kDeviceSpan;
constexpr uintptr_t kDevice = 0x110000000000, kHost = kDevice + kSpan, kState = kHost + kSpan, kCells = kState + kSpan;

enum : uint8_t { kNone = 0, kAllocated = 1, kWritten = 3, kTolerated = 4 /* a read before the first write goes on */ };

/* Accesses to four bytes: the last write and the last read. Layout of a word, from bit 0:
 *   mask:4 (which bytes) atomic:1 warpEpoch:9 epoch:12 thread:11 run:27
 * A run is one block's execution, or one copy; 0 is nobody. Epochs count barriers, of the block and of the warp since.
 */
struct Cell {
  uint64_t write, read;
};
enum {
  kMaskBits = 4,
  kAtomicBit = 4,
  kWarpEpochAt = 5,
  kEpochAt = 14,
  kThreadAt = 26,
  kRunAt = 37,
  kMaxWarpEpoch = (1 << 9) - 1,
  kMaxEpoch = (1 << 12) - 1,
  kMaxRun = (1 << 27) - 1,
  kSeveralInWarp = 1024, /* + warp: read by several of its threads; */
  kSeveral = 2047,       /* read by threads of several warps */
};

inline uint8_t* stateOf(uintptr_t host) { return (uint8_t*)(kState + (host - kHost)); }
inline Cell* cellOf(uintptr_t host) { return (Cell*)kCells + (host - kHost) / 4; }

/* What a detector found. */
enum class Finding { race, order, overrun, uninitialised, tolerated, misaligned, barrier, hostAccess, trap, capture };

struct Hooks {
  /* A new run of the launch's block; what it returns is the number for cells. */
  uint32_t (*newRun)(uint32_t op, uint32_t block);
  /* Null if what the earlier run did happened before the current one; else who it was. */
  const char* (*unordered)(uint32_t earlier, uint32_t current, unsigned epoch);
  /* The run has made its writes so far visible to blocks that wait for it (a fence); it has read others' (an atomic).
   */
  void (*fenced)(uint32_t run, unsigned epoch);
  void (*acquired)(uint32_t run);
  /* True where bytes at `address` are page-locked memory that kernels may touch. */
  bool (*isMapped)(uintptr_t address, size_t bytes);
  /* Names the allocation an address of device memory belongs to, live or freed. */
  void (*describe)(uintptr_t host, char* text, size_t size);
  void (*found)(Finding, const char* text, const void* at);
  /* The allocation that an address of device memory belongs to has been reported: its bytes count as written. */
  void (*forgive)(uintptr_t host);
};

struct Pointer {
  unsigned parameter;
  size_t at; /* in it */
};
struct Kernel {
  const char* name;
  void (*invoke)(void* const* parameters);
  unsigned count;
  const size_t* sizes; /* of the parameters */
  size_t pointerCount;
  const Pointer* pointers; /* all that the parameters hold */
};

struct Launch {
  const Kernel* kernel;
  void* const* parameters; /* device addresses already translated */
  dim3 grid, block;
  unsigned dynamicShared; /* bytes */
  uint32_t op;
  unsigned devices; /* bit d: memory of device d may be touched */
  uint64_t* random; /* state of the generator that shuffles */
};

/* What a kernel library exports, as `simgpuLibrary`. */
struct Library {
  const Kernel* kernels;
  unsigned count;
  /* Runs one block to its end; false if the kernel had to be stopped. One at a time in a process. */
  bool (*runBlock)(const Launch&, uint3 block, const Hooks&);
};

/* SplitMix64. */
inline uint64_t next(uint64_t* state) {
  uint64_t z = *state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}
inline uint32_t below(uint64_t* state, uint32_t n) { return (uint32_t)((next(state) >> 32) * n >> 32); }

}  // namespace simgpu

#endif
