/* How the kernels are launched: which one takes a tree, and the memory that a thread block's arrays need. Counts what
 * the kernels lay out: slimArraysAt (passes.cuh), tree.cuh, select.cuh, and each codec's scratch. */
#include "compress/cuda/kernels.h"

/* Dynamic shared memory that every device of compute capability 8.0 or higher gives a thread block: 99 KiB less what
 * kernels have by themselves. */
enum { SLIM_SHARED_EVERYWHERE = 88 * 1024 };
/* slimParts. */
enum { partsFloats = 32 };

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

static bool isSelector(const slimNode* node) { return node->op == slimOp_topk || node->op == slimOp_randk; }
static bool isLeaf(const slimNode* node) {
  return !isSelector(node) && node->op != slimOp_rotate && node->op != slimOp_induced;
}

/* ---- Which trees there are kernels for: tree.cuh's steps ------------------------------------------------------------
 */

static bool isFlat(const slimNode* node) { return isLeaf(node) || isSelector(node); }
static bool isTurned(const slimNode* node) {
  return isFlat(node) || (node->op == slimOp_rotate && isFlat(slimInner(node, 0)));
}
static bool isTwice(const slimNode* node) {
  return isTurned(node) || (node->op == slimOp_induced && isTurned(slimInner(node, 0)) && isTurned(slimInner(node, 1)));
}
bool slimDeviceRuns(const slimTree* tree) {
  const slimNode* root = slimRoot(tree);
  return slimSelector(tree) ? isLeaf(root)
                            : isTwice(root) || (root->op == slimOp_rotate && isTwice(slimInner(root, 0)));
}

/* The codecs in the order of SLIM_WARP_PASSES; thread blocks have the first blockShapes. −1: another tree. */
enum { blockShapes = 5 };
static int shapeOf(const slimNode* node) {
  switch (node->op) {
    case slimOp_fp8:
      return 0;
    case slimOp_onebit:
      return 1;
    case slimOp_ternary:
    case slimOp_qsgd:
      return 2;
    case slimOp_natural:
    case slimOp_nuqsgd:
      return 3;
    case slimOp_tqsgd:
    case slimOp_tbqsgd:
    case slimOp_tnqsgd:
      return 4;
    case slimOp_fp32:
      return blockShapes;
    case slimOp_fp16:
      return blockShapes + 1;
    case slimOp_bf16:
      return blockShapes + 2;
    case slimOp_sign:
      return blockShapes + 3;
    default:
      return -1;
  }
}

/* Which of the warps' kernels takes it, from the first one on; −1: none. */
static int warpShapeOf(const slimTree* tree) {
  const slimNode* node = slimRoot(tree);
  const bool turned = node->op == slimOp_rotate;
  if (tree->unit != SLIM_WARP_UNIT || slimSelector(tree) || slimTreeGathers(tree)) return -1;
  if (turned && node->levels != SLIM_WARP_UNIT) return -1;
  if (turned) node = slimInner(node, 0);
  const int shape = shapeOf(node);
  if (shape < 0 || node->lambda == slimLambdaShared) return -1;
  if (node->bits > 8 && node->levels) return -1; /* codes that bytes do not hold */
  if (!turned) return shape;
  if (node->block != SLIM_WARP_UNIT) return -1;
  if (node->op == slimOp_onebit) return slimKernel_warp_encode_turned_onebit - slimKernel_warp_encode_fp8;
  if (node->op == slimOp_qsgd || node->op == slimOp_ternary)
    return slimKernel_warp_encode_turned_qsgd - slimKernel_warp_encode_fp8;
  return -1;
}

/* ---- Scratch, in floats ---------------------------------------------------------------------------------------------
 */

static uint64_t leafEncode(const slimNode* node) {
  const uint64_t size = node->block, codes = size / (node->bits > 8 ? 2 : 4) + 16;
  switch (node->op) {
    case slimOp_onebit:
      return size / 2 + 16;
    case slimOp_natural:
    case slimOp_nuqsgd:
      return slimRoundUp(size / 2, 64) + size + 16;
    case slimOp_ternary:
    case slimOp_qsgd:
      return codes + size + 16;
    case slimOp_tqsgd:
    case slimOp_tbqsgd:
    case slimOp_tnqsgd:
      return codes + size;
    default:
      return 0;
  }
}
static uint64_t leafDecode(const slimNode* node) {
  const uint64_t size = node->block, codes = size / (node->bits > 8 ? 2 : 4) + 16;
  switch (node->op) {
    case slimOp_natural:
    case slimOp_nuqsgd:
      return size;
    case slimOp_ternary:
    case slimOp_qsgd:
    case slimOp_tqsgd:
    case slimOp_tbqsgd:
    case slimOp_tnqsgd:
      return codes;
    default:
      return 0;
  }
}
static uint64_t leaf(const slimNode* node) { return larger(leafEncode(node), leafDecode(node)); }

static uint64_t flat(const slimNode* node) {
  if (!isSelector(node)) return 2 * partsFloats + leaf(node);
  const slimNode* inner = slimInner(node, 0);
  uint64_t sections = 0;
  for (uint32_t i = 0; i < inner->allSections; i++) sections += slimRoundUp(inner->section[i].bytes, 64) / 4;
  return 2 * partsFloats + slimRoundUp(node->k, 128) / 2 +
         larger(node->block, slimPadded(node->k) + sections + leaf(inner));
}
static uint64_t turn(const slimNode* node, uint64_t (*inside)(const slimNode*)) {
  if (node->op != slimOp_rotate) return partsFloats + inside(node);
  return partsFloats + node->block + larger((node->block + 64) / 32 + 16, inside(slimInner(node, 0)));
}
static uint64_t turned(const slimNode* node) { return turn(node, flat); }
static uint64_t twice(const slimNode* node) {
  if (node->op != slimOp_induced) return partsFloats + turned(node);
  return partsFloats + node->block + larger(turned(slimInner(node, 0)), turned(slimInner(node, 1)));
}
static uint64_t whole(const slimNode* node) { return turn(node, twice); }

static uint64_t stagingFloats(const slimTree* tree) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < tree->sections; i++) bytes += slimRoundUp(tree->section[i].bytes, 16);
  return bytes / 4;
}

/* Encode first has the codec's scratch, then û and either its scratch or a memory's draws. Reduce (down: of the same
 * family) decodes, then encodes. */
typedef enum { encode, reduce, decode } kind;
typedef enum { leafKernel, flatKernel, treeKernel } family;
static uint64_t scratchOf(family f, kind pass, const slimTree* tree) {
  const slimNode* root = slimRoot(tree);
  if (f == treeKernel) return whole(root);
  if (f == flatKernel) return flat(root);
  return pass == encode ? leafEncode(root) : leafDecode(root);
}
static uint64_t unitFloats(kind pass, const slimTree* tree, const slimTree* down, bool wide, family f) {
  const uint64_t real = wide ? 2 : 1, unit = tree->unit;
  const uint64_t own = real * unit + (wide ? unit : 0) + partsFloats;
  const uint64_t in = scratchOf(f, encode, tree), out = scratchOf(f, decode, tree);
  switch (pass) {
    case encode:
      return own + stagingFloats(tree) + larger(in, unit + larger(out, unit / 2));
    case decode:
      return own + stagingFloats(tree) + out;
    default: {
      if (!down) return real * unit + own + stagingFloats(tree) + out;
      return real * unit + own + larger(stagingFloats(tree), stagingFloats(down)) +
             larger(out, larger(scratchOf(f, encode, down), unit + larger(scratchOf(f, decode, down), unit / 2)));
    }
  }
}

/* ---- Launches -------------------------------------------------------------------------------------------------------
 */

bool slimReducesInOne(const slimTree* up, const slimTree* down, slimDataType_t type) {
  const slimNode *from = slimRoot(up), *to = slimRoot(down);
  const int shape = shapeOf(from), warpShape = warpShapeOf(up);
  if (type == slimFloat64 || slimSelector(up) || slimSelector(down) || slimTreeGathers(down)) return false;
  if (warpShape >= 0 && warpShape == warpShapeOf(down)) return true;
  if (up->unit != down->unit) return false;
  if (shape < 0) return isSelector(from) && isSelector(to);
  return shape == shapeOf(to) && 4 * unitFloats(reduce, up, down, false, leafKernel) <= SLIM_SHARED_EVERYWHERE;
}

/* A thread has eight elements of a unit. */
static slimLaunch launchUnits(slimDeviceKernel kernel, const slimTree* tree, uint64_t n, uint64_t floats,
                              uint32_t sharedLimit, bool spills) {
  const uint32_t threads = tree->unit / 8;
  slimLaunch launch = {.kernel = kernel,
                       .threads = threads < 32                 ? 32
                                  : threads > SLIM_MAX_THREADS ? SLIM_MAX_THREADS
                                                               : threads,
                       .blocks = (n + tree->unit - 1) / tree->unit};
  if (spills && 4 * floats > sharedLimit)
    launch.scratchFloats = floats;
  else
    launch.sharedBytes = (uint32_t)(4 * floats);
  return launch;
}

static slimLaunch unitLaunch(slimDeviceKernel first, kind pass, const slimTree* tree, const slimTree* down,
                             slimDataType_t type, uint64_t n, uint32_t sharedLimit) {
  const bool wide = type == slimFloat64;
  const int shape = wide ? -1 : shapeOf(slimRoot(tree));
  const int warpShape = wide ? -1 : warpShapeOf(tree);
  if (warpShape >= 0 && (!down || warpShapeOf(down) == warpShape)) {
    const slimDeviceKernel warps[] = {slimKernel_warp_encode_fp8, slimKernel_warp_reduce_fp8,
                                      slimKernel_warp_decode_fp8};
    const uint64_t units = (n + tree->unit - 1) / tree->unit;
    return (slimLaunch){.kernel = (slimDeviceKernel)(warps[pass] + (uint32_t)warpShape),
                        .threads = 32 * SLIM_WARPS,
                        .blocks = (units + SLIM_WARPS - 1) / SLIM_WARPS};
  }
  family f = shape >= 0 && shape < blockShapes ? leafKernel : !wide && isFlat(slimRoot(tree)) ? flatKernel : treeKernel;
  if (f == leafKernel && !down && 4 * unitFloats(pass, tree, down, wide, f) > sharedLimit) f = flatKernel;
  const uint64_t floats = unitFloats(pass, tree, down, wide, f);
  const uint32_t offset = wide              ? slimKernel_encode_wide - slimKernel_encode_fp8
                          : f == treeKernel ? slimKernel_encode_tree - slimKernel_encode_fp8
                          : f == flatKernel ? slimKernel_encode_flat - slimKernel_encode_fp8
                                            : (uint32_t)shape;
  return launchUnits((slimDeviceKernel)(first + offset), tree, n, floats, sharedLimit, f != leafKernel);
}

int slimSelectRounds(const slimSelectArgs* args) { return args->x && args->type == slimFloat64 ? 4 : 3; }

slimLaunch slimShapeLaunch(uint32_t pieces) {
  return (slimLaunch){.kernel = slimKernel_shape, .threads = SLIM_SHAPE_THREADS, .blocks = pieces};
}

slimLaunch slimLaunchOf(slimDeviceKernel first, const slimTree* tree, const slimTree* down, slimDataType_t type,
                        uint64_t n, uint32_t sharedLimit) {
  const uint64_t tiles = (n + SLIM_PIECE_STEP - 1) / SLIM_PIECE_STEP;
  const uint32_t tile = 4 * SLIM_PIECE_STEP;
  slimLaunch launch = {.kernel = first, .threads = SLIM_MAX_THREADS, .blocks = tiles};
  switch (first) {
    case slimKernel_encode_fp8:
      return unitLaunch(first, encode, tree, NULL, type, n, sharedLimit);
    case slimKernel_reduce_fp8:
      return unitLaunch(first, reduce, tree, down, type, n, sharedLimit);
    case slimKernel_decode_fp8:
      return unitLaunch(first, decode, tree, NULL, type, n, sharedLimit);
    case slimKernel_reduce_signs: {
      const uint64_t reals = type == slimFloat64 ? 3 : 1, unit = tree->unit;
      return launchUnits(first, tree, n, unit + unit / 2 + 16 + stagingFloats(tree) + reals * unit, sharedLimit, true);
    }
    case slimKernel_survey:
      return launchUnits(first, tree, n, 2 * (uint64_t)tree->unit, sharedLimit, true);
    case slimKernel_select_start:
    case slimKernel_select_narrow:
    case slimKernel_select_scan:
      launch.blocks = 1;
      return launch;
    case slimKernel_select_encode:
    case slimKernel_select_decode: {
      const uint64_t floats = tree->unit + partsFloats + stagingFloats(tree) + leaf(slimRoot(tree));
      launch.blocks = slimLayoutOf(tree, type, n).valueUnits;
      if (4 * floats > sharedLimit)
        launch.scratchFloats = floats;
      else
        launch.sharedBytes = (uint32_t)(4 * floats);
      return launch;
    }
    case slimKernel_select_update: /* the tile, and a memory's draws */
      launch.sharedBytes = tile / 2 * 3;
      return launch;
    case slimKernel_decode_select:
      launch.sharedBytes = tile * (type == slimFloat64 ? 3 : 1);
      return launch;
    case slimKernel_reduce_select:
      launch.sharedBytes = tile * (type == slimFloat64 ? 3 : 2);
      return launch;
    default:
      return launch;
  }
}
