// C = Aᵀ * B of half floats on a processor with AVX2, for matrices B of many columns, sooner than llamafile's. That widens four
// numbers of A and three of B for each twelve products, and widening takes as long as multiplying: here a row of A is widened once.
// Each sum is added up in the same order, and so is the same bit for bit.
//
// Put beside llama.cpp's ggml/src/ggml-cpu/llamafile/sgemm.cpp by setup/llama_source.py, and included there.

#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(__AVX512F__)
#define HAS_WIDENED_ROWS

namespace {

class widened_rows {
public:
    widened_rows(const ggml_compute_params * params, int64_t k, const ggml_fp16_t * A, int64_t lda, const ggml_fp16_t * B,
                 int64_t ldb, float * C, int64_t ldc) :
        params(params), k(k), A(A), lda(lda), B(B), ldb(ldb), C(C), ldc(ldc) {
    }

    // False where this shape is not for it; then nothing was done.
    bool matmul(int64_t m, int64_t n) const {
        if (k % 8 != 0 || k > MAX_K || m % JOB_ROWS != 0 || m / JOB_ROWS < params->nth || n < MIN_COLUMNS) {
            return false;
        }
        const int64_t row_jobs = m / JOB_ROWS;
        const int64_t blocks   = (n + MAX_JOB_COLUMNS - 1) / MAX_JOB_COLUMNS;
        const int64_t columns  = (n + blocks - 1) / blocks;
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);
        for (int64_t job = params->ith; job < row_jobs * blocks; job = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            const int64_t first = job / row_jobs * columns;
            const int64_t last  = n - first < columns ? n : first + columns;
            for (int64_t row = 0; row < JOB_ROWS; row += ROWS) {
                multiply(job % row_jobs * JOB_ROWS + row, first, last);
            }
        }
        ggml_barrier(params->threadpool);
        return true;
    }

private:
    static constexpr int64_t ROWS = 4;  // of a tile, with three columns: twelve sums and four values in 16 registers
    static constexpr int64_t JOB_ROWS = 16, MAX_JOB_COLUMNS = 72;
    static constexpr int64_t MIN_COLUMNS = 24;
    static constexpr int64_t MAX_K = 4096;  // 64 KB on the stack

    void multiply(int64_t i, int64_t first, int64_t last) const {
        alignas(32) float rows[ROWS * MAX_K];
        for (int64_t row = 0; row < ROWS; ++row) {
            for (int64_t l = 0; l < k; l += 8) {
                _mm256_store_ps(rows + row * k + l, load<__m256>(A + lda * (i + row) + l));
            }
        }
        for (int64_t j = first; j < last;) {
            const int64_t left = last - j;
            if (left == 3 || left > 4) {  // a tile of one column would wait for its own sums
                tile<3>(rows, i, j);
                j += 3;
            } else if (left > 1) {
                tile<2>(rows, i, j);
                j += 2;
            } else {
                tile<1>(rows, i, j);
                j += 1;
            }
        }
    }

    template <int N> void tile(const float * rows, int64_t i, int64_t j) const {
        const ggml_fp16_t * columns = B + ldb * j;
        __m256 sums[ROWS][N];
        for (int row = 0; row < ROWS; ++row) {
            for (int column = 0; column < N; ++column) {
                sums[row][column] = _mm256_setzero_ps();
            }
        }
        for (int64_t l = 0; l < k; l += 8) {
            __m256 wide[N];
            for (int column = 0; column < N; ++column) {
                wide[column] = load<__m256>(columns + ldb * column + l);
            }
            for (int row = 0; row < ROWS; ++row) {
                __m256 values = _mm256_load_ps(rows + k * row + l);
#if defined(__GNUC__)
                __asm__("" : "+x"(values));  // once: compilers would load it for each product, and loads are what is short then
#endif
                for (int column = 0; column < N; ++column) {
                    sums[row][column] = _mm256_fmadd_ps(values, wide[column], sums[row][column]);
                }
            }
        }
        for (int column = 0; column < N; ++column) {
            _mm_storeu_ps(C + ldc * (j + column) + i, hsum4(sums[0][column], sums[1][column], sums[2][column], sums[3][column]));
        }
    }

    // hsum of each of the four, added up in hsum's order.
    static __m128 hsum4(__m256 a, __m256 b, __m256 c, __m256 d) {
        const __m128 a4 = fold(a), b4 = fold(b), c4 = fold(c), d4 = fold(d);
        const __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a4, b4), _mm_unpackhi_ps(a4, b4));
        const __m128 cd = _mm_add_ps(_mm_unpacklo_ps(c4, d4), _mm_unpackhi_ps(c4, d4));
        return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
    }

    static __m128 fold(__m256 x) {
        return _mm_add_ps(_mm256_extractf128_ps(x, 1), _mm256_castps256_ps128(x));
    }

    const ggml_compute_params * params;
    const int64_t k;
    const ggml_fp16_t * A;
    const int64_t lda;
    const ggml_fp16_t * B;
    const int64_t ldb;
    float * C;
    const int64_t ldc;
};

}  // namespace

#endif
