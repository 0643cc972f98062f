#include "compress/spec.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  const char *text, *at;
  bool failed;
} slimParser;

static void fail(slimParser* p, const char* where, const char* format, ...) __attribute__((format(printf, 3, 4)));
static void fail(slimParser* p, const char* where, const char* format, ...) {
  if (p->failed) return;
  p->failed = true;
  char what[640];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  slimFail(slimInvalidArgument, "spec:1:%d: %s", (int)(where - p->text) + 1, what);
}

static void skip(slimParser* p) {
  while (isspace((unsigned char)*p->at)) p->at++;
}
static bool accept(slimParser* p, char c) {
  skip(p);
  if (*p->at != c) return false;
  p->at++;
  return true;
}
/* A name, a number or a word of an option; its length, at most 63. */
static size_t word(slimParser* p, const char** start) {
  skip(p);
  *start = p->at;
  while (isalnum((unsigned char)*p->at) || *p->at == '_' || *p->at == '.' || *p->at == '+' || *p->at == '-') p->at++;
  const size_t n = (size_t)(p->at - *start);
  if (n == 0) {
    if (*p->at)
      fail(p, p->at, "expected a name, found '%c'", *p->at);
    else
      fail(p, p->at, "expected a name, found the end");
  } else if (n > 63) {
    fail(p, *start, "a name of %zu characters: at most 63", n);
  }
  return p->failed ? 0 : n;
}

static bool same(const char* name, const char* start, size_t n) {
  return strlen(name) == n && memcmp(name, start, n) == 0;
}

int slimOptionIndex(const slimOption* options, const char* name) {
  for (int i = 0; options[i].name; i++)
    if (strcmp(options[i].name, name) == 0) return i;
  return -1;
}

/* "a|b|c" → index of the word, or −1. */
static int wordIndex(const char* words, const char* start, size_t n) {
  for (int i = 0; words; i++) {
    const char* end = strchr(words, '|');
    const size_t length = end ? (size_t)(end - words) : strlen(words);
    if (length == n && memcmp(words, start, n) == 0) return i;
    words = end ? end + 1 : NULL;
  }
  return -1;
}

static void list(const slimOption* options, char* out, size_t size) {
  size_t at = 0;
  out[0] = 0;
  for (int i = 0; options[i].name && at < size; i++)
    at += (size_t)snprintf(out + at, size - at, "%s%s", i ? ", " : "", options[i].name);
  if (!options[0].name) snprintf(out, size, "none");
}

/* The value of a non-node option; reports errors at start if p is given. */
static double value(slimParser* p, const slimOption* o, const char* start, size_t n) {
  char text[64];
  memcpy(text, start, n);
  text[n] = 0;
  if (o->kind == slimOptionChoice) {
    const int i = wordIndex(o->words, start, n);
    if (i < 0) fail(p, start, "%s=%s: expected %s", o->name, text, o->words);
    return i;
  }
  if (o->kind == slimOptionFlag) {
    if (n != 1 || (text[0] != '0' && text[0] != '1'))
      fail(p, start, "%s=%s: a flag stands alone, or is 0 or 1", o->name, text);
    return text[0] == '1';
  }
  if (o->words && o->kind == slimOptionReal) {
    const int i = wordIndex(o->words, start, n);
    if (i >= 0) return -1 - i;
  }
  char* end;
  const double x = strtod(text, &end);
  if (*end || !isfinite(x) || !(isdigit((unsigned char)text[0]) || text[0] == '.' || text[0] == '-')) {
    const char* words = o->kind == slimOptionReal ? o->words : NULL;
    fail(p, start, "%s=%s: expected a number%s%s", o->name, text, words ? " or " : "", words ? words : "");
    return 0;
  }
  if (o->kind == slimOptionBlock) {
    if (x != floor(x) || x < SLIM_MIN_BLOCK || x > SLIM_MAX_BLOCK || ((unsigned)x & ((unsigned)x - 1)))
      fail(p, start, "%s=%s: expected a power of two from %d to %d", o->name, text, SLIM_MIN_BLOCK, SLIM_MAX_BLOCK);
    return x;
  }
  if (o->kind == slimOptionInt && x != floor(x)) fail(p, start, "%s=%s: expected a whole number", o->name, text);
  const char* hint = o->kind == slimOptionInt && x < o->low ? o->words : NULL;
  if (x < o->low || x > o->high)
    fail(p, start, "%s=%s: expected %.9g to %.9g%s%s%s", o->name, text, o->low, o->high, hint ? " (" : "",
         hint ? hint : "", hint ? ")" : "");
  return x;
}

static slimSpecNode* parseNode(slimParser* p, int depth);

static void parseArgument(slimParser* p, slimSpecNode* node, int depth) {
  const slimOption* options = node->name->options;
  const char* start;
  size_t n = word(p, &start);
  if (!n) return;
  int i = -1;
  skip(p);
  if (*p->at == '=') {
    p->at++;
    for (int j = 0; options[j].name; j++)
      if (same(options[j].name, start, n)) i = j;
  } else {
    for (int j = 0; options[j].name && i < 0; j++)
      if (options[j].kind == slimOptionFlag && same(options[j].name, start, n)) i = j;
    if (i >= 0) {
      if (node->options.given[i]) fail(p, start, "%s is given twice", options[i].name);
      node->options.given[i] = true;
      node->options.value[i] = 1;
      return;
    }
    bool known = *p->at == '(';
    for (const slimName* name = slimNames; name->name; name++) known |= same(name->name, start, n);
    for (int j = 0; known && options[j].name && i < 0; j++)
      if (options[j].kind == slimOptionNode && !node->child[j]) i = j;
    if (i >= 0) p->at = start;
  }
  if (i < 0) {
    char all[256];
    list(options, all, sizeof all);
    fail(p, start, "unknown option '%.*s' of %s (options: %s)", (int)n, start, node->name->name, all);
    return;
  }
  if (options[i].kind == slimOptionNode ? node->child[i] != NULL : node->options.given[i]) {
    fail(p, start, "%s is given twice", options[i].name);
    return;
  }
  node->options.given[i] = true;
  if (options[i].kind == slimOptionNode) {
    node->child[i] = parseNode(p, depth + 1);
    if (node->child[i] && node->child[i]->name->kind == slimIsFeedback)
      fail(p, p->text + node->child[i]->column - 1, "%s is feedback: it stands outermost", node->child[i]->name->name);
    return;
  }
  n = word(p, &start);
  if (n) node->options.value[i] = value(p, &options[i], start, n);
}

static bool give(slimSpecNode* node, const char* option, double value) {
  for (int i = 0; i < SLIM_MAX_OPTIONS; i++)
    if (node->child[i] && give(node->child[i], option, value)) return true;
  const int at = slimOptionIndex(node->name->options, option);
  if (at < 0) return false;
  node->options.given[at] = true;
  node->options.value[at] = value;
  return true;
}

/* What a shorthand stands for. */
static slimSpecNode* expand(const slimSpecNode* shorthand, int depth) {
  const slimName* name = shorthand->name;
  slimParser p = {name->expands, name->expands, false};
  slimSpecNode* node = parseNode(&p, depth);
  for (int i = 0; node && name->options[i].name; i++)
    if (shorthand->options.given[i]) give(node, name->options[i].name, shorthand->options.value[i]);
  for (slimSpecNode* n = node; n; n = n->child[0]) n->column = shorthand->column;
  return node;
}

static slimSpecNode* parseNode(slimParser* p, int depth) {
  const char* start;
  const size_t n = word(p, &start);
  if (!n) return NULL;
  const slimName* name = slimNames;
  while (name->name && !same(name->name, start, n)) name++;
  if (!name->name) {
    char all[512];
    size_t at = 0;
    for (const slimName* k = slimNames; k->name && at < sizeof all; k++)
      at += (size_t)snprintf(all + at, sizeof all - at, "%s%s", k == slimNames ? "" : ", ", k->name);
    fail(p, start, "unknown name '%.*s' (known: %s)", (int)n, start, all);
    return NULL;
  }
  if (depth > 6) {
    fail(p, start, "nested too deeply");
    return NULL;
  }
  slimSpecNode* node = calloc(1, sizeof *node);
  if (!node) {
    fail(p, start, "no memory");
    return NULL;
  }
  node->name = name;
  node->column = (int)(start - p->text) + 1;
  if (accept(p, '(') && !accept(p, ')')) {
    do parseArgument(p, node, depth);
    while (!p->failed && accept(p, ','));
    if (!p->failed && !accept(p, ')')) fail(p, p->at, "expected ',' or ')'");
  }
  for (int i = 0; !p->failed && name->options[i].name; i++) {
    const slimOption* o = &name->options[i];
    if (o->kind == slimOptionNode && !node->child[i]) {
      if (!o->fallback) {
        fail(p, start, "%s needs a codec inside: %s(%s)", name->name, name->name, "qsgd(bits=4)");
      } else {
        slimParser q = {o->fallback, o->fallback, false};
        node->child[i] = parseNode(&q, depth + 1);
      }
    } else if (o->kind != slimOptionNode && !node->options.given[i] && o->fallback) {
      node->options.value[i] = value(p, o, o->fallback, strlen(o->fallback));
    }
  }
  slimSpecNode* whole = p->failed ? NULL : name->expands ? expand(node, depth) : node;
  if (whole != node) slimSpecFree(node);
  if (!whole && !p->failed) fail(p, start, "%s: no memory, or nested too deeply", name->name);
  return whole;
}

slimResult_t slimSpecParse(const char* text, slimSpecNode** up, slimSpecNode** down) {
  *up = *down = NULL;
  slimParser p = {text, text, false};
  if (strlen(text) > 4096) return slimFail(slimInvalidArgument, "spec:1:1: %zu characters: at most 4096", strlen(text));
  skip(&p);
  if (strncmp(p.at, "up", 2) == 0 && p.at[2 + strspn(p.at + 2, " \t")] == '=') p.at = strchr(p.at, '=') + 1;
  *up = parseNode(&p, 0);
  if (!p.failed && accept(&p, ';')) {
    skip(&p);
    if (strncmp(p.at, "down", 4) == 0 && p.at[4 + strspn(p.at + 4, " \t")] == '=') {
      p.at = strchr(p.at, '=') + 1;
      *down = parseNode(&p, 0);
    } else {
      fail(&p, p.at, "expected 'down=' after ';'");
    }
  }
  skip(&p);
  if (!p.failed && *p.at) fail(&p, p.at, "expected the end, or '; down=…', found '%c'", *p.at);
  if (!p.failed) return slimSuccess;
  slimSpecFree(*up);
  slimSpecFree(*down);
  *up = *down = NULL;
  return slimInvalidArgument;
}

slimSpecNode* slimSpecCopy(const slimSpecNode* node) {
  slimSpecNode* copy = malloc(sizeof *copy);
  if (!copy) return NULL;
  *copy = *node;
  for (int i = 0; i < SLIM_MAX_OPTIONS; i++) copy->child[i] = node->child[i] ? slimSpecCopy(node->child[i]) : NULL;
  return copy;
}

void slimSpecFree(slimSpecNode* node) {
  if (!node) return;
  for (int i = 0; i < SLIM_MAX_OPTIONS; i++) slimSpecFree(node->child[i]);
  free(node);
}

static void append(char* out, size_t size, const char* format, ...) __attribute__((format(printf, 3, 4)));
static void append(char* out, size_t size, const char* format, ...) {
  const size_t at = strlen(out);
  va_list args;
  va_start(args, format);
  vsnprintf(out + at, size - at, format, args);
  va_end(args);
}

static void printWord(const char* words, int index, char* out, size_t size) {
  while (index-- > 0) words = strchr(words, '|') + 1;
  append(out, size, "%.*s", (int)strcspn(words, "|"), words);
}

/* The shortest text that reads back as x. */
static void printNumber(double x, char* out, size_t size) {
  char text[32];
  for (int digits = 6; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, x);
    if (strtod(text, NULL) == x) break;
  }
  append(out, size, "%s", text);
}

static bool plainDefault(const slimSpecNode* child, const char* fallback) {
  char text[256] = "";
  if (!fallback) return false;
  slimSpecPrint(child, text, sizeof text);
  return strcmp(text, fallback) == 0;
}

void slimSpecPrint(const slimSpecNode* node, char* out, size_t size) {
  const slimOption* options = node->name->options;
  append(out, size, "%s", node->name->name);
  const char* before = "(";
  for (int i = 0; options[i].name; i++) {
    const slimOption* o = &options[i];
    if (o->kind == slimOptionNode) {
      if (!node->child[i] || plainDefault(node->child[i], o->fallback)) continue;
      append(out, size, "%s", before);
      slimSpecPrint(node->child[i], out, size);
      before = ", ";
      continue;
    }
    const double x = node->options.value[i];
    if (!node->options.given[i] ||
        (o->fallback && value(&(slimParser){"", "", true}, o, o->fallback, strlen(o->fallback)) == x))
      continue;
    append(out, size, "%s%s", before, o->name);
    before = ", ";
    if (o->kind == slimOptionFlag) continue;
    append(out, size, "=");
    if (o->kind == slimOptionChoice)
      printWord(o->words, (int)x, out, size);
    else if (o->kind == slimOptionReal && o->words && x < 0)
      printWord(o->words, (int)(-1 - x), out, size);
    else
      printNumber(x, out, size);
  }
  if (before[0] == ',') append(out, size, ")");
}
