/* Feedback: one table of coefficients (docs/design.md). */
#ifndef SLIM_COMPRESS_FEEDBACK_H_
#define SLIM_COMPRESS_FEEDBACK_H_

#include "compress/spec.h"

extern const slimOption slimOptions_none[], slimOptions_ef[], slimOptions_ef21[], slimOptions_ef_bv[],
    slimOptions_diana[], slimOptions_shift[], slimOptions_rand_diana[];

/* What a feedback asks of its codec. */
typedef enum { slimNeedsNothing, slimNeedsContraction, slimNeedsUnbiased, slimNeedsEither } slimNeed;
slimNeed slimFeedbackNeed(slimFeedbackKind kind);

/* The row for a spec's feedback node over a codec of class c (levels 1: DIANA's own alpha). NULL, or what is wrong. */
const char* slimFeedbackSetup(slimFeedback* feedback, slimFeedbackKind kind, const slimOptionValues* o, slimClass c,
                              bool ternary);

#endif
