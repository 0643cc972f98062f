#include "plugin/group.h"

#include <stdlib.h>
#include <string.h>

#include "plugin/slimccl.h"

static _Thread_local struct {
  int depth;
  slimOperation *first, *last;
} group;

bool slimGroupIsOpen(void) { return group.depth > 0; }

slimResult_t slimSubmit(slimOperation* operation, size_t size) {
  if (!group.depth) return slimRun(operation);
  slimOperation* copy = malloc(size);
  if (!copy) return slimFail(slimSystemError, "out of memory for a call in a group");
  memcpy(copy, operation, size);
  if (group.last)
    group.last->next = copy;
  else
    group.first = copy;
  group.last = copy;
  return slimSuccess;
}

slimResult_t slimGroupStart(void) {
  group.depth++;
  return slimSuccess;
}

static bool holds(const slimOperation* list, const slimComm* comm) {
  for (; list; list = list->next)
    if (list->comm->home == comm->home) return true;
  return false;
}

/* Takes from *list what runs together: the next operation of each handle of the first one's ranks. Other ranks'
 * operations come after it, as if the program had called them one after the other. */
static slimOperation* takeWave(slimOperation** list) {
  const uint64_t clique = (*list)->comm->clique;
  slimOperation *wave = NULL, **end = &wave;
  for (slimOperation** at = list; *at;) {
    slimOperation* o = *at;
    if (o->comm->clique != clique || holds(wave, o->comm)) {
      at = &o->next;
      continue;
    }
    *at = o->next;
    o->next = NULL;
    *end = o;
    end = &o->next;
  }
  return wave;
}

slimResult_t slimGroupEnd(void) {
  if (!group.depth) return slimFail(slimInvalidUsage, "slimGroupEnd without slimGroupStart");
  if (--group.depth) return slimSuccess;
  slimOperation* list = group.first;
  group.first = group.last = NULL;
  slimResult_t result = slimSuccess;
  while (list) {
    slimOperation* wave = takeWave(&list);
    if (result == slimSuccess)
      result = slimRun(wave);
    else
      slimDrop(wave, result);
    while (wave) {
      slimOperation* next = wave->next;
      free(wave);
      wave = next;
    }
  }
  return result;
}
