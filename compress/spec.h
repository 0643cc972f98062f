/* The spec language: text ↔ a tree of named nodes with resolved options. docs/specs.md.
 *
 *     spec := [ "up=" ] node [ ";" "down=" node ]
 *     node := name [ "(" arg { "," arg } ")" ]          arg := node | flag | key "=" (value | node)
 */
#ifndef SLIM_COMPRESS_SPEC_H_
#define SLIM_COMPRESS_SPEC_H_

#include "compress/option.h"

typedef enum { slimIsCodec, slimIsSelector, slimIsTransform, slimIsFeedback, slimIsShorthand } slimNameKind;

/* A name of the spec language; the list is in registry.c. */
typedef struct {
  const char* name;
  slimNameKind kind;
  int id; /* slimOp or slimFeedbackKind */
  const slimOption* options;
  const char* (*setup)(slimNode* node, const slimOptionValues* options); /* NULL for feedback */
  slimClass (*class_)(const slimNode* node, double n);                   /* codecs only */
  const char* expands; /* shorthand: the node that it stands for; options go to the innermost node that has them */
} slimName;
extern const slimName slimNames[]; /* ends with name = NULL */

typedef struct slimSpecNode {
  const slimName* name;
  int column;
  slimOptionValues options;
  struct slimSpecNode*
      child[SLIM_MAX_OPTIONS]; /* of node options; never NULL after parsing where there is a fallback */
} slimSpecNode;

/* down is NULL where the text names no downlink. On error both are NULL. */
slimResult_t slimSpecParse(const char* text, slimSpecNode** up, slimSpecNode** down);
slimSpecNode* slimSpecCopy(const slimSpecNode* node); /* NULL: no memory */
void slimSpecFree(slimSpecNode* node);
/* Appends node's text to out (size bytes, always terminated); options at their default are left out. */
void slimSpecPrint(const slimSpecNode* node, char* out, size_t size);
/* Index of an option in a name's table; −1 if there is none. */
int slimOptionIndex(const slimOption* options, const char* name);

#endif
