// What kernels that have a row in each lane share.
//
// Put beside llama.cpp's ggml/src/ggml-cpu/llamafile/sgemm.cpp by setup/llama_source.py, and included there, in its namespace, by
// unsigned_blocks.h and widened_blocks.h.

#pragma once

// In a register, and computed before what follows, so that registers do.
static inline void keep(__m256i & value) {
#if defined(__GNUC__)
    __asm__("" : "+x"(value));
#else
    (void) value;
#endif
}

// In each half of four lanes: the sums of a's, b's, c's and d's.
static inline __m256i add4(__m256i a, __m256i b, __m256i c, __m256i d) {
    return _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
}
