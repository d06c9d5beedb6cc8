// Floats as blocks of Q8_K, which products with K-quants are computed of, for processors with AVX2: bit for bit what
// quantize_row_q8_K_ref computes one number at a time, and sums of 0 where all are 0, which that leaves as they were.
//
// Put beside llama.cpp's ggml/src/ggml-cpu/arch/x86/quants.c by setup/llama_source.py, and included there.

// The first of those numbers that are furthest from 0; 0 where all are, or are no numbers.
static inline float q8_K_furthest(const float * x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 most = _mm256_setzero_ps();
    for (int j = 0; j < QK_K; j += 8) {
        most = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + j)), most);  // what is no number is passed over
    }
    __m128 max = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    max = _mm_max_ps(max, _mm_movehl_ps(max, max));
    max = _mm_max_ss(max, _mm_movehdup_ps(max));
    const __m256 all = _mm256_broadcastss_ps(max);
    for (int j = 0; j < QK_K; j += 8) {
        const __m256 is_max = _mm256_cmp_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + j)), all, _CMP_EQ_OQ);
        const int found = _mm256_movemask_ps(is_max);
        for (int i = 0; found && i < 8; ++i) {
            if (found >> i & 1) {
                return x[j + i];
            }
        }
    }
    return 0;
}

// Eight numbers. What is none, or infinite, is 0, as where bits are cut off.
static inline __m256i q8_K_round(const float * x, __m256 scale) {
    const __m256 scaled = _mm256_mul_ps(scale, _mm256_loadu_ps(x));
    const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), scaled);
    return _mm256_cvtps_epi32(_mm256_and_ps(scaled, _mm256_cmp_ps(size, _mm256_set1_ps(128), _CMP_LE_OQ)));
}

// Thirty-two numbers, and in each lane the sum of four of them.
static inline __m256i q8_K_quantise(const float * x, __m256 scale, int8_t * numbers) {
    const __m256i low  = _mm256_packs_epi32(q8_K_round(x, scale), q8_K_round(x + 8, scale));
    const __m256i high = _mm256_packs_epi32(q8_K_round(x + 16, scale), q8_K_round(x + 24, scale));
    const __m256i mixed = _mm256_packs_epi16(low, high);
    const __m256i bytes = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *) numbers, bytes);
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
}

void quantize_row_q8_K(const float * GGML_RESTRICT x, void * GGML_RESTRICT y, int64_t k) {
    assert(k % QK_K == 0);
    for (block_q8_K * block = (block_q8_K *) y; k > 0; ++block, x += QK_K, k -= QK_K) {
        const float furthest = q8_K_furthest(x);
        if (furthest == 0) {
            memset(block, 0, sizeof(*block));
            continue;
        }
        const float scale = -127.0f / furthest;
        const __m256 scales = _mm256_set1_ps(scale);
        for (int j = 0; j < QK_K; j += 128) {
            const __m256i a = q8_K_quantise(x + j, scales, block->qs + j);
            const __m256i b = q8_K_quantise(x + j + 32, scales, block->qs + j + 32);
            const __m256i c = q8_K_quantise(x + j + 64, scales, block->qs + j + 64);
            const __m256i d = q8_K_quantise(x + j + 96, scales, block->qs + j + 96);
            const __m256i sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
            const __m128i first = _mm256_castsi256_si128(sums), second = _mm256_extracti128_si256(sums, 1);
            _mm_storeu_si128((__m128i *) (block->bsums + j / 16),
                             _mm_packs_epi32(_mm_unpacklo_epi32(first, second), _mm_unpackhi_epi32(first, second)));
        }
        block->d = 1 / scale;
    }
}
