/* A character-level language model in plain C: the characters before a position are embedded, go through two hidden
 * layers (tanh), and a softmax says which character comes next. */
#ifndef SLIMCCL_EXAMPLES_MODEL_H_
#define SLIMCCL_EXAMPLES_MODEL_H_

#include <stddef.h>
#include <stdint.h>

typedef struct {
  int vocabulary, context, embed, hidden;
} ModelShape;

/* What a framework would call the parameter tensors: each goes through its own allreduce. */
enum { tensorEmbedding, tensorHidden1, tensorHidden2, tensorOutput, tensorBiases, modelTensors };

typedef struct Model {
  ModelShape shape;
  size_t offset[modelTensors + 1]; /* tensor t: elements offset[t] … offset[t + 1] − 1 */
  size_t count;                    /* of all parameters */
  float *weight, *gradient, *velocity;
  struct ModelBuffers* buffers;
} Model;

/* A model for up to `batch` positions at a time, started from `seed`: the same seed gives the same start. NULL: out of
 * memory. */
Model* modelCreate(ModelShape shape, int batch, uint64_t seed);
void modelDestroy(Model* model);

/* Sum of −ln P(character at position) over count positions of the text, in nats. */
double modelLoss(Model* model, const uint8_t* text, const uint32_t* positions, int count);
/* The same, and model->gradient = gradient of the mean loss. */
double modelGradient(Model* model, const uint8_t* text, const uint32_t* positions, int count);
/* velocity ← momentum·velocity + gradient; weight ← weight − rate·velocity. */
void modelStep(Model* model, float rate, float momentum);

/* The random numbers of the example: number i of stream `stream` under `seed`. */
uint64_t randomBits(uint64_t seed, uint64_t stream, uint64_t i);

#endif
