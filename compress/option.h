/* Options of the spec language: one table a name. It feeds the parser, its error messages and the printed form. */
#ifndef SLIM_COMPRESS_OPTION_H_
#define SLIM_COMPRESS_OPTION_H_

#include "compress/node.h"

typedef enum {
  slimOptionInt,    /* low ≤ value ≤ high */
  slimOptionReal,   /* low ≤ value ≤ high; words (e.g. "auto|inf") give −1, −2, … */
  slimOptionChoice, /* value = index into words */
  slimOptionFlag,   /* bare name; 0 or 1 */
  slimOptionBlock,  /* power of two, 64 … 8192 */
  slimOptionNode    /* a node, named or not */
} slimOptionKind;

typedef struct {
  const char* name;
  slimOptionKind kind;
  const char* fallback; /* its default, as written in a spec; NULL: none, the option is "not given" (or, for a node,
                           required) */
  double low, high;
  const char* words; /* "a|b|c"; of an int: what to say of a value below low */
} slimOption;

enum { SLIM_MAX_OPTIONS = 10 };

/* The values of a node's options, by table index. */
typedef struct {
  double value[SLIM_MAX_OPTIONS];
  bool given[SLIM_MAX_OPTIONS];
} slimOptionValues;

#define SLIM_OPTIONS(name) static const slimOption slimOptions_##name[] __attribute__((unused))
#define SLIM_END_OPTIONS \
  { NULL, slimOptionInt, NULL, 0, 0, NULL }

/* A codec's functions for the registry:
 *   slimSetup_NAME   fills the node from its options; NULL, or what is wrong with them
 *   slimClass_NAME   its guarantee for blocks of n values (bits without the scale of a selector around it)
 * and for the kernels:
 *   slimEncode_NAME  codes v into the node's sections; false: a scale is not finite
 *   slimDecode_NAME  the decoded values */

#endif
