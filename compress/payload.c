#include "compress/payload.h"

#include <string.h>

enum { SLIM_MAGIC = 0x314d4c53, SLIM_FORMAT = 1 };

slimLayout slimLayoutOf(const slimTree* tree, slimDataType_t type, uint64_t n) {
  slimLayout l = {0};
  const bool wide = slimSelector(tree) != NULL;
  l.units = wide ? (n > 0) : (n + tree->unit - 1) / tree->unit;
  l.values = wide && n ? slimSelectorCount(slimSelector(tree), n) : n;
  l.valueUnits = (l.values + tree->unit - 1) / tree->unit;
  size_t at = sizeof(slimHeader);
  l.flags = at;
  at += slimRoundUp((l.units + 7) / 8, 16);
  l.exponents = at;
  if (type == slimFloat64) at += slimRoundUp(4 * l.units, 16);
  l.index = at;
  if (wide && slimSelector(tree)->op == slimOp_topk) at += slimRoundUp(4 * l.values, 16);
  const uint64_t full = l.values / tree->unit;
  const uint32_t rest = (uint32_t)(l.values % tree->unit);
  for (uint32_t i = 0; i < tree->sections; i++) {
    l.section[i] = at;
    size_t bytes = full * tree->section[i].bytes;
    if (rest) bytes += slimSectionBytes(tree->section[i], tree->unit, rest);
    at += slimRoundUp(bytes, 16);
  }
  l.bytes = at;
  return l;
}

size_t slimPayloadBytes(const slimTree* tree, slimDataType_t type, uint64_t n) {
  return slimLayoutOf(tree, type, n).bytes;
}

size_t slimPayloadValuesAt(const slimTree* tree, slimDataType_t type, uint64_t n) {
  return slimLayoutOf(tree, type, n).section[0];
}

size_t slimDensePayloadBytes(slimDataType_t type, uint64_t n) {
  return sizeof(slimHeader) + slimRoundUp(n * slimRealBytes(type), 16);
}

void slimHeaderWrite(uint8_t* payload, const slimStamp* stamp, uint64_t n, uint64_t first, uint64_t bytes, int flags) {
  slimHeader h = {
      SLIM_MAGIC, SLIM_FORMAT, (uint16_t)flags, stamp->hash, stamp->step, stamp->slot, stamp->rank, n, first, bytes, 0};
  memcpy(payload, &h, sizeof h);
}

slimResult_t slimHeaderCheck(const uint8_t* payload, const slimStamp* stamp, uint64_t n, uint64_t first, uint64_t bytes,
                             int flags) {
  slimHeader h;
  memcpy(&h, payload, sizeof h);
  if (h.magic != SLIM_MAGIC)
    return slimFail(
        slimInvalidUsage,
        "the message of rank %u is not a SlimCCL payload: all ranks must make the same calls in the same order",
        stamp->rank);
  if (h.version != SLIM_FORMAT)
    return slimFail(slimInvalidUsage,
                    "rank %u sends payload version %u, this rank expects %d: all ranks need the same SlimCCL",
                    stamp->rank, h.version, SLIM_FORMAT);
  if (h.flags & slimHeaderError)
    return slimFail(slimInvalidUsage, "rank %u reports that rank %llu disagrees about tensor slot %u, step %llu",
                    h.rank, (unsigned long long)h.n, stamp->slot, (unsigned long long)stamp->step);
  const struct {
    const char* what;
    uint64_t theirs, ours;
  } field[] = {{"rank", h.rank, stamp->rank},    {"slot", h.slot, stamp->slot},
               {"step", h.step, stamp->step},    {"spec or type hash", h.hash, stamp->hash},
               {"element count", h.n, n},        {"first element", h.first, first},
               {"payload size", h.bytes, bytes}, {"message kind", h.flags, (uint64_t)flags}};
  for (size_t i = 0; i < sizeof field / sizeof *field; i++)
    if (field[i].theirs != field[i].ours)
      return slimFail(slimInvalidUsage,
                      "rank %u disagrees about the %s: it has %llu, this rank %llu (slot %u, step %llu)", stamp->rank,
                      field[i].what, (unsigned long long)field[i].theirs, (unsigned long long)field[i].ours,
                      stamp->slot, (unsigned long long)stamp->step);
  return slimSuccess;
}

void slimSplitPiece(const slimSplit* split, int r, uint64_t all, uint64_t* n, uint64_t* at) {
  const uint64_t units = (all + split->unit - 1) / split->unit, pieces = (uint64_t)split->pieces;
  const uint64_t from = (uint64_t)r * units / pieces * split->unit,
                 to = (uint64_t)(r + 1) * units / pieces * split->unit;
  *at = from < all ? from : all;
  *n = (to < all ? to : all) - *at;
}
