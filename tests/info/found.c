/* A libnccl.so.2 and a libcuda.so.1 that know their version, for slimccl-info to find. */
int ncclGetVersion(int* version);
int cuInit(unsigned flags);
int cuDriverGetVersion(int* version);
int cuDeviceGetCount(int* count);
int cuDeviceGetName(char* name, int size, int device);

int ncclGetVersion(int* version) { return *version = 22307, 0; }
int cuInit(unsigned flags) { return flags != 0; }
int cuDriverGetVersion(int* version) { return *version = 12080, 0; }
int cuDeviceGetCount(int* count) { return *count = 2, 0; }
int cuDeviceGetName(char* name, int size, int device) {
  if (size < 2) return 1;
  name[0] = (char)('A' + device);
  name[1] = 0;
  return 0;
}
