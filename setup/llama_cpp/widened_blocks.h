// C = Aᵀ * B of blocks of 32 small integers (Q8_0, Q5_0, Q4_0, IQ4_NL) on a processor with AVX2 that cannot add up products of
// bytes, sooner than llamafile's. That gives bytes of B the signs of A's for each product, needs two instructions for what becomes
// one once bytes are widened to 16 bits, and has the sums of one product in eight lanes, each of which is scaled: here a lane is a
// row of its own. Numbers of four and five bits stay bytes, without a sign once an offset is added, and products of bytes are added
// up as 16 bits as long as these hold them. What a number of C is made of is always added up in the same order, however many
// columns there are: each block's products as integers, then the blocks one after another.
//
// Put beside llama.cpp's ggml/src/ggml-cpu/llamafile/sgemm.cpp by setup/llama_source.py, and included there, in its namespace.

#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(__AVX512F__) && !defined(__AVXVNNI__)
#define HAS_WIDENED_BLOCKS

#include "lanes.h"

template <typename TA, typename TB, typename TC> class tinyBLAS_Q0_AVX;

static constexpr int64_t WIDENED_ROWS = 16;  // that are multiplied together: their number is a multiple of it

// Whether one column too, which llamafile leaves to ggml, is multiplied here: its numbers are the same alone and among others.
static inline bool widens_one_column(int64_t m, int Atype, int Btype) {
    return m % WIDENED_ROWS == 0 && Btype == GGML_TYPE_Q8_0 &&
        (Atype == GGML_TYPE_Q8_0 || Atype == GGML_TYPE_Q5_0 || Atype == GGML_TYPE_Q4_0 || Atype == GGML_TYPE_IQ4_NL);
}

// What makes a type's numbers bytes without a sign, and of how many fours 16 bits hold the sum of products with bytes of -128 to
// 127 then; 0 where they are widened.
template <typename TA> struct unsigned_offset {
    static constexpr int OFFSET = 0, ADDED = 0;
};
template <> struct unsigned_offset<block_q5_0> {
    static constexpr int OFFSET = 16, ADDED = 4;
};
template <> struct unsigned_offset<block_q4_0> {
    static constexpr int OFFSET = 8, ADDED = 8;
};

template <typename TA> class widened_blocks {
public:
    using blas = tinyBLAS_Q0_AVX<TA, block_q8_0, float>;

    // False where this shape is not for it; then nothing was done.
    static bool matmul(blas & llamafile, int64_t m, int64_t n) {
        if (m % ROWS != 0) {
            return false;
        }
        const int64_t tiles = m / ROWS;
        const int64_t duty  = (tiles + llamafile.nth - 1) / llamafile.nth;
        const int64_t start = duty * llamafile.ith;
        const int64_t end   = start + duty < tiles ? start + duty : tiles;
        if (n == 1) {
            for (int64_t i = start * ROWS; i < end * ROWS; i += LANES) {
                multiply_column(llamafile, i);
            }
        } else if (start < end) {
            multiply_columns(llamafile, start, end, n);
        }
        return true;
    }

private:
    static constexpr int64_t ROWS = WIDENED_ROWS, LANES = 8, VECTORS = ROWS / LANES;
    static constexpr int64_t WIDTH = 3;  // columns of a tile
    static constexpr int64_t MAX_BLOCKS  = 32;  // 32 KB of rows, about what a core's first cache holds
    static constexpr int64_t MAX_COLUMNS = 63;  // 128 KB, which stay in its second

    // What 32 bytes are as numbers of 16 bits: in each four bytes those of even places, and those of odd ones.
    struct wide {
        __m256i even, odd;
    };
    // As they are, and what the offset of A's numbers adds to the sum of products.
    struct narrow {
        __m256i bytes;
        int32_t offset;
    };

    static constexpr int OFFSET = unsigned_offset<TA>::OFFSET, ADDED = unsigned_offset<TA>::ADDED;
    using numbers = std::conditional_t<OFFSET == 0, wide, narrow>;
    static constexpr int64_t GROUPS = OFFSET == 0 ? 16 : 8;  // of two numbers of 16 bits, or four bytes

    static void take(__m256i bytes, wide & to) {
        to = widen(bytes);
    }

    static void take(__m256i bytes, narrow & to) {
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(-OFFSET));
        const __m128i two = _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
        const __m128i one = _mm_add_epi32(two, _mm_unpackhi_epi64(two, two));
        to = {bytes, _mm_extract_epi32(_mm_add_epi32(one, _mm_shuffle_epi32(one, 1)), 0)};
    }

    static wide widen(__m256i bytes) {
        return {_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
    }

    explicit widened_blocks(blas & llamafile) : llamafile(llamafile) {
    }

    // A function of its own, as its 172 KB on the stack are touched by nothing else.
    static NOINLINE void multiply_columns(blas & llamafile, int64_t start, int64_t end, int64_t n) {
        widened_blocks(llamafile).multiply_tiles(start, end, n);
    }

    void multiply_tiles(int64_t start, int64_t end, int64_t n) {
        for (int64_t column = 0; column < n; column += MAX_COLUMNS) {
            const int64_t count = n - column < MAX_COLUMNS ? n - column : MAX_COLUMNS;
            for (int64_t block = 0; block < llamafile.k; block += MAX_BLOCKS) {
                first = block;
                depth = llamafile.k - block < MAX_BLOCKS ? llamafile.k - block : MAX_BLOCKS;
                for (int64_t j = 0; j < count; ++j) {
                    widen_column(column + j, j);
                }
                for (int64_t tile = start; tile < end; ++tile) {
                    multiply(tile * ROWS, column, count);
                }
            }
        }
    }

    void widen_column(int64_t j, int64_t column) {
        const block_q8_0 * blocks = llamafile.B + llamafile.ldb * j + first;
        for (int64_t l = 0; l < depth; ++l) {
            take(llamafile.load(blocks + l), columns[column / WIDTH][l][column % WIDTH]);
            column_scales[column / WIDTH][l][column % WIDTH] = unhalf(blocks[l].d);
        }
    }

    // One block of eight rows: afterwards a lane is a row's, and pairs follow one another as a column's do.
    void widen_rows(int64_t i, int64_t l, int64_t vector) {
        __m256i x[LANES], y[LANES];
        for (int64_t row = 0; row < LANES; ++row) {
            const TA * block = llamafile.A + llamafile.lda * (i + row) + first + l;
            if (llamafile.lda != depth) {
                _mm_prefetch((const char *) (block + llamafile.lda * ROWS), _MM_HINT_T0);
            }
            x[row] = llamafile.load(block);
            row_scales[l][vector][row] = unhalf(block->d);
        }
        for (int row = 0; row < LANES; row += 2) {
            y[row]     = _mm256_unpacklo_epi32(x[row], x[row + 1]);
            y[row + 1] = _mm256_unpackhi_epi32(x[row], x[row + 1]);
        }
        for (int row = 0; row < LANES; row += 4) {
            x[row]     = _mm256_unpacklo_epi64(y[row], y[row + 2]);
            x[row + 1] = _mm256_unpackhi_epi64(y[row], y[row + 2]);
            x[row + 2] = _mm256_unpacklo_epi64(y[row + 1], y[row + 3]);
            x[row + 3] = _mm256_unpackhi_epi64(y[row + 1], y[row + 3]);
        }
        for (int four = 0; four < 4; ++four) {
            put(_mm256_permute2x128_si256(x[four], x[four + 4], 0x20), l, four, vector);
            put(_mm256_permute2x128_si256(x[four], x[four + 4], 0x31), l, four + 4, vector);
        }
    }

    void put(__m256i bytes, int64_t l, int four, int64_t vector) {
        if constexpr (OFFSET == 0) {
            const wide both = widen(bytes);
            rows[l][four][vector]     = both.even;
            rows[l][four + 8][vector] = both.odd;
        } else {
            rows[l][four][vector] = _mm256_add_epi8(bytes, _mm256_set1_epi8(OFFSET));
        }
    }

    void multiply(int64_t i, int64_t j, int64_t count) {
        for (int64_t l = 0; l < depth; ++l) {
            if (llamafile.lda == depth) {
                prefetch_rows(llamafile.A + llamafile.lda * (i + ROWS), l, ROWS);
            }
            for (int64_t vector = 0; vector < VECTORS; ++vector) {
                widen_rows(i + vector * LANES, l, vector);
            }
        }
        int64_t column = 0;
        for (; column + WIDTH <= count; column += WIDTH) {
            tile<WIDTH>(i, j, column);
        }
        static_assert(WIDTH == 3, "what is left is two columns or one");
        if (column + 1 < count) {
            tile<2>(i, j, column);
        } else if (column < count) {
            tile<1>(i, j, column);
        }
    }

    template <int N> void multiply_block(int64_t l, int64_t column, __m256i (&products)[VECTORS][N]) const {
        const numbers * group = columns[column / WIDTH][l];
        if constexpr (OFFSET == 0) {
            for (int vector = 0; vector < VECTORS; ++vector) {
                for (int n = 0; n < N; ++n) {
                    products[vector][n] = _mm256_setzero_si256();
                }
            }
#if defined(__GNUC__)
#pragma GCC unroll 16
#endif
            for (int pair = 0; pair < GROUPS; ++pair) {
                __m256i row[VECTORS];
                load_rows(row, l, pair);
                for (int n = 0; n < N; ++n) {
                    const __m256i both = _mm256_set1_epi32(((const int32_t *) &group[n])[pair]);
                    for (int vector = 0; vector < VECTORS; ++vector) {
                        products[vector][n] = _mm256_add_epi32(products[vector][n], _mm256_madd_epi16(row[vector], both));
                        keep(products[vector][n]);
                    }
                }
            }
        } else {
            for (int n = 0; n < N; ++n) {
                for (int vector = 0; vector < VECTORS; ++vector) {
                    products[vector][n] = _mm256_set1_epi32(group[n].offset);
                }
            }
            for (int first = 0; first < GROUPS; first += ADDED) {
                __m256i sums[VECTORS][N];
                multiply_fours<N>(l, first, group, sums);
                for (int vector = 0; vector < VECTORS; ++vector) {
                    for (int n = 0; n < N; ++n) {
                        const __m256i widened = _mm256_madd_epi16(sums[vector][n], _mm256_set1_epi16(1));
                        products[vector][n] = _mm256_add_epi32(products[vector][n], widened);
                        keep(products[vector][n]);
                    }
                }
            }
        }
    }

    template <int N> void multiply_fours(int64_t l, int first, const narrow * group, __m256i (&sums)[VECTORS][N]) const {
#if defined(__GNUC__)
#pragma GCC unroll 8
#endif
        for (int four = 0; four < ADDED; ++four) {
            __m256i row[VECTORS];
            load_rows(row, l, first + four);
            for (int n = 0; n < N; ++n) {
                const __m256i bytes = _mm256_set1_epi32(((const int32_t *) &group[n].bytes)[first + four]);
                for (int vector = 0; vector < VECTORS; ++vector) {
                    const __m256i product = _mm256_maddubs_epi16(row[vector], bytes);
                    sums[vector][n] = four == 0 ? product : _mm256_add_epi16(sums[vector][n], product);
                    keep(sums[vector][n]);
                }
            }
        }
    }

    // Once for all columns: compilers would load them for each product, and loads are what is short then.
    void load_rows(__m256i (&row)[VECTORS], int64_t l, int at) const {
        for (int vector = 0; vector < VECTORS; ++vector) {
            row[vector] = rows[l][at][vector];
            keep(row[vector]);
        }
    }

    template <int N> void tile(int64_t i, int64_t j, int64_t column) {
        float * c = llamafile.C + llamafile.ldc * (j + column) + i;
        __m256 sums[VECTORS][N];
        for (int vector = 0; vector < VECTORS; ++vector) {
            for (int n = 0; n < N; ++n) {
                sums[vector][n] = first == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(c + llamafile.ldc * n + vector * LANES);
            }
        }
        for (int64_t l = 0; l < depth; ++l) {
            __m256i products[VECTORS][N];
            multiply_block<N>(l, column, products);
            for (int n = 0; n < N; ++n) {
                const __m256 scale = _mm256_broadcast_ss(&column_scales[column / WIDTH][l][n]);
                for (int vector = 0; vector < VECTORS; ++vector) {
                    sums[vector][n] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_load_ps(row_scales[l][vector]), scale),
                                                      _mm256_cvtepi32_ps(products[vector][n]), sums[vector][n]);
                }
            }
        }
        for (int vector = 0; vector < VECTORS; ++vector) {
            for (int n = 0; n < N; ++n) {
                _mm256_storeu_ps(c + llamafile.ldc * n + vector * LANES, sums[vector][n]);
            }
        }
    }

    // Of one column nothing is worth being widened: the same sums of bytes as they are.
    static void multiply_column(blas & llamafile, int64_t i) {
        const TA * a = llamafile.A + llamafile.lda * i;
        __m256 sums = _mm256_setzero_ps();
        for (int64_t l = 0; l < llamafile.k; ++l) {
            const __m256i column = llamafile.load(llamafile.B + l);
            if (llamafile.lda == llamafile.k) {
                prefetch_rows(a + llamafile.lda * LANES, l, LANES);
            }
            __m256i x[LANES];
            alignas(16) ggml_fp16_t scales[LANES];
            for (int64_t row = 0; row < LANES; ++row) {
                const TA * block = a + llamafile.lda * row + l;
                const __m256i bytes = llamafile.load(block);
                const __m256i pairs = _mm256_maddubs_epi16(_mm256_sign_epi8(bytes, bytes), _mm256_sign_epi8(column, bytes));
                x[row] = _mm256_madd_epi16(_mm256_set1_epi16(1), pairs);
                scales[row] = block->d;
            }
            const __m256i low  = add4(x[0], x[1], x[2], x[3]);
            const __m256i high = add4(x[4], x[5], x[6], x[7]);
            const __m256i products = _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                                                      _mm256_permute2x128_si256(low, high, 0x31));
            const __m256 row_scale = _mm256_cvtph_ps(_mm_load_si128((const __m128i *) scales));
            sums = _mm256_fmadd_ps(_mm256_mul_ps(row_scale, _mm256_set1_ps(unhalf(llamafile.B[l].d))),
                                   _mm256_cvtepi32_ps(products), sums);
        }
        _mm256_storeu_ps(llamafile.C + i, sums);
    }

    // Of rows that lie behind one another a part, while those before are computed: processors do not see eight rows and more
    // coming that are read side by side.
    static void prefetch_rows(const TA * next, int64_t part, int64_t count) {
        const char * start = (const char *) (next + part * count);
        for (const char * line = start; line < start + count * sizeof(TA); line += 64) {
            _mm_prefetch(line, _MM_HINT_T0);
        }
    }

    blas & llamafile;
    int64_t first = 0, depth = 0;  // the blocks that are multiplied now
    __m256i rows[MAX_BLOCKS][GROUPS][VECTORS];
    numbers columns[MAX_COLUMNS / WIDTH][MAX_BLOCKS][WIDTH];
    alignas(32) float row_scales[MAX_BLOCKS][VECTORS][LANES];
    float column_scales[MAX_COLUMNS / WIDTH][MAX_BLOCKS][WIDTH];
};

#endif
