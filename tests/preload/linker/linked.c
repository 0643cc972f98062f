// A program that links NCCL.
#include "tests/preload/linker/play.h"

int main(void) { return play(0); }
