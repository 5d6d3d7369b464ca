// Philox4x32-10 (Salmon et al. 2011) for a batch of noise draws, as uniform numbers in (0, 1).
//
// uniform[word][sample][draw][block] = (w + 0.5) / 2^32 of the four 32-bit words w of the counter
// (block, draw, step, domain) under the sample's key. Integer arithmetic and exact doubles: every
// machine gives the same bits.

#include <cstdint>

extern "C" void philox_uniform(const int64_t* keys, const int64_t* steps, double* uniform, int64_t samples,
                               int64_t draws, int64_t blocks, uint32_t domain) {
  const int64_t plane = samples * draws * blocks;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < samples * draws; ++row) {
    const uint64_t key = static_cast<uint64_t>(keys[row / draws]);
    const uint32_t draw = static_cast<uint32_t>(row % draws), step = static_cast<uint32_t>(steps[row / draws]);
    double* out = uniform + row * blocks;
#pragma omp simd
    for (int64_t block = 0; block < blocks; ++block) {
      uint32_t c0 = static_cast<uint32_t>(block), c1 = draw, c2 = step, c3 = domain;
      uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
      for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = static_cast<uint64_t>(c0) * 0xD2511F53u, p1 = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
        c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(p1);
        c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
      }
      out[block] = (c0 + 0.5) * 0x1p-32;
      out[plane + block] = (c1 + 0.5) * 0x1p-32;
      out[2 * plane + block] = (c2 + 0.5) * 0x1p-32;
      out[3 * plane + block] = (c3 + 0.5) * 0x1p-32;
    }
  }
}
