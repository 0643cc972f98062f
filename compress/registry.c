/* Every name of the spec language, and how a parsed spec becomes a compressor. */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "compress/codec/float.h"
#include "compress/codec/fp8.h"
#include "compress/codec/induced.h"
#include "compress/codec/natural.h"
#include "compress/codec/onebit.h"
#include "compress/codec/qsgd.h"
#include "compress/codec/rotate.h"
#include "compress/codec/select.h"
#include "compress/codec/tnqsgd.h"
#include "compress/feedback.h"
#include "compress/spec.h"

#define SLIM_CODEC(name) \
  { #name, slimIsCodec, slimOp_##name, slimOptions_##name, slimSetup_##name, slimClass_##name, NULL }
#define SLIM_WRAPPER(name, kind) \
  { #name, kind, slimOp_##name, slimOptions_##name, slimSetup_##name, NULL, NULL }
#define SLIM_FEEDBACK(name, id) \
  { #name, slimIsFeedback, id, slimOptions_##name, NULL, NULL, NULL }

/* FO-SGD's codec (arXiv 2405.11095). */
SLIM_OPTIONS(fo) = {SLIM_DITHER_OPTIONS,
                    {"block", slimOptionBlock, NULL, 0, 0, NULL},
                    {"signs", slimOptionChoice, "redrawn", 0, 0, "redrawn|fixed"},
                    SLIM_END_OPTIONS};

const slimName slimNames[] = {SLIM_CODEC(fp32),
                              SLIM_CODEC(fp16),
                              SLIM_CODEC(bf16),
                              SLIM_CODEC(fp8),
                              SLIM_CODEC(sign),
                              SLIM_CODEC(onebit),
                              SLIM_CODEC(ternary),
                              SLIM_CODEC(qsgd),
                              SLIM_CODEC(natural),
                              SLIM_CODEC(nuqsgd),
                              SLIM_CODEC(tqsgd),
                              SLIM_CODEC(tbqsgd),
                              SLIM_CODEC(tnqsgd),
                              SLIM_WRAPPER(topk, slimIsSelector),
                              SLIM_WRAPPER(randk, slimIsSelector),
                              SLIM_WRAPPER(rotate, slimIsTransform),
                              SLIM_WRAPPER(induced, slimIsTransform),
                              SLIM_FEEDBACK(none, slimFeedbackNone),
                              SLIM_FEEDBACK(ef, slimFeedbackEf),
                              SLIM_FEEDBACK(ef21, slimFeedbackEf21),
                              SLIM_FEEDBACK(ef_bv, slimFeedbackEfBv),
                              SLIM_FEEDBACK(diana, slimFeedbackDiana),
                              SLIM_FEEDBACK(shift, slimFeedbackShift),
                              SLIM_FEEDBACK(rand_diana, slimFeedbackRandDiana),
                              {"fo", slimIsShorthand, 0, slimOptions_fo, NULL, NULL, "rotate(onebit(dither))"},
                              {NULL, slimIsCodec, 0, NULL, NULL, NULL, NULL}};

static slimResult_t complain(const slimSpecNode* at, const char* what) {
  return slimFail(slimInvalidArgument, "spec:1:%d: %s: %s", at->column, at->name->name, what);
}

/* ---- Classes -------------------------------------------------------------------------------------------------- */

/* n: the values that a codec scales together, its block or a selector's k. */
static slimClass classOf(const slimNode* node, double n) {
  switch (node->op) {
    case slimOp_topk:
    case slimOp_randk:
      return slimClassSelector(node, n, classOf(slimInner(node, 0), node->k), node->bits);
    case slimOp_rotate:
      return classOf(slimInner(node, 0), slimInner(node, 0)->block);
    case slimOp_induced: {
      const slimClass c = classOf(slimInner(node, 0), slimInner(node, 0)->block),
                      q = classOf(slimInner(node, 1), slimInner(node, 1)->block);
      return (slimClass){q.omega * (1 - c.delta), 1 - (1 - c.delta) * (1 - q.delta), c.bits + q.bits};
    }
    default:
      for (const slimName* name = slimNames; name->name; name++)
        if (name->kind == slimIsCodec && name->id == (int)node->op) return name->class_(node, n);
      return (slimClass){INFINITY, 0, 32};
  }
}

slimClass slimTreeClass(const slimTree* tree) {
  const slimNode* selector = slimSelector(tree);
  const slimClass root = classOf(slimRoot(tree), slimRoot(tree)->block);
  if (!selector) return root;
  const double n = selector->k ? 0x1p20 : 0x1p40; /* k= of an unknown n: as if of a million */
  return slimClassSelector(selector, n, root, selector->op == slimOp_topk ? 32 : 0);
}

/* ---- Trees ---------------------------------------------------------------------------------------------------- */

/* Multiplies a node's sections so that they cover `block` elements. */
static void addSections(slimNode* node, const slimNode* inner, bool whole) {
  const uint32_t times = node->block / inner->block;
  for (uint32_t i = 0; i < inner->allSections; i++) {
    slimSection s = inner->section[i];
    node->section[node->allSections++] = (slimSection){s.bytes * times, whole ? 0 : s.bits};
  }
}

/* Selected values: k of them, padded to whole rows of the reduction tree; code sections hold k codes. */
static void addSelectedSections(slimNode* node, const slimNode* inner) {
  for (uint32_t i = 0; i < inner->allSections; i++) {
    slimSection s = inner->section[i];
    node->section[node->allSections++] = (slimSection){s.bits ? (node->k * s.bits + 7) / 8 : s.bytes, 0};
  }
}

/* Codecs without scales have no block of their own: they take what surrounds them, or SLIM_CAST_UNIT. */
enum { SLIM_CAST_UNIT = 512 };
static bool scaleless(const slimNode* node) {
  return node->op == slimOp_fp32 || node->op == slimOp_fp16 || node->op == slimOp_bf16 || node->op == slimOp_sign;
}
static void resize(slimNode* node, uint32_t block) {
  for (uint32_t i = 0; i < node->allSections; i++) {
    slimSection* s = &node->section[i];
    if (s->bits) s->bytes = block * s->bits / 8;
  }
  node->block = block;
}

static slimResult_t build(slimTree* tree, const slimSpecNode* spec, slimNeed need, uint32_t branch, uint32_t block,
                          bool outermost, slimNode** out);

static slimResult_t buildSelector(slimTree* tree, slimNode* node, const slimSpecNode* spec, slimNeed need,
                                  uint32_t branch, bool outermost) {
  const slimOption* options = spec->name->options;
  const slimSpecNode* values = spec->child[slimOptionIndex(options, "values")];
  if (values->name->kind != slimIsCodec)
    return complain(values, "a selector's values go through a codec, e.g. topk(ratio=0.01, qsgd(bits=8))");
  if (node->op == slimOp_randk && spec->options.value[slimOptionIndex(options, "scale")] == slimScaleAuto)
    node->unbiased = need == slimNeedsNothing || need == slimNeedsUnbiased;
  slimNode* inner;
  if (node->scope == slimScopeBlock) {
    SLIM_CHECK(build(tree, values, need, branch, slimPadded(node->k), false, &inner));
    node->inner[0] = (int32_t)(inner - node);
    addSelectedSections(node, inner);
    return slimSuccess;
  }
  if (!outermost) return complain(spec, "scope=chunk and scope=global stand directly below the feedback");
  SLIM_CHECK(build(tree, values, need, branch, 0, false, &inner));
  node->inner[0] = (int32_t)(inner - node);
  return slimSuccess;
}

/* need: what the feedback asks for; branch: of random draws; block: forced on a codec (0: its own). */
static slimResult_t build(slimTree* tree, const slimSpecNode* spec, slimNeed need, uint32_t branch, uint32_t block,
                          bool outermost, slimNode** out) {
  if (tree->nodes == sizeof tree->node / sizeof *tree->node) return complain(spec, "too many codecs in one spec");
  slimNode* node = &tree->node[tree->nodes++];
  *node = (slimNode){.op = (slimOp)spec->name->id, .branch = branch};
  const char* error = spec->name->setup(node, &spec->options);
  if (error) return complain(spec, error);
  node->allSections = node->sections;
  *out = node;
  const bool contract = need == slimNeedsContraction;
  switch (node->op) {
    case slimOp_topk:
    case slimOp_randk:
      return buildSelector(tree, node, spec, need, branch, outermost);
    case slimOp_rotate: {
      slimNode* inner;
      SLIM_CHECK(build(tree, spec->child[0], need, branch, 0, false, &inner));
      if (!node->levels) node->levels = scaleless(inner) ? SLIM_CAST_UNIT : inner->block;
      node->block = node->levels > inner->block ? node->levels : inner->block;
      if (scaleless(inner)) resize(inner, node->block);
      node->inner[0] = (int32_t)(inner - node);
      addSections(node, inner, true);
      return slimSuccess;
    }
    case slimOp_induced: {
      if (branch) return complain(spec, "induced does not stand inside induced");
      slimNode *c, *q;
      SLIM_CHECK(build(tree, spec->child[0], slimNeedsContraction, 1, 0, false, &c));
      SLIM_CHECK(build(tree, spec->child[1], contract ? need : slimNeedsUnbiased, 2, 0, false, &q));
      node->block = c->block > q->block ? c->block : q->block;
      node->inner[0] = (int32_t)(c - node);
      node->inner[1] = (int32_t)(q - node);
      addSections(node, c, false);
      addSections(node, q, false);
      const slimClass cc = classOf(c, c->block), cq = classOf(q, q->block);
      if (!(cc.delta > 0))
        return complain(spec->child[0], "induced's first codec must be contractive, e.g. topk(ratio=0.01)");
      if (!contract && !isfinite(cq.omega))
        return complain(spec->child[1], "induced's second codec must be unbiased, e.g. qsgd(bits=4)");
      return slimSuccess;
    }
    case slimOp_qsgd:
      if (spec->options.value[slimOptionIndex(spec->name->options, "rounding")] == slimRoundingAuto)
        node->nearest = contract && !node->norm2;
      node->lsq = contract && !node->nearest;
      break;
    case slimOp_tqsgd:
    case slimOp_tbqsgd:
    case slimOp_tnqsgd:
      if (node->stats != slimStatsBlock && !outermost)
        return complain(spec, "stats=tensor and stats=previous stand directly below the feedback");
      node->tables = (uint32_t)((char*)tree + tree->bytes - (char*)node);
      tree->bytes += (uint32_t)slimRoundUp(slimTableBytes(node), 16);
      slimFillTables(node);
      /* fall through */
    case slimOp_ternary:
    case slimOp_natural:
    case slimOp_nuqsgd:
      node->lsq = contract;
      break;
    case slimOp_onebit:
      node->lsq = contract && node->lambda != slimLambdaNone;
      break;
    default:
      break;
  }
  if (block) resize(node, block);
  return slimSuccess;
}

/* Of all nodes; what is wrong with a spec is build's to say. */
static uint32_t tableBytes(const slimSpecNode* spec) {
  slimNode node = {.op = (slimOp)spec->name->id};
  uint32_t bytes = spec->name->setup(&node, &spec->options) ? 0 : (uint32_t)slimRoundUp(slimTableBytes(&node), 16);
  for (int i = 0; i < SLIM_MAX_OPTIONS; i++)
    if (spec->child[i]) bytes += tableBytes(spec->child[i]);
  return bytes;
}

static bool sharesLambda(const slimNode* node) { return node->op == slimOp_onebit && node->lambda == slimLambdaShared; }

static slimResult_t buildTree(slimTree** out, const slimSpecNode* spec, slimNeed need) {
  slimTree* tree = calloc(1, sizeof *tree + tableBytes(spec));
  if (!tree) return slimFail(slimSystemError, "no memory for a compressor");
  *out = tree;
  tree->bytes = sizeof *tree;
  tree->selector = -1;
  slimNode* root;
  SLIM_CHECK(build(tree, spec, need, 0, 0, true, &root));
  if ((root->op == slimOp_topk || root->op == slimOp_randk) && root->scope != slimScopeBlock) {
    tree->selector = (int32_t)(root - tree->node);
    root += root->inner[0];
  }
  if (scaleless(root)) resize(root, SLIM_CAST_UNIT);
  tree->root = (int32_t)(root - tree->node);
  for (uint32_t i = 0; i < tree->nodes; i++) {
    bool rotated = false;
    for (uint32_t j = 0; j < i; j++)
      rotated |= tree->node[j].op == slimOp_rotate && slimInner(&tree->node[j], 0) == &tree->node[i] &&
                 tree->node[j].levels == tree->node[i].block;
    if (tree->node[i].rotated && !rotated)
      return slimFail(slimInvalidArgument,
                      "spec:1:%d: delta and lambda=shared speak of rotated values: rotate(onebit(dither, delta=0.01)), "
                      "both of one block",
                      spec->column);
    if (sharesLambda(&tree->node[i]) && (!slimTreeSharesLambda(tree) || need != slimNeedsNothing))
      return complain(spec, "lambda=shared stands in the outermost rotate, without feedback: fo(lambda=shared)");
  }
  for (uint32_t i = 0; i < tree->nodes; i++)
    tree->absolute |= tree->node[i].op == slimOp_sign || tree->node[i].lambda == slimLambdaFixed;
  tree->unit = root->block;
  tree->sections = root->allSections;
  memcpy(tree->section, root->section, sizeof tree->section);
  return slimSuccess;
}

uint32_t slimTreeUnit(const slimTree* tree) { return slimSelector(tree) ? SLIM_MIN_BLOCK : tree->unit; }
bool slimTreeSharesLambda(const slimTree* tree) {
  const slimNode* root = slimRoot(tree);
  return root->op == slimOp_rotate && sharesLambda(slimInner(root, 0));
}
bool slimTreeGathers(const slimTree* tree) { return slimRoot(tree)->stats != slimStatsBlock; }
bool slimTreeRemembers(const slimTree* tree) { return slimRoot(tree)->stats == slimStatsPrevious; }
bool slimTreeIsGlobal(const slimTree* tree) {
  return slimSelector(tree) && slimSelector(tree)->scope == slimScopeGlobal;
}
static bool sumsUp(const slimNode* selector, const slimNode* values) {
  return selector->op == slimOp_randk && selector->shared && selector->chance >= 1 && values->op == slimOp_fp32;
}
bool slimTreeIsLinear(const slimTree* tree) {
  const slimNode *root = slimRoot(tree), *selector = slimSelector(tree);
  if (selector) return sumsUp(selector, root);
  return root->op == slimOp_fp32 || (root->inner[0] && sumsUp(root, slimInner(root, 0)));
}

/* ---- Directions ----------------------------------------------------------------------------------------------- */

static slimResult_t checkClass(const slimSpecNode* at, const char* feedback, slimNeed need, slimClass c,
                               const slimNode* node) {
  const char* name = at->name->name;
  const bool nearest = node->op == slimOp_fp16 || node->op == slimOp_bf16 || node->op == slimOp_fp8 || node->nearest;
  const slimNode* inner = node->op == slimOp_rotate ? slimInner(node, 0) : node;
  if (inner->op == slimOp_onebit && inner->unbiased && need != slimNeedsNothing)
    return slimFail(slimInvalidArgument,
                    "spec:1:%d: %s needs a guarantee, and scale=unbiased has none: it is right on average over "
                    "rotations only; leave scale out",
                    at->column, feedback);
  if (need == slimNeedsUnbiased && !isfinite(c.omega))
    return slimFail(slimInvalidArgument, "spec:1:%d: %s needs an unbiased codec, and %s %s: use ef21 or ef_bv",
                    at->column, feedback, name,
                    nearest       ? "rounds to nearest"
                    : c.delta > 0 ? "is contractive"
                                  : "clips");
  if (need == slimNeedsContraction && !(c.delta > 0))
    return slimFail(slimInvalidArgument, "spec:1:%d: %s needs a contractive codec, and %s is none: %s", at->column,
                    feedback, name,
                    node->op == slimOp_sign ? "it sends no scale; use onebit"
                    : node->norm2 && node->nearest
                        ? "nearest rounding by norm=2 may send nothing; use norm=inf or rounding=stochastic"
                    : node->op == slimOp_randk ? "use scale=1"
                                               : "use topk, onebit or qsgd");
  if (need == slimNeedsEither && !isfinite(c.omega) && !(c.delta > 0))
    return slimFail(slimInvalidArgument, "spec:1:%d: %s needs an unbiased or a contractive codec, and %s is neither",
                    at->column, feedback, name);
  return slimSuccess;
}

static slimResult_t buildDirection(slimDirection* direction, const slimSpecNode* spec) {
  const bool feedback = spec->name->kind == slimIsFeedback;
  const slimFeedbackKind kind = feedback ? (slimFeedbackKind)spec->name->id : slimFeedbackNone;
  const slimSpecNode* codec = feedback ? spec->child[0] : spec;
  SLIM_CHECK(buildTree(&direction->tree, codec, slimFeedbackNeed(kind)));
  const slimTree* tree = direction->tree;
  const slimClass c = slimTreeClass(tree);
  const slimNode* top = slimSelector(tree) ? slimSelector(tree) : slimRoot(tree);
  SLIM_CHECK(checkClass(codec, spec->name->name, slimFeedbackNeed(kind), c, top));
  static const slimOptionValues nothing;
  const slimOptionValues* options = feedback ? &spec->options : &nothing;
  const bool wide = slimSelector(tree) && slimSelector(tree)->k;
  const bool automatic = (kind == slimFeedbackDiana || kind == slimFeedbackRandDiana) && options->value[4] < 0;
  if (wide && automatic) return complain(spec, "auto needs ratio= in the selector: the length is not known here");
  const char* error = slimFeedbackSetup(&direction->feedback, kind, options, c,
                                        top->levels == 1 && (top->op == slimOp_ternary || top->op == slimOp_qsgd));
  return error ? complain(spec, error) : slimSuccess;
}

/* The downlink of a lone spec: the same codec, with error feedback where the uplink has it; shared rand-k: the same
 * support, exactly; feedback with shifts: ef(qsgd(bits=8)). */
static slimResult_t defaultDownlink(const slimSpecNode* up, slimSpecNode** down, bool* sharedDown) {
  const bool feedback = up->name->kind == slimIsFeedback;
  const slimFeedbackKind kind = feedback ? (slimFeedbackKind)up->name->id : slimFeedbackNone;
  const slimSpecNode* codec = feedback ? up->child[0] : up;
  slimSpecNode* unused;
  if (kind != slimFeedbackNone && kind != slimFeedbackEf) return slimSpecParse("ef(qsgd(bits=8))", down, &unused);
  const bool exact = codec->name->id == slimOp_fp32;
  *sharedDown =
      codec->name->id == slimOp_randk && codec->options.value[slimOptionIndex(codec->name->options, "seed")] == 1;
  if (kind == slimFeedbackEf && !exact && !*sharedDown) {
    *down = slimSpecCopy(up);
    if (!*down) return slimFail(slimSystemError, "no memory for a spec");
    for (int i = 1; i <= 3; i++)
      (*down)->options.given[i] = false, (*down)->options.value[i] = 0; /* warmup, init, resync: the uplink's */
    return slimSuccess;
  }
  *down = slimSpecCopy(codec);
  if (!*down) return slimFail(slimSystemError, "no memory for a spec");
  if (*sharedDown) {
    const int scale = slimOptionIndex(codec->name->options, "scale"),
              values = slimOptionIndex(codec->name->options, "values");
    (*down)->options.given[scale] = true;
    (*down)->options.value[scale] = slimScaleOne;
    slimSpecFree((*down)->child[values]);
    return slimSpecParse("fp32", &(*down)->child[values], &unused);
  }
  return slimSuccess;
}

/* none(X) without options is X, in the printed form and so in the hash too. */
static void unwrapNone(slimSpecNode** spec) {
  slimSpecNode* none = *spec;
  if (none->name->kind != slimIsFeedback || none->name->id != slimFeedbackNone) return;
  for (int i = 1; i <= 3; i++)
    if (none->options.value[i] != 0) return; /* warmup, init, resync */
  *spec = none->child[0];
  none->child[0] = NULL;
  slimSpecFree(none);
}

static bool sameCodec(const slimSpecNode* a, const slimSpecNode* b) {
  char texts[2][1024] = {"", ""};
  slimSpecPrint(a->name->kind == slimIsFeedback ? a->child[0] : a, texts[0], sizeof texts[0]);
  slimSpecPrint(b->name->kind == slimIsFeedback ? b->child[0] : b, texts[1], sizeof texts[1]);
  return strcmp(texts[0], texts[1]) == 0;
}

static slimResult_t create(slimCompressor* c, const char* spec, slimSpecNode** up, slimSpecNode** down) {
  SLIM_CHECK(slimSpecParse(spec, up, down));
  c->downGiven = *down != NULL;
  unwrapNone(up);
  if (*down) unwrapNone(down);
  if (!*down) SLIM_CHECK(defaultDownlink(*up, down, &c->sharedDown));
  SLIM_CHECK(buildDirection(&c->up, *up));
  SLIM_CHECK(buildDirection(&c->down, *down));
  if ((slimTreeSharesLambda(c->up.tree) || slimTreeSharesLambda(c->down.tree)) && !sameCodec(*up, *down))
    return complain(*down, "lambda=shared wants the same codec in both directions: leave down= out");
  char text[4096] = "up=";
  slimSpecPrint(*up, text, sizeof text);
  strncat(text, "; down=", sizeof text - strlen(text) - 1);
  slimSpecPrint(*down, text, sizeof text);
  c->text = strdup(text);
  return c->text ? slimSuccess : slimFail(slimSystemError, "no memory for a spec");
}

/* Numbers are read and printed with a point, whatever the program's locale. */
typedef struct {
  locale_t plain, before;
} pointLocale;
static pointLocale enterPoint(void) {
  pointLocale l = {newlocale(LC_NUMERIC_MASK, "C", (locale_t)0), (locale_t)0};
  if (l.plain) l.before = uselocale(l.plain);
  return l;
}
static void leavePoint(pointLocale l) {
  if (!l.plain) return;
  uselocale(l.before);
  freelocale(l.plain);
}

slimResult_t slimCompressorCreate(slimCompressor** out, const char* spec) {
  *out = NULL;
  if (!spec) return slimFail(slimInvalidArgument, "spec is NULL: give one, e.g. \"ef(qsgd(bits=4))\"");
  slimCompressor* c = calloc(1, sizeof *c);
  if (!c) return slimFail(slimSystemError, "no memory for a compressor");
  slimSpecNode *up = NULL, *down = NULL;
  const pointLocale locale = enterPoint();
  slimResult_t result = create(c, spec, &up, &down);
  leavePoint(locale);
  slimSpecFree(up);
  slimSpecFree(down);
  if (result == slimSuccess)
    *out = c;
  else
    slimCompressorDestroy(c);
  return result;
}

slimResult_t slimSpecPart(const char* spec, bool feedback, bool downlink, char* out, size_t size) {
  slimSpecNode *up = NULL, *down = NULL;
  const pointLocale locale = enterPoint();
  slimResult_t result = slimSpecParse(spec, &up, &down);
  if (result == slimSuccess) {
    snprintf(out, size, "up=");
    slimSpecPrint(up->name->kind == slimIsFeedback && !feedback ? up->child[0] : up, out, size);
    if (down && downlink) {
      strncat(out, "; down=", size - strlen(out) - 1);
      slimSpecPrint(down->name->kind == slimIsFeedback && !feedback ? down->child[0] : down, out, size);
    }
  }
  leavePoint(locale);
  slimSpecFree(up);
  slimSpecFree(down);
  return result;
}

void slimCompressorDestroy(slimCompressor* c) {
  if (!c) return;
  free(c->up.tree);
  free(c->down.tree);
  free(c->text);
  free(c);
}

bool slimCompressorSetLambda(slimCompressor* c, double lambda) {
  bool any = false;
  slimTree* trees[] = {c->up.tree, c->down.tree};
  for (int i = 0; i < 2; i++)
    for (uint32_t j = 0; j < trees[i]->nodes; j++) {
      if (trees[i]->node[j].lambda != slimLambdaFixed) continue;
      trees[i]->node[j].chosen = (float)lambda;
      any = true;
    }
  return any;
}

uint64_t slimCompressorHash(const slimCompressor* c, slimDataType_t type) {
  char text[4200];
  const int n = snprintf(text, sizeof text, "%s#%d", c->text, (int)type);
  return XXH3_64bits(text, (size_t)n);
}

bool slimCoin(uint64_t seed, uint32_t slot, uint64_t step, double p) {
  const slimDraw draw = {{(uint32_t)seed, (uint32_t)(seed >> 32)}, slot, (uint32_t)step, SLIM_RANK_SHARED, 0};
  return (double)slimDrawWord(&draw, slimDrawCoin, 0, true, 0) * 0x1p-32 < p;
}
