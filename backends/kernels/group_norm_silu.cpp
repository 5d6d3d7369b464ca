// y = act(normalise(x) * scale + shift) and its gradient, on the CPU.
//
// x is (samples, positions, channels) with channels innermost (PyTorch's channels_last), float or
// bfloat16; statistics, scale and shift are float, sums over positions are accumulated in double.
// scale and shift are (samples, channels): a norm's affine and a UNet block's time conditioning, folded.
//
// The work is split into (sample, range of groups) items; no item touches another's memory, so the
// result does not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

using bfloat16 = uint16_t;

inline float load(const float* p) { return *p; }
inline float load(const bfloat16* p) {
  uint32_t bits = static_cast<uint32_t>(*p) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline bfloat16 rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits += 0x7fff + ((bits >> 16) & 1);  // round to nearest, ties to even
  return static_cast<bfloat16>(bits >> 16);
}

// Rows are computed in float and converted on the way out; compilers do not find the instruction for it.
inline void write_row(float* out, const float* row, int64_t count) { std::memcpy(out, row, count * sizeof *row); }
inline void write_row(bfloat16* out, const float* row, int64_t count) {
  int64_t c = 0;
#ifdef __AVX512BF16__
  for (; c + 16 <= count; c += 16) {
    const __m256bh packed = _mm512_cvtneps_pbh(_mm512_loadu_ps(row + c));
    std::memcpy(out + c, &packed, sizeof packed);
  }
#endif
  for (; c < count; ++c) out[c] = rounded(row[c]);
}

// exp by range reduction and a polynomial (Cephes expf, 1e-7 relative): branch-free, so that loops
// vectorise without -ffast-math and NaN stays NaN.
inline float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504f + magic;
  const float whole = shifted - magic;
  const float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  const uint32_t bits = static_cast<uint32_t>((exponent << 23) + 0x3f800000);
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

inline float sigmoid(float u) { return 1.0f / (1.0f + exponential(-u)); }

struct Shape {
  int64_t samples, channels, groups, positions;
  int64_t scale_stride, shift_stride;  // between samples; 0 where all share one row
  int64_t width() const { return channels / groups; }  // channels of a group
};

// Parts into which each sample's groups are split, so that few samples still use every thread.
int64_t parts(const Shape& shape) {
#ifdef _OPENMP
  const int64_t threads = omp_get_max_threads();
#else
  const int64_t threads = 1;
#endif
  const int64_t wanted = (threads + shape.samples - 1) / shape.samples;
  const int64_t useful = std::max<int64_t>(1, shape.channels / 32);  // a cache line of bfloat16
  return std::min({wanted, useful, shape.groups});
}

// Sums over positions, a block at a time so that float sums stay short.
constexpr int64_t BLOCK = 64;

template <class T>
void forward(const T* x, const float* scale, const float* shift, T* y, float* mean, float* rstd,
             const Shape& shape, float eps, bool silu) {
  const int64_t split = parts(shape), channels = shape.channels, width = shape.width();
#pragma omp parallel
  {
    std::vector<float> sum(channels), square(channels), slope(channels), offset(channels);
    std::vector<double> sums(channels), squares(channels);
#pragma omp for schedule(static)
    for (int64_t item = 0; item < shape.samples * split; ++item) {
      const int64_t n = item / split, part = item % split;
      const int64_t first_group = shape.groups * part / split, last_group = shape.groups * (part + 1) / split;
      const int64_t from = first_group * width, count = (last_group - first_group) * width;
      const int64_t base = n * shape.positions * channels + from;
      float *s = sum.data(), *q = square.data(), *a = slope.data(), *b = offset.data();
      std::fill_n(sums.begin(), count, 0.0);
      std::fill_n(squares.begin(), count, 0.0);
      for (int64_t start = 0; start < shape.positions; start += BLOCK) {
        std::fill_n(s, count, 0.0f);
        std::fill_n(q, count, 0.0f);
        const int64_t end = std::min(start + BLOCK, shape.positions);
        for (int64_t h = start; h < end; ++h) {
          const T* row = x + base + h * channels;
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) {
            const float v = load(row + c);
            s[c] += v;
            q[c] += v * v;
          }
        }
        for (int64_t c = 0; c < count; ++c) sums[c] += s[c], squares[c] += q[c];
      }
      for (int64_t g = first_group; g < last_group; ++g) {
        const int64_t at = g * width - from;
        double total = 0, total_square = 0;
        for (int64_t c = at; c < at + width; ++c) total += sums[c], total_square += squares[c];
        const double size = static_cast<double>(width * shape.positions), m = total / size;
        const double variance = total_square / size - m * m;
        const float r = 1.0f / std::sqrt(static_cast<float>(variance < 0 ? 0 : variance) + eps);
        mean[n * shape.groups + g] = static_cast<float>(m);
        rstd[n * shape.groups + g] = r;
        for (int64_t c = at; c < at + width; ++c) {
          a[c] = scale[n * shape.scale_stride + from + c] * r;
          b[c] = shift[n * shape.shift_stride + from + c] - a[c] * static_cast<float>(m);
        }
      }
      for (int64_t h = 0; h < shape.positions; ++h) {
        const T* row = x + base + h * channels;
        T* out = y + base + h * channels;
        if (silu) {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) {
            const float u = load(row + c) * a[c] + b[c];
            s[c] = u * sigmoid(u);
          }
        } else {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) s[c] = load(row + c) * a[c] + b[c];
        }
        write_row(out, s, count);
      }
    }
  }
}

// With u = xhat * scale + shift and d = grad * act'(u):
//   grad_shift = sum d, grad_scale = sum d * xhat (over positions),
//   grad_x = rstd * (d * scale - mean(d * scale) - xhat * mean(d * scale * xhat)) (means over the group).
template <class T>
void backward(const T* grad, const T* x, const float* mean, const float* rstd, const float* scale,
              const float* shift, T* grad_x, float* grad_scale, float* grad_shift, const Shape& shape, bool silu) {
  const int64_t split = parts(shape), channels = shape.channels, width = shape.width();
#pragma omp parallel
  {
    std::vector<float> slope(channels), offset(channels), centre(channels), sum(channels), weighted(channels);
    std::vector<double> sums(channels), weighteds(channels);
    std::vector<float> kept;
#pragma omp for schedule(static)
    for (int64_t item = 0; item < shape.samples * split; ++item) {
      const int64_t n = item / split, part = item % split;
      const int64_t first_group = shape.groups * part / split, last_group = shape.groups * (part + 1) / split;
      const int64_t from = first_group * width, count = (last_group - first_group) * width;
      const int64_t base = n * shape.positions * channels + from;
      float *a = slope.data(), *b = offset.data(), *m = centre.data(), *s = sum.data(), *w = weighted.data();
      for (int64_t c = 0; c < count; ++c) {
        const int64_t group = n * shape.groups + (from + c) / width;
        m[c] = mean[group];
        a[c] = scale[n * shape.scale_stride + from + c] * rstd[group];
        b[c] = shift[n * shape.shift_stride + from + c] - a[c] * m[c];
      }
      kept.resize(count * shape.positions);  // d, so that the second pass need not take exponentials again
      std::fill_n(sums.begin(), count, 0.0);
      std::fill_n(weighteds.begin(), count, 0.0);
      for (int64_t start = 0; start < shape.positions; start += BLOCK) {
        std::fill_n(s, count, 0.0f);
        std::fill_n(w, count, 0.0f);
        const int64_t end = std::min(start + BLOCK, shape.positions);
        for (int64_t h = start; h < end; ++h) {
          const T* row = x + base + h * channels;
          const T* above = grad + base + h * channels;
          float* d = kept.data() + h * count;
          if (silu) {
#pragma omp simd
            for (int64_t c = 0; c < count; ++c) {
              const float v = load(row + c), u = v * a[c] + b[c], gate = sigmoid(u);
              d[c] = load(above + c) * (gate * (1.0f + u * (1.0f - gate)));
              s[c] += d[c];
              w[c] += d[c] * (v - m[c]);
            }
          } else {
#pragma omp simd
            for (int64_t c = 0; c < count; ++c) {
              d[c] = load(above + c);
              s[c] += d[c];
              w[c] += d[c] * (load(row + c) - m[c]);
            }
          }
        }
        for (int64_t c = 0; c < count; ++c) sums[c] += s[c], weighteds[c] += w[c];
      }
      for (int64_t g = first_group; g < last_group; ++g) {
        const int64_t at = g * width - from;
        const double r = rstd[n * shape.groups + g], size = static_cast<double>(width * shape.positions);
        double first = 0, second = 0;
        for (int64_t c = at; c < at + width; ++c) {
          const double factor = scale[n * shape.scale_stride + from + c];
          grad_scale[n * channels + from + c] = static_cast<float>(weighteds[c] * r);
          grad_shift[n * channels + from + c] = static_cast<float>(sums[c]);
          first += sums[c] * factor;
          second += weighteds[c] * r * factor;
        }
        for (int64_t c = at; c < at + width; ++c) {  // grad_x = a d + s x + w
          s[c] = static_cast<float>(-r * r * second / size);
          w[c] = static_cast<float>(-r * first / size) - s[c] * m[c];
        }
      }
      for (int64_t h = 0; h < shape.positions; ++h) {
        const T* row = x + base + h * channels;
        float* d = kept.data() + h * count;
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) d[c] = a[c] * d[c] + s[c] * load(row + c) + w[c];
        write_row(grad_x + base + h * channels, d, count);
      }
    }
  }
}

}  // namespace

extern "C" {

#define DEFINE(NAME, T)                                                                                          \
  void group_norm_silu_forward_##NAME(const T* x, const float* scale, const float* shift, T* y, float* mean,     \
                                      float* rstd, int64_t samples, int64_t channels, int64_t groups,            \
                                      int64_t positions, int64_t scale_stride, int64_t shift_stride, float eps,  \
                                      int silu) {                                                                \
    const Shape shape{samples, channels, groups, positions, scale_stride, shift_stride};                         \
    forward(x, scale, shift, y, mean, rstd, shape, eps, silu != 0);                                              \
  }                                                                                                              \
  void group_norm_silu_backward_##NAME(const T* grad, const T* x, const float* mean, const float* rstd,          \
                                       const float* scale, const float* shift, T* grad_x, float* grad_scale,     \
                                       float* grad_shift, int64_t samples, int64_t channels, int64_t groups,     \
                                       int64_t positions, int64_t scale_stride, int64_t shift_stride, int silu) { \
    const Shape shape{samples, channels, groups, positions, scale_stride, shift_stride};                         \
    backward(grad, x, mean, rstd, scale, shift, grad_x, grad_scale, grad_shift, shape, silu != 0);               \
  }

DEFINE(float32, float)
DEFINE(bfloat16, bfloat16)

}  // extern "C"
