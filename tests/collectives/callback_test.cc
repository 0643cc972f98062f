// The callback transport's own errors; that it moves bytes rightly is shown by plain_callback_test.
#include <gtest/gtest.h>

#include <cstring>

#include "plugin/slimccl.h"

namespace {

struct Calls {
  int begun = 0, waited = 0, answer = 0;
};
int Begin(void* context, int, const slimLane_t*) {
  auto* calls = static_cast<Calls*>(context);
  calls->begun++;
  return calls->answer;
}
int Wait(void* context, int, double timeout) {
  EXPECT_EQ(timeout, 600);
  static_cast<Calls*>(context)->waited++;
  return 0;
}

TEST(Callback, ArgumentsAreChecked) {
  slimComm_t comm;
  Calls calls;
  slimCallbacks_t callbacks = {sizeof callbacks, &calls, Begin, Wait};
  EXPECT_EQ(slimCommInitCallbacks(&comm, 0, 2, 1, nullptr, nullptr), slimInvalidArgument);
  EXPECT_EQ(slimCommInitCallbacks(nullptr, 0, 2, 1, &callbacks, nullptr), slimInvalidArgument);
  EXPECT_EQ(slimCommInitCallbacks(&comm, 2, 2, 1, &callbacks, nullptr), slimInvalidArgument);
  EXPECT_NE(strstr(slimGetLastError(), "0 <= rank < nranks"), nullptr);
  EXPECT_EQ(slimCommInitCallbacks(&comm, 0, 2, 3, &callbacks, nullptr), slimInvalidArgument);
  callbacks.wait = nullptr;
  EXPECT_EQ(slimCommInitCallbacks(&comm, 0, 2, 1, &callbacks, nullptr), slimInvalidArgument);
  EXPECT_STREQ(slimGetLastError(), "callbacks->wait is NULL");
  callbacks.size = 8;
  EXPECT_EQ(slimCommInitCallbacks(&comm, 0, 2, 1, &callbacks, nullptr), slimInvalidArgument);
}

TEST(Callback, AFailedExchangeEndsTheCommunicator) {
  slimComm_t comm;
  Calls calls;
  calls.answer = 7;
  const slimCallbacks_t callbacks = {sizeof callbacks, &calls, Begin, Wait};
  ASSERT_EQ(slimCommInitCallbacks(&comm, 0, 2, 1, &callbacks, nullptr), slimSuccess) << slimGetLastError();
  float x[4] = {1, 2, 3, 4}, y[4] = {9, 9, 9, 9};
  EXPECT_EQ(slimAllReduce(x, y, 4, slimFloat32, slimSum, nullptr, comm, nullptr), slimRemoteError);
  EXPECT_NE(strstr(slimGetLastError(), "begin function answered 7"), nullptr) << slimGetLastError();
  for (float v : y) EXPECT_EQ(v, 9);
  EXPECT_EQ(calls.begun, 1);
  EXPECT_NE(slimAllReduce(x, y, 4, slimFloat32, slimSum, nullptr, comm, nullptr), slimSuccess);
  EXPECT_EQ(calls.begun, 1) << "a broken communicator called again";
  EXPECT_EQ(slimCommDestroy(comm), slimSuccess);
}

}  // namespace

// Buffers of an exchange that failed are kept, since the caller's library may still read them.
extern "C" const char* __lsan_default_suppressions() { return "leak:slimPlain\n"; }
