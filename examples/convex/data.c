#include "examples/convex/data.h"

#include <Random123/philox.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Draws ------------------------------------------------------------------------------------------------------ */

static void draw(uint64_t seed, DrawKind kind, uint32_t i, uint32_t j, uint32_t k, double uniform[2]) {
  const philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
  const philox4x32_ctr_t counter = {{i, j, k, (uint32_t)kind}};
  const philox4x32_ctr_t words = philox4x32(counter, key);
  for (int u = 0; u < 2; u++)
    uniform[u] = (double)(((uint64_t)words.v[2 * u + 1] << 32 | words.v[2 * u]) >> 11) * 0x1p-53;
}

double drawUniform(uint64_t seed, DrawKind kind, uint32_t i, uint32_t j, uint32_t k) {
  double uniform[2];
  draw(seed, kind, i, j, k, uniform);
  return uniform[0];
}

double drawNormal(uint64_t seed, DrawKind kind, uint32_t i, uint32_t j) {
  double u[2];
  draw(seed, kind, i, j, 0, u);
  return sqrt(-2 * log(1 - u[0])) * cos(6.283185307179586 * u[1]); /* Box and Muller */
}

/* ---- Building --------------------------------------------------------------------------------------------------- */

typedef struct {
  Data data;
  size_t rowRoom, valueRoom;
} Builder;

static void* resized(void* array, size_t bytes) {
  array = realloc(array, bytes);
  if (!array) abort();
  return array;
}

static void beginRow(Builder* b, double label) {
  Data* data = &b->data;
  if (data->rows + 2 > b->rowRoom) {
    b->rowRoom = 2 * b->rowRoom + 64;
    data->start = resized(data->start, b->rowRoom * sizeof *data->start);
    data->label = resized(data->label, b->rowRoom * sizeof *data->label);
  }
  if (data->rows == 0) data->start[0] = 0;
  data->label[data->rows++] = label;
  data->start[data->rows] = data->start[data->rows - 1];
}

static void addValue(Builder* b, size_t column, double value) {
  Data* data = &b->data;
  const size_t at = data->start[data->rows];
  if (value == 0) return;
  if (at == b->valueRoom) {
    b->valueRoom = 2 * b->valueRoom + 64;
    data->column = resized(data->column, b->valueRoom * sizeof *data->column);
    data->value = resized(data->value, b->valueRoom * sizeof *data->value);
  }
  data->column[at] = (uint32_t)column;
  data->value[at] = value;
  data->start[data->rows]++;
  if (column >= data->columns) data->columns = column + 1;
}

void dataFree(Data* data) {
  free(data->start);
  free(data->column);
  free(data->value);
  free(data->label);
  *data = (Data){0};
}

/* ---- Generators ------------------------------------------------------------------------------------------------- */

void dataRegression(Data* data, size_t rows, size_t columns, uint64_t seed) {
  Builder b = {0};
  for (size_t i = 0; i < rows; i++) {
    double label = 10 * drawNormal(seed, drawNoise, (uint32_t)i, 0);
    beginRow(&b, 0);
    for (size_t j = 0; j < columns; j++) {
      const double feature = drawNormal(seed, drawFeature, (uint32_t)i, (uint32_t)j);
      addValue(&b, j, feature);
      if (j < 10) label += 100 * drawUniform(seed, drawCoefficient, (uint32_t)j, 0, 0) * feature;
    }
    b.data.label[i] = label;
  }
  *data = b.data;
}

void dataSigns(Data* data) {
  Builder b = {0};
  for (int sign = 1; sign >= -1; sign -= 2) {
    beginRow(&b, 0);
    addValue(&b, 0, 0.5 + sign);
    addValue(&b, 1, 0.5 - sign);
  }
  *data = b.data;
}

/* ---- Files ------------------------------------------------------------------------------------------------------ */

static int fail(const char* path, size_t line, const char* what) {
  fprintf(stderr, "convex: %s:%zu: %s\n", path, line, what);
  return -1;
}

/* Reads a number at *text and moves on; 0 if there is none. */
static int number(char** text, double* value) {
  char* end;
  *value = strtod(*text, &end);
  if (end == *text) return 0;
  *text = end;
  return isfinite(*value);
}

static int libsvmLine(Builder* b, char* text) {
  double label, column, value;
  while (*text == ' ') text++;
  if (*text == '\n' || *text == '#' || !*text) return 0;
  if (!number(&text, &label)) return -1;
  beginRow(b, label);
  while (number(&text, &column)) {
    if (column < 1 || column > UINT32_MAX || column != floor(column) || *text++ != ':' || !number(&text, &value))
      return -1;
    addValue(b, (size_t)column - 1, value);
  }
  return text[strspn(text, " \t\r\n")] && *text != '#' ? -1 : 0;
}

static int readLibsvm(Builder* b, FILE* in, const char* path) {
  char* line = NULL;
  size_t room = 0, count = 0;
  int failed = 0;
  while (!failed && getline(&line, &room, in) > 0) {
    count++;
    if (libsvmLine(b, line)) failed = fail(path, count, "expected 'label column:value …', columns from 1");
  }
  free(line);
  return failed;
}

static int readFann(Builder* b, FILE* in, const char* path, size_t rows, size_t columns, size_t outputs) {
  for (size_t i = 0; i < rows; i++) {
    beginRow(b, 0);
    for (size_t j = 0; j < columns + outputs; j++) {
      double value;
      if (fscanf(in, "%lf", &value) != 1 || !isfinite(value)) return fail(path, 2 + 2 * i, "expected a number");
      if (j < columns) addValue(b, j, value);
      if (j == columns) b->data.label[i] = value;
    }
  }
  b->data.columns = columns;
  return 0;
}

int dataLoad(Data* data, const char* path) {
  Builder b = {0};
  char head[256];
  size_t rows, columns, outputs;
  int end = 0;
  FILE* in = fopen(path, "r");
  if (!in) {
    fprintf(stderr, "convex: %s: %s\n", path, strerror(errno));
    return -1;
  }
  const int fann = fgets(head, sizeof head, in) &&
                   sscanf(head, "%zu %zu %zu %n", &rows, &columns, &outputs, &end) == 3 && !head[end] && outputs > 0;
  rewind(in);
  int failed = 0;
  if (fann) {
    failed = fscanf(in, "%*u %*u %*u") == EOF || readFann(&b, in, path, rows, columns, outputs);
  } else {
    failed = readLibsvm(&b, in, path);
  }
  fclose(in);
  if (!failed && (b.data.rows == 0 || b.data.columns == 0)) failed = fail(path, 1, "holds no data");
  if (failed) dataFree(&b.data);
  *data = b.data;
  return failed ? -1 : 0;
}

/* ---- Labels ----------------------------------------------------------------------------------------------------- */

int dataMakeBinary(Data* data) {
  double low = INFINITY, high = -INFINITY;
  for (size_t i = 0; i < data->rows; i++) low = fmin(low, data->label[i]), high = fmax(high, data->label[i]);
  for (size_t i = 0; i < data->rows; i++)
    if (low == high || (data->label[i] != low && data->label[i] != high)) {
      fprintf(stderr, "convex: logistic regression wants two different labels\n");
      return -1;
    }
  for (size_t i = 0; i < data->rows; i++) data->label[i] = data->label[i] == low ? -1 : 1;
  return 0;
}

typedef struct {
  double label;
  size_t row;
} LabelledRow;

static int byLabel(const void* left, const void* right) {
  const LabelledRow *a = left, *b = right;
  if (a->label != b->label) return a->label < b->label ? -1 : 1;
  return a->row < b->row ? -1 : a->row > b->row;
}

void dataSort(Data* data) {
  LabelledRow* order = resized(NULL, data->rows * sizeof *order);
  for (size_t i = 0; i < data->rows; i++) order[i] = (LabelledRow){data->label[i], i};
  qsort(order, data->rows, sizeof *order, byLabel);
  Builder b = {0};
  for (size_t i = 0; i < data->rows; i++) {
    const size_t row = order[i].row;
    beginRow(&b, data->label[row]);
    for (size_t at = data->start[row]; at < data->start[row + 1]; at++) addValue(&b, data->column[at], data->value[at]);
  }
  b.data.columns = data->columns;
  free(order);
  dataFree(data);
  *data = b.data;
}
