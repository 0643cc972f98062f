#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "compress/compress.h"

static _Thread_local char message[1024];

slimResult_t slimFail(slimResult_t result, const char* format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  return result;
}

const char* slimLastMessage(void) { return message; }

size_t slimTypeBytes(slimDataType_t type) {
  switch (type) {
    case slimInt8:
    case slimUint8:
      return 1;
    case slimFloat16:
    case slimBfloat16:
      return 2;
    case slimInt32:
    case slimUint32:
    case slimFloat32:
      return 4;
    case slimInt64:
    case slimUint64:
    case slimFloat64:
      return 8;
  }
  return 0;
}

bool slimTypeIsFloat(slimDataType_t type) {
  return type == slimFloat16 || type == slimFloat32 || type == slimFloat64 || type == slimBfloat16;
}

size_t slimRealBytes(slimDataType_t type) { return type == slimFloat64 ? 8 : 4; }

const char* slimTypeName(slimDataType_t type) {
  static const char* const names[] = {"int8",   "uint8", "int32", "uint32", "int64",
                                      "uint64", "fp16",  "fp32",  "fp64",   "bf16"};
  return (unsigned)type < sizeof names / sizeof *names ? names[type] : "unknown type";
}
