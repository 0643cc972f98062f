#include "plugin/preload/cycle.h"

#include <stddef.h>
#include <string.h>

static bool same(slimCycleCall a, slimCycleCall b) { return a.key == b.key && a.address == b.address; }

/* The i-th last call (1: the last one). */
static slimCycleCall last(const slimCycle* c, uint64_t i) { return c->call[(c->calls - i) % SLIM_CYCLE_HISTORY]; }

void slimCycleBreak(slimCycle* c) {
  c->breaks++;
  c->calls = c->period = c->at = 0;
  c->recording = c->byAddress = false;
}

void slimCycleCommit(slimCycle* c, uint64_t period) {
  slimCycleCall found[SLIM_CYCLE_HISTORY / 3];
  for (uint64_t i = 0; i < period; i++) found[i] = last(c, period - i);
  memcpy(c->call, found, period * sizeof *found);
  c->period = period;
  c->at = 0;
  c->byAddress = true;
}

void slimCycleAccept(slimCycle* c) { c->at++; }

bool slimCycleDue(const slimCycle* c) {
  if (c->period || c->given || c->marks || c->breaks >= SLIM_CYCLE_BREAKS) return false;
  uint64_t n = 64;
  while (n < c->calls) n *= 4;
  return n == c->calls;
}

uint64_t slimCyclePropose(const slimCycle* c) {
  const uint64_t n = c->calls < SLIM_CYCLE_HISTORY ? c->calls : SLIM_CYCLE_HISTORY;
  uint64_t run = 1, longest = 1; /* of equal calls in a row: a shorter period would tear them apart */
  for (uint64_t i = 2; i <= n; i++) {
    run = same(last(c, i), last(c, i - 1)) ? run + 1 : 1;
    longest = run > longest ? run : longest;
  }
  if (longest == n) return n >= 3;
  for (uint64_t p = longest + 1; 3 * p <= n; p++) {
    const uint64_t window = 3 * p > n / 2 ? 3 * p : n / 2;
    uint64_t i = 1;
    while (i + p <= window && same(last(c, i), last(c, i + p))) i++;
    if (i + p > window) return p;
  }
  return 0;
}

/* A cycle that is given needs no search: its first round is recorded, with state at once. */
static slimCycleVerdict follow(slimCycle* c, slimCycleCall call, uint64_t* position) {
  if (c->recording) {
    if (c->period == SLIM_CYCLE_HISTORY) {
      slimCycleBreak(c);
      return slimCycleBroken;
    }
    c->call[c->period++] = call;
  } else if (c->at == c->period || c->call[c->at].key != call.key) {
    slimCycleBreak(c);
    return slimCycleBroken;
  } else if (c->byAddress && c->call[c->at].address != call.address) {
    *position = c->at;
    return slimCycleDenied;
  }
  *position = c->at++;
  return slimCycleKnown;
}

slimCycleVerdict slimCycleNext(slimCycle* c, slimCycleCall call, uint64_t marks, uint64_t* position) {
  if (c->breaks >= SLIM_CYCLE_BREAKS) return slimCycleUnknown;
  if (marks != c->marks) { /* a step begins; one that was cut short has no known end */
    const bool found = !c->marks && c->period;
    c->marks = marks;
    if (found || c->at != c->period) {
      slimCycleBreak(c);
      if (found) c->breaks--; /* not broken: told better */
      return slimCycleBroken;
    }
    c->recording = !c->period;
    c->at = 0;
    return follow(c, call, position);
  }
  if (c->marks) return c->period || c->recording ? follow(c, call, position) : slimCycleUnknown;
  if (c->given) {
    if (!c->period) c->recording = true;
    if (c->at == c->given) {
      c->at = 0;
      c->recording = false;
    }
    return follow(c, call, position);
  }
  if (c->period) {
    if (c->at == c->period) c->at = 0;
    const slimCycleVerdict verdict = follow(c, call, position);
    if (verdict != slimCycleBroken) return verdict;
    c->call[c->calls++ % SLIM_CYCLE_HISTORY] = call;
    return verdict;
  }
  c->call[c->calls++ % SLIM_CYCLE_HISTORY] = call;
  return slimCycleUnknown;
}
