// The kernel library of the stand-in's own tests.
#include "tests/simgpu/planted.cu"

#include "tests/simgpu/library.h"

SIMGPU_POINTERS(Arguments, SIMGPU_AT(x), SIMGPU_AT(seen))

#define K SIMGPU_KERNEL
SIMGPU_LIBRARY(K(reverse_unsynchronised), K(reverse), K(reverse_blocks), K(bytes_in_place), K(bytes_in_turns),
               K(bytes_read_by_others), K(neighbours_unsynchronised), K(neighbours), K(count_plainly), K(count),
               K(last_block_unfenced), K(last_block), K(fill_too_far), K(fill), K(shared_too_far), K(dynamic_too_far),
               K(shared_unwritten), K(add), K(load_misaligned), K(leaves_early), K(two_barriers), K(half_a_warp),
               K(pointer_in_memory), K(by_struct), K(number), K(warp_operations), K(round_trip), K(tell_host))
