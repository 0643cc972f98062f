#include "collectives/operation.h"

#include <stdio.h>

typedef struct {
  slimResult_t result;
  char message[512];
} firstError;

static void note(firstError* first, slimResult_t result) {
  if (result == slimSuccess || first->result != slimSuccess) return;
  first->result = result;
  snprintf(first->message, sizeof first->message, "%s", slimLastMessage());
}

static slimResult_t open(slimOperation* o) {
  const slimDevice* device = o->comm->device;
  SLIM_CHECK(device->enter(o->comm, o->stream, o->own));
  const slimResult_t result = o->open ? o->open(o) : slimSuccess;
  if (result != slimSuccess) return device->leave(o->comm, result);
  device->pause(o->comm);
  return slimSuccess;
}

static void close(slimOperation* o, bool abandoned, firstError* first) {
  const slimDevice* device = o->comm->device;
  device->resume(o->comm);
  if (abandoned && o->abandon) o->abandon(o);
  o->result = device->leave(o->comm, o->result);
  note(first, o->result);
}

/* What the operations of list begin between opening and closing a batch leaves together. */
static slimResult_t openBatch(const slimOperation* list) {
  slimTransport* transport = list->comm->transport;
  return transport->batch ? transport->batch(transport, true) : slimSuccess;
}

static slimResult_t each(const slimOperation* list, bool after) {
  slimResult_t first = slimSuccess;
  for (const slimOperation* o = list; o; o = o->next) {
    slimTransport* transport = o->comm->transport;
    o->comm->device->resume(o->comm);
    const slimResult_t result = after ? transport->departed(transport) : transport->depart(transport);
    o->comm->device->pause(o->comm);
    if (first == slimSuccess) first = result;
  }
  return first;
}

static slimResult_t closeBatch(const slimOperation* list) {
  slimTransport* transport = list->comm->transport;
  if (!transport->batch) return slimSuccess;
  const slimResult_t ready = each(list, false), closed = transport->batch(transport, false), gone = each(list, true);
  return ready != slimSuccess ? ready : closed != slimSuccess ? closed : gone;
}

/* false: all have ended. */
static bool advanceAll(slimOperation* list, firstError* first) {
  bool more = false;
  slimResult_t sent = openBatch(list);
  for (slimOperation* o = list; o && sent == slimSuccess; o = o->next) {
    if (o->done) continue;
    o->comm->device->resume(o->comm);
    o->result = o->advance(o, &o->done);
    o->comm->device->pause(o->comm);
    note(first, o->result);
    o->done = o->done || o->result != slimSuccess;
    more = more || !o->done;
  }
  if (sent == slimSuccess) sent = closeBatch(list);
  note(first, sent);
  for (slimOperation* o = list; o && list->next; o = o->next) {
    slimTransport* transport = o->comm->transport;
    o->comm->device->resume(o->comm);
    if (transport->poll) transport->poll(transport);
    o->comm->device->pause(o->comm);
  }
  for (slimOperation* o = list; o && sent != slimSuccess; o = o->next)
    if (o->result == slimSuccess) o->result = slimBreak(o->comm, sent);
  return more && sent == slimSuccess;
}

/* What the operations of list want to come first. */
static slimResult_t runBefore(slimOperation* list) {
  slimOperation *first = NULL, **end = &first;
  for (slimOperation* o = list; o; o = o->next) {
    slimOperation* before = o->before ? o->before(o) : NULL;
    if (before) *end = before, end = &before->next;
  }
  return first ? slimRun(first) : slimSuccess;
}

slimResult_t slimRun(slimOperation* list) {
  firstError first = {slimSuccess, ""};
  note(&first, runBefore(list));
  slimOperation* shut = list; /* the first one that is not open */
  while (shut && first.result == slimSuccess) {
    note(&first, open(shut));
    if (first.result == slimSuccess) shut = shut->next;
  }
  const bool abandoned = shut != NULL;
  while (!abandoned && advanceAll(list, &first)) {
  }
  for (slimOperation* o = list; o != shut; o = o->next) close(o, abandoned, &first);
  for (slimOperation* o = list; o && !abandoned; o = o->next)
    if (o->end) o->end(o);
  if (abandoned) slimDrop(list, first.result);
  return first.result == slimSuccess ? slimSuccess : slimFail(first.result, "%s", first.message);
}

void slimDrop(slimOperation* list, slimResult_t why) {
  for (slimOperation* o = list; o; o = o->next) {
    o->result = why;
    if (o->end) o->end(o);
  }
}
