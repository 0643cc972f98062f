/* Rows of features with a label each, sparse; from files and generators. */
#ifndef SLIMCCL_EXAMPLES_CONVEX_DATA_H_
#define SLIMCCL_EXAMPLES_CONVEX_DATA_H_

#include <stddef.h>
#include <stdint.h>

typedef struct {
  size_t rows, columns;
  size_t* start; /* rows + 1: where each row begins in column and value */
  uint32_t* column;
  double *value, *label;
} Data;

/* Reads a LIBSVM file ("label column:value …", columns from 1), or one of FANN's ("rows columns outputs", then the
 * features and the outputs in turn, of which the first is the label). Returns 0, or −1 after a message on stderr. */
int dataLoad(Data* data, const char* path);
/* Linear regression as scikit-learn's make_regression makes it: features N(0, 1), ten coefficients uniform in [0, 100),
 * noise of standard deviation 10. */
void dataRegression(Data* data, size_t rows, size_t columns, uint64_t seed);
/* Two rows ±(1, −1) + ½(1, 1), labels 0: the sign of each row's gradient is ±(1, −1) (arXiv 1901.09847). */
void dataSigns(Data* data);
void dataFree(Data* data);

/* The labels become −1 and 1; there must be two. Returns 0, or −1 after a message on stderr. */
int dataMakeBinary(Data* data);
/* Orders the rows by label, those of one label as they are: workers that hold stretches of rows then differ. */
void dataSort(Data* data);

/* What draws are for: each kind has its own numbers. */
typedef enum { drawFeature, drawCoefficient, drawNoise, drawStart, drawRow } DrawKind;
/* A number in [0, 1), and a normal one of variance 1: functions of all arguments (Philox4x32-10 of Random123). */
double drawUniform(uint64_t seed, DrawKind kind, uint32_t i, uint32_t j, uint32_t k);
double drawNormal(uint64_t seed, DrawKind kind, uint32_t i, uint32_t j);

#endif
