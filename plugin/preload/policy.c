#define XXH_INLINE_ALL
#include "plugin/preload/policy.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

typedef struct {
  uint64_t low, high;
} range;

typedef struct rule {
  uint32_t collectives, types, ops; /* bits; 0: any */
  range bytes, ranks, order;
  bool sized;    /* bytes= is given: SLIM_MIN_BYTES does not count */
  bool everyone; /* SLIM_COMPRESS's: only communicators of all ranks */
  char* name;    /* a shell pattern; NULL: any */
  slimPolicyAction action;
} rule;

struct slimPolicy {
  rule* rules;
  int n;
  uint64_t minBytes, hash;
};

const char* slimReasonText(slimReason reason) {
#define SLIM_WORDS_(name, words) words,
  static const char* const texts[] = {SLIM_REASONS(SLIM_WORDS_)};
  return texts[reason];
}

/* ---- Specs ------------------------------------------------------------------------------------------------------ */

bool slimPolicyOpenAuto(char* spec) {
  const size_t n = strlen(spec);
  if (strncmp(spec, "auto(", 5) || spec[n - 1] != ')') return false;
  memset(spec, ' ', 5);
  spec[n - 1] = 0;
  return true;
}

static slimResult_t compile(slimPolicyAction* action, const char* text) {
  char spec[2048];
  slimCompressor *full, *bare;
  snprintf(spec, sizeof spec, "%s", text);
  action->measured = strlen(text) < sizeof spec && slimPolicyOpenAuto(spec);
  SLIM_CHECK(slimCompressorCreate(&full, spec));
  action->memory = full->up.feedback.kind != slimFeedbackNone || full->down.feedback.kind != slimFeedbackNone;
  slimCompressorDestroy(full);
  for (int i = 0; i < 4; i++) {
    char part[4096];
    SLIM_CHECK(slimSpecPart(spec, !(i & slimSpecStateless), !(i & slimSpecOneWay), part, sizeof part));
    action->spec[i] = strdup(part);
    if (!action->spec[i]) return slimFail(slimSystemError, "no memory for a policy");
  }
  SLIM_CHECK(slimCompressorCreate(&bare, action->spec[slimSpecStateless]));
  action->biased = !isfinite(slimTreeClass(bare->up.tree).omega) || !isfinite(slimTreeClass(bare->down.tree).omega);
  slimCompressorDestroy(bare);
  return slimSuccess;
}

/* ---- The file: "key=value … -> spec", a rule a line ------------------------------------------------------------- */

typedef struct {
  const char* file;
  int line;
  const char *start, *at;
} cursor;

static slimResult_t wrong(const cursor* c, const char* at, const char* what, const char* right) {
  return slimFail(slimInvalidArgument, "%s:%d:%d: %s: %s", c->file, c->line, (int)(at - c->start) + 1, what, right);
}
static void skip(cursor* c) {
  while (*c->at == ' ' || *c->at == '\t' || *c->at == '\r') c->at++;
}
static bool isEnd(char ch) { return ch == 0 || isspace((unsigned char)ch) || ch == ','; }

typedef struct {
  const char* word;
  int value;
} choice;
static const choice collectives[] = {
    {"allreduce", slimCollectiveAllReduce},  {"reduce_scatter", slimCollectiveReduceScatter},
    {"reduce", slimCollectiveReduce},        {"broadcast", slimCollectiveBroadcast},
    {"all_gather", slimCollectiveAllGather}, {NULL, 0}};
static const choice types[] = {{"float16", slimFloat16},
                               {"bfloat16", slimBfloat16},
                               {"float32", slimFloat32},
                               {"float64", slimFloat64},
                               {NULL, 0}};
static const choice ops[] = {{"sum", slimSum}, {"avg", slimAvg}, {NULL, 0}};

/* "a,b,c" → bits. */
static slimResult_t readChoices(cursor* c, const choice* choices, uint32_t* bits) {
  do {
    const choice* found = choices;
    size_t n = 0;
    for (; found->word; found++) {
      n = strlen(found->word);
      if (!strncmp(c->at, found->word, n) && isEnd(c->at[n])) break;
    }
    if (!found->word) {
      char right[256] = "give one or more of";
      for (const choice* one = choices; one->word; one++)
        snprintf(right + strlen(right), sizeof right - strlen(right), " %s", one->word);
      return wrong(c, c->at, "unknown value", right);
    }
    *bits |= 1u << found->value;
    c->at += n;
  } while (*c->at == ',' && *c->at++);
  return slimSuccess;
}

/* "4", "4..", "..64", "4..64", sizes with K, M, G. */
static slimResult_t readRange(cursor* c, range* r) {
  const char* start = c->at;
  *r = (range){0, UINT64_MAX};
  const bool low = slimParseBytes(&c->at, &r->low);
  const bool dots = !strncmp(c->at, "..", 2);
  if (dots) c->at += 2;
  const bool high = dots && slimParseBytes(&c->at, &r->high);
  if (low && !dots) r->high = r->low;
  if (!(low || high) || !isEnd(*c->at) || *c->at == ',' || r->low > r->high)
    return wrong(c, start, "not a range", "give N, N.., ..N or N..M, e.g. 1M..");
  return slimSuccess;
}

static slimResult_t readKey(cursor* c, rule* r) {
  const char* start = c->at;
  const size_t n = strcspn(start, "= \t");
  if (start[n] != '=') return wrong(c, start, "a condition is key=value", "and conditions end with -> spec or -> off");
  c->at += n + 1;
  if (n == 10 && !strncmp(start, "collective", n)) return readChoices(c, collectives, &r->collectives);
  if (n == 4 && !strncmp(start, "type", n)) return readChoices(c, types, &r->types);
  if (n == 2 && !strncmp(start, "op", n)) return readChoices(c, ops, &r->ops);
  if (n == 5 && !strncmp(start, "ranks", n)) return readRange(c, &r->ranks);
  if (n == 5 && !strncmp(start, "order", n)) return readRange(c, &r->order);
  if (n == 5 && !strncmp(start, "bytes", n)) {
    r->sized = true;
    return readRange(c, &r->bytes);
  }
  if (n == 4 && !strncmp(start, "name", n)) {
    const size_t length = strcspn(c->at, " \t\r");
    if (!length) return wrong(c, c->at, "name is empty", "give a pattern, e.g. name=dp*");
    free(r->name);
    r->name = strndup(c->at, length);
    c->at += length;
    return r->name ? slimSuccess : slimFail(slimSystemError, "no memory for a policy");
  }
  return wrong(c, start, "unknown key", "the keys are collective, type, op, bytes, ranks, order and name");
}

static rule* add(slimPolicy* policy) {
  rule* rules = realloc(policy->rules, (size_t)(policy->n + 1) * sizeof *rules);
  if (!rules) return NULL;
  policy->rules = rules;
  rules[policy->n] = (rule){.bytes = {0, UINT64_MAX}, .ranks = {0, UINT64_MAX}, .order = {0, UINT64_MAX}};
  return &rules[policy->n++];
}

static slimResult_t readLine(slimPolicy* policy, cursor* c) {
  skip(c);
  if (!*c->at || *c->at == '#') return slimSuccess;
  rule* r = add(policy);
  if (!r) return slimFail(slimSystemError, "no memory for a policy");
  while (strncmp(c->at, "->", 2)) {
    if (!*c->at || *c->at == '#') return wrong(c, c->at, "no -> in this rule", "it ends with -> spec or -> off");
    SLIM_CHECK(readKey(c, r));
    skip(c);
  }
  c->at += 2;
  skip(c);
  char spec[2048];
  size_t n = strcspn(c->at, "#");
  while (n && isspace((unsigned char)c->at[n - 1])) n--;
  if (!n || n >= sizeof spec) return wrong(c, c->at, "no spec after ->", "give one, e.g. ef(qsgd(bits=4)), or off");
  memcpy(spec, c->at, n);
  spec[n] = 0;
  if (!strcmp(spec, "off")) return slimSuccess;
  if (compile(&r->action, spec) == slimSuccess) return slimSuccess;
  char why[1024];
  snprintf(why, sizeof why, "%s", slimLastMessage());
  int column = 1;
  const char* text = why;
  if (sscanf(why, "spec:1:%d: ", &column) == 1) text = strstr(why, ": ") + 2;
  return wrong(c, c->at + column - 1, "bad spec", text);
}

static slimResult_t readFile(slimPolicy* policy, const char* path, XXH3_state_t* hash) {
  FILE* file = fopen(path, "re");
  if (!file) return slimFail(slimInvalidArgument, "SLIM_POLICY: cannot read %s: %s", path, strerror(errno));
  char* line = NULL;
  size_t room = 0;
  slimResult_t result = slimSuccess;
  for (int number = 1; result == slimSuccess && getline(&line, &room, file) >= 0; number++) {
    line[strcspn(line, "\n")] = 0;
    XXH3_64bits_update(hash, line, strlen(line) + 1);
    cursor c = {path, number, line, line};
    result = readLine(policy, &c);
  }
  free(line);
  fclose(file);
  return result;
}

static slimResult_t fill(slimPolicy* policy, const slimEnvironment* e, XXH3_state_t* hash) {
  if (*e->policy) SLIM_CHECK(readFile(policy, e->policy, hash));
  if (!*e->compress) return slimSuccess;
  rule* r = add(policy);
  if (!r) return slimFail(slimSystemError, "no memory for a policy");
  r->collectives = 1u << slimCollectiveAllReduce | 1u << slimCollectiveReduceScatter;
  r->everyone = true;
  if (compile(&r->action, e->compress) == slimSuccess) return slimSuccess;
  char why[1024];
  snprintf(why, sizeof why, "%s", slimLastMessage());
  return slimFail(slimInvalidArgument, "SLIM_COMPRESS: %s", why);
}

slimResult_t slimPolicyCreate(slimPolicy** out, const slimEnvironment* e) {
  *out = NULL;
  slimPolicy* policy = calloc(1, sizeof *policy);
  XXH3_state_t* hash = XXH3_createState();
  slimResult_t result = policy && hash ? slimSuccess : slimFail(slimSystemError, "no memory for a policy");
  if (result == slimSuccess) {
    XXH3_64bits_reset(hash);
    policy->minBytes = e->minBytes;
    const uint64_t settings[] = {e->minBytes, e->cycle, e->seed, e->disable};
    XXH3_64bits_update(hash, settings, sizeof settings);
    XXH3_64bits_update(hash, e->compress, strlen(e->compress) + 1);
    result = fill(policy, e, hash);
    policy->hash = XXH3_64bits_digest(hash);
  }
  XXH3_freeState(hash);
  if (result == slimSuccess)
    *out = policy;
  else
    slimPolicyDestroy(policy);
  return result;
}

void slimPolicyDestroy(slimPolicy* policy) {
  if (!policy) return;
  for (int i = 0; i < policy->n; i++) {
    free(policy->rules[i].name);
    for (int j = 0; j < 4; j++) free(policy->rules[i].action.spec[j]);
  }
  free(policy->rules);
  free(policy);
}

bool slimPolicyUsesOrder(const slimPolicy* policy) {
  for (int i = 0; i < policy->n; i++)
    if (policy->rules[i].order.low > 0 || policy->rules[i].order.high < UINT64_MAX) return true;
  return false;
}

uint64_t slimPolicyHash(const slimPolicy* policy) { return policy->hash; }

/* ---- Decisions -------------------------------------------------------------------------------------------------- */

static bool in(range r, uint64_t x) { return r.low <= x && x <= r.high; }
static bool among(uint32_t bits, int value) { return !bits || bits >> value & 1; }

const slimPolicyAction* slimPolicyFind(const slimPolicy* policy, const slimPolicyCall* call, slimReason* reason) {
  if (!slimTypeIsFloat(call->type)) return *reason = slimReasonType, NULL;
  if (call->op != slimSum && call->op != slimAvg) return *reason = slimReasonOp, NULL;
  if (call->ranks < 2) return *reason = slimReasonRanks, NULL;
  *reason = slimReasonNoRule;
  for (const rule* r = policy->rules; r < policy->rules + policy->n; r++) {
    if (r->everyone && !among(r->collectives, (int)call->collective)) {
      *reason = slimReasonCollective;
      continue;
    }
    if (!among(r->collectives, (int)call->collective) || !among(r->types, (int)call->type) ||
        !among(r->ops, (int)call->op) || !in(r->bytes, call->bytes) || !in(r->ranks, (uint64_t)call->ranks) ||
        !in(r->order, call->order) || (r->name && fnmatch(r->name, call->name, 0)))
      continue;
    if (!r->action.spec[0]) return *reason = slimReasonOff, NULL;
    if (r->everyone && !call->whole) {
      *reason = slimReasonGroup;
      continue;
    }
    if (!r->sized && call->bytes < policy->minBytes) {
      *reason = slimReasonSmall;
      continue;
    }
    return &r->action;
  }
  return NULL;
}

/* call: as far as it is known of all calls on a communicator. */
static bool concerns(const rule* r, const slimPolicyCall* call) {
  return call->ranks > 1 && r->action.spec[0] && in(r->ranks, (uint64_t)call->ranks) && in(r->order, call->order) &&
         (!r->name || !fnmatch(r->name, call->name, 0)) && (!r->everyone || call->whole);
}

bool slimPolicyConcerns(const slimPolicy* policy, const slimPolicyCall* call) {
  for (int i = 0; i < policy->n; i++)
    if (concerns(&policy->rules[i], call)) return true;
  return false;
}

int slimPolicyRules(const slimPolicy* policy) { return policy->n; }
const slimPolicyAction* slimPolicyMeasured(const slimPolicy* policy, int rule, const slimPolicyCall* call) {
  const struct rule* r = &policy->rules[rule];
  return r->action.measured && concerns(r, call) ? &r->action : NULL;
}
