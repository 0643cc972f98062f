/* Kernels for the stand-in's own tests: each with a mistake, and beside it the same kernel put right. */

extern "C" __global__ void reverse_unsynchronised(float* x) {
  __shared__ float tile[256];
  tile[threadIdx.x] = x[threadIdx.x];
  x[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void reverse(float* x) {
  __shared__ float tile[256];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

/* Right, and told apart from the wrong ones: shared memory that the next block uses again; bytes of one word that
 * different threads read and write; the same thread's bytes of different times. */
extern "C" __global__ void reverse_blocks(float* x) {
  __shared__ float tile[256];
  float* mine = x + blockIdx.x * blockDim.x;
  tile[threadIdx.x] = mine[threadIdx.x];
  __syncthreads();
  mine[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void bytes_in_place(unsigned char* x) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  x[i] = (unsigned char)(x[i] + x[i] + 1);
}
extern "C" __global__ void bytes_in_turns(unsigned char* x) {
  __shared__ unsigned char s[128];
  const unsigned i = threadIdx.x;
  s[2 * i] = x[i];
  __syncthreads();
  s[2 * i + 1] = s[2 * (i ^ 1)];
  __syncwarp();
  x[i] = (unsigned char)(s[2 * i + 1] + s[2 * (i ^ 2)]);
  __syncwarp();
  s[2 * i] = 0;
}
/* Half of the threads write what the other half reads. */
extern "C" __global__ void bytes_read_by_others(unsigned char* x, unsigned char* y) {
  const unsigned i = threadIdx.x;
  y[i] = x[i & ~1u];
  if (i % 2 == 0) x[i] = 0;
}

/* Lanes of one warp talk through shared memory. */
extern "C" __global__ void neighbours_unsynchronised(float* x) {
  SLIM_DYN_SHARED(float, tile);
  tile[threadIdx.x] = x[threadIdx.x];
  x[threadIdx.x] = tile[threadIdx.x ^ 1];
}
extern "C" __global__ void neighbours(float* x) {
  SLIM_DYN_SHARED(float, tile);
  tile[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  x[threadIdx.x] = tile[threadIdx.x ^ 1];
}

/* Blocks meet at one place of global memory. */
extern "C" __global__ void count_plainly(unsigned* total) {
  if (threadIdx.x == 0) *total = *total + blockDim.x;
}
extern "C" __global__ void count(unsigned* total) {
  if (threadIdx.x == 0) atomicAdd(total, blockDim.x);
}

/* The last block adds what all blocks wrote; without the fence it may not see it. */
static __device__ void addUp(unsigned* parts, unsigned* arrived, unsigned* total, bool fence) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = blockIdx.x + 1;
    if (fence) __threadfence();
    last = atomicAdd(arrived, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last || threadIdx.x != 0) return;
  unsigned sum = 0;
  for (unsigned b = 0; b < gridDim.x; b++) sum += parts[b];
  *total = sum;
}
extern "C" __global__ void last_block_unfenced(unsigned* parts, unsigned* arrived, unsigned* total) {
  addUp(parts, arrived, total, false);
}
extern "C" __global__ void last_block(unsigned* parts, unsigned* arrived, unsigned* total) {
  addUp(parts, arrived, total, true);
}

extern "C" __global__ void fill_too_far(float* x, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) x[i] = 1;
}
extern "C" __global__ void fill(float* x, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = 1;
}

extern "C" __global__ void shared_too_far(float* x) {
  __shared__ float a[32], b[32];
  const unsigned i = threadIdx.x;
  a[i] = x[i];
  b[i] = 0;
  __syncwarp();
  x[i] = a[i + 1] + b[i];
}
extern "C" __global__ void dynamic_too_far(float* x) {
  SLIM_DYN_SHARED(float, a);
  a[threadIdx.x + 1] = 0;
  x[threadIdx.x] = 0;
}
extern "C" __global__ void shared_unwritten(float* x) {
  __shared__ float a[32];
  if (threadIdx.x) a[threadIdx.x] = 1;
  __syncwarp();
  x[threadIdx.x] = a[threadIdx.x];
}

extern "C" __global__ void add(const float* x, float* y, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] + 1;
}

extern "C" __global__ void load_misaligned(const float* x, float4* y) { y[0] = *(const float4*)(x + 1); }

extern "C" __global__ void leaves_early(float* x, unsigned n) {
  if (threadIdx.x >= n) return;
  x[threadIdx.x] = 0;
  __syncthreads();
}
extern "C" __global__ void two_barriers(float* x) {
  if (threadIdx.x < 32) {
    x[threadIdx.x] = 0;
    __syncthreads();
  } else {
    x[threadIdx.x] = 1;
    __syncthreads();
  }
}
extern "C" __global__ void half_a_warp(unsigned* x) {
  if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(~0u, threadIdx.x, 1);
}

/* A pointer that lies in device memory is not an argument, and is not translated. */
struct Inner {
  float* x;
};
extern "C" __global__ void pointer_in_memory(const Inner* p) { p->x[threadIdx.x] = 0; }

struct Arguments {
  unsigned n;
  float* x;
  unsigned* seen;
};
extern "C" __global__ void by_struct(Arguments a) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < a.n) {
    a.x[i] = (float)i;
    atomicMax(a.seen, i + 1);
  }
}

/* A number is handed over as it is, whatever address it might be. */
extern "C" __global__ void number(unsigned long long n, unsigned long long* seen) {
  if (threadIdx.x == 0) *seen = n;
}

/* What warps can do: 16 words a lane. */
extern "C" __global__ void warp_operations(unsigned* out) {
  const unsigned lane = threadIdx.x & 31;
  unsigned* o = out + 16 * (blockIdx.x * blockDim.x + threadIdx.x);
  o[0] = __shfl_sync(~0u, lane * 3, 5);
  o[1] = __shfl_up_sync(~0u, lane, 3);
  o[2] = __shfl_down_sync(~0u, lane, 3, 8);
  o[3] = __shfl_xor_sync(~0u, lane, 9);
  o[4] = __ballot_sync(~0u, lane % 3 == 0);
  o[5] = (unsigned)__any_sync(~0u, lane == 31) | (unsigned)__all_sync(~0u, lane < 31) << 1;
  o[6] = __reduce_add_sync(~0u, lane);
  o[7] = (unsigned)__reduce_min_sync(~0u, (int)lane - 7);
  o[8] = __reduce_max_sync(~0u, lane * 5);
  o[9] = __reduce_xor_sync(~0u, lane | 64);
  o[10] = (unsigned)__shfl_down_sync(~0u, (double)lane, 1);
  o[11] = (unsigned)__syncthreads_count(threadIdx.x % 5 == 0);
  o[12] = __popc(lane) | (unsigned)__clz((int)lane) << 8 | (unsigned)__ffs((int)lane) << 16;
  o[13] = __byte_perm(0x03020100, 0x07060504, 0x7530 ^ (lane & 7));
  o[14] = __funnelshift_l(0x89abcdef, 0x01234567, lane);
  o[15] = __umulhi(0x9E3779B9u * lane, 0xBB67AE85u) ^ __brev(lane);
}

/* Every 16-bit pattern as half and as bf16 → float → back. */
extern "C" __global__ void round_trip(const float* x, unsigned short* half, unsigned short* bf16, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  half[i] = __half_as_ushort(__float2half_rn(x[i]));
  bf16[i] = __bfloat16_as_ushort(__float2bfloat16_rn(x[i]));
}

extern "C" __global__ void tell_host(volatile unsigned* flag, unsigned value) {
  if (threadIdx.x == 0) *flag = value;
}
