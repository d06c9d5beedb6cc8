// GELU and tanh of eight floats at a time, for processors with AVX2. ggml looks GELU up in a table of half floats that is larger
// than a core's first two caches, and has one tanhf after another, which Gemma 4 asks for 262,144 times a token.
//
// Put beside llama.cpp's ggml/src/ggml-cpu/vec.h by setup/llama_source.py, and included there.

#pragma once

#if defined(__AVX2__) && defined(__FMA__) && (!defined(__AVX512F__) || defined(__AVX512DQ__))
#define HAS_ACTIVATIONS

#ifdef __AVX512F__
inline static __m512 ggml_v_expf(__m512 x);

// ggml has it for sixteen there.
inline static __m256 ggml_v_exp8(__m256 x) {
    return _mm512_castps512_ps256(ggml_v_expf(_mm512_insertf32x8(_mm512_setzero_ps(), x, 0)));
}
#else
inline static __m256 ggml_v_expf(__m256 x);

inline static __m256 ggml_v_exp8(__m256 x) {
    return ggml_v_expf(x);
}
#endif

// As ggml_gelu_f32, 0.5 x (1 + tanh(y)) being x / (1 + exp(-2 y)).
inline static __m256 ggml_v_gelu(__m256 x) {
    const __m256 square = _mm256_mul_ps(x, x);
    const float twice = -2*0.79788456080286535587989211986876f;  // the square root of 2 / pi
    const __m256 factor = _mm256_fmadd_ps(_mm256_set1_ps(twice*0.044715f), square, _mm256_set1_ps(twice));
    const __m256 e = ggml_v_exp8(_mm256_mul_ps(x, factor));
    // below, e is infinite: minus infinity divided by that would be no number
    return _mm256_div_ps(_mm256_max_ps(x, _mm256_set1_ps(-50)), _mm256_add_ps(_mm256_set1_ps(1), e));
}

// Within four units in the last place: near 0 a polynomial (Cephes' tanhf), as 1 - 2 / (1 + exp(2 x)) loses digits there.
inline static __m256 ggml_v_tanh(__m256 x) {
    const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f));
    const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    const __m256 square = _mm256_mul_ps(x, x);
    __m256 near = _mm256_set1_ps(-5.70498872745e-3f);
    near = _mm256_fmadd_ps(near, square, _mm256_set1_ps(2.06390887954e-2f));
    near = _mm256_fmadd_ps(near, square, _mm256_set1_ps(-5.37397155531e-2f));
    near = _mm256_fmadd_ps(near, square, _mm256_set1_ps(1.33314422036e-1f));
    near = _mm256_fmadd_ps(near, square, _mm256_set1_ps(-3.33332819422e-1f));
    near = _mm256_fmadd_ps(_mm256_mul_ps(near, square), size, size);
    const __m256 one = _mm256_set1_ps(1);
    const __m256 e = ggml_v_exp8(_mm256_add_ps(size, size));
    const __m256 far = _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2), _mm256_add_ps(one, e)));
    const __m256 is_near = _mm256_cmp_ps(size, _mm256_set1_ps(0.625f), _CMP_LT_OQ);
    return _mm256_or_ps(_mm256_blendv_ps(far, near, is_near), sign);
}

#endif
