#include "examples/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "examples/gemm.h"

/* Activations stand transposed, a feature a row and a position a column: all products then read rows. */
struct ModelBuffers {
  int capacity, width;      /* positions a call; columns a row */
  float* input;             /* context·embed × width */
  float *hidden1, *hidden2; /* hidden × width, after tanh */
  float* output;            /* vocabulary × width: logits, then their gradient */
  float *back1, *back2;     /* gradients before tanh, hidden × width */
  float* backInput;         /* context·embed × width */
  float* turned;            /* a gradient, a position a row */
  float* column;            /* width */
};

static uint64_t mix(uint64_t x) { /* splitmix64 */
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t randomBits(uint64_t seed, uint64_t stream, uint64_t i) { return mix(mix(mix(seed) ^ stream) ^ i); }

/* A standard normal number (Box and Muller). */
static float randomNormal(uint64_t seed, uint64_t stream, uint64_t i) {
  const double u = (double)((randomBits(seed, stream, 2 * i) >> 11) + 1) * 0x1p-53;
  const double v = (double)(randomBits(seed, stream, 2 * i + 1) >> 11) * 0x1p-53;
  return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static float* floats(size_t count) { return calloc(count, sizeof(float)); }

Model* modelCreate(ModelShape shape, int batch, uint64_t seed) {
  Model* model = calloc(1, sizeof *model);
  struct ModelBuffers* b = calloc(1, sizeof *b);
  if (!model || !b) {
    free(model);
    free(b);
    return NULL;
  }
  const size_t v = (size_t)shape.vocabulary, e = (size_t)shape.embed, h = (size_t)shape.hidden;
  const size_t in = (size_t)shape.context * e;
  const size_t counts[modelTensors] = {v * e, in * h, h * h, h * v, h + h + v};
  model->shape = shape;
  model->buffers = b;
  for (int t = 0; t < modelTensors; t++) model->offset[t + 1] = model->offset[t] + counts[t];
  model->count = model->offset[modelTensors];
  model->weight = floats(model->count);
  model->gradient = floats(model->count);
  model->velocity = floats(model->count);

  b->capacity = batch;
  b->width = batch > 32 ? batch : 32; /* gemm's fast path wants a tile */
  const size_t w = (size_t)b->width;
  b->input = floats(in * w);
  b->hidden1 = floats(h * w);
  b->hidden2 = floats(h * w);
  b->output = floats(v * w);
  b->back1 = floats(h * w);
  b->back2 = floats(h * w);
  b->backInput = floats(in * w);
  b->turned = floats((h > v ? h : v) * w);
  b->column = floats(w);
  if (!model->weight || !model->gradient || !model->velocity || !b->input || !b->hidden1 || !b->hidden2 || !b->output ||
      !b->back1 || !b->back2 || !b->backInput || !b->turned || !b->column) {
    modelDestroy(model);
    return NULL;
  }

  const double scale[modelTensors] = {1, sqrt(1.0 / (double)in), sqrt(1.0 / (double)h), 0.1 * sqrt(1.0 / (double)h), 0};
  for (int t = 0; t < tensorBiases; t++)
    for (size_t i = 0; i < counts[t]; i++)
      model->weight[model->offset[t] + i] = (float)scale[t] * randomNormal(seed, (uint64_t)t, i);
  return model;
}

void modelDestroy(Model* model) {
  if (!model) return;
  struct ModelBuffers* b = model->buffers;
  float* const all[] = {model->weight, model->gradient, model->velocity, b->input,     b->hidden1, b->hidden2,
                        b->output,     b->back1,        b->back2,        b->backInput, b->turned,  b->column};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  free(b);
  free(model);
}

/* tanh to within a few units in the last place, as a quotient of polynomials: vectorised, unlike the library's. */
static float tangens(float x) {
  x = x > 7.9f ? 7.9f : x < -7.9f ? -7.9f : x;
  const float y = x * x;
  float p = -2.76076847742355e-16f;
  p = p * y + 2.00018790482477e-13f;
  p = p * y - 8.60467152213735e-11f;
  p = p * y + 5.12229709037114e-08f;
  p = p * y + 1.48572235717979e-05f;
  p = p * y + 6.37261928875436e-04f;
  p = p * y + 4.89352455891786e-03f;
  const float q = ((1.19825839466702e-06f * y + 1.18534705686654e-04f) * y + 2.26843463243900e-03f) * y;
  return x * p / (q + 4.89352518554385e-03f);
}

/* out = weightᵀ·in + bias, out of `rows` rows; tanh of it if asked. */
static void layer(const float* weight, const float* bias, const float* in, int depth, float* out, int rows, int width,
                  int hidden) {
  gemm(rows, width, depth, weight, 1, (size_t)rows, in, (size_t)width, out, (size_t)width);
  for (int i = 0; i < rows; i++) {
    float* row = out + (size_t)i * (size_t)width;
    for (int s = 0; s < width; s++) row[s] += bias[i];
    for (int s = 0; hidden && s < width; s++) row[s] = tangens(row[s]);
  }
}

static void forward(Model* model, const uint8_t* text, const uint32_t* positions, int count) {
  const ModelShape* shape = &model->shape;
  struct ModelBuffers* b = model->buffers;
  const int context = shape->context, embed = shape->embed, hidden = shape->hidden, width = b->width;
  for (int c = 0; c < context; c++)
    for (int s = 0; s < width; s++) {
      const uint8_t code = text[positions[s < count ? s : 0] - (uint32_t)(context - c)];
      const float* row = model->weight + (size_t)code * (size_t)embed;
      float* out = b->input + (size_t)c * (size_t)embed * (size_t)width + s;
      for (int e = 0; e < embed; e++) out[(size_t)e * (size_t)width] = row[e];
    }
  const float* weight1 = model->weight + model->offset[tensorHidden1];
  const float* weight2 = model->weight + model->offset[tensorHidden2];
  const float* weight3 = model->weight + model->offset[tensorOutput];
  const float* bias = model->weight + model->offset[tensorBiases];
  layer(weight1, bias, b->input, context * embed, b->hidden1, hidden, width, 1);
  layer(weight2, bias + hidden, b->hidden1, hidden, b->hidden2, hidden, width, 1);
  layer(weight3, bias + 2 * hidden, b->hidden2, hidden, b->output, shape->vocabulary, width, 0);
}

/* Turns logits into probabilities and returns the summed loss of the first count columns. */
static double softmax(Model* model, const uint8_t* text, const uint32_t* positions, int count) {
  struct ModelBuffers* b = model->buffers;
  const size_t width = (size_t)b->width;
  const int vocabulary = model->shape.vocabulary;
  float* column = b->column;
  memcpy(column, b->output, width * sizeof *column);
  for (int i = 1; i < vocabulary; i++)
    for (size_t s = 0; s < width; s++) {
      const float y = b->output[(size_t)i * width + s];
      column[s] = y > column[s] ? y : column[s];
    }
  for (int i = 0; i < vocabulary; i++)
    for (size_t s = 0; s < width; s++) b->output[(size_t)i * width + s] -= column[s];
  memset(column, 0, width * sizeof *column);
  double loss = 0;
  for (int s = 0; s < count; s++) loss -= b->output[(size_t)text[positions[s]] * width + (size_t)s];
  for (int i = 0; i < vocabulary; i++)
    for (size_t s = 0; s < width; s++) {
      float* y = b->output + (size_t)i * width + s;
      *y = expf(*y);
      column[s] += *y;
    }
  for (int s = 0; s < count; s++) loss += logf(column[s]);
  return loss;
}

double modelLoss(Model* model, const uint8_t* text, const uint32_t* positions, int count) {
  double loss = 0;
  for (int i = 0; i < count; i += model->buffers->capacity) {
    const int n = count - i < model->buffers->capacity ? count - i : model->buffers->capacity;
    forward(model, text, positions + i, n);
    loss += softmax(model, text, positions + i, n);
  }
  return loss;
}

/* The weights' and biases' gradient of a layer from its input and its output's gradient. */
static void layerGradient(struct ModelBuffers* b, const float* in, int depth, const float* back, int rows, int count,
                          float* weight, float* bias) {
  const size_t width = (size_t)b->width;
  enum { tile = 16 };
  for (int i0 = 0; i0 < rows; i0 += tile)
    for (int s = 0; s < count; s++)
      for (int i = i0; i < rows && i < i0 + tile; i++)
        b->turned[(size_t)s * (size_t)rows + (size_t)i] = back[(size_t)i * width + (size_t)s];
  gemm(depth, rows, count, in, width, 1, b->turned, (size_t)rows, weight, (size_t)rows);
  for (int i = 0; i < rows; i++) {
    float sum = 0;
    for (int s = 0; s < count; s++) sum += back[(size_t)i * width + (size_t)s];
    bias[i] = sum;
  }
}

/* The gradient at a layer's input; before tanh, if `activated` is what came out of it there. */
static void layerBack(const struct ModelBuffers* b, const float* weight, int depth, const float* back, int rows,
                      const float* activated, float* out) {
  const size_t width = (size_t)b->width;
  gemm(depth, b->width, rows, weight, (size_t)rows, 1, back, width, out, width);
  for (size_t i = 0; activated && i < (size_t)depth * width; i++) out[i] *= 1 - activated[i] * activated[i];
}

double modelGradient(Model* model, const uint8_t* text, const uint32_t* positions, int count) {
  struct ModelBuffers* b = model->buffers;
  const int vocabulary = model->shape.vocabulary, hidden = model->shape.hidden, embed = model->shape.embed;
  const int context = model->shape.context, depth = context * embed;
  const size_t width = (size_t)b->width, *offset = model->offset;
  float *gradient = model->gradient, *bias = gradient + offset[tensorBiases];
  const float* weight = model->weight;

  forward(model, text, positions, count);
  const double loss = softmax(model, text, positions, count);
  for (size_t s = 0; s < width; s++) b->column[s] = s < (size_t)count ? 1 / (b->column[s] * (float)count) : 0;
  for (int i = 0; i < vocabulary; i++)
    for (size_t s = 0; s < width; s++) b->output[(size_t)i * width + s] *= b->column[s];
  for (int s = 0; s < count; s++) b->output[(size_t)text[positions[s]] * width + (size_t)s] -= 1 / (float)count;

  layerGradient(b, b->hidden2, hidden, b->output, vocabulary, count, gradient + offset[tensorOutput],
                bias + 2 * hidden);
  layerBack(b, weight + offset[tensorOutput], hidden, b->output, vocabulary, b->hidden2, b->back2);
  layerGradient(b, b->hidden1, hidden, b->back2, hidden, count, gradient + offset[tensorHidden2], bias + hidden);
  layerBack(b, weight + offset[tensorHidden2], hidden, b->back2, hidden, b->hidden1, b->back1);
  layerGradient(b, b->input, depth, b->back1, hidden, count, gradient + offset[tensorHidden1], bias);
  layerBack(b, weight + offset[tensorHidden1], depth, b->back1, hidden, NULL, b->backInput);

  memset(gradient, 0, offset[tensorHidden1] * sizeof *gradient);
  for (int c = 0; c < context; c++)
    for (int s = 0; s < count; s++) {
      float* row = gradient + (size_t)text[positions[s] - (uint32_t)(context - c)] * (size_t)embed;
      const float* in = b->backInput + (size_t)c * (size_t)embed * width + (size_t)s;
      for (int e = 0; e < embed; e++) row[e] += in[(size_t)e * width];
    }
  return loss;
}

void modelStep(Model* model, float rate, float momentum) {
  float *weight = model->weight, *velocity = model->velocity;
  const float* gradient = model->gradient;
  for (size_t i = 0; i < model->count; i++) {
    velocity[i] = momentum * velocity[i] + gradient[i];
    weight[i] -= rate * velocity[i];
  }
}
