// The example's gradient against finite differences, and its matrix product against the plain one.
#include <cmath>
#include <cstdlib>
#include <vector>

#include <gtest/gtest.h>

extern "C" {
#include "examples/gemm.h"
#include "examples/model.h"
}

namespace {

TEST(Gemm, AnySize) {
  const int sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {8, 32, 16}, {9, 33, 5}, {40, 300, 12}, {5, 64, 9}, {64, 7, 3}};
  for (const auto& size : sizes)
    for (int turned = 0; turned < 2; turned++) {
      const int m = size[0], n = size[1], k = size[2];
      std::vector<float> a(m * k), b(k * n), c(m * n, NAN);
      for (int i = 0; i < m * k; i++) a[i] = static_cast<float>(i * 37 % 19 - 9);
      for (int i = 0; i < k * n; i++) b[i] = static_cast<float>(i * 53 % 23 - 11);
      const size_t row = turned ? 1 : k, column = turned ? m : 1;
      gemm(m, n, k, a.data(), row, column, b.data(), n, c.data(), n);
      for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
          float sum = 0;  // whole numbers: exact
          for (int p = 0; p < k; p++) sum += a[i * row + p * column] * b[p * n + j];
          ASSERT_EQ(c[i * n + j], sum) << m << " " << n << " " << k << " at " << i << " " << j;
        }
    }
}

TEST(Model, GradientIsThatOfTheLoss) {
  const int context = 3, count = 20;
  std::vector<uint8_t> text(200);
  for (size_t i = 0; i < text.size(); i++) text[i] = static_cast<uint8_t>(randomBits(7, 1, i) % 11);
  std::vector<uint32_t> positions(count);
  for (int i = 0; i < count; i++) positions[i] = context + 9 * i;
  Model* model = modelCreate({11, context, 4, 13}, count, 3);
  ASSERT_NE(model, nullptr);
  const double loss = modelGradient(model, text.data(), positions.data(), count);
  EXPECT_NEAR(loss, modelLoss(model, text.data(), positions.data(), count), 1e-4);
  EXPECT_NEAR(loss / count, std::log(11), 0.2);
  for (int t = 0; t < modelTensors; t++)
    for (int probe = 0; probe < 8; probe++) {
      const size_t size = model->offset[t + 1] - model->offset[t];
      const size_t i = model->offset[t] + randomBits(5, t, probe) % size;
      const float keep = model->weight[i], h = 1e-2f;
      model->weight[i] = keep + h;
      const double up = modelLoss(model, text.data(), positions.data(), count);
      model->weight[i] = keep - h;
      const double down = modelLoss(model, text.data(), positions.data(), count);
      model->weight[i] = keep;
      EXPECT_NEAR(model->gradient[i], (up - down) / (2 * h) / count, 2e-4) << "tensor " << t << " element " << i;
    }
  modelDestroy(model);
}

}  // namespace
