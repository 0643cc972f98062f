#include "examples/convex/paper.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int methodBlock(const Method* method, const Constants* c) {
  int block = 64;
  if (method->block) return method->block;
  while (block < 8192 && (size_t)block < c->d) block *= 2;
  return block;
}

static size_t coordinatesOfBlock(const Method* method, const Constants* c) {
  const size_t block = (size_t)methodBlock(method, c);
  return block < c->d ? block : c->d;
}

static double blocks(const Method* method, const Constants* c) { return ceil((double)c->d / methodBlock(method, c)); }

int methodKept(const Method* method, const Constants* c) {
  return (int)fmax(1, round(method->share * (double)coordinatesOfBlock(method, c)));
}

void methodSpec(const Method* method, const Constants* c, char* spec, size_t size) {
  FILE* out = fmemopen(spec, size, "w");
  if (!out) abort();
  for (const char* s = method->spec; *s; s++) {
    if (*s != '$') {
      fputc(*s, out);
      continue;
    }
    switch (*++s) {
      case 'k':
        fprintf(out, "%d", methodKept(method, c));
        break;
      case 'b':
        fprintf(out, "%d", methodBlock(method, c));
        break;
      case 'a':
        fprintf(out, "%.17g", 1 / (1 + method->omega(method, c)));
        break;
    }
  }
  fclose(out);
}

double omegaRandk(const Method* method, const Constants* c) {
  return (double)coordinatesOfBlock(method, c) / methodKept(method, c) - 1;
}
double omegaTernary(const Method* method, const Constants* c) {
  return 0.5 * (1 + sqrt((double)coordinatesOfBlock(method, c))) - 1;
}
double omegaTernary2(const Method* method, const Constants* c) {
  return sqrt((double)coordinatesOfBlock(method, c)) - 1;
}

double bitsPlain(const Method* method, const Constants* c) {
  (void)method;
  return floatBits * (double)c->d;
}
double bitsRandk(const Method* method, const Constants* c) {
  return floatBits * (methodKept(method, c) * blocks(method, c) + 1);
}
double bitsTernary(const Method* method, const Constants* c) {
  return 2 * (double)c->d + floatBits * blocks(method, c);
}
