/* Where the parts of a payload lie. format.md §4. */
#ifndef SLIM_COMPRESS_PAYLOAD_H_
#define SLIM_COMPRESS_PAYLOAD_H_

#include "compress/node.h"

typedef struct {
  uint64_t units;  /* flags: one bit each; 1 for a piece-wide selector */
  uint64_t values; /* what the sections hold: n, or the selected ones */
  uint64_t valueUnits;
  size_t flags, exponents, index; /* byte offsets; index: topk's of scope chunk and global */
  size_t section[SLIM_MAX_SECTIONS];
  size_t bytes;
} slimLayout;

/* The flag byte of a piece under a selector of scope chunk or global: flagged, or (k below 1) with nothing to say. */
enum { slimPieceLost = 1, slimPieceSendsNothing = 2 };

#ifdef __cplusplus
extern "C" {
#endif
slimLayout slimLayoutOf(const slimTree* tree, slimDataType_t type, uint64_t n);
#ifdef __cplusplus
}
#endif

/* Bytes of a section in a partial unit of nv values. */
SLIM_FN size_t slimSectionBytes(slimSection section, uint32_t unit, uint32_t nv) {
  return section.bits && nv < unit ? ((size_t)nv * section.bits + 7) / 8 : section.bytes;
}

#endif
