/* What a unit goes through, as a constant: a codec by itself, or (in a thread block) a selector over one, or any tree.
 */
#ifndef SLIM_COMPRESS_CUDA_SHAPES_CUH_
#define SLIM_COMPRESS_CUDA_SHAPES_CUH_

/* X(name, blocks): of the largest size, that a multiprocessor's registers hold: as many as need no spill. */
#define SLIM_LEAVES(X) X(fp8, 4) X(onebit, 3) X(qsgd, 3) X(natural, 3) X(tnqsgd, 2)
/* Codecs that only warps have by themselves. */
#define SLIM_CASTS(X) X(fp32) X(fp16) X(bf16) X(sign)
/* Codecs that a warp takes below rotate as well. */
#define SLIM_TURNED(X) X(onebit) X(qsgd)
#define SLIM_SHAPE_(name, blocks) slimShape_##name,
#define SLIM_CAST_SHAPE_(name) slimShape_##name,
#define SLIM_TURNED_SHAPE_(name) slimShape_turned_##name,
typedef enum {
  SLIM_LEAVES(SLIM_SHAPE_) SLIM_CASTS(SLIM_CAST_SHAPE_) SLIM_TURNED(SLIM_TURNED_SHAPE_) slimShape_flat,
  slimShape_tree
} slimTreeShape;

#ifdef SLIM_WARP
#define SLIM_ENCODE_TREE(root, b, v, table) ((void)(table), false)
#define SLIM_DECODE_TREE(root, b, table, out) (void)(table)
#define SLIM_IS_SPARSE(shape, tree) false
/* slimBlock.sent */
#define SLIM_HAS_SENT(shape) \
  ((shape) == slimShape_tnqsgd || (shape) == slimShape_qsgd || (shape) == slimShape_turned_qsgd)
#else
#define SLIM_ENCODE_TREE(root, b, v, table) \
  (shape == slimShape_flat ? slimEncodeFlat(root, b, v, table) : slimEncodeTree(root, b, v, table))
#define SLIM_DECODE_TREE(root, b, table, out) \
  (shape == slimShape_flat ? slimDecodeFlat(root, b, table, out, false) : slimDecodeTree(root, b, table, out))
/* û is few values at their indices. */
#define SLIM_IS_SPARSE(shape, tree) ((shape) == slimShape_flat && slimIsSelector(slimRoot(tree)))
#endif

/* slimBlock.signs of a warp's unit, which begins at index first; of others 0. */
SLIM_FN uint32_t slimSignsOfUnit(const slimTreeShape shape, const slimTree* tree, const slimDraw* draw,
                                 uint64_t first) {
  uint32_t signs = 0;
#ifdef SLIM_WARP
#define SLIM_IS_TURNED(name) || shape == slimShape_turned_##name
  if (false SLIM_TURNED(SLIM_IS_TURNED)) slimTurnSigns(slimRoot(tree), draw, first, SLIM_WARP_UNIT, &signs);
#undef SLIM_IS_TURNED
#else
  (void)shape, (void)tree, (void)draw, (void)first;
#endif
  return signs;
}

/* A codec by itself has its sections at places that are known, and in shared memory for certain; others look them up.
 */
SLIM_FN bool slimEncodeShape(const slimTreeShape shape, const slimTree* tree, const slimBlock* b, const float* v,
                             uint8_t* staging, uint8_t* const* table) {
  const slimNode* root = slimRoot(tree);
  uint8_t* const second = staging + slimRoundUp(tree->section[0].bytes, 16);
  uint8_t* const sec[3] = {staging, second, second + slimRoundUp(tree->section[1].bytes, 16)};
  switch (shape) {
#define SLIM_CASE(name, blocks) \
  case slimShape_##name:        \
    return slimEncode_##name(root, b, v, sec);
    SLIM_LEAVES(SLIM_CASE)
#undef SLIM_CASE
#ifdef SLIM_WARP
#define SLIM_CASE(name)  \
  case slimShape_##name: \
    return slimEncode_##name(root, b, v, sec);
    SLIM_CASTS(SLIM_CASE)
#undef SLIM_CASE
#define SLIM_CASE(name)                                                    \
  case slimShape_turned_##name: {                                          \
    float z[SLIM_SCRATCH], q[SLIM_SCRATCH];                                \
    slimBlock inner;                                                       \
    if (!slimRotate(root, b, v, z, &inner)) return false;                  \
    inner.sent = b->sent ? q : NULL;                                       \
    const bool ok = slimEncode_##name(slimInner(root, 0), &inner, z, sec); \
    if (b->sent) slimRotateBack(root, b, b->sent, q);                      \
    return ok;                                                             \
  }
    SLIM_TURNED(SLIM_CASE)
#undef SLIM_CASE
#endif
    default:
      return SLIM_ENCODE_TREE(root, b, v, table);
  }
}
/* sec: a codec's own sections, for a codec by itself. */
SLIM_FN void slimDecodeSections(const slimTreeShape shape, const slimNode* root, const slimBlock* b,
                                uint8_t* const* sec, float* out) {
  switch (shape) {
#define SLIM_CASE(name, blocks)           \
  case slimShape_##name:                  \
    slimDecode_##name(root, b, sec, out); \
    break;
    SLIM_LEAVES(SLIM_CASE)
#undef SLIM_CASE
#ifdef SLIM_WARP
#define SLIM_CASE(name)                   \
  case slimShape_##name:                  \
    slimDecode_##name(root, b, sec, out); \
    break;
    SLIM_CASTS(SLIM_CASE)
#undef SLIM_CASE
#define SLIM_CASE(name)                                    \
  case slimShape_turned_##name: {                          \
    float z[SLIM_SCRATCH];                                 \
    slimBlock inner = *b;                                  \
    inner.nv = b->size;                                    \
    slimDecode_##name(slimInner(root, 0), &inner, sec, z); \
    slimRotateBack(root, b, out, z);                       \
    break;                                                 \
  }
    SLIM_TURNED(SLIM_CASE)
#undef SLIM_CASE
#endif
    default:
      SLIM_DECODE_TREE(root, b, sec, out);
  }
}
SLIM_FN void slimDecodeShape(const slimTreeShape shape, const slimTree* tree, const slimBlock* b, uint8_t* staging,
                             uint8_t* const* table, float* out) {
  uint8_t* const second = staging + slimRoundUp(tree->section[0].bytes, 16);
  uint8_t* const sec[3] = {staging, second, second + slimRoundUp(tree->section[1].bytes, 16)};
  slimDecodeSections(shape, slimRoot(tree), b, shape >= slimShape_flat ? table : sec, out);
}
SLIM_FN void slimStageShape(const slimTreeShape shape, const slimTree* tree, uint8_t* staging, uint8_t** table) {
  if (shape >= slimShape_flat) slimStageSections(tree, staging, table);
}

#endif
