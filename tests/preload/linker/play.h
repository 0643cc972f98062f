// nccl: a handle of it, where play.c is built with BY_NAME.
int play(void* nccl);
