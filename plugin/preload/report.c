#include "plugin/preload/report.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "plugin/preload/channel.h"
#include "plugin/preload/environment.h"
#include "plugin/preload/log.h"

static double ratio(uint64_t plain, uint64_t wire) { return wire ? (double)plain / (double)wire : 1; }

/* ---- Table ------------------------------------------------------------------------------------------------------ */

static void tableChannel(void* context, const slimChannelRow* r) {
  char cycle[32] = "no known cycle";
  if (r->period) snprintf(cycle, sizeof cycle, "a cycle of %llu", (unsigned long long)r->period);
  fprintf(context, "SlimCCL   communicator %s: %llu calls, %s\n", r->name, (unsigned long long)r->calls, cycle);
}
static void tableTensor(void* context, const slimChannelRow* r) {
  char place[32] = "-";
  if (r->place >= 0) snprintf(place, sizeof place, "%lld", (long long)r->place);
  if (r->place == -2) snprintf(place, sizeof place, "graph");
  fprintf(context, "SlimCCL   %8s %8llu %12llu %9.1f %9.3f %10llu  %s\n", place, (unsigned long long)r->stats.calls,
          (unsigned long long)(r->stats.calls ? r->stats.elements / r->stats.calls : 0),
          ratio(r->stats.plainBytes, r->stats.wireBytes), r->stats.relativeError,
          (unsigned long long)r->stats.stateBytes, r->spec);
}
static void tableEnd(void* context, const slimTotals* t, const uint64_t forwarded[slimNumReasons]) {
  fprintf(context, "SlimCCL   compressed %llu calls: %.1f MB sent instead of %.1f MB (ratio %.1f)\n",
          (unsigned long long)t->calls, (double)t->wireBytes / 1e6, (double)t->plainBytes / 1e6,
          ratio(t->plainBytes, t->wireBytes));
  for (int i = 0; i < slimNumReasons; i++)
    if (forwarded[i])
      fprintf(context, "SlimCCL   untouched %llu calls: %s\n", (unsigned long long)forwarded[i],
              slimReasonText((slimReason)i));
}

/* ---- JSON ------------------------------------------------------------------------------------------------------- */

typedef struct {
  FILE* file;
  int channels, tensors;
} json;

static void text(FILE* file, const char* s) {
  fputc('"', file);
  for (; *s; s++) {
    if ((unsigned char)*s < 32) {
      fprintf(file, "\\u%04x", (unsigned char)*s);
      continue;
    }
    if (*s == '"' || *s == '\\') fputc('\\', file);
    fputc(*s, file);
  }
  fputc('"', file);
}
static void jsonChannel(void* context, const slimChannelRow* r) {
  json* j = context;
  fprintf(j->file, "%s\n    {\"name\": ", j->channels++ ? "]}," : "");
  text(j->file, r->name);
  fprintf(j->file, ", \"order\": %llu, \"calls\": %llu, \"cycle\": %llu, \"tensors\": [", (unsigned long long)r->order,
          (unsigned long long)r->calls, (unsigned long long)r->period);
  j->tensors = 0;
}
static void jsonTensor(void* context, const slimChannelRow* r) {
  json* j = context;
  const slimTensorStats_t* s = &r->stats;
  fprintf(j->file, "%s\n      {\"place\": %lld, \"spec\": ", j->tensors++ ? "," : "", (long long)r->place);
  text(j->file, r->spec);
  fprintf(j->file,
          ", \"calls\": %llu, \"elements\": %llu, \"plainBytes\": %llu, \"wireBytes\": %llu, \"ratio\": %.4g, "
          "\"relativeError\": %.4g, \"stateBytes\": %llu, \"flaggedUnits\": %llu, \"encodeSeconds\": %.4g, "
          "\"exchangeSeconds\": %.4g, \"reduceSeconds\": %.4g, \"decodeSeconds\": %.4g}",
          (unsigned long long)s->calls, (unsigned long long)s->elements, (unsigned long long)s->plainBytes,
          (unsigned long long)s->wireBytes, ratio(s->plainBytes, s->wireBytes), s->relativeError,
          (unsigned long long)s->stateBytes, (unsigned long long)s->flaggedUnits, s->encodeSeconds, s->exchangeSeconds,
          s->reduceSeconds, s->decodeSeconds);
}
static void jsonEnd(void* context, const slimTotals* t, const uint64_t forwarded[slimNumReasons]) {
  json* j = context;
  fprintf(j->file,
          "%s\n  ],\n  \"compressedCalls\": %llu,\n  \"plainBytes\": %llu,\n  \"wireBytes\": %llu,\n  \"untouched\": {",
          j->channels ? "]}" : "", (unsigned long long)t->calls, (unsigned long long)t->plainBytes,
          (unsigned long long)t->wireBytes);
  bool first = true;
  for (int i = 0; i < slimNumReasons; i++) {
    if (!forwarded[i]) continue;
    fprintf(j->file, "%s\n    ", first ? "" : ",");
    text(j->file, slimReasonText((slimReason)i));
    fprintf(j->file, ": %llu", (unsigned long long)forwarded[i]);
    first = false;
  }
  fprintf(j->file, "\n  }\n}\n");
}

void slimReport(const char* stats, const char* who) {
  if (!*stats) return;
  if (!strcmp(stats, "1")) {
    fprintf(stderr, "SlimCCL statistics, %s\nSlimCCL   %8s %8s %12s %9s %9s %10s  spec\n", who, "place", "calls",
            "elements", "ratio", "error", "state B");
    slimChannelsVisit(&(slimVisitor){tableChannel, tableTensor, tableEnd}, stderr);
    return;
  }
  char path[4096];
  slimExpandPath(stats, path, sizeof path);
  json j = {fopen(path, "we"), 0, 0};
  if (!j.file) {
    slimWarn("cannot write %s (SLIM_STATS): %s", path, strerror(errno));
    return;
  }
  fprintf(j.file, "{\n  \"communicators\": [");
  slimChannelsVisit(&(slimVisitor){jsonChannel, jsonTensor, jsonEnd}, &j);
  fclose(j.file);
}
